//! CPU kernels of the squared error.

use rayon::prelude::*;

use crate::device::cpu::parallel::{GRAIN, zip_mut};
use crate::tensor::Tensor;

pub(super) fn forward(a: &[f32], b: &[f32], denominator: f32) -> Tensor {
    let pieces = a.par_chunks(GRAIN).zip(b.par_chunks(GRAIN));
    let of_piece = |(a, b): (&[f32], &[f32])| -> f64 {
        // As many sums as fill the lanes of a processor.
        let mut sums = [0.0f64; 8];
        for (a, b) in a.chunks(8).zip(b.chunks(8)) {
            for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
                let d = f64::from(a - b);
                *sum += d * d;
            }
        }
        sums.iter().sum()
    };
    let parts: Vec<f64> = pieces.map(of_piece).collect();
    // In the order of the pieces.
    Tensor::scalar((parts.iter().sum::<f64>() / f64::from(denominator)) as f32)
}

pub(super) fn backward(a: &[f32], b: &[f32], dloss: f32, denominator: f32) -> Vec<f32> {
    let factor = 2.0 * dloss / denominator;
    let mut da = a.to_vec();
    zip_mut(&mut da, b, |a, b| *a = (*a - b) * factor);
    da
}
