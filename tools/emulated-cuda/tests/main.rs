//! The test suite: one binary, so that it links once.

mod ptx;
mod warp_ops;
