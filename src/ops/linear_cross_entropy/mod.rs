//! Output projection and cross-entropy in one, without the logits of the whole batch.
//!
//! Rows with a label are taken a chunk at a time: logits, softmax, loss and, where gradients are wanted, what the chunk
//! contributes to them, all while its logits are at hand. Nothing of a chunk is kept, so the backward only scales.

mod cpu;
mod cuda;

pub use cpu::chunk_rows;
pub use cuda::device_chunk_rows;

use super::place::place;
use crate::autograd::{Tape, Var};
use crate::device::Device;
use crate::ops::matmul::check_linear;
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

const OP: &str = "linear_cross_entropy";

/// The label of a position that carries no loss.
pub const IGNORE_LABEL: u32 = u32::MAX;

/// Which gradients to compute.
#[derive(Clone, Copy)]
struct Wanted {
    x: bool,
    w: bool,
}

/// The loss and the gradients for a gradient 1 of it, that of x as the backend keeps it.
struct Outcome<X> {
    loss: Tensor,
    dx: Option<X>,
    dw: Option<Tensor>,
}

/// sum over labelled t of -log softmax(x_t W^T) at its label, divided by `denominator`. x: `[T, D]`, w: `[V, D]`, labels: u32 `[T]`
/// ([`IGNORE_LABEL`]: no loss). The result is a scalar f32.
///
/// With P = softmax(x W^T) and Y the labels one-hot: `dx = (P - Y) W / denominator` of x's type, `dW = (P - Y)^T x / denominator`
/// in f32, both computed with the loss. The largest intermediate is one chunk's logits, f32 ([`chunk_rows`] and [`device_chunk_rows`] of
/// 32 MiB on the CPU and 256 MiB on a CUDA device). Losses are summed over rows in f64, in a fixed order.
///
/// On a CUDA device, with x and w bf16, `(P - Y) / denominator` is rounded to bf16 before it is multiplied; with both f16, `P - Y` to
/// f16, and dx, before it is divided by the denominator. Nothing is fetched from there: that
/// labels are in the vocabulary is for whoever builds the batch to check ([`check_labels`]); one outside makes the loss, and the gradient
/// of its row, not a number.
///
/// Errors: operands that do not fit, a label outside the vocabulary (in host memory), a denominator that is not positive (no token carries
/// loss: the caller should have noticed).
pub fn linear_cross_entropy(tape: &Tape, x: &Var, w: &Var, labels: &Tensor, denominator: f32) -> Result<Var> {
    let budget = logits_budget(x.value().device());
    linear_cross_entropy_within(tape, x, w, labels, denominator, budget)
}

/// As [`linear_cross_entropy`], with logits of at most `budget` bytes at a time (or of the fewest rows that a chunk has).
///
/// Errors: as there.
pub fn linear_cross_entropy_within(
    tape: &Tape,
    x: &Var,
    w: &Var,
    labels: &Tensor,
    denominator: f32,
    budget: usize,
) -> Result<Var> {
    let device = place(OP, [x.value(), w.value(), labels])?;
    let (rows, _, vocab) = check_linear(OP, x, w, None)?;
    if labels.shape() != [rows] {
        let detail = format!("labels {:?} for x {:?}", labels.shape(), x.shape());
        return Err(Error::Shape { op: OP, detail });
    }
    if labels.dtype() != DType::U32 {
        return Err(Error::DType { op: OP, detail: format!("{} labels, u32 expected", labels.dtype()) });
    }
    if !(denominator > 0.0 && denominator.is_finite()) {
        let detail = format!("the number of tokens with loss is {denominator}: none carries loss?");
        return Err(Error::model(OP, detail));
    }
    let wanted = Wanted { x: x.requires_grad(), w: w.requires_grad() };
    if let Some(device) = device {
        let Outcome { loss, dx, dw } =
            cuda::forward(device, x.value(), w.value(), labels, denominator, wanted, budget)?;
        let times = cuda::factor_left(x.dtype(), w.dtype(), denominator);
        return tape.record(OP, &[x, w], loss, move |dloss, context| {
            if let Some(dx) = dx {
                context.give(0, cuda::grad_input(device, &dx, &dloss)?)?;
            }
            if let Some(dw) = dw {
                cuda::scale_in_place(device, &dw, &dloss, times)?;
                context.give(1, dw)?;
            }
            Ok(())
        });
    }
    let labels = labels.as_u32()?;
    check_labels(labels, vocab)?;
    let Outcome { loss, dx, dw } = cpu::forward(x.value(), w.value(), labels, denominator, wanted, budget)?;
    let x_type = x.dtype();
    tape.record(OP, &[x, w], loss, move |dloss, context| {
        let dloss = dloss.item()?;
        for (i, (grad, dtype)) in [(dx, x_type), (dw, DType::F32)].into_iter().enumerate() {
            if let Some(grad) = grad {
                context.give(i, cpu::scaled(grad, dloss, dtype)?)?;
            }
        }
        Ok(())
    })
}

/// That each label is a word of a vocabulary of `vocab`, or [`IGNORE_LABEL`].
///
/// Errors: [`Error::Shape`] with the first that is not.
pub fn check_labels(labels: &[u32], vocab: usize) -> Result<()> {
    let outside = |&(_, &label): &(usize, &u32)| label != IGNORE_LABEL && label as usize >= vocab;
    match labels.iter().enumerate().find(outside) {
        None => Ok(()),
        Some((t, label)) => {
            let detail = format!("label {label} at position {t} is outside the vocabulary of {vocab}");
            Err(Error::Shape { op: OP, detail })
        }
    }
}

/// Bytes of a chunk's logits, at most (a chunk has a few rows at least), for batches on a device.
pub fn logits_budget(device: Device) -> usize {
    match device {
        Device::Cpu => cpu::LOGITS_BYTES,
        Device::Cuda(_) => cuda::LOGITS_BYTES,
    }
}
