//! A frozen or trainable linear layer with a low-rank adapter (LoRA, arXiv 2106.09685), fused.

mod cpu;
mod cuda;
mod segments;

use super::epilogue::Epilogue;
use super::place::place;
use crate::autograd::{BackwardContext, Tape, Var};
use crate::ops::dropout::Mask;
use crate::ops::matmul::{check_float, check_linear};
use crate::ops::quantized_matmul;
use crate::tensor::{DType, QuantizedTensor, Tensor};
use crate::{Error, Result};

pub use segments::{Segment, Segments};

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

/// The adapters of a [`lora_matmul_segmented`], one behind the other. Smaller ranks are padded with zeros, in A and in B: their
/// gradients there are zero too.
pub struct LoraStack<'a> {
    /// `[E, r, in]`.
    pub a: &'a Var,
    /// `[E, out, r]`.
    pub b: &'a Var,
    /// The scale of each adapter, f32 `[E]`.
    pub scales: &'a Tensor,
    /// Probability with which an element of an adapter's input is dropped in training.
    pub dropout: f32,
}

/// The adapters' scales.
enum Scale {
    One(f32),
    /// f32 `[E]`.
    Each(Tensor),
}

/// The weight beside the adapters.
enum Weight {
    Dense(Tensor),
    Quantized(QuantizedTensor),
}

/// What forward and backward both use. A and B are stacked where there are segments.
struct Layer {
    w: Weight,
    a: Tensor,
    b: Tensor,
    scale: Scale,
    mask: Option<Mask>,
    segments: Option<Segments>,
}

impl Layer {
    fn out_and_rank(&self) -> [usize; 2] {
        let [.., out, rank] = *self.b.shape() else { return [0; 2] };
        [out, rank]
    }

    /// The scale of the only adapter; of several, what their own ones are multiplied by.
    fn one_scale(&self) -> f32 {
        match self.scale {
            Scale::One(scale) => scale,
            Scale::Each(_) => 1.0,
        }
    }
}

/// `y = epilogue(x W^T + bias + scale (dropout(x) A^T) B^T)`, `[M, out]` of x's type. x: `[M, in]`, w: `[out, in]`, bias: `[out]`.
///
/// With x~ = dropout(x), u = x~ A^T and v = scale dy B, both `[M, r]`, and dy the gradient of the sum in the epilogue, the gradients are
///
/// - `dx = dy W + dropout'(v A)`, of x's type: one product whose inner dimension runs on for r more where dropout is off;
/// - `dA = v^T x~`, `dB = scale dy^T u`, and `dW = dy^T x`, `dbias = sum over rows of dy` if wanted, in f32.
///
/// Kept for the backward: x, u (f32), the operands themselves, and what the epilogue keeps. On a CUDA device dx is added to the gradient
/// that x already has by the product itself. The mask of the dropout is drawn again. Two roundings a
/// value in all (u and v are f32).
///
/// Errors: operands that do not fit each other or are not of a float type, a dropout outside 0 <= p < 1.
pub fn lora_matmul(
    tape: &Tape,
    x: &Var,
    w: &Var,
    bias: Option<&Var>,
    lora: &Lora<'_>,
    epilogue: Epilogue<'_>,
) -> Result<Var> {
    let (_, inner, out) = check_linear(OP, x, w, bias)?;
    check_factors(lora, [out, inner])?;
    let layer = Layer {
        w: Weight::Dense(w.value().clone()),
        a: lora.a.value().clone(),
        b: lora.b.value().clone(),
        scale: Scale::One(lora.scale),
        mask: Mask::next(tape, OP, lora.dropout)?,
        segments: None,
    };
    run(tape, [x, w, lora.a, lora.b], bias, layer, epilogue)
}

/// As [`lora_matmul`] with a weight in 4-bit blocks (QLoRA, arXiv 2305.14314), which is frozen and decoded block by block, in the forward and
/// in the backward.
///
/// Errors: those of [`lora_matmul`].
pub fn quantized_lora_matmul(
    tape: &Tape,
    x: &Var,
    w: &QuantizedTensor,
    bias: Option<&Var>,
    lora: &Lora<'_>,
    epilogue: Epilogue<'_>,
) -> Result<Var> {
    quantized_matmul::check(OP, x, w, bias)?;
    check_factors(lora, *w.shape())?;
    let layer = Layer {
        w: Weight::Quantized(w.clone()),
        a: lora.a.value().clone(),
        b: lora.b.value().clone(),
        scale: Scale::One(lora.scale),
        mask: Mask::next(tape, OP, lora.dropout)?,
        segments: None,
    };
    // No gradient flows to the codes.
    let codes = Var::constant(w.codes().clone());
    run(tape, [x, &codes, lora.a, lora.b], bias, layer, epilogue)
}

/// An [`Error::Shape`] if A and B do not fit a weight `[out, in]`.
fn check_factors(lora: &Lora<'_>, [out, inner]: [usize; 2]) -> Result<()> {
    let (rank, a_in) = lora.a.value().dims2(OP)?;
    if a_in == inner && lora.b.value().dims2(OP)? == (out, rank) {
        return Ok(());
    }
    let (a, b) = (lora.a.shape(), lora.b.shape());
    let detail = format!(
        "A {a:?} and B {b:?} for a weight [{out}, {inner}]: expected A [r, {inner}] and B [{out}, r]"
    );
    Err(Error::Shape { op: OP, detail })
}

/// As [`lora_matmul`] with an adapter for each segment of the rows, or none: `y = epilogue(x W^T + bias + scale_e (dropout(x) A_e^T) B_e^T)` in
/// the rows of adapter e. The gradients of A and B are sums over an adapter's own rows. All rows share one product with the weight.
///
/// Errors: those of [`lora_matmul`]; segments that are not the rows of x, or name an adapter that is not in the stack.
pub fn lora_matmul_segmented(
    tape: &Tape,
    x: &Var,
    w: &Var,
    bias: Option<&Var>,
    loras: &LoraStack<'_>,
    segments: &Segments,
    epilogue: Epilogue<'_>,
) -> Result<Var> {
    let (rows, inner, out) = check_linear(OP, x, w, bias)?;
    let shapes = (loras.a.shape(), loras.b.shape(), loras.scales.shape());
    let fits =
        matches!(shapes, (&[e, r, i], &[f, o, q], &[g]) if (e, r, i, o) == (f, q, inner, out) && e == g);
    if !fits || loras.scales.dtype() != DType::F32 {
        let detail = format!(
            "A {:?}, B {:?} and {} scales {:?} for a weight {:?}: expected A [E, r, {inner}], B [E, {out}, r] and f32 scales [E]",
            loras.a.shape(),
            loras.b.shape(),
            loras.scales.dtype(),
            loras.scales.shape(),
            w.shape()
        );
        return Err(Error::Shape { op: OP, detail });
    }
    if segments.rows() != rows {
        let detail = format!("segments of {} rows in all for x {:?}", segments.rows(), x.shape());
        return Err(Error::Shape { op: OP, detail });
    }
    segments.check(OP, loras.a.shape()[0])?;
    place(OP, [x.value(), loras.scales])?;
    let layer = Layer {
        w: Weight::Dense(w.value().clone()),
        a: loras.a.value().clone(),
        b: loras.b.value().clone(),
        scale: Scale::Each(loras.scales.clone()),
        mask: Mask::next(tape, OP, loras.dropout)?,
        segments: Some(segments.clone()),
    };
    run(tape, [x, w, loras.a, loras.b], bias, layer, epilogue)
}

/// Runs a layer on operands whose shapes fit, and records it.
fn run(
    tape: &Tape,
    operands: [&Var; 4],
    bias: Option<&Var>,
    layer: Layer,
    epilogue: Epilogue<'_>,
) -> Result<Var> {
    let [x, _, a, b] = operands;
    check_float(OP, [a, b])?;
    epilogue.check(OP, [x.shape()[0], layer.out_and_rank()[0]], x.dtype())?;
    let inputs: Vec<&Var> = operands.into_iter().chain(bias).chain(epilogue.operand()).collect();
    let device = place(OP, inputs.iter().map(|v| v.value()))?;
    let keeps = epilogue.keeps(tape, &inputs);
    let (x, bias, has_bias) = (x.value().clone(), bias.map(Var::value), bias.is_some());
    let operand = inputs.len() - 1;
    if let Some(device) = device {
        let (y, u, z) = cuda::forward(device, &x, bias, &layer, &epilogue, keeps)?;
        let of_epilogue = epilogue.backward(z, operand);
        return tape.record(OP, &inputs, y, move |dy, context| {
            let dz = of_epilogue.run(dy, context)?;
            let residual = context.take(0, x.dtype());
            let grads = |wanted| cuda::backward(device, &dz, &x, &u, &layer, wanted, residual.as_ref());
            give(context, has_bias, grads)
        });
    }
    let (z, u) = cpu::forward(&x, bias, &layer)?;
    let y = epilogue.of(&z)?;
    let of_epilogue = epilogue.backward(keeps.then_some(z), operand);
    tape.record(OP, &inputs, y, move |dy, context| {
        let dz = of_epilogue.run(dy, context)?;
        give(context, has_bias, |wanted| cpu::backward(&dz, &x, u, &layer, wanted))
    })
}

/// Hands the wanted ones of the gradients of x, w, A, B and, if there is one, the bias to them.
fn give(
    context: &mut BackwardContext<'_>,
    has_bias: bool,
    backward: impl FnOnce([bool; 5]) -> Result<[Option<Tensor>; 5]>,
) -> Result<()> {
    let wanted = std::array::from_fn(|i| (i < 4 || has_bias) && context.needs(i));
    for (i, grad) in backward(wanted)?.into_iter().enumerate() {
        if let Some(grad) = grad {
            context.give(i, grad)?;
        }
    }
    Ok(())
}
