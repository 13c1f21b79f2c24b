//! The test suite: one binary, so that it links once.

mod autograd;
mod data;
mod device;
mod formats;
mod models;
mod ops;
mod reference;
mod support;
mod text;
