//! SwiGLU (arXiv 2002.05202), the gated activation of Llama-type MLPs.

mod cpu;
mod cuda;

use super::place::place;
use crate::autograd::{Tape, Var};
use crate::tensor::Element;
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
    if let Some(device) = place(OP, [gate.value(), up.value()])? {
        let y = cuda::forward(device, gate.value(), up.value())?;
        let (saved_gate, saved_up) = (gate.value().clone(), up.value().clone());
        return tape.record(OP, &[gate, up], y, move |dy, context| {
            let (dgate, dup) = cuda::backward(device, &saved_gate, &saved_up, &dy)?;
            context.give(0, dgate)?;
            context.give(1, dup)
        });
    }
    crate::dispatch_float!(OP, gate.dtype(), T => {
        let y = cpu::forward(T::slice(gate.value())?, T::slice(up.value())?);
        let y = T::tensor(y, gate.shape());
        let (saved_gate, saved_up) = (gate.value().clone(), up.value().clone());
        tape.record(OP, &[gate, up], y, move |dy, context| {
            let (dgate, dup) = cpu::backward(T::slice(&saved_gate)?, T::slice(&saved_up)?, T::slice(&dy)?);
            context.give(0, T::tensor(dgate, dy.shape()))?;
            context.give(1, T::tensor(dup, dy.shape()))
        })
    })
}
