//! RMSNorm on the CPU: blocks of rows in parallel, a row in two passes that stay in cache.

use rayon::prelude::*;

use crate::device::cpu::lanes::{Kernel, Lane, Simd, dispatch};
use crate::device::cpu::parallel::GRAIN;

/// Rows of a block. It depends on the row's length alone, and so does the order of dweight's sum.
fn block_rows(dim: usize) -> usize {
    (GRAIN / dim).max(32)
}

/// y, and the factor 1 / sqrt(mean(x^2) + eps) of each group.
pub(super) fn forward<T: Lane>(x: &[T], weight: &[f32], eps: f32) -> (Vec<T>, Vec<f32>) {
    let dim = weight.len();
    let mut y = vec![T::zeroed(); x.len()];
    let mut scales = vec![0.0; x.len() / dim];
    let rows = block_rows(dim);
    let blocks = y.par_chunks_mut(rows * dim).zip(x.par_chunks(rows * dim)).zip(scales.par_chunks_mut(rows));
    blocks.for_each(|((y, x), scales)| dispatch(Forward { x, weight, eps, y, scales }));
    (y, scales)
}

struct Forward<'a, T> {
    x: &'a [T],
    weight: &'a [f32],
    eps: f32,
    y: &'a mut [T],
    scales: &'a mut [f32],
}

impl<T: Lane> Kernel for Forward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let dim = self.weight.len();
        let rows = self.x.chunks_exact(dim).zip(self.y.chunks_exact_mut(dim)).zip(self.scales);
        for ((x, y), scale) in rows {
            let mut squares = s.splat(0.0);
            for x in x.chunks(S::LANES) {
                let x = T::load_some(s, x);
                squares = s.madd(x, x, squares);
            }
            *scale = 1.0 / (s.sum(squares) / dim as f32 + self.eps).sqrt();
            let factor = s.splat(*scale);
            let lanes = x.chunks(S::LANES).zip(self.weight.chunks(S::LANES)).zip(y.chunks_mut(S::LANES));
            for ((x, w), y) in lanes {
                let normed = s.mul(T::load_some(s, x), factor);
                T::store_some(s, s.mul(normed, f32::load_some(s, w)), y);
            }
        }
    }
}

/// Which gradients are wanted.
#[derive(Clone, Copy)]
pub(super) struct Want {
    pub dx: bool,
    pub dweight: bool,
}

/// Gradients; empty where not wanted.
pub(super) struct Grads<T> {
    pub dx: Vec<T>,
    pub dweight: Vec<f32>,
}

/// The gradients of x and of the weight for the gradient dy of the output.
pub(super) fn backward<T: Lane>(x: &[T], weight: &[f32], scales: &[f32], dy: &[T], want: Want) -> Grads<T> {
    let dim = weight.len();
    let rows = block_rows(dim);
    let blocks = scales.len().div_ceil(rows);
    let mut dx = vec![T::zeroed(); if want.dx { x.len() } else { 0 }];
    let mut partial = vec![0.0; if want.dweight { blocks * dim } else { 0 }];
    let mut dx_blocks: Vec<_> = dx.chunks_mut(rows * dim).collect();
    dx_blocks.resize_with(blocks, Default::default);
    let mut partial_blocks: Vec<_> = partial.chunks_mut(dim).collect();
    partial_blocks.resize_with(blocks, Default::default);

    let inputs = x.par_chunks(rows * dim).zip(dy.par_chunks(rows * dim)).zip(scales.par_chunks(rows));
    let outputs = dx_blocks.into_par_iter().zip(partial_blocks);
    inputs.zip(outputs).for_each(|(((x, dy), scales), (dx, dweight))| {
        dispatch(Backward { x, weight, scales, dy, dx, dweight });
    });

    let mut dweight = vec![0.0; if want.dweight { dim } else { 0 }];
    for block in partial.chunks_exact(dim) {
        dweight.iter_mut().zip(block).for_each(|(sum, x)| *sum += x);
    }
    Grads { dx, dweight }
}

/// One block of rows. `dx` and `dweight` are empty if not wanted.
struct Backward<'a, T> {
    x: &'a [T],
    weight: &'a [f32],
    scales: &'a [f32],
    dy: &'a [T],
    dx: &'a mut [T],
    dweight: &'a mut [f32],
}

impl<T: Lane> Kernel for Backward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let dim = self.weight.len();
        let rows = self.x.chunks_exact(dim).zip(self.dy.chunks_exact(dim)).zip(self.scales);
        for (row, ((x, dy), &scale)) in rows.enumerate() {
            let factor = s.splat(scale);
            if !self.dweight.is_empty() {
                let lanes =
                    x.chunks(S::LANES).zip(dy.chunks(S::LANES)).zip(self.dweight.chunks_mut(S::LANES));
                for ((x, dy), sum) in lanes {
                    let normed = s.mul(T::load_some(s, x), factor);
                    let total = s.madd(T::load_some(s, dy), normed, f32::load_some(s, sum));
                    f32::store_some(s, total, sum);
                }
            }
            if self.dx.is_empty() {
                continue;
            }
            let mut dot = s.splat(0.0);
            for ((x, dy), w) in x.chunks(S::LANES).zip(dy.chunks(S::LANES)).zip(self.weight.chunks(S::LANES))
            {
                let g = s.mul(T::load_some(s, dy), f32::load_some(s, w));
                dot = s.madd(g, T::load_some(s, x), dot);
            }
            let pull = s.splat(-scale * scale * (s.sum(dot) / dim as f32));
            let dx = &mut self.dx[row * dim..(row + 1) * dim];
            let lanes = x.chunks(S::LANES).zip(dy.chunks(S::LANES)).zip(self.weight.chunks(S::LANES));
            for (((x, dy), w), dx) in lanes.zip(dx.chunks_mut(S::LANES)) {
                let g = s.mul(T::load_some(s, dy), f32::load_some(s, w));
                T::store_some(s, s.mul(factor, s.madd(T::load_some(s, x), pull, g)), dx);
            }
        }
    }
}
