//! LayerNorm on the CPU: blocks of rows in parallel, a row in passes that stay in cache.

use rayon::prelude::*;

use crate::device::cpu::lanes::{Kernel, Lane, Simd, dispatch};
use crate::device::cpu::parallel::GRAIN;

/// Mean and 1 / sqrt(var + eps) of a row.
#[derive(Clone, Copy, Default)]
pub(super) struct Moments {
    mean: f32,
    scale: f32,
}

/// Rows of a block. It depends on the row's length alone, and so does the order of the sums over rows.
fn block_rows(dim: usize) -> usize {
    (GRAIN / dim).max(32)
}

/// y, and each row's moments.
pub(super) fn forward<T: Lane>(x: &[T], weight: &[f32], bias: &[f32], eps: f32) -> (Vec<T>, Vec<Moments>) {
    let dim = weight.len();
    let mut y = vec![T::zeroed(); x.len()];
    let mut moments = vec![Moments::default(); x.len() / dim];
    let rows = block_rows(dim);
    let blocks = y.par_chunks_mut(rows * dim).zip(x.par_chunks(rows * dim)).zip(moments.par_chunks_mut(rows));
    blocks.for_each(|((y, x), moments)| dispatch(Forward { x, weight, bias, eps, y, moments }));
    (y, moments)
}

struct Forward<'a, T> {
    x: &'a [T],
    weight: &'a [f32],
    bias: &'a [f32],
    eps: f32,
    y: &'a mut [T],
    moments: &'a mut [Moments],
}

impl<T: Lane> Kernel for Forward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let dim = self.weight.len();
        let rows = self.x.chunks_exact(dim).zip(self.y.chunks_exact_mut(dim)).zip(self.moments);
        for ((x, y), moments) in rows {
            *moments = row_moments(s, x, self.eps);
            let (mean, scale) = (s.splat(moments.mean), s.splat(moments.scale));
            let affine = self.weight.chunks(S::LANES).zip(self.bias.chunks(S::LANES));
            for ((x, y), (w, b)) in x.chunks(S::LANES).zip(y.chunks_mut(S::LANES)).zip(affine) {
                let normed = s.mul(s.sub(T::load_some(s, x), mean), scale);
                T::store_some(s, s.madd(normed, f32::load_some(s, w), f32::load_some(s, b)), y);
            }
        }
    }
}

/// Two passes: the squares are of distances from the mean, so that a large mean costs no accuracy.
#[inline(always)]
fn row_moments<S: Simd, T: Lane>(s: S, x: &[T], eps: f32) -> Moments {
    let mut sum = s.splat(0.0);
    for x in x.chunks(S::LANES) {
        sum = s.add(sum, T::load_some(s, x));
    }
    let mean = s.sum(sum) / x.len() as f32;
    let mut squares = s.splat(0.0);
    let whole = x.chunks_exact(S::LANES);
    let rest: f32 = whole.remainder().iter().map(|x| (x.to_f32() - mean).powi(2)).sum();
    for x in whole {
        let far = s.sub(T::load_some(s, x), s.splat(mean));
        squares = s.madd(far, far, squares);
    }
    let variance = (s.sum(squares) + rest) / x.len() as f32;
    Moments { mean, scale: 1.0 / (variance + eps).sqrt() }
}

/// Which gradients are wanted; those of weight and bias come together.
#[derive(Clone, Copy)]
pub(super) struct Want {
    pub dx: bool,
    pub affine: bool,
}

/// Gradients; empty where not wanted.
pub(super) struct Grads<T> {
    pub dx: Vec<T>,
    pub dweight: Vec<f32>,
    pub dbias: Vec<f32>,
}

/// The gradients of x, weight and bias for the gradient dy of the output.
pub(super) fn backward<T: Lane>(
    x: &[T],
    weight: &[f32],
    moments: &[Moments],
    dy: &[T],
    want: Want,
) -> Grads<T> {
    let dim = weight.len();
    let rows = block_rows(dim);
    let blocks = moments.len().div_ceil(rows);
    let mut dx = vec![T::zeroed(); if want.dx { x.len() } else { 0 }];
    // Of each block: dweight, then dbias.
    let mut partial = vec![0.0; if want.affine { blocks * 2 * dim } else { 0 }];
    let mut dx_blocks: Vec<_> = dx.chunks_mut(rows * dim).collect();
    dx_blocks.resize_with(blocks, Default::default);
    let mut partial_blocks: Vec<_> = partial.chunks_mut(2 * dim).collect();
    partial_blocks.resize_with(blocks, Default::default);

    let inputs = x.par_chunks(rows * dim).zip(dy.par_chunks(rows * dim)).zip(moments.par_chunks(rows));
    let outputs = dx_blocks.into_par_iter().zip(partial_blocks);
    inputs.zip(outputs).for_each(|(((x, dy), moments), (dx, affine))| {
        dispatch(Backward { x, weight, moments, dy, dx, affine });
    });

    let mut sums = vec![0.0; if want.affine { 2 * dim } else { 0 }];
    for block in partial.chunks_exact(2 * dim) {
        sums.iter_mut().zip(block).for_each(|(sum, x)| *sum += x);
    }
    let dbias = sums.split_off(sums.len() / 2);
    Grads { dx, dweight: sums, dbias }
}

/// One block of rows. `dx` and `affine` (dweight, then dbias) are empty if not wanted.
struct Backward<'a, T> {
    x: &'a [T],
    weight: &'a [f32],
    moments: &'a [Moments],
    dy: &'a [T],
    dx: &'a mut [T],
    affine: &'a mut [f32],
}

impl<T: Lane> Kernel for Backward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let dim = self.weight.len();
        let (dweight, dbias) = self.affine.split_at_mut(self.affine.len() / 2);
        let rows = self.x.chunks_exact(dim).zip(self.dy.chunks_exact(dim)).zip(self.moments);
        for (row, ((x, dy), moments)) in rows.enumerate() {
            let (mean, scale) = (s.splat(moments.mean), s.splat(moments.scale));
            let sums = dweight.chunks_mut(S::LANES).zip(dbias.chunks_mut(S::LANES));
            for ((x, dy), (dw, db)) in x.chunks(S::LANES).zip(dy.chunks(S::LANES)).zip(sums) {
                let normed = s.mul(s.sub(T::load_some(s, x), mean), scale);
                let dy = T::load_some(s, dy);
                f32::store_some(s, s.madd(dy, normed, f32::load_some(s, dw)), dw);
                f32::store_some(s, s.add(f32::load_some(s, db), dy), db);
            }
            if self.dx.is_empty() {
                continue;
            }
            let (mut sum, mut dot) = (s.splat(0.0), s.splat(0.0));
            for ((x, dy), w) in x.chunks(S::LANES).zip(dy.chunks(S::LANES)).zip(self.weight.chunks(S::LANES))
            {
                // Lanes past the end have w = 0, hence g = 0.
                let g = s.mul(T::load_some(s, dy), f32::load_some(s, w));
                let normed = s.mul(s.sub(T::load_some(s, x), mean), scale);
                sum = s.add(sum, g);
                dot = s.madd(g, normed, dot);
            }
            let mean_g = s.splat(s.sum(sum) / dim as f32);
            let pull = s.splat(-s.sum(dot) / dim as f32);
            let dx = &mut self.dx[row * dim..(row + 1) * dim];
            let lanes = x.chunks(S::LANES).zip(dy.chunks(S::LANES)).zip(self.weight.chunks(S::LANES));
            for (((x, dy), w), dx) in lanes.zip(dx.chunks_mut(S::LANES)) {
                let g = s.mul(T::load_some(s, dy), f32::load_some(s, w));
                let normed = s.mul(s.sub(T::load_some(s, x), mean), scale);
                T::store_some(s, s.mul(scale, s.madd(normed, pull, s.sub(g, mean_g))), dx);
            }
        }
    }
}
