//! Matrix product with a weight in 4-bit blocks: a frozen linear layer of a quantized model.

mod cpu;
pub(in crate::ops) mod cuda;

use super::epilogue::{Epilogue, Finish};
use super::matmul;
use super::place::place;
use crate::autograd::{Tape, Var};
use crate::tensor::QuantizedTensor;
use crate::{Error, Result};

const OP: &str = "quantized_matmul";

/// `y = epilogue(x W^T + bias)`, `[M, out]` of x's type, where W `[out, in]` is what the codes of `w` stand for. x: `[M, in]`, bias: `[out]`.
///
/// Gradients, with dz that of the sum in the epilogue: `dx = dz W` of x's type, from the same codes; `dbias = sum over rows of dz` in f32. W has
/// none: it is frozen. Kept for the backward: w, and what the epilogue keeps. The weight is decoded in blocks on its way into the product, never as
/// a whole; on the CPU in f32, on a CUDA device to x's type. The sums are f32. On a CUDA device dx is added to the gradient that x already has
/// by the product itself.
///
/// Errors: [`Error::Shape`] if the operands do not fit each other, [`Error::DType`] if x or bias is not of a float type.
pub fn quantized_matmul(
    tape: &Tape,
    x: &Var,
    w: &QuantizedTensor,
    bias: Option<&Var>,
    epilogue: Epilogue<'_>,
) -> Result<Var> {
    let shape = check(OP, x, w, bias)?;
    epilogue.check(OP, shape, x.dtype())?;
    let inputs: Vec<&Var> = std::iter::once(x).chain(bias).chain(epilogue.operand()).collect();
    let device = place(OP, inputs.iter().map(|v| v.value()).chain([w.codes()]))?;
    let keeps = epilogue.keeps(tape, &inputs);
    let (bias, has_bias) = (bias.map(Var::value), bias.is_some());
    let (y, z) = match device {
        Some(device) => {
            let finish = Finish::new(OP, device, &epilogue, bias, (shape, x.dtype()), keeps)?;
            (cuda::forward(device, x.value(), w, &finish)?, finish.z)
        }
        None => {
            let z = cpu::forward(x.value(), w, bias)?;
            (epilogue.of(&z)?, keeps.then_some(z))
        }
    };
    let saved = x.requires_grad().then(|| w.clone());
    let (of_epilogue, dtype) = (epilogue.backward(z, inputs.len() - 1), x.dtype());
    tape.record(OP, &inputs, y, move |dy, context| {
        let dz = of_epilogue.run(dy, context)?;
        if let Some(w) = &saved {
            let dx = match device {
                Some(device) => cuda::grad_input(device, &dz, w, context.take(0, dtype).as_ref())?,
                None => cpu::grad_input(&dz, w)?,
            };
            context.give(0, dx)?;
        }
        if has_bias && context.needs(1) {
            let dbias = match device {
                Some(device) => matmul::cuda::column_sums(device, &dz)?,
                None => matmul::cpu::column_sums(&dz)?,
            };
            context.give(1, dbias)?;
        }
        Ok(())
    })
}

/// Checks the operands of a linear layer with a quantized weight; the shape of y.
pub(in crate::ops) fn check(
    op: &'static str,
    x: &Var,
    w: &QuantizedTensor,
    bias: Option<&Var>,
) -> Result<[usize; 2]> {
    let ((m, k), [n, inner]) = (x.value().dims2(op)?, *w.shape());
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
    matmul::check_float(op, std::iter::once(x).chain(bias))?;
    Ok([m, n])
}
