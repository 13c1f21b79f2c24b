//! Optimizers, what is done to gradients before them, and learning-rate schedules.

mod adamw;
mod clip;
pub mod schedule;
mod table;

pub use adamw::{AdamW, AdamWSettings, StateBytes, States, in_host_memory};
pub use clip::clip_grad_norm;
