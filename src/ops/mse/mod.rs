//! Mean squared error against constants: the loss of distillation.

mod cpu;
mod cuda;

use super::place::place;
use crate::autograd::{Tape, Var};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

const OP: &str = "mse";

/// `sum of (a - b)^2 / denominator`, a scalar f32. a and b: f32 of one shape.
///
/// `da = 2 (a - b) dloss / denominator`; b is constant. Kept for the backward: a and b. Squares are summed in f64 over parts of fixed size.
///
/// Errors: operands of different shapes or of another type; a denominator that is not positive.
pub fn mse(tape: &Tape, a: &Var, b: &Tensor, denominator: f32) -> Result<Var> {
    if a.shape() != b.shape() {
        return Err(Error::Shape { op: OP, detail: format!("{:?} against {:?}", a.shape(), b.shape()) });
    }
    if a.dtype() != DType::F32 || b.dtype() != DType::F32 {
        let detail = format!("{} against {}, f32 expected", a.dtype(), b.dtype());
        return Err(Error::DType { op: OP, detail });
    }
    if !(denominator > 0.0 && denominator.is_finite()) {
        return Err(Error::Shape { op: OP, detail: format!("a mean over {denominator} elements") });
    }
    let device = place(OP, [a.value(), b])?;
    let loss = match device {
        Some(device) => cuda::forward(device, a.value(), b, denominator)?,
        None => cpu::forward(a.value().as_f32()?, b.as_f32()?, denominator),
    };
    let (a_value, b) = (a.value().clone(), b.clone());
    tape.record(OP, &[a], loss, move |dloss, context| {
        let da = match device {
            Some(device) => cuda::backward(device, &a_value, &b, &dloss, denominator)?,
            None => {
                let da = cpu::backward(a_value.as_f32()?, b.as_f32()?, dloss.item()?, denominator);
                Tensor::from_f32(da, a_value.shape())
            }
        };
        context.give(0, da)
    })
}
