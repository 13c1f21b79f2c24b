//! Vectorised functions of whole slices. Each is one task: callers split large slices among threads.

use rayon::prelude::*;

use crate::device::cpu::lanes::math::exp;
use crate::device::cpu::lanes::{Kernel, Lane, Simd, dispatch};
use crate::device::cpu::parallel::GRAIN;

/// The largest element; NaN is passed over. Negative infinity for an empty slice.
pub(crate) fn max(x: &[f32]) -> f32 {
    dispatch(Max(x))
}

struct Max<'a>(&'a [f32]);

impl Kernel for Max<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let mut largest = s.splat(f32::NEG_INFINITY);
        let chunks = self.0.chunks_exact(S::LANES);
        let rest = chunks.remainder();
        for x in chunks {
            largest = s.max(s.load(x), largest);
        }
        rest.iter().fold(s.largest(largest), |m, &x| if x > m { x } else { m })
    }
}

/// Replaces each x by e^(x - shift); returns the sum of the new values, always in the same order.
pub(crate) fn exp_sum(x: &mut [f32], shift: f32) -> f32 {
    dispatch(ExpSum(x, shift))
}

struct ExpSum<'a>(&'a mut [f32], f32);

impl Kernel for ExpSum<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let shift = s.splat(self.1);
        let mut sum = s.splat(0.0);
        for x in self.0.chunks_mut(S::LANES) {
            f32::store_some(s, exp(s, s.sub(f32::load_some(s, x), shift)), x);
            sum = s.add(sum, f32::load_some(s, x));
        }
        s.sum(sum)
    }
}

/// Multiplies each element by `factor`.
pub(crate) fn scale(x: &mut [f32], factor: f32) {
    dispatch(Scale(x, factor));
}

struct Scale<'a>(&'a mut [f32], f32);

impl Kernel for Scale<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let factor = s.splat(self.1);
        for x in self.0.chunks_mut(S::LANES) {
            f32::store_some(s, s.mul(f32::load_some(s, x), factor), x);
        }
    }
}

/// Converts between float types: exact, or rounded to nearest, ties to even. The slices must have the same length.
pub(crate) fn convert<A: Lane, B: Lane>(from: &[A], to: &mut [B]) {
    assert_eq!(from.len(), to.len());
    dispatch(Convert(from, to));
}

/// As [`convert`], into new memory, on all threads.
pub(crate) fn converted<A: Lane, B: Lane>(from: &[A]) -> Vec<B> {
    let mut to = bytemuck::zeroed_vec::<B>(from.len());
    let pieces = to.par_chunks_mut(GRAIN).zip(from.par_chunks(GRAIN));
    pieces.for_each(|(to, from)| convert(from, to));
    to
}

struct Convert<'a, A, B>(&'a [A], &'a mut [B]);

impl<A: Lane, B: Lane> Kernel for Convert<'_, A, B> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (x, y) in self.0.chunks(S::LANES).zip(self.1.chunks_mut(S::LANES)) {
            B::store_some(s, A::load_some(s, x), y);
        }
    }
}

/// The sum of the squares, in f64, always in the same order.
pub(crate) fn sum_of_squares(x: &[f32]) -> f64 {
    dispatch(SumOfSquares(x))
}

struct SumOfSquares<'a>(&'a [f32]);

impl Kernel for SumOfSquares<'_> {
    type Output = f64;

    /// A plain loop: the compiler vectorises it for the instruction set at hand.
    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> f64 {
        let mut sums = [0.0f64; 32];
        for x in self.0.chunks(sums.len()) {
            sums.iter_mut().zip(x).for_each(|(sum, &x)| *sum += f64::from(x) * f64::from(x));
        }
        sums.iter().sum()
    }
}
