//! The same values in another float type.

use crate::Result;
use crate::autograd::{Tape, Var};
use crate::tensor::DType;

/// x rounded to `dtype`; x itself if that is its type. The gradient is rounded to x's type.
///
/// Errors: a type that is not a float.
pub fn cast(tape: &Tape, x: &Var, dtype: DType) -> Result<Var> {
    let before = x.dtype();
    if before == dtype {
        return Ok(x.clone());
    }
    tape.record("cast", &[x], x.value().to_dtype(dtype)?, move |dy, g| g.give(0, dy.to_dtype(before)?))
}
