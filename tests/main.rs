//! The test suite: one binary, so that it links once.

// Helpers of tests may unwrap too.
#![allow(clippy::unwrap_used)]

mod autograd;
mod cli;
mod data;
mod device;
mod formats;
mod models;
mod ops;
mod recipes;
mod reference;
mod support;
mod tensor;
mod text;
