//! The test suite: one binary, so that it links once.

mod data;
mod formats;
mod models;
mod ops;
mod reference;
mod support;
mod text;
