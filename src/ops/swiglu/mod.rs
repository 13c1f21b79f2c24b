//! SwiGLU (arXiv 2002.05202), the gated activation of Llama-type MLPs.

mod cpu;
mod cuda;

use super::place::place;
use crate::autograd::{Tape, Var};
use crate::tensor::{Element, Tensor};
use crate::{Error, Result};

const OP: &str = "swiglu";

/// `y = silu(gate) * up` with silu(x) = x / (1 + e^-x), element by element; both operands of one shape and type.
///
/// Saved: both operands. Backward, with s = sigmoid(gate): `dup = dy gate s`, `dgate = dy up s (1 + gate (1 - s))`;
/// both come out of one pass. Errors: [`Error::Shape`], [`Error::DType`] if the operands differ.
pub fn swiglu(tape: &Tape, gate: &Var, up: &Var) -> Result<Var> {
    if gate.shape() != up.shape() {
        let detail = format!("gate {:?} and up {:?} differ in shape", gate.shape(), up.shape());
        return Err(Error::Shape { op: OP, detail });
    }
    if gate.dtype() != up.dtype() {
        let detail = format!("gate {} and up {} differ in type", gate.dtype(), up.dtype());
        return Err(Error::DType { op: OP, detail });
    }
    let y = value(gate.value(), up.value())?;
    let (saved_gate, saved_up) = (gate.value().clone(), up.value().clone());
    tape.record(OP, &[gate, up], y, move |dy, context| {
        let [dgate, dup] = gradients(&saved_gate, &saved_up, &dy)?;
        context.give(0, dgate)?;
        context.give(1, dup)
    })
}

/// y of operands of one shape and type.
pub(super) fn value(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if let Some(device) = place(OP, [gate, up])? {
        return cuda::forward(device, gate, up);
    }
    crate::dispatch_float!(OP, gate.dtype(), T => {
        Ok(T::tensor(cpu::forward(T::slice(gate)?, T::slice(up)?), gate.shape()))
    })
}

/// dgate and dup.
pub(super) fn gradients(gate: &Tensor, up: &Tensor, dy: &Tensor) -> Result<[Tensor; 2]> {
    if let Some(device) = place(OP, [gate, up, dy])? {
        return cuda::backward(device, gate, up, dy).map(<[Tensor; 2]>::from);
    }
    crate::dispatch_float!(OP, gate.dtype(), T => {
        let (dgate, dup) = cpu::backward(T::slice(gate)?, T::slice(up)?, T::slice(dy)?);
        Ok([dgate, dup].map(|x| T::tensor(x, gate.shape())))
    })
}
