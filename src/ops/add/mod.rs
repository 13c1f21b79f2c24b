//! Sum of two activations (the residual connection).

use crate::Result;
use crate::autograd::{Tape, Var};

/// `y = a + b`, both of one shape and type; each gradient is `dy`.
pub fn add(tape: &Tape, a: &Var, b: &Var) -> Result<Var> {
    let _ = (tape, a, b);
    Err(crate::Error::unsupported("add", "being written"))
}
