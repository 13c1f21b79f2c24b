//! Reports on CUDA kernels without a GPU: what they do is counted by running them on the emulated device, what ptxas makes of
//! them is read from ptxas, and what that means on known GPUs is modelled.
//!
//! - [`problem`] reads named problems: a kernel, its launch, its parameters and the least that it must do, by sizes.
//! - [`count`] runs them and counts.
//! - [`resources`] asks ptxas for registers, spills and shared memory; [`sass`] compares the main loop in PTX and in machine code.
//! - [`machine`], [`occupancy`] and [`model`] hold the GPUs and the arithmetic of the model.
//! - [`report`] puts all of it together, [`render`] writes it down.

pub mod count;
mod error;
pub mod expr;
pub mod machine;
pub mod model;
pub mod occupancy;
pub mod problem;
pub mod random;
pub mod render;
pub mod report;
pub mod resources;
pub mod sass;

pub use error::{Error, Result};
