//! A frozen or trainable linear layer with a low-rank adapter (LoRA, arXiv 2106.09685), fused.

mod cpu;
mod cuda;

use super::place::place;
use crate::autograd::{BackwardContext, Tape, Var};
use crate::ops::dropout::Mask;
use crate::ops::matmul::{check_float, check_linear};
use crate::tensor::Tensor;
use crate::{Error, Result};

const OP: &str = "lora_matmul";

/// The adapter of a [`lora_matmul`].
pub struct Lora<'a> {
    /// `[r, in]`.
    pub a: &'a Var,
    /// `[out, r]`.
    pub b: &'a Var,
    /// alpha / r, or alpha / sqrt(r).
    pub scale: f32,
    /// Probability with which an element of the adapter's input is dropped in training.
    pub dropout: f32,
}

/// What forward and backward both use.
struct Layer {
    w: Tensor,
    a: Tensor,
    b: Tensor,
    scale: f32,
    mask: Option<Mask>,
}

/// `y = x W^T + bias + scale (dropout(x) A^T) B^T`, `[M, out]` of x's type. x: `[M, in]`, w: `[out, in]`, bias: `[out]`.
///
/// With x~ = dropout(x), u = x~ A^T and v = scale dy B, both `[M, r]`, the gradients are
///
/// - `dx = dy W + dropout'(v A)`, of x's type: one product whose inner dimension runs on for r more where dropout is off;
/// - `dA = v^T x~`, `dB = scale dy^T u`, and `dW = dy^T x`, `dbias = sum over rows of dy` if wanted, in f32.
///
/// Kept for the backward: x, u (f32), and the operands themselves. The mask of the dropout is drawn again. Two roundings a
/// value in all (u and v are f32).
///
/// Errors: operands that do not fit each other or are not f32 or bf16, a dropout outside 0 <= p < 1.
pub fn lora_matmul(tape: &Tape, x: &Var, w: &Var, bias: Option<&Var>, lora: &Lora<'_>) -> Result<Var> {
    let (_, inner, out) = check_linear(OP, x, w, bias)?;
    let (rank, a_in) = lora.a.value().dims2(OP)?;
    let b_shape = lora.b.value().dims2(OP)?;
    if a_in != inner || b_shape != (out, rank) {
        let detail = format!(
            "A {:?} and B {:?} for a weight {:?}: expected A [r, {inner}] and B [{out}, r]",
            lora.a.shape(),
            lora.b.shape(),
            w.shape()
        );
        return Err(Error::Shape { op: OP, detail });
    }
    check_float(OP, [lora.a, lora.b])?;
    let inputs: Vec<&Var> = [x, w, lora.a, lora.b].into_iter().chain(bias).collect();
    let device = place(OP, inputs.iter().map(|v| v.value()))?;

    let layer = Layer {
        w: w.value().clone(),
        a: lora.a.value().clone(),
        b: lora.b.value().clone(),
        scale: lora.scale,
        mask: Mask::next(tape, OP, lora.dropout)?,
    };
    let (x, bias) = (x.value().clone(), bias.map(Var::value));
    if let Some(device) = device {
        let (y, u) = cuda::forward(device, &x, bias, &layer)?;
        return tape.record(OP, &inputs, y, move |dy, context| {
            give(context, |wanted| cuda::backward(device, &dy, &x, &u, &layer, wanted))
        });
    }
    let (y, u) = cpu::forward(&x, bias, &layer)?;
    tape.record(OP, &inputs, y, move |dy, context| {
        give(context, |wanted| cpu::backward(&dy, &x, u, &layer, wanted))
    })
}

/// Hands the wanted ones of five gradients to the inputs.
fn give(
    context: &mut BackwardContext<'_>,
    backward: impl FnOnce([bool; 5]) -> Result<[Option<Tensor>; 5]>,
) -> Result<()> {
    let wanted = std::array::from_fn(|i| context.needs(i));
    for (i, grad) in backward(wanted)?.into_iter().enumerate() {
        if let Some(grad) = grad {
            context.give(i, grad)?;
        }
    }
    Ok(())
}
