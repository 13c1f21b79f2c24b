//! What the CPU kernels share: parallel loops over slices, matrix views, the GEMM, and SIMD.

mod coded;
pub(crate) mod four_bit;
pub mod gemm;
mod gemv;
pub(crate) mod lanes;
pub mod matrix;
pub mod parallel;
mod signs;
pub mod simd;
pub(crate) mod slices;
