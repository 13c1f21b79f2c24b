//! Data sets: reading, formats, samples, batches.

mod batches;
mod formats;
mod pretrain;
mod sft;
mod sources;
