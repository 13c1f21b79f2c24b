//! CPU kernels of the linear layer with adapters.

use std::ops::Range;

use super::{Layer, OP, Scale, Weight};
use crate::Result;
use crate::device::cpu::gemm::{Init, Product, gemm};
use crate::device::cpu::matrix::Mat;
use crate::ops::dropout;
use crate::ops::matmul;
use crate::tensor::{DType, Tensor};

/// Rows, and the adapter that they go through.
struct Piece {
    rows: Range<usize>,
    adapter: usize,
    a: Tensor,
    b: Tensor,
    scale: f32,
}

impl Piece {
    /// Its rows of a matrix.
    fn of<'a>(&self, x: Mat<'a>) -> Mat<'a> {
        x.row_range(self.rows.start, self.rows.len())
    }

    /// `scale u B^T` for its rows of u.
    fn up<'a>(&'a self, u: Mat<'a>) -> Result<Product<'a>> {
        Ok(Product { alpha: self.scale, a: self.of(u), b: Mat::of(&self.b, OP)?.t() })
    }

    /// Its rows of a row-major matrix of `cols` columns.
    fn elements(&self, cols: usize) -> Range<usize> {
        self.rows.start * cols..self.rows.end * cols
    }
}

impl Layer {
    /// x~: x itself where dropout is off, else an f32 copy with the mask applied.
    fn dropped(&self, x: &Tensor) -> Result<Tensor> {
        let Some(mask) = &self.mask else { return Ok(x.clone()) };
        let mut values = x.to_vec_f32()?;
        dropout::cpu::apply(&mut values, mask);
        Ok(Tensor::from_f32(values, x.shape()))
    }

    /// The weight `[out, in]`.
    fn weight(&self) -> Result<Mat<'_>> {
        match &self.w {
            Weight::Dense(w) => Mat::of(w, OP),
            Weight::Quantized(w) => Mat::of_quantized(w),
        }
    }

    /// The rows by adapter; those without one are left out.
    fn pieces(&self, rows: usize) -> Result<Vec<Piece>> {
        let (Some(segments), Scale::Each(scales)) = (&self.segments, &self.scale) else {
            let (a, b) = (self.a.clone(), self.b.clone());
            return Ok(vec![Piece { rows: 0..rows, adapter: 0, a, b, scale: self.one_scale() }]);
        };
        let scales = scales.as_f32()?;
        let one = |stack: &Tensor, i: usize| stack.rows(i, 1)?.reshape(&stack.shape()[1..]);
        let with_adapter = segments.runs().iter().filter_map(|run| Some((run.rows.clone(), run.adapter?)));
        with_adapter
            .map(|(rows, i)| {
                Ok(Piece { rows, adapter: i, a: one(&self.a, i)?, b: one(&self.b, i)?, scale: scales[i] })
            })
            .collect()
    }
}

/// y and u.
pub(super) fn forward(x: &Tensor, bias: Option<&Tensor>, layer: &Layer) -> Result<(Tensor, Vec<f32>)> {
    let ((m, _), [n, rank]) = (x.dims2(OP)?, layer.out_and_rank());
    let pieces = layer.pieces(m)?;
    let mut u = vec![0.0; m * rank];
    let dropped = layer.dropped(x)?;
    for piece in &pieces {
        let product = Product::of(piece.of(Mat::of(&dropped, OP)?), Mat::of(&piece.a, OP)?.t());
        gemm(&mut u[piece.elements(rank)], (piece.rows.len(), rank), Init::Zero, &[product]);
    }
    drop(dropped);
    let base = Product::of(Mat::of(x, OP)?, layer.weight()?.t());
    let all_u = Mat::f32(&u, m, rank);
    if let [piece] = &pieces[..]
        && piece.rows.len() == m
    {
        let y = matmul::cpu::product(x, bias, &[base, piece.up(all_u)?], n)?;
        return Ok((y, u));
    }
    // Several adapters add to their rows of the f32 base, of which all rows are one product.
    let bias = bias.map(Tensor::to_vec_f32).transpose()?;
    let mut y = vec![0.0; m * n];
    gemm(&mut y, (m, n), bias.as_deref().map_or(Init::Zero, Init::Bias), &[base]);
    for piece in &pieces {
        gemm(&mut y[piece.elements(n)], (piece.rows.len(), n), Init::Keep, &[piece.up(all_u)?]);
    }
    Ok((Tensor::from_f32(y, &[m, n]).to_dtype(x.dtype())?, u))
}

/// The wanted gradients of x, w, A, B and bias.
pub(super) fn backward(
    dy: &Tensor,
    x: &Tensor,
    u: Vec<f32>,
    layer: &Layer,
    wanted: [bool; 5],
) -> Result<[Option<Tensor>; 5]> {
    let ((m, inner), [n, rank]) = (x.dims2(OP)?, layer.out_and_rank());
    let pieces = layer.pieces(m)?;
    let grad = Mat::of(dy, OP)?;
    let [want_x, want_w, want_a, want_b, want_bias] = wanted;

    let db = if want_b {
        let mut db = vec![0.0; layer.b.numel()];
        let all_u = Mat::f32(&u, m, rank);
        for piece in &pieces {
            let product = Product { alpha: piece.scale, a: piece.of(grad).t(), b: piece.of(all_u) };
            gemm(&mut db[piece.adapter * n * rank..][..n * rank], (n, rank), Init::Keep, &[product]);
        }
        Some(Tensor::from_f32(db, layer.b.shape()))
    } else {
        None
    };
    // v takes u's place.
    let mut v = u;
    if want_x || want_a {
        for piece in &pieces {
            let product = Product { alpha: piece.scale, a: piece.of(grad), b: Mat::of(&piece.b, OP)? };
            gemm(&mut v[piece.elements(rank)], (piece.rows.len(), rank), Init::Zero, &[product]);
        }
    }
    let v = Mat::f32(&v, m, rank);
    let da = if want_a {
        let dropped = layer.dropped(x)?;
        let mut da = vec![0.0; layer.a.numel()];
        for piece in &pieces {
            let product = Product::of(piece.of(v).t(), piece.of(Mat::of(&dropped, OP)?));
            gemm(
                &mut da[piece.adapter * rank * inner..][..rank * inner],
                (rank, inner),
                Init::Keep,
                &[product],
            );
        }
        Some(Tensor::from_f32(da, layer.a.shape()))
    } else {
        None
    };
    let dx = if want_x { Some(grad_input(dy, v, &pieces, layer, x.dtype())?) } else { None };
    let dw = if want_w { Some(matmul::cpu::grad_weight(dy, x)?) } else { None };
    let dbias = if want_bias { Some(matmul::cpu::column_sums(dy)?) } else { None };
    Ok([dx, dw, da, db, dbias])
}

/// `dy W + dropout'(v A)`.
fn grad_input(dy: &Tensor, v: Mat<'_>, pieces: &[Piece], layer: &Layer, dtype: DType) -> Result<Tensor> {
    let (m, inner) = (dy.shape()[0], layer.a.shape().last().copied().unwrap_or(0));
    let base = Product::of(Mat::of(dy, OP)?, layer.weight()?);
    if let (None, [piece]) = (&layer.mask, pieces)
        && piece.rows.len() == m
    {
        let adapter = Product::of(v, Mat::of(&piece.a, OP)?);
        return matmul::cpu::product(dy, None, &[base, adapter], inner);
    }
    // The mask is on the adapters' part alone, so that comes first, in the f32 memory of the result.
    let mut dx = vec![0.0; m * inner];
    for piece in pieces {
        let adapter = Product::of(piece.of(v), Mat::of(&piece.a, OP)?);
        gemm(&mut dx[piece.elements(inner)], (piece.rows.len(), inner), Init::Zero, &[adapter]);
    }
    if let Some(mask) = &layer.mask {
        dropout::cpu::apply(&mut dx, mask);
    }
    gemm(&mut dx, (m, inner), Init::Keep, &[base]);
    Tensor::from_f32(dx, &[m, inner]).to_dtype(dtype)
}
