//! CPU kernels of the linear layer with a 1-bit delta: sums of two products, of which one is with a matrix of signs, which become numbers in
//! the blocks in which they are used.

use rayon::prelude::*;

use super::{Base, Layer, OP};
use crate::device::cpu::gemm::{Init, Product, gemm};
use crate::device::cpu::matrix::Mat;
use crate::ops::lora_matmul::Segments;
use crate::ops::matmul;
use crate::tensor::{Element, SignStack, SignTensor, Tensor};
use crate::{Result, dispatch_float};

impl Base {
    /// The weight `[out, in]`; none of a product.
    fn weight(&self) -> Result<Option<Mat<'_>>> {
        match self {
            Base::Dense(w) => Mat::of(w, OP).map(Some),
            Base::Quantized(w) => Mat::of_quantized(w).map(Some),
            Base::Product(_) => Ok(None),
        }
    }
}

/// `a S`: what its elements are multiplied by, and the matrix.
fn scaled<'a>(signs: &'a SignTensor, scale: &'a Tensor) -> Result<(f32, Mat<'a>)> {
    match scale.as_f32()? {
        &[scale] => Ok((scale, Mat::of_signs(signs, None)?)),
        scales => Ok((1.0, Mat::of_signs(signs, Some(scales))?)),
    }
}

impl Layer {
    fn scaled_signs(&self) -> Result<(f32, Mat<'_>)> {
        scaled(&self.signs, &self.scale)
    }
}

/// z.
pub(super) fn forward(x: &Tensor, bias: Option<&Tensor>, layer: &Layer) -> Result<Tensor> {
    let [n, _] = *layer.signs.shape();
    let (alpha, signs) = layer.scaled_signs()?;
    let a = Mat::of(x, OP)?;
    let delta = Product { alpha, a, b: signs.t() };
    if let Some(w) = layer.base.weight()? {
        return matmul::cpu::product(x, bias, &[Product::of(a, w.t()), delta], n);
    }
    let Base::Product(z) = &layer.base else { unreachable!("every other base has a weight") };
    let mut sum = with_bias(z, bias)?;
    let m = x.shape()[0];
    gemm(&mut sum, (m, n), Init::Keep, &[delta]);
    Tensor::from_f32(sum, &[m, n]).to_dtype(x.dtype())
}

/// A product, and the bias, in f32, so that their sum with the delta's part rounds once.
fn with_bias(z: &Tensor, bias: Option<&Tensor>) -> Result<Vec<f32>> {
    let mut sum = z.to_vec_f32()?;
    if let Some(bias) = bias.filter(|_| !sum.is_empty()) {
        let bias = bias.to_vec_f32()?;
        sum.par_chunks_exact_mut(bias.len())
            .for_each(|row| row.iter_mut().zip(&bias).for_each(|(y, b)| *y += b));
    }
    Ok(sum)
}

/// z of several deltas. Rows go in groups of a few: a row's sums are then made in an order that no other row changes.
pub(super) fn tenants(
    x: &Tensor,
    bias: Option<&Tensor>,
    base: &Base,
    deltas: &SignStack,
    segments: &Segments,
) -> Result<Tensor> {
    /// As many as are streamed past the weight.
    const ROWS: usize = 16;
    let ((m, _), [n, _]) = (x.dims2(OP)?, *deltas.shape());
    let a = Mat::of(x, OP)?;
    let mut sum = match (base, base.weight()?) {
        (Base::Product(z), _) => with_bias(z, bias)?,
        (_, None) => vec![0.0; m * n],
        (_, Some(w)) => {
            let bias = bias.map(Tensor::to_vec_f32).transpose()?;
            let mut sum = vec![0.0; m * n];
            for first in (0..m).step_by(ROWS) {
                let rows = ROWS.min(m - first);
                let init = bias.as_deref().map_or(Init::Zero, Init::Bias);
                let product = Product::of(a.row_range(first, rows), w.t());
                gemm(&mut sum[first * n..][..rows * n], (rows, n), init, &[product]);
            }
            sum
        }
    };
    for run in segments.runs() {
        let Some(delta) = run.adapter else { continue };
        let (signs, scale) = deltas.get(delta)?;
        let (alpha, signs) = scaled(&signs, &scale)?;
        for first in run.rows.clone().step_by(ROWS) {
            let rows = ROWS.min(run.rows.end - first);
            let product = Product { alpha, a: a.row_range(first, rows), b: signs.t() };
            gemm(&mut sum[first * n..][..rows * n], (rows, n), Init::Keep, &[product]);
        }
    }
    Tensor::from_f32(sum, &[m, n]).to_dtype(x.dtype())
}

/// The wanted gradients of x, the base, the scale and the bias.
pub(super) fn backward(
    dy: &Tensor,
    x: &Tensor,
    layer: &Layer,
    [want_x, want_base, want_scale, want_bias]: [bool; 4],
) -> Result<[Option<Tensor>; 4]> {
    let dx = want_x.then(|| grad_input(dy, layer)).transpose()?;
    let of_base = match &layer.base {
        Base::Dense(_) if want_base => Some(matmul::cpu::grad_weight(dy, x)?),
        Base::Product(_) if want_base => Some(dy.clone()),
        Base::Dense(_) | Base::Product(_) | Base::Quantized(_) => None,
    };
    let of_scale = want_scale.then(|| grad_scale(dy, x, layer)).transpose()?;
    let of_bias = want_bias.then(|| matmul::cpu::column_sums(dy)).transpose()?;
    Ok([dx, of_base, of_scale, of_bias])
}

/// `dy W + dy (a S)`.
fn grad_input(dy: &Tensor, layer: &Layer) -> Result<Tensor> {
    let a = Mat::of(dy, OP)?;
    let (alpha, b) = layer.scaled_signs()?;
    let base = layer.base.weight()?.map(|w| Product::of(a, w));
    let products: Vec<Product<'_>> = base.into_iter().chain([Product { alpha, a, b }]).collect();
    matmul::cpu::product(dy, None, &products, layer.signs.shape()[1])
}

/// `da = sum of dy o (x S^T)`: over the rows in f64, from the first to the last, and then over the columns where there is one scale.
fn grad_scale(dy: &Tensor, x: &Tensor, layer: &Layer) -> Result<Tensor> {
    /// Rows whose product with the signs is in memory at a time.
    const ROWS: usize = 256;
    /// Columns that a task sums.
    const COLUMNS: usize = 64;
    let ([n, _], m) = (*layer.signs.shape(), x.shape()[0]);
    let (a, signs) = (Mat::of(x, OP)?, Mat::of_signs(&layer.signs, None)?);
    let mut sums = vec![0.0f64; n];
    let mut products = vec![0.0f32; m.min(ROWS) * n];
    for first in (0..if n == 0 { 0 } else { m }).step_by(ROWS) {
        let rows = ROWS.min(m - first);
        let products = &mut products[..rows * n];
        gemm(products, (rows, n), Init::Zero, &[Product::of(a.row_range(first, rows), signs.t())]);
        dispatch_float!(OP, dy.dtype(), T => {
            let dy = &T::slice(dy)?[first * n..];
            sums.par_chunks_mut(COLUMNS).enumerate().for_each(|(c, sums)| {
                for (products, dy) in products.chunks_exact(n).zip(dy.chunks_exact(n)) {
                    let (products, dy) = (&products[c * COLUMNS..], &dy[c * COLUMNS..]);
                    for ((sum, product), dy) in sums.iter_mut().zip(products).zip(dy) {
                        *sum += f64::from(*product) * f64::from(dy.to_f32());
                    }
                }
            });
            Ok::<(), crate::Error>(())
        })?;
    }
    let out = match layer.has_row_scales() {
        true => sums.into_iter().map(|sum| sum as f32).collect(),
        false => vec![sums.iter().sum::<f64>() as f32],
    };
    Ok(Tensor::from_f32(out, layer.scale.shape()))
}
