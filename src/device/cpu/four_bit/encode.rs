//! Numbers to 4-bit codes, with the bits of bitsandbytes' CPU backend.

use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;

use crate::device::cpu::lanes::{Kernel, Lane, Simd, dispatch};
use crate::device::cpu::parallel::GRAIN;
use crate::tensor::QuantKind;

/// What a scale is taken for at least when numbers are divided by it, so that blocks of zeros divide by no zero.
const SMALLEST_SCALE: f32 = 1e-38;

/// The largest block.
const MAX_BLOCK: usize = 4096;

/// The codes of a kind in the order of their levels, and between which numbers each is the nearest.
pub(crate) struct Table {
    /// Midpoints between neighbouring levels: a number is coded as the level after the last midpoint below it.
    pub bounds: [f32; 15],
    /// The code of each level, lowest level first.
    pub order: [u8; 16],
}

impl Table {
    /// That of a kind.
    pub fn of(kind: QuantKind) -> Table {
        let levels = kind.levels();
        let mut order: [u8; 16] = std::array::from_fn(|i| i as u8);
        // Stable: of FP4's two zeros, code 0 comes first.
        order.sort_by(|&a, &b| levels[usize::from(a)].total_cmp(&levels[usize::from(b)]));
        let level = |i: usize| levels[usize::from(order[i])];
        Table { bounds: std::array::from_fn(|i| (level(i) + level(i + 1)) / 2.0), order }
    }
}

/// Encodes `x` in blocks of `block` elements (the last may be shorter): the largest magnitude of each goes to `scales`, the codes to `codes`,
/// two a byte. False if an element is infinite or not a number: what was written then means nothing.
///
/// Panics if the lengths do not fit.
pub(crate) fn encode<T: Lane>(
    kind: QuantKind,
    block: usize,
    x: &[T],
    codes: &mut [u8],
    scales: &mut [f32],
) -> bool {
    assert!(block.is_power_of_two() && (2..=MAX_BLOCK).contains(&block), "blocks of {block}");
    assert_eq!(codes.len(), x.len().div_ceil(2), "codes");
    assert_eq!(scales.len(), x.len().div_ceil(block), "scales");
    let table = Table::of(kind);
    let finite = AtomicBool::new(true);
    // GRAIN is a multiple of every block.
    let pieces =
        x.par_chunks(GRAIN).zip(codes.par_chunks_mut(GRAIN / 2)).zip(scales.par_chunks_mut(GRAIN / block));
    pieces.for_each(|((x, codes), scales)| {
        let in_order = table.order.is_sorted();
        if !dispatch(Encode { table: &table, in_order, block, x, codes, scales }) {
            finite.store(false, Ordering::Relaxed);
        }
    });
    finite.into_inner()
}

struct Encode<'a, T> {
    table: &'a Table,
    /// Whether codes rise with their levels.
    in_order: bool,
    block: usize,
    x: &'a [T],
    codes: &'a mut [u8],
    scales: &'a mut [f32],
}

impl<T: Lane> Kernel for Encode<'_, T> {
    type Output = bool;

    /// Plain loops over arrays: the compiler vectorises them for the instruction set at hand.
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> bool {
        let mut finite = true;
        let mut buffer = [0.0f32; MAX_BLOCK];
        let blocks = self.x.chunks(self.block).zip(self.codes.chunks_mut(self.block / 2));
        for ((x, codes), scale) in blocks.zip(self.scales) {
            let values = &mut buffer[..x.len()];
            for (x, v) in x.chunks(S::LANES).zip(values.chunks_mut(S::LANES)) {
                f32::store_some(s, T::load_some(s, x), v);
            }
            let (largest, all_finite) = largest_magnitude(values);
            finite &= all_finite;
            let divisor = if largest > SMALLEST_SCALE { largest } else { SMALLEST_SCALE };
            // bitsandbytes multiplies whole blocks by the reciprocal of the unclamped scale, and divides a shorter one by the clamped.
            if x.len() == self.block {
                *scale = largest;
                let factor = 1.0 / divisor;
                values.iter_mut().for_each(|v| *v *= factor);
            } else {
                *scale = divisor;
                values.iter_mut().for_each(|v| *v /= divisor);
            }
            for (v, codes) in values.chunks(32).zip(codes.chunks_mut(16)) {
                // A last odd element is followed by a 0.
                let mut pairs = [0.0; 32];
                pairs[..v.len()].copy_from_slice(v);
                let mut ranks = [0u8; 32];
                rank(&self.table.bounds, &pairs, &mut ranks);
                if !self.in_order {
                    ranks.iter_mut().for_each(|r| *r = self.table.order[usize::from(*r & 15)]);
                }
                for (code, pair) in codes.iter_mut().zip(ranks.as_chunks::<2>().0) {
                    *code = pair[0] << 4 | pair[1];
                }
            }
        }
        finite
    }
}

/// The largest magnitude, and whether all elements are finite.
#[inline(always)]
fn largest_magnitude(x: &[f32]) -> (f32, bool) {
    let mut largest = [0.0f32; 16];
    let mut finite = [true; 16];
    for x in x.chunks(16) {
        for ((m, f), x) in largest.iter_mut().zip(&mut finite).zip(x) {
            let magnitude = x.abs();
            *m = if magnitude > *m { magnitude } else { *m };
            *f &= magnitude <= f32::MAX;
        }
    }
    (largest.into_iter().fold(0.0, f32::max), finite.into_iter().all(|f| f))
}

/// How many bounds are below each number. What rounding left beyond +-1 is on the outer side of all of them as +-1 is.
#[inline(always)]
fn rank(bounds: &[f32; 15], x: &[f32; 32], ranks: &mut [u8; 32]) {
    for half in 0..2 {
        let mut counts = [0u32; 16];
        for &bound in bounds {
            for i in 0..16 {
                counts[i] += u32::from(x[16 * half + i] > bound);
            }
        }
        for i in 0..16 {
            ranks[16 * half + i] = counts[i] as u8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Table;
    use crate::tensor::QuantKind;

    #[test]
    fn the_order_of_levels() {
        let nf4 = Table::of(QuantKind::Nf4);
        assert!(nf4.order.is_sorted() && nf4.bounds.is_sorted());
        let fp4 = Table::of(QuantKind::Fp4);
        assert_eq!(fp4.order, [11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3]);
        assert!(fp4.bounds.is_sorted());
    }
}
