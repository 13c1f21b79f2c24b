//! A drop-in `libcuda.so` that runs PTX on the CPU: the CUDA driver API above, a parser and a strict virtual machine below.
//!
//! - [`ptx`] reads PTX text into a resolved syntax tree.
//! - [`machine`] decodes a kernel into a compact program and runs it, warp by warp, with checks and counters.
//! - [`arith`] holds the arithmetic of single instructions, as plain functions.
//! - [`driver`] exports the driver API and keeps its handles, streams and modules.
//! - [`install`] makes a process that links this crate find that driver when it looks for `libcuda.so`.

pub mod arith;
pub mod driver;
mod install;
pub mod machine;
pub mod ptx;

pub use driver::{LaunchRecord, Leak, device, launches, leaks, reports, take_launches, take_reports};
pub use install::{InstallError, install};
