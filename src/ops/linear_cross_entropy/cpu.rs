//! CPU kernels: a chunk of rows at a time.

use half::f16;
use rayon::prelude::*;

use super::{IGNORE_LABEL, OP, Outcome, Wanted};
use crate::device::cpu::gemm::{Init, Product, gemm};
use crate::device::cpu::matrix::Mat;
use crate::device::cpu::{parallel, slices};
use crate::tensor::{DType, Element, Tensor};
use crate::{Result, dispatch_float};

/// Bytes of logits at a time: 170 rows at a vocabulary of 49152. With 128 rows the GEMM reaches four fifths of its speed with
/// 1024 (167 and 205 GFLOP/s on two Zen 4 cores), so much less would be slow.
pub(super) const LOGITS_BYTES: usize = 32 << 20;

/// Rows whose f32 logits over `vocab` words fit `budget` bytes; at least 16, so that a chunk is still a matrix product.
pub fn chunk_rows(vocab: usize, budget: usize) -> usize {
    (budget / size_of::<f32>() / vocab.max(1)).max(16)
}

pub(super) fn forward(
    x: &Tensor,
    w: &Tensor,
    labels: &[u32],
    denominator: f32,
    wanted: Wanted,
    budget: usize,
) -> Result<Outcome<Tensor>> {
    // Little of a gradient of f16 would be left before `scaled` has made it larger: it is f32 until then.
    if x.dtype() == DType::F16 {
        return forward_typed::<f16, f32>(x, w, labels, denominator, wanted, budget);
    }
    dispatch_float!(OP, x.dtype(), T => forward_typed::<T, T>(x, w, labels, denominator, wanted, budget))
}

/// With x of type T and its gradient of type G.
fn forward_typed<T: Element, G: Element>(
    x: &Tensor,
    w: &Tensor,
    labels: &[u32],
    denominator: f32,
    wanted: Wanted,
    budget: usize,
) -> Result<Outcome<Tensor>> {
    let (vocab, dim) = w.dims2(OP)?;
    let weight = Mat::of(w, OP)?;
    let values = T::slice(x)?;
    let labelled: Vec<usize> = (0..labels.len()).filter(|&t| labels[t] != IGNORE_LABEL).collect();
    let chunk = chunk_rows(vocab, budget).min(labelled.len());

    let mut dx = wanted.x.then(|| bytemuck::zeroed_vec::<G>(values.len()));
    let mut dw = wanted.w.then(|| vec![0.0f32; vocab * dim]);
    let mut inputs = vec![0.0f32; chunk * dim];
    let mut logits = vec![0.0f32; chunk * vocab];
    let mut loss = 0.0f64;
    for rows in labelled.chunks(chunk.max(1)) {
        let n = rows.len();
        let (inputs, logits) = (&mut inputs[..n * dim], &mut logits[..n * vocab]);
        for (i, &t) in rows.iter().enumerate() {
            let row = inputs[i * dim..][..dim].iter_mut().zip(&values[t * dim..]);
            row.for_each(|(o, v)| *o = v.to_f32());
        }
        gemm(logits, (n, vocab), Init::Zero, &[Product::of(Mat::f32(inputs, n, dim), weight.t())]);
        let losses: Vec<f64> = logits
            .par_chunks_exact_mut(vocab)
            .zip(rows)
            .map(|(row, &t)| softmax_row(row, labels[t] as usize, denominator, wanted.x || wanted.w))
            .collect();
        loss += losses.iter().sum::<f64>();
        if let Some(dw) = &mut dw {
            let (a, b) = (Mat::f32(logits, n, vocab).t(), Mat::f32(inputs, n, dim));
            gemm(dw, (vocab, dim), Init::Keep, &[Product::of(a, b)]);
        }
        if let Some(dx) = &mut dx {
            // The inputs of the chunk are not needed any more.
            gemm(inputs, (n, dim), Init::Zero, &[Product::of(Mat::f32(logits, n, vocab), weight)]);
            for (i, &t) in rows.iter().enumerate() {
                let row = dx[t * dim..].iter_mut().zip(&inputs[i * dim..][..dim]);
                row.for_each(|(o, g)| *o = G::from_f32(*g));
            }
        }
    }
    Ok(Outcome {
        loss: Tensor::scalar((loss / f64::from(denominator)) as f32),
        dx: dx.map(|v| G::tensor(v, x.shape())),
        dw: dw.map(|v| Tensor::from_f32(v, w.shape())),
    })
}

/// -log softmax(row)[label]; with `gradient`, the row becomes (softmax(row) - onehot(label)) / denominator.
fn softmax_row(row: &mut [f32], label: usize, denominator: f32, gradient: bool) -> f64 {
    let max = slices::max(row);
    let at_label = row[label];
    let sum = slices::exp_sum(row, max);
    if gradient {
        slices::scale(row, 1.0 / (sum * denominator));
        row[label] -= 1.0 / denominator;
    }
    f64::from(sum).ln() + (f64::from(max) - f64::from(at_label))
}

/// `factor` times a gradient, of type `dtype`; for 1, the usual loss at the end of a tape, the gradient itself.
pub(super) fn scaled(grad: Tensor, factor: f32, dtype: DType) -> Result<Tensor> {
    if factor == 1.0 {
        return grad.to_dtype(dtype);
    }
    let mut grad = grad.to_dtype(DType::F32)?;
    grad.make_mut_f32()?.par_chunks_mut(parallel::GRAIN).for_each(|piece| slices::scale(piece, factor));
    grad.to_dtype(dtype)
}
