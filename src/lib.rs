//! warptune: a custom GPU kernel engine, from scratch, for LLM post-training.
//!
//! The layers, from the bottom: [`tensor`] and [`device`] (values and where they live), [`autograd`] (a tape that knows no op),
//! [`ops`] (forward, saved state and backward of each op), [`nn`] and [`models`], [`peft`], [`optim`], [`text`]
//! and [`data`], [`formats`], [`train`], [`generate`] and [`cli`]. ARCHITECTURE.md says who may import whom.

#![warn(clippy::unwrap_used)]

pub mod autograd;
pub mod cli;
pub mod data;
pub mod device;
pub mod error;
pub mod formats;
pub mod generate;
pub mod models;
pub mod nn;
pub mod ops;
pub mod optim;
pub mod peft;
pub mod tensor;
pub mod text;
pub mod train;

pub use error::{Error, Result};
