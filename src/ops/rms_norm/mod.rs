//! RMSNorm (arXiv 1910.07467).

use crate::Result;
use crate::autograd::{Tape, Var};

/// `y = x / sqrt(mean(x^2) + eps) * weight` over groups of D = `weight.len()` elements; x: `[M, n D]` (n > 1: a norm for each head).
pub fn rms_norm(tape: &Tape, x: &Var, weight: &Var, eps: f32) -> Result<Var> {
    let _ = (tape, x, weight, eps);
    Err(crate::Error::unsupported("rms_norm", "being written"))
}
