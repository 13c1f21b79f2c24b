//! A range of a matrix's columns.

use crate::Result;
use crate::autograd::{Tape, Var};

/// Columns `start .. start + len` of x `[T, C]`, as `[T, len]`.
pub fn columns(tape: &Tape, x: &Var, start: usize, len: usize) -> Result<Var> {
    let _ = (tape, x, start, len);
    Err(crate::Error::unsupported("columns", "being written"))
}
