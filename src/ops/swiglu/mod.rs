//! SwiGLU (arXiv 2002.05202).

use crate::Result;
use crate::autograd::{Tape, Var};

/// `y = silu(gate) * up`, element by element.
pub fn swiglu(tape: &Tape, gate: &Var, up: &Var) -> Result<Var> {
    let _ = (tape, gate, up);
    Err(crate::Error::unsupported("swiglu", "being written"))
}
