//! The test suite: one binary, so that it links once.

// Helpers of tests may unwrap too.
#![allow(clippy::unwrap_used)]

mod autograd;
mod data;
mod device;
mod formats;
mod ops;
mod reference;
mod support;
mod text;
