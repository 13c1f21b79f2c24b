//! GELU (arXiv 1606.08415), in its exact and its approximate form.

mod cpu;
mod cuda;

use super::place::place;
use crate::Result;
use crate::autograd::{Tape, Var};
use crate::tensor::{Element, Tensor};

const OP: &str = "gelu";

/// Which GELU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GeluKind {
    /// x Phi(x), by the error function: Phi(x) = (1 + erf(x / sqrt(2))) / 2.
    Erf,
    /// The tanh approximation (GPT-2's `gelu_new`): x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2.
    Tanh,
}

/// GELU of each element of x, of any shape. Saved: x. Errors: [`crate::Error::DType`] if x is not of a float type.
pub fn gelu(tape: &Tape, x: &Var, kind: GeluKind) -> Result<Var> {
    let y = value(x.value(), kind)?;
    let saved = x.value().clone();
    tape.record(OP, &[x], y, move |dy, context| context.give(0, gradient(&saved, &dy, kind)?))
}

/// y.
pub(super) fn value(x: &Tensor, kind: GeluKind) -> Result<Tensor> {
    if let Some(device) = place(OP, [x])? {
        return cuda::forward(device, x, kind);
    }
    crate::dispatch_float!(OP, x.dtype(), T => {
        Ok(T::tensor(cpu::forward(T::slice(x)?, kind), x.shape()))
    })
}

/// dx.
pub(super) fn gradient(x: &Tensor, dy: &Tensor, kind: GeluKind) -> Result<Tensor> {
    if let Some(device) = place(OP, [x, dy])? {
        return cuda::backward(device, x, dy, kind);
    }
    crate::dispatch_float!(OP, x.dtype(), T => {
        Ok(T::tensor(cpu::backward(T::slice(x)?, T::slice(dy)?, kind), x.shape()))
    })
}
