//! A drop-in `libcuda.so` that runs PTX on the CPU: the CUDA driver API above, a parser and a strict virtual machine below.
//!
//! - [`ptx`] reads PTX text into a resolved syntax tree.
//! - [`machine`] decodes a kernel into a compact program and runs it, warp by warp, with checks and counters.
//! - [`arith`] holds the arithmetic of single instructions, as plain functions.
//! - [`driver`] exports the driver API and keeps its handles, streams and modules.

pub mod arith;
//pub mod driver;
pub mod machine;
pub mod ptx;
