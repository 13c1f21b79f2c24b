//! Data sets: reading, format detection, splitting, packing and collation.
//!
//! A file becomes [`Record`]s ([`open`]), its [`DataFormat`] is detected, each record becomes a [`Sample`] (token ids and
//! which of them are trained: [`load_sft`], [`load_pretrain`]), and a [`Loader`] turns samples into packed [`Batch`]es.

mod batch;
mod format;
mod jsonl;
mod loader;
mod packing;
#[cfg(feature = "parquet")]
mod parquet;
mod pretrain;
mod preview;
mod random;
mod sft;
mod source;
mod split;
mod stats;

pub use batch::{Batch, IGNORE_LABEL, Sample};
pub use format::{DataFormat, Example};
pub use jsonl::JsonLines;
pub use loader::{Cursor, Loader, LoaderOptions};
pub use packing::pack;
pub use pretrain::{PretrainSet, for_each_document, is_plain_text, load_pretrain};
pub use preview::{preview, summarize};
pub use random::shuffled;
pub use sft::{OverLong, PromptStyle, SftOptions, SftSet, TrainOn, load_sft};
pub use source::{Record, open};
pub use split::split;
pub use stats::Stats;
