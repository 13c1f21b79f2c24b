//! Matrix product with a weight: a linear layer.

use crate::Result;
use crate::autograd::{Tape, Var};

/// `y = x W^T + bias`. x: `[M, in]`, w: `[out, in]`, bias: `[out]`.
pub fn matmul(tape: &Tape, x: &Var, w: &Var, bias: Option<&Var>) -> Result<Var> {
    let _ = (tape, x, w, bias);
    Err(crate::Error::unsupported("matmul", "being written"))
}
