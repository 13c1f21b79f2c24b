//! Sum of two activations (the residual connection).

mod cpu;
mod cuda;

use super::place::place;
use crate::autograd::{Tape, Var};
use crate::tensor::Tensor;
use crate::{Error, Result};

const OP: &str = "add";

/// `y = a + b`, both of one shape and type; each gradient is `dy`. Nothing is kept for the backward.
///
/// Errors: operands of different shapes or types, or of integers.
pub fn add(tape: &Tape, a: &Var, b: &Var) -> Result<Var> {
    if a.shape() != b.shape() {
        return Err(Error::Shape { op: OP, detail: format!("{:?} + {:?}", a.shape(), b.shape()) });
    }
    if a.dtype() != b.dtype() {
        return Err(Error::DType {
            op: OP,
            detail: format!("{} + {}, one type expected", a.dtype(), b.dtype()),
        });
    }
    let y = value(a.value(), b.value())?;
    tape.record(OP, &[a, b], y, |dy, context| {
        context.give(0, dy.clone())?;
        context.give(1, dy)
    })
}

/// The sum of tensors of one shape and type.
pub(super) fn value(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    match place(OP, [a, b])? {
        Some(device) => cuda::sum(device, a, b),
        None => cpu::sum(a, b),
    }
}
