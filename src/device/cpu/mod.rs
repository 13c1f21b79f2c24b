//! What the CPU kernels share: parallel loops over slices, SIMD, and the GEMM.

pub mod parallel;
pub mod simd;
