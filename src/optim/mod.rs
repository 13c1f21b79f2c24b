//! Optimizers, and what is done to gradients before them.

mod adamw;
mod clip;

pub use adamw::{AdamW, AdamWSettings};
pub use clip::clip_grad_norm;
