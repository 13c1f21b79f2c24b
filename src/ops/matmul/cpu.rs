//! CPU kernels of the linear layer.

use rayon::prelude::*;

use crate::device::cpu::gemm::{Init, Product, gemm};
use crate::device::cpu::matrix::Mat;
use crate::tensor::{Element, Tensor};
use crate::{Result, dispatch_float};

use super::OP;

pub(super) fn forward(x: &Tensor, w: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    product(x, bias, &[Product::of(Mat::of(x, OP)?, Mat::of(w, OP)?.t())], w.shape()[0])
}

/// `bias + sum of products`, `[rows of like, n]` of the type of `like`.
pub(in crate::ops) fn product(
    like: &Tensor,
    bias: Option<&Tensor>,
    products: &[Product<'_>],
    n: usize,
) -> Result<Tensor> {
    let m = like.shape()[0];
    let bias = bias.map(Tensor::to_vec_f32).transpose()?;
    let init = bias.as_deref().map_or(Init::Zero, Init::Bias);
    dispatch_float!(OP, like.dtype(), T => {
        let mut out = bytemuck::zeroed_vec::<T>(m * n);
        gemm(&mut out, (m, n), init, products);
        Ok(T::tensor(out, &[m, n]))
    })
}

/// `dx = dy W`.
pub(super) fn grad_input(dy: &Tensor, w: &Tensor) -> Result<Tensor> {
    product(dy, None, &[Product::of(Mat::of(dy, OP)?, Mat::of(w, OP)?)], w.shape()[1])
}

/// `dW = dy^T x`, f32.
pub(in crate::ops) fn grad_weight(dy: &Tensor, x: &Tensor) -> Result<Tensor> {
    let (n, k) = (dy.shape()[1], x.shape()[1]);
    let mut out = vec![0.0; n * k];
    gemm::<f32>(&mut out, (n, k), Init::Zero, &[Product::of(Mat::of(dy, OP)?.t(), Mat::of(x, OP)?)]);
    Ok(Tensor::from_f32(out, &[n, k]))
}

/// The sum over the rows of dy `[M, n]`, f32 `[n]`: each column from the first row to the last, in f64.
pub(in crate::ops) fn column_sums(dy: &Tensor) -> Result<Tensor> {
    /// Columns a task sums: two cache lines of bf16.
    const COLUMNS: usize = 64;
    let n = dy.shape()[1];
    let mut out = vec![0.0f32; n];
    dispatch_float!(OP, dy.dtype(), T => {
        let data = T::slice(dy)?;
        out.par_chunks_mut(COLUMNS).enumerate().for_each(|(c, out)| {
            let mut sums = [0.0f64; COLUMNS];
            for row in data.chunks_exact(n) {
                let row = &row[c * COLUMNS..][..out.len()];
                sums.iter_mut().zip(row).for_each(|(s, x)| *s += f64::from(x.to_f32()));
            }
            out.iter_mut().zip(sums).for_each(|(o, s)| *o = s as f32);
        });
        Ok(Tensor::from_f32(out, &[n]))
    })
}
