//! RMSNorm (arXiv 1910.07467).

mod cpu;
mod cuda;

use super::place::place;
use crate::autograd::{Tape, Var};
use crate::device::cuda::CudaDevice;
use crate::ops::add::add;
use crate::tensor::{Element, Tensor};
use crate::{Error, Result};

const OP: &str = "rms_norm";

/// `y = x / sqrt(mean(x^2) + eps) * weight` over groups of D = `weight.len()` elements; x: `[M, n D]` (n > 1: a norm for each head).
///
/// Saved: x and, per group, r = 1 / sqrt(mean(x^2) + eps) in f32. Backward, with g = dy weight and c = mean(g x):
/// `dx = r (g - x r^2 c)`, `dweight = sum over groups of dy x r`, summed over blocks of rows in a fixed order.
/// Errors: [`Error::Shape`] if the weight is not a vector whose length divides the columns of x.
pub fn rms_norm(tape: &Tape, x: &Var, weight: &Var, eps: f32) -> Result<Var> {
    let dim = check(x, weight)?;
    if let Some(device) = place(OP, [x.value(), weight.value()])? {
        let (y, scales) = cuda::forward(device, x.value(), weight.value(), eps)?;
        return record(tape, device, x, weight, y, scales);
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

/// x = a + b, and `rms_norm` of it: the residual stream and what the next block sees of it. On a CUDA device one kernel makes both, so
/// that the sum is not read again; values are those of [`add`] and [`rms_norm`], bit by bit where a and b start on 16 bytes.
///
/// Saved, gradients and errors: those of the two; a and b have one shape and type.
pub fn add_rms_norm(tape: &Tape, a: &Var, b: &Var, weight: &Var, eps: f32) -> Result<(Var, Var)> {
    let device = place(OP, [a.value(), b.value(), weight.value()])?;
    let (Some(device), true) = (device, a.shape() == b.shape() && a.dtype() == b.dtype()) else {
        let x = add(tape, a, b)?;
        let y = rms_norm(tape, &x, weight, eps)?;
        return Ok((x, y));
    };
    check(a, weight)?;
    let [x, y, scales] = cuda::forward_sum(device, a.value(), b.value(), weight.value(), eps)?;
    let x = tape.record("add", &[a, b], x, |dx, context| {
        context.give(0, dx.clone())?;
        context.give(1, dx)
    })?;
    let y = record(tape, device, &x, weight, y, scales)?;
    Ok((x, y))
}

/// Checks the operands; returns the elements of a group.
fn check(x: &Var, weight: &Var) -> Result<usize> {
    let (_, cols) = x.value().dims2(OP)?;
    let dim = weight.value().dims1(OP)?;
    if dim == 0 || !cols.is_multiple_of(dim) {
        let detail = format!("x {:?}: its columns are not groups of the weight's {dim}", x.shape());
        return Err(Error::Shape { op: OP, detail });
    }
    Ok(dim)
}

/// Records the norm y of x on a device.
fn record(
    tape: &Tape,
    device: &'static CudaDevice,
    x: &Var,
    weight: &Var,
    y: Tensor,
    scales: Tensor,
) -> Result<Var> {
    let (saved, saved_weight) = (x.value().clone(), weight.value().clone());
    tape.record(OP, &[x, weight], y, move |dy, context| {
        if context.needs(0) {
            // x is most often the residual stream, whose gradient from the blocks behind is there already.
            let other = context.take(0, saved.dtype());
            let dx = cuda::grad_input(device, &saved, &saved_weight, &scales, &dy, other.as_ref())?;
            context.give(0, dx)?;
        }
        if context.needs(1) {
            context.give(1, cuda::grad_weight(device, &saved, &scales, &dy, saved_weight.numel())?)?;
        }
        Ok(())
    })
}
