//! Output projection and cross-entropy in one, without the logits of the whole batch.
//!
//! Rows with a label are taken a chunk at a time: logits, softmax, loss and, where gradients are wanted, what the chunk
//! contributes to them, all while its logits are at hand. Nothing of a chunk is kept, so the backward only scales.

mod cpu;

pub use cpu::chunk_rows;

use super::place::host_only;
use crate::autograd::{Tape, Var};
use crate::ops::matmul::check_linear;
use crate::tensor::Tensor;
use crate::{Error, Result};

const OP: &str = "linear_cross_entropy";

/// The label of a position that carries no loss.
pub const IGNORE_LABEL: u32 = u32::MAX;

/// sum over labelled t of -log softmax(x_t W^T) at its label, divided by `denominator`. x: `[T, D]`, w: `[V, D]`, labels: u32 `[T]`
/// ([`IGNORE_LABEL`]: no loss). The result is a scalar f32.
///
/// With P = softmax(x W^T) and Y the labels one-hot: `dx = (P - Y) W / denominator` of x's type, `dW = (P - Y)^T x / denominator`
/// in f32, both computed with the loss. The largest intermediate is one chunk's logits ([`chunk_rows`]). Losses are summed
/// over rows in f64, in order.
///
/// Errors: operands that do not fit, a label outside the vocabulary, a denominator that is not positive (no token carries
/// loss: the caller should have noticed).
pub fn linear_cross_entropy(tape: &Tape, x: &Var, w: &Var, labels: &Tensor, denominator: f32) -> Result<Var> {
    host_only(OP, [x.value(), w.value(), labels])?;
    let (rows, _, vocab) = check_linear(OP, x, w, None)?;
    if labels.shape() != [rows] {
        let detail = format!("labels {:?} for x {:?}", labels.shape(), x.shape());
        return Err(Error::Shape { op: OP, detail });
    }
    if !(denominator > 0.0 && denominator.is_finite()) {
        let detail = format!("the number of tokens with loss is {denominator}: none carries loss?");
        return Err(Error::model(OP, detail));
    }
    check_labels(labels, vocab)?;
    let labels = labels.as_u32()?;
    let wanted = cpu::Wanted { x: x.requires_grad(), w: w.requires_grad() };
    let cpu::Outcome { loss, dx, dw } = cpu::forward(x.value(), w.value(), labels, denominator, wanted)?;
    tape.record(OP, &[x, w], loss, move |dloss, context| {
        let dloss = dloss.item()?;
        for (i, grad) in [dx, dw].into_iter().enumerate() {
            if let Some(grad) = grad {
                context.give(i, cpu::scaled(grad, dloss)?)?;
            }
        }
        Ok(())
    })
}

/// An error unless each of the labels, which are in host memory, is a word of the vocabulary or [`IGNORE_LABEL`].
pub(crate) fn check_labels(labels: &Tensor, vocab: usize) -> Result<()> {
    let outside = |&(_, &label): &(usize, &u32)| label != IGNORE_LABEL && label as usize >= vocab;
    match labels.as_u32()?.iter().enumerate().find(outside) {
        None => Ok(()),
        Some((t, label)) => {
            let detail = format!("label {label} at position {t} is outside the vocabulary of {vocab}");
            Err(Error::Shape { op: OP, detail })
        }
    }
}
