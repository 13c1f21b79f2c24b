//! Matrix product with a weight in 4-bit blocks: a frozen linear layer of a quantized model.

mod cpu;

use crate::autograd::{Tape, Var};
use crate::ops::matmul::check_float;
use crate::ops::place::place;
use crate::tensor::QuantizedTensor;
use crate::{Error, Result};

const OP: &str = "quantized_matmul";

/// `y = x W^T + bias`, `[M, out]` of x's type, where W `[out, in]` is what the codes of `w` stand for. x: `[M, in]`, bias: `[out]`.
///
/// Gradients: `dx = dy W` of x's type, from the same codes; `dbias = sum over rows of dy` in f32. W has none: it is frozen. Kept for the backward:
/// w. The weight is decoded in blocks that fit a cache, never as a whole, and the sums are f32.
///
/// Errors: [`Error::Shape`] if the operands do not fit each other, [`Error::DType`] if x or bias is not of a float type,
/// [`Error::Unsupported`] on a CUDA device.
pub fn quantized_matmul(tape: &Tape, x: &Var, w: &QuantizedTensor, bias: Option<&Var>) -> Result<Var> {
    check(OP, x, w, bias)?;
    let inputs: Vec<&Var> = std::iter::once(x).chain(bias).collect();
    let y = cpu::forward(x.value(), w, bias.map(Var::value))?;
    let saved = x.requires_grad().then(|| w.clone());
    tape.record(OP, &inputs, y, move |dy, context| {
        if let Some(w) = &saved {
            context.give(0, cpu::grad_input(&dy, w)?)?;
        }
        if context.needs(1) {
            context.give(1, crate::ops::matmul::cpu::column_sums(&dy)?)?;
        }
        Ok(())
    })
}

/// Checks the operands of a linear layer with a quantized weight, and that they are on the CPU.
pub(in crate::ops) fn check(
    op: &'static str,
    x: &Var,
    w: &QuantizedTensor,
    bias: Option<&Var>,
) -> Result<()> {
    let ((_, k), [n, inner]) = (x.value().dims2(op)?, *w.shape());
    if k != inner {
        let detail = format!("x {:?} and weight {:?} ([out, in]) differ in 'in'", x.shape(), w.shape());
        return Err(Error::Shape { op, detail });
    }
    if let Some(bias) = bias
        && bias.shape() != [n]
    {
        let detail = format!("bias {:?} for a weight {:?} ([out, in])", bias.shape(), w.shape());
        return Err(Error::Shape { op, detail });
    }
    check_float(op, std::iter::once(x).chain(bias))?;
    let operands = [x.value(), w.codes()].into_iter().chain(bias.map(Var::value));
    match place(op, operands)? {
        None => Ok(()),
        Some(device) => Err(Error::unsupported(
            format!("{op} with a weight in 4 bits on cuda:{}", device.ordinal()),
            "it runs on the CPU",
        )),
    }
}
