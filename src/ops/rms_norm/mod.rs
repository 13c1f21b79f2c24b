//! RMSNorm (arXiv 1910.07467).

mod cpu;
mod cuda;

use super::place::place;
use crate::autograd::{Tape, Var};
use crate::tensor::{Element, Tensor};
use crate::{Error, Result};

const OP: &str = "rms_norm";

/// `y = x / sqrt(mean(x^2) + eps) * weight` over groups of D = `weight.len()` elements; x: `[M, n D]` (n > 1: a norm for each head).
///
/// Saved: x and, per group, r = 1 / sqrt(mean(x^2) + eps) in f32. Backward, with g = dy weight and c = mean(g x):
/// `dx = r (g - x r^2 c)`, `dweight = sum over groups of dy x r`, summed over blocks of rows in a fixed order.
/// Errors: [`Error::Shape`] if the weight is not a vector whose length divides the columns of x.
pub fn rms_norm(tape: &Tape, x: &Var, weight: &Var, eps: f32) -> Result<Var> {
    let (_, cols) = x.value().dims2(OP)?;
    let dim = weight.value().dims1(OP)?;
    if dim == 0 || !cols.is_multiple_of(dim) {
        let detail = format!("x {:?}: its columns are not groups of the weight's {dim}", x.shape());
        return Err(Error::Shape { op: OP, detail });
    }
    if let Some(device) = place(OP, [x.value(), weight.value()])? {
        let (y, scales) = cuda::forward(device, x.value(), weight.value(), eps)?;
        let (saved, saved_weight) = (x.value().clone(), weight.value().clone());
        return tape.record(OP, &[x, weight], y, move |dy, context| {
            if context.needs(0) {
                context.give(0, cuda::grad_input(device, &saved, &saved_weight, &scales, &dy)?)?;
            }
            if context.needs(1) {
                context.give(1, cuda::grad_weight(device, &saved, &scales, &dy, dim)?)?;
            }
            Ok(())
        });
    }
    let weight_f32 = weight.value().to_vec_f32()?;
    crate::dispatch_float!(OP, x.dtype(), T => {
        let (y, scales) = cpu::forward(T::slice(x.value())?, &weight_f32, eps);
        let y = T::tensor(y, x.shape());
        let saved = x.value().clone();
        tape.record(OP, &[x, weight], y, move |dy, context| {
            let want = cpu::Want { dx: context.needs(0), dweight: context.needs(1) };
            let grads = cpu::backward(T::slice(&saved)?, &weight_f32, &scales, T::slice(&dy)?, want);
            if want.dx {
                context.give(0, T::tensor(grads.dx, dy.shape()))?;
            }
            if want.dweight {
                context.give(1, Tensor::from_f32(grads.dweight, &[dim]))?;
            }
            Ok(())
        })
    })
}
