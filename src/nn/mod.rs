//! Layers: parameters and how they are applied. A layer knows its module path, so that an error can name it.

mod delta;
mod embedding;
mod kv_cache;
mod linear;
mod norm;
mod quantized;
mod token_batch;

pub use delta::Delta;
pub use embedding::Embedding;
pub(crate) use kv_cache::KvSteps;
pub use kv_cache::{KvCache, KvPass};
pub use linear::{Adapter, Linear, Weight};
pub use norm::Norm;
pub use quantized::QuantizedWeight;
pub use token_batch::TokenBatch;
