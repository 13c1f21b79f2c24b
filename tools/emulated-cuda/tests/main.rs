//! The test suite: one binary, so that it links once.

mod kernels;
mod mutants;
mod ptx;
mod warp_ops;
