//! CPU kernels of the linear layer with an adapter.

use super::{Layer, OP};
use crate::Result;
use crate::device::cpu::gemm::{Init, Product, gemm};
use crate::device::cpu::matrix::Mat;
use crate::ops::dropout;
use crate::ops::matmul;
use crate::tensor::{DType, Tensor};

impl Layer {
    /// x~: x itself where dropout is off, else an f32 copy with the mask applied.
    fn dropped(&self, x: &Tensor) -> Result<Tensor> {
        let Some(mask) = &self.mask else { return Ok(x.clone()) };
        let mut values = x.to_vec_f32()?;
        dropout::cpu::apply(&mut values, mask);
        Ok(Tensor::from_f32(values, x.shape()))
    }
}

/// y and u.
pub(super) fn forward(x: &Tensor, bias: Option<&Tensor>, layer: &Layer) -> Result<(Tensor, Vec<f32>)> {
    let ((m, _), (n, rank)) = (x.dims2(OP)?, layer.b.dims2(OP)?);
    let mut u = vec![0.0; m * rank];
    let a = Mat::of(&layer.a, OP)?;
    let dropped = layer.dropped(x)?;
    gemm(&mut u, (m, rank), Init::Zero, &[Product::of(Mat::of(&dropped, OP)?, a.t())]);
    drop(dropped);
    let base = Product::of(Mat::of(x, OP)?, Mat::of(&layer.w, OP)?.t());
    let adapter = Product { alpha: layer.scale, a: Mat::f32(&u, m, rank), b: Mat::of(&layer.b, OP)?.t() };
    let y = matmul::cpu::product(x, bias, &[base, adapter], n)?;
    Ok((y, u))
}

/// The wanted gradients of x, w, A, B and bias.
pub(super) fn backward(
    dy: &Tensor,
    x: &Tensor,
    u: Vec<f32>,
    layer: &Layer,
    wanted: [bool; 5],
) -> Result<[Option<Tensor>; 5]> {
    let ((m, inner), (n, rank)) = (x.dims2(OP)?, layer.b.dims2(OP)?);
    let grad = Mat::of(dy, OP)?;
    let [want_x, want_w, want_a, want_b, want_bias] = wanted;

    let db = if want_b {
        let mut db = vec![0.0; n * rank];
        let product = Product { alpha: layer.scale, a: grad.t(), b: Mat::f32(&u, m, rank) };
        gemm(&mut db, (n, rank), Init::Zero, &[product]);
        Some(Tensor::from_f32(db, &[n, rank]))
    } else {
        None
    };
    // v takes u's place.
    let mut v = u;
    if want_x || want_a {
        let product = Product { alpha: layer.scale, a: grad, b: Mat::of(&layer.b, OP)? };
        gemm(&mut v, (m, rank), Init::Zero, &[product]);
    }
    let v = Mat::f32(&v, m, rank);
    let da = if want_a {
        let dropped = layer.dropped(x)?;
        let mut da = vec![0.0; rank * inner];
        gemm(&mut da, (rank, inner), Init::Zero, &[Product::of(v.t(), Mat::of(&dropped, OP)?)]);
        Some(Tensor::from_f32(da, &[rank, inner]))
    } else {
        None
    };
    let dx = if want_x { Some(grad_input(dy, v, layer, x.dtype())?) } else { None };
    let dw = if want_w { Some(matmul::cpu::grad_weight(dy, x)?) } else { None };
    let dbias = if want_bias { Some(matmul::cpu::column_sums(dy)?) } else { None };
    Ok([dx, dw, da, db, dbias])
}

/// `dy W + dropout'(v A)`.
fn grad_input(dy: &Tensor, v: Mat<'_>, layer: &Layer, dtype: DType) -> Result<Tensor> {
    let (m, (_, inner)) = (dy.shape()[0], layer.w.dims2(OP)?);
    let base = Product::of(Mat::of(dy, OP)?, Mat::of(&layer.w, OP)?);
    let adapter = Product::of(v, Mat::of(&layer.a, OP)?);
    let Some(mask) = &layer.mask else {
        return matmul::cpu::product(dy, None, &[base, adapter], inner);
    };
    // The mask is on the adapter's part alone, so that comes first, in the f32 memory of the result.
    let mut dx = vec![0.0; m * inner];
    gemm(&mut dx, (m, inner), Init::Zero, &[adapter]);
    dropout::cpu::apply(&mut dx, mask);
    gemm(&mut dx, (m, inner), Init::Keep, &[base]);
    Tensor::from_f32(dx, &[m, inner]).to_dtype(dtype)
}
