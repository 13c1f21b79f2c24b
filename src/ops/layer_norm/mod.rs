//! LayerNorm (arXiv 1607.06450).

mod cpu;
mod cuda;

use super::place::place;
use crate::autograd::{Tape, Var};
use crate::tensor::{Element, Tensor};
use crate::{Error, Result};

const OP: &str = "layer_norm";

/// `y = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias` for each row of x `[M, D]`; var is the mean squared
/// distance from the mean (no Bessel correction); weight and bias: `[D]`.
///
/// Saved: x and, per row, the mean and r = 1 / sqrt(var + eps) in f32. Backward, with n = (x - mean) r and
/// g = dy weight: `dx = r (g - mean(g) - n mean(g n))`, `dweight = sum over rows of dy n`, `dbias = sum over rows of dy`,
/// summed over blocks of rows in a fixed order. Errors: [`Error::Shape`], [`Error::DType`].
pub fn layer_norm(tape: &Tape, x: &Var, weight: &Var, bias: &Var, eps: f32) -> Result<Var> {
    let device = place(OP, [x.value(), weight.value(), bias.value()])?;
    let (_, dim) = x.value().dims2(OP)?;
    if dim == 0 || weight.value().dims1(OP)? != dim || bias.value().dims1(OP)? != dim {
        let detail =
            format!("x {:?}, weight {:?} and bias {:?} do not fit", x.shape(), weight.shape(), bias.shape());
        return Err(Error::Shape { op: OP, detail });
    }
    if let Some(device) = device {
        let (y, moments) = cuda::forward(device, x.value(), weight.value(), bias.value(), eps)?;
        let (saved, saved_weight) = (x.value().clone(), weight.value().clone());
        return tape.record(OP, &[x, weight, bias], y, move |dy, context| {
            if context.needs(0) {
                context.give(0, cuda::grad_input(device, &saved, &saved_weight, &moments, &dy)?)?;
            }
            if context.needs(1) || context.needs(2) {
                let [dweight, dbias] = cuda::grad_affine(device, &saved, &moments, &dy)?;
                context.give(1, dweight)?;
                context.give(2, dbias)?;
            }
            Ok(())
        });
    }
    let weight_f32 = weight.value().to_vec_f32()?;
    let bias_f32 = bias.value().to_vec_f32()?;
    crate::dispatch_float!(OP, x.dtype(), T => {
        let (y, moments) = cpu::forward(T::slice(x.value())?, &weight_f32, &bias_f32, eps);
        let y = T::tensor(y, x.shape());
        let saved = x.value().clone();
        tape.record(OP, &[x, weight, bias], y, move |dy, context| {
            let want = cpu::Want { dx: context.needs(0), affine: context.needs(1) || context.needs(2) };
            let grads = cpu::backward(T::slice(&saved)?, &weight_f32, &moments, T::slice(&dy)?, want);
            if want.dx {
                context.give(0, T::tensor(grads.dx, dy.shape()))?;
            }
            if want.affine {
                context.give(1, Tensor::from_f32(grads.dweight, &[dim]))?;
                context.give(2, Tensor::from_f32(grads.dbias, &[dim]))?;
            }
            Ok(())
        })
    })
}
