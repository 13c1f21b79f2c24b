//! Data sets: reading, formats, samples, batches.

mod batches;
mod formats;
#[cfg(feature = "parquet")]
mod parquet;
mod pretrain;
mod sft;
mod sources;
