//! What the CPU kernels share: parallel loops over slices, and the GEMM.

pub mod parallel;
