//! GELU.

use crate::Result;
use crate::autograd::{Tape, Var};

/// Which GELU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GeluKind {
    /// x Phi(x), by the error function.
    Erf,
    /// The tanh approximation (GPT-2's `gelu_new`).
    Tanh,
}

/// GELU of each element.
pub fn gelu(tape: &Tape, x: &Var, kind: GeluKind) -> Result<Var> {
    let _ = (tape, x, kind);
    Err(crate::Error::unsupported("gelu", "being written"))
}
