//! Matrix product with a weight: a linear layer.

pub(in crate::ops) mod cpu;
pub(in crate::ops) mod cuda;
mod plan;
pub(in crate::ops) mod shares;

use super::epilogue::Epilogue;
use super::place::place;
use crate::autograd::{Tape, Var};
use crate::tensor::DType;
use crate::{Error, Result};

const OP: &str = "matmul";

/// `y = epilogue(x W^T + bias)`, `[M, out]` of x's type. x: `[M, in]`, w: `[out, in]`, bias: `[out]`.
///
/// Gradients, with dz that of the sum in the epilogue: `dx = dz W` of x's type; `dW = dz^T x` and `dbias = sum over rows of dz` in f32.
/// Kept for the backward: w if dx is wanted, x if dW is wanted, and what the epilogue keeps. On a CUDA device dx is added to the gradient
/// that x already has by the product itself.
///
/// Errors: [`Error::Shape`] if the operands do not fit each other, [`Error::DType`] if one is not of a float type.
pub fn matmul(tape: &Tape, x: &Var, w: &Var, bias: Option<&Var>, epilogue: Epilogue<'_>) -> Result<Var> {
    let (m, _, n) = check_linear(OP, x, w, bias)?;
    epilogue.check(OP, [m, n], x.dtype())?;
    let inputs: Vec<&Var> = [x, w].into_iter().chain(bias).chain(epilogue.operand()).collect();
    let device = place(OP, inputs.iter().map(|v| v.value()))?;
    let keeps = epilogue.keeps(tape, &inputs);
    let (bias, has_bias) = (bias.map(Var::value), bias.is_some());
    let (y, z) = match device {
        Some(device) => cuda::forward(device, x.value(), w.value(), bias, &epilogue, keeps)?,
        None => {
            let z = cpu::forward(x.value(), w.value(), bias)?;
            (epilogue.of(&z)?, keeps.then_some(z))
        }
    };
    let saved_w = x.requires_grad().then(|| w.value().clone());
    let saved_x = w.requires_grad().then(|| x.value().clone());
    let (of_epilogue, dtype) = (epilogue.backward(z, inputs.len() - 1), x.dtype());
    tape.record(OP, &inputs, y, move |dy, context| {
        let dz = of_epilogue.run(dy, context)?;
        if let Some(w) = &saved_w {
            let dx = match device {
                Some(device) => cuda::grad_input(device, &dz, w, context.take(0, dtype).as_ref())?,
                None => cpu::grad_input(&dz, w)?,
            };
            context.give(0, dx)?;
        }
        if let Some(x) = &saved_x {
            let dw = match device {
                Some(device) => cuda::grad_weight(device, &dz, x)?,
                None => cpu::grad_weight(&dz, x)?,
            };
            context.give(1, dw)?;
        }
        if has_bias && context.needs(2) {
            let dbias = match device {
                Some(device) => cuda::column_sums(device, &dz)?,
                None => cpu::column_sums(&dz)?,
            };
            context.give(2, dbias)?;
        }
        Ok(())
    })
}

/// Checks the operands of a linear layer; returns M, in and out.
pub(in crate::ops) fn check_linear(
    op: &'static str,
    x: &Var,
    w: &Var,
    bias: Option<&Var>,
) -> Result<(usize, usize, usize)> {
    let (m, k) = x.value().dims2(op)?;
    let (n, inner) = w.value().dims2(op)?;
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
    check_float(op, [x, w].into_iter().chain(bias))?;
    Ok((m, k, n))
}

/// An [`Error::DType`] if an operand is not of a float type.
pub(in crate::ops) fn check_float<'a>(
    op: &'static str,
    operands: impl IntoIterator<Item = &'a Var>,
) -> Result<()> {
    let integer: Option<DType> = operands.into_iter().map(Var::dtype).find(|t| !t.is_float());
    integer.map_or(Ok(()), |t| Err(t.not_a_float(op)))
}
