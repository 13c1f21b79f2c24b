//! Tests of the emulated CUDA driver, one binary.

mod arith;
