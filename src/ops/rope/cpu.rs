//! Rotary embedding on the CPU. Cosines and sines are found once for each token; all heads share them.

use rayon::prelude::*;

use crate::device::cpu::lanes::{Kernel, Lane, Simd, dispatch};
use crate::device::cpu::parallel::{self, GRAIN};
use crate::ops::rope::{Direction, RopePairing, RopeTable};

/// Cosine and sine of each token's angles, `[T, pairs]` each.
pub(super) struct Angles {
    cos: Vec<f32>,
    sin: Vec<f32>,
    pairs: usize,
    pairing: RopePairing,
}

impl Angles {
    pub(super) fn new(positions: &[u32], table: &RopeTable) -> Angles {
        let frequencies = &table.inverse_frequencies;
        let pairs = frequencies.len();
        let mut cos = vec![0.0; positions.len() * pairs];
        let mut sin = cos.clone();
        let tokens = GRAIN / 8 / pairs + 1;
        let blocks = cos.par_chunks_mut(tokens * pairs).zip(sin.par_chunks_mut(tokens * pairs));
        blocks.zip(positions.par_chunks(tokens)).for_each(|((cos, sin), positions)| {
            let rows = cos.chunks_exact_mut(pairs).zip(sin.chunks_exact_mut(pairs)).zip(positions);
            for ((cos, sin), &position) in rows {
                for ((cos, sin), frequency) in cos.iter_mut().zip(sin).zip(&**frequencies) {
                    (*sin, *cos) = (position as f32 * frequency).sin_cos();
                }
            }
        });
        Angles { cos, sin, pairs, pairing: table.pairing }
    }
}

/// x `[T, cols]` with each head's pairs turned by (or, backward, against) their token's angles.
pub(super) fn turn<T: Lane>(x: &[T], angles: &Angles, cols: usize, direction: Direction) -> Vec<T> {
    let mut y = vec![T::zeroed(); x.len()];
    parallel::rows_mut(&mut y, cols, |first, y| {
        let x = &x[first * cols..][..y.len()];
        dispatch(Turn { x, y, angles, first, cols, direction });
    });
    y
}

struct Turn<'a, T> {
    x: &'a [T],
    y: &'a mut [T],
    angles: &'a Angles,
    /// The token of the first row.
    first: usize,
    cols: usize,
    direction: Direction,
}

impl<T: Lane> Kernel for Turn<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let pairs = self.angles.pairs;
        let sign = if self.direction == Direction::Forward { 1.0 } else { -1.0 };
        let rows = self.x.chunks_exact(self.cols).zip(self.y.chunks_exact_mut(self.cols));
        for (row, (x, y)) in rows.enumerate() {
            let start = (self.first + row) * pairs;
            let cos = &self.angles.cos[start..start + pairs];
            let sin = &self.angles.sin[start..start + pairs];
            for (x, y) in x.chunks_exact(2 * pairs).zip(y.chunks_exact_mut(2 * pairs)) {
                match self.angles.pairing {
                    RopePairing::Half => turn_halves(s, x, y, cos, sin, sign),
                    RopePairing::Interleaved => turn_neighbours(x, y, cos, sin, sign),
                }
            }
        }
    }
}

#[inline(always)]
fn turn_halves<S: Simd, T: Lane>(s: S, x: &[T], y: &mut [T], cos: &[f32], sin: &[f32], sign: f32) {
    let (xa, xb) = x.split_at(cos.len());
    let (ya, yb) = y.split_at_mut(cos.len());
    let angles = cos.chunks(S::LANES).zip(sin.chunks(S::LANES));
    let inputs = xa.chunks(S::LANES).zip(xb.chunks(S::LANES));
    let outputs = ya.chunks_mut(S::LANES).zip(yb.chunks_mut(S::LANES));
    for (((cos, sin), (xa, xb)), (ya, yb)) in angles.zip(inputs).zip(outputs) {
        let cos = f32::load_some(s, cos);
        let sin = s.mul(f32::load_some(s, sin), s.splat(sign));
        let (a, b) = (T::load_some(s, xa), T::load_some(s, xb));
        T::store_some(s, s.sub(s.mul(a, cos), s.mul(b, sin)), ya);
        T::store_some(s, s.add(s.mul(b, cos), s.mul(a, sin)), yb);
    }
}

#[inline(always)]
fn turn_neighbours<T: Lane>(x: &[T], y: &mut [T], cos: &[f32], sin: &[f32], sign: f32) {
    let pairs = x.chunks_exact(2).zip(y.chunks_exact_mut(2));
    for ((x, y), (cos, sin)) in pairs.zip(cos.iter().zip(sin)) {
        let (a, b, sin) = (x[0].to_f32(), x[1].to_f32(), sin * sign);
        y[0] = T::from_f32(a * cos - b * sin);
        y[1] = T::from_f32(b * cos + a * sin);
    }
}
