//! The test suite: one binary, so that it links once.

mod arith;
mod decode;
mod driver;
mod kernels;
mod mutants;
mod ptx;
mod spaces;
mod warp_ops;
