//! What the CPU kernels share: parallel loops over slices, matrix views, the GEMM, and vectorised functions.

pub mod gemm;
mod gemv;
pub mod isa;
pub mod math;
pub mod matrix;
pub mod parallel;
pub mod simd;
