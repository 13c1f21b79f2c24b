//! Blocks of 8-bit codes (8-bit Optimizers via Block-wise Quantization, Dettmers et al., arXiv 2110.02861): numbers are a code's value in a
//! map of 256 times the largest magnitude of their block. The maps, the blocks and the scales are those of bitsandbytes.

use std::sync::LazyLock;

use bytemuck::{Pod, Zeroable};

use crate::device::cpu::four_bit::{dynamic_map, unsigned_dynamic_map};

/// Elements of a block; the last block of a tensor may have fewer.
pub(super) const BLOCK: usize = 256;

/// A tensor of fewer elements keeps its averages in f32: its bytes do not count, and norms and biases are often sensitive.
pub(super) const LEAST_ELEMENTS: usize = 4096;

/// A magnitude from 2^-23 to 1 is told by its exponent and so many bits after the point to be in a cell, in which there is one bound between
/// codes at most.
const CELL_BITS: u32 = 7;
const FIRST_CELL: u32 = (127 - 23) << CELL_BITS;
const LAST_CELL: u32 = (127 << CELL_BITS) - FIRST_CELL;
/// Room for the cells.
const CELLS: usize = (LAST_CELL as usize + 1).next_multiple_of(256);

/// How numbers of one kind are coded. Codes rise with what they stand for; the rank of a code above that of 0 is how many it is beyond it.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Book {
    /// What the codes stand for.
    map: [f32; 256],
    /// The midpoint between ranks i and i + 1, as far as there are such; infinity behind.
    bounds: [f32; 256],
    /// By cell, the rank of the smallest magnitude in it.
    ranks: [[u8; 256]; CELLS / 256],
}

/// The code of 0 in the signed map, on each side of which there are the same magnitudes, but 1 on the upper alone.
const ZERO: u8 = 127;

/// The two books, as kernels/adamw8.cu has them in shared memory.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Books {
    /// Of the average of gradients.
    pub signed: Book,
    /// Of the average of squares.
    pub unsigned: Book,
}

/// The books.
pub(super) fn books() -> &'static Books {
    static BOOKS: LazyLock<Books> = LazyLock::new(|| Books {
        signed: Book::new(dynamic_map(), ZERO),
        unsigned: Book::new(unsigned_dynamic_map(), 0),
    });
    &BOOKS
}

impl Book {
    /// The book of a map whose code `zero` is 0.
    fn new(map: &[f32; 256], zero: u8) -> Book {
        let upper = &map[usize::from(zero)..];
        let mut bounds = [f32::INFINITY; 256];
        for (bound, pair) in bounds.iter_mut().zip(upper.windows(2)) {
            // Rounded down, so that the numbers above it are those above the midpoint itself.
            let middle = (f64::from(pair[0]) + f64::from(pair[1])) / 2.0;
            let near = middle as f32;
            *bound = if f64::from(near) > middle { near.next_down() } else { near };
        }
        let mut ranks = [[0; 256]; CELLS / 256];
        for (cell, rank) in ranks.as_flattened_mut().iter_mut().enumerate() {
            let least = f32::from_bits((cell as u32 + FIRST_CELL) << (23 - CELL_BITS));
            *rank = bounds.iter().filter(|&&bound| bound < least).count() as u8;
        }
        Book { map: *map, bounds, ranks }
    }

    /// How many bounds are below a magnitude of at most 1: of two ranks that are equally near, the lower.
    #[inline(always)]
    fn rank(&self, magnitude: f32) -> u8 {
        let cell = (magnitude.to_bits() >> (23 - CELL_BITS)).saturating_sub(FIRST_CELL).min(LAST_CELL);
        let rank = self.ranks.as_flattened()[cell as usize];
        rank + u8::from(magnitude > self.bounds[usize::from(rank)])
    }

    /// The numbers of one block.
    #[inline(always)]
    pub fn decode(&self, codes: &[u8], absmax: f32, out: &mut [f32]) {
        for (&code, x) in codes.iter().zip(out) {
            *x = self.map[usize::from(code)] * absmax;
        }
    }
}

/// Codes averages of gradients, one block, to the nearest code, and returns the largest magnitude. If a number is not finite that is NaN,
/// which all of the block then stands for.
#[inline(always)]
pub(super) fn encode_signed(x: &[f32], codes: &mut [u8]) -> f32 {
    let Some(absmax) = scale_of(x) else {
        codes.fill(ZERO);
        return f32::NAN;
    };
    let book = &books().signed;
    for ((x, part), code) in x.iter().zip(parts(x, absmax)).zip(codes) {
        let rank = book.rank(part);
        *code = if *x < 0.0 { ZERO - rank.min(ZERO) } else { ZERO + rank };
    }
    absmax
}

/// As [`encode_signed`], averages of squares. One that is not 0 is never coded as 0: its root is divided by, and a step would be without
/// bound.
#[inline(always)]
pub(super) fn encode_unsigned(x: &[f32], codes: &mut [u8]) -> f32 {
    let Some(absmax) = scale_of(x) else {
        codes.fill(0);
        return f32::NAN;
    };
    let book = &books().unsigned;
    for ((x, part), code) in x.iter().zip(parts(x, absmax)).zip(codes) {
        *code = book.rank(part).max(u8::from(*x > 0.0));
    }
    absmax
}

/// The largest magnitude, if all are finite.
#[inline(always)]
fn scale_of(x: &[f32]) -> Option<f32> {
    let mut largest = [0.0f32; 16];
    let mut finite = true;
    for x in x.chunks(16) {
        for (largest, x) in largest.iter_mut().zip(x) {
            *largest = if x.abs() > *largest { x.abs() } else { *largest };
            finite &= x.abs() <= f32::MAX;
        }
    }
    finite.then(|| largest.into_iter().fold(0.0, f32::max))
}

/// The magnitudes of a block as parts of the largest; a block of zeros stays that.
#[inline(always)]
fn parts(x: &[f32], absmax: f32) -> [f32; BLOCK] {
    let divisor = if absmax > 0.0 { absmax } else { 1.0 };
    let mut parts = [0.0; BLOCK];
    parts.iter_mut().zip(x).for_each(|(part, x)| *part = x.abs() / divisor);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The nearest code by looking at all of them; of two that are equally near, the nearer to 0.
    fn nearest(map: &[f32; 256], x: f32) -> usize {
        let distance = |i: usize| (f64::from(map[i]) - f64::from(x)).abs();
        (0..256)
            .min_by(|&a, &b| distance(a).total_cmp(&distance(b)).then(map[a].abs().total_cmp(&map[b].abs())))
            .unwrap()
    }

    /// Numbers at and beside every bound and every code, and evenly spread ones of all sizes.
    fn numbers(book: &Book) -> Vec<f32> {
        let of = book.map.iter().chain(&book.bounds).filter(|x| x.is_finite()).map(|x| x.abs());
        let beside = of.flat_map(|x| [x, x.next_down().max(0.0), x.next_up().min(1.0)]);
        let spread = (0..3000).map(|i| 10f32.powf(-(i as f32) / 375.0));
        beside.chain(spread).chain([0.0, 1e-45, f32::MIN_POSITIVE, 1.0]).collect()
    }

    #[test]
    fn a_cell_has_one_bound_at_most() {
        for book in [&books().signed, &books().unsigned] {
            for pair in book.ranks.as_flattened()[..=LAST_CELL as usize].windows(2) {
                assert!(pair[1] - pair[0] <= 1, "{pair:?}");
            }
            // Below the first cell there is none.
            assert!(book.bounds[0] > f32::from_bits((FIRST_CELL + 1) << (23 - CELL_BITS)));
        }
    }

    #[test]
    fn codes_are_the_nearest() {
        let Books { signed, unsigned } = books();
        for magnitude in numbers(signed) {
            for x in [magnitude, -magnitude] {
                // The first number makes 1 the scale.
                let block = [1.0, x];
                let mut codes = [0; 2];
                assert_eq!(encode_signed(&block, &mut codes), 1.0);
                assert_eq!(usize::from(codes[1]), nearest(&signed.map, x), "{x:e}");
            }
        }
        for x in numbers(unsigned) {
            let mut codes = [0; 2];
            assert_eq!(encode_unsigned(&[1.0, x], &mut codes), 1.0);
            let least = usize::from(x > 0.0);
            assert_eq!(usize::from(codes[1]), nearest(&unsigned.map, x).max(least), "{x:e}");
        }
    }

    #[test]
    fn every_code_comes_back() {
        let Books { signed, unsigned } = books();
        assert_eq!(signed.map[usize::from(ZERO)], 0.0);
        let mut numbers = [0.0; 256];
        let all: [u8; 256] = std::array::from_fn(|i| i as u8);
        let mut codes = [0; 256];
        signed.decode(&all, 0.3, &mut numbers);
        assert_eq!(encode_signed(&numbers, &mut codes), 0.3);
        assert_eq!(codes, all);
        unsigned.decode(&all, 7e-30, &mut numbers);
        assert_eq!(encode_unsigned(&numbers, &mut codes), 7e-30);
        assert_eq!(codes, all);
    }

    #[test]
    fn zeros_and_numbers_that_are_not_finite() {
        let mut codes = [9; 3];
        assert_eq!(encode_signed(&[0.0, -0.0, 0.0], &mut codes), 0.0);
        assert_eq!(codes, [ZERO; 3]);
        assert_eq!(encode_unsigned(&[0.0; 3], &mut codes), 0.0);
        assert_eq!(codes, [0; 3]);
        for x in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert!(encode_signed(&[1.0, x, 2.0], &mut codes).is_nan());
            assert_eq!(codes, [ZERO; 3]);
        }
        assert!(encode_unsigned(&[1.0, f32::INFINITY], &mut codes[..2]).is_nan());
    }
}
