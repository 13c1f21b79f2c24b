//! A few rows times a weight in 4-bit blocks, by table look-up: time is that of reading the codes.

use rayon::prelude::*;

use super::Packed;
use crate::device::cpu::gemv::all_dots;
use crate::device::cpu::lanes::{Kernel, Simd, dispatch};

/// Rows of x at a time, at most: so many sums, and the levels of 8 registers, fit AVX-512's registers.
const GROUP: usize = 8;

/// `columns[j * m + i] = x_i . w_j` for the `m` rows of x, f32 `[m, k]`, and the rows of w; `rows` of them a task. Each element is summed in an
/// order that depends on k alone.
pub(in crate::device::cpu) fn rows_times(
    w: Packed<'_>,
    (x, m): (&[f32], usize),
    k: usize,
    rows: usize,
    columns: &mut [f32],
) {
    let mut arranged = vec![0.0; x.len()];
    let fast = dispatch(Arrange { k, block: w.block, start: w.start, x, out: &mut arranged });
    columns.par_chunks_mut(rows * m).enumerate().for_each(|(task, out)| {
        let w = w.from(task * rows * k);
        match fast {
            true => dispatch(Words { w, x: &arranged, k, m, out }),
            false => dispatch(Decoded { w, x, k, m, out }),
        }
    });
}

/// Puts x into the order in which [`Words`] meets it, if k and the blocks allow that: groups of 8 registers, of which register e holds elements
/// 8 i + e.
struct Arrange<'a> {
    k: usize,
    block: usize,
    start: usize,
    x: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Arrange<'_> {
    type Output = bool;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> bool {
        let group = 8 * S::LANES;
        // Rows begin with a group, and half a group is never in two blocks.
        let whole = self.k.is_multiple_of(group) && self.start.is_multiple_of(group);
        if !whole || 2 * self.block < group {
            return false;
        }
        for (x, out) in self.x.chunks_exact(group).zip(self.out.chunks_exact_mut(group)) {
            for (e, out) in out.chunks_exact_mut(S::LANES).enumerate() {
                out.iter_mut().enumerate().for_each(|(i, out)| *out = x[8 * i + e]);
            }
        }
        true
    }
}

/// Weight rows of whole groups.
struct Words<'a> {
    w: Packed<'a>,
    x: &'a [f32],
    k: usize,
    m: usize,
    out: &'a mut [f32],
}

impl Kernel for Words<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Words { w, x, k, m, out } = self;
        let rows = out.len() / m;
        // Scales of the task, one for each half group: so that it does not matter how long blocks are.
        let half = 4 * S::LANES;
        let mut scales = vec![0.0f32; (rows * k).div_ceil(w.block) + 1];
        let first = w.start / w.block;
        let blocks = (w.start + rows * k).div_ceil(w.block) - first;
        w.scales(first, &mut scales[..blocks]);
        let halves: Vec<f32> =
            (0..rows * k / half).map(|i| scales[(w.start + i * half) / w.block - first]).collect();
        for (group, x) in x.chunks(GROUP * k).enumerate() {
            let first = group * GROUP;
            match x.len() / k {
                1 => words::<S, 1>(s, w, x, &halves, out, (m, first)),
                2 => words::<S, 2>(s, w, x, &halves, out, (m, first)),
                3 => words::<S, 3>(s, w, x, &halves, out, (m, first)),
                4 => words::<S, 4>(s, w, x, &halves, out, (m, first)),
                5 => words::<S, 5>(s, w, x, &halves, out, (m, first)),
                6 => words::<S, 6>(s, w, x, &halves, out, (m, first)),
                7 => words::<S, 7>(s, w, x, &halves, out, (m, first)),
                _ => words::<S, GROUP>(s, w, x, &halves, out, (m, first)),
            }
        }
    }
}

/// `columns[j * m + first + i] = x_i . w_j` for M arranged rows of x; `halves`: the scales of half groups.
#[inline(always)]
fn words<S: Simd, const M: usize>(
    s: S,
    w: Packed<'_>,
    x: &[f32],
    halves: &[f32],
    columns: &mut [f32],
    (m, first): (usize, usize),
) {
    let (k, group) = (x.len() / M, 8 * S::LANES);
    let table = s.table(w.levels);
    let codes = &w.codes[w.start / 2..];
    // Lanes of the first half of a group, whose number is at most this, share its scale.
    let lane = s.load(&std::array::from_fn::<f32, 16, _>(|i| i as f32));
    let last = s.splat(S::LANES as f32 / 2.0 - 0.5);
    let rows = codes.chunks_exact(k / 2).zip(halves.chunks_exact(2 * k / group));
    for ((codes, scales), column) in rows.zip(columns.chunks_exact_mut(m)) {
        let mut sums = [s.splat(0.0); M];
        for (g, (codes, scales)) in codes.chunks_exact(group / 2).zip(scales.as_chunks::<2>().0).enumerate() {
            let levels = s.look_up_words(table, codes);
            let scale = s.select_le(lane, last, s.splat(scales[0]), s.splat(scales[1]));
            for (i, sum) in sums.iter_mut().enumerate() {
                let x = &x[i * k + g * group..][..group];
                let mut products = [s.mul(levels[0], s.load(x)), s.mul(levels[1], s.load(&x[S::LANES..]))];
                for e in 2..8 {
                    products[e % 2] = s.madd(levels[e], s.load(&x[e * S::LANES..]), products[e % 2]);
                }
                *sum = s.madd(scale, s.add(products[0], products[1]), *sum);
            }
        }
        for (y, sum) in column[first..].iter_mut().zip(sums) {
            *y = s.sum(sum);
        }
    }
}

/// Weight rows of any length: each is decoded first.
struct Decoded<'a> {
    w: Packed<'a>,
    x: &'a [f32],
    k: usize,
    m: usize,
    out: &'a mut [f32],
}

impl Kernel for Decoded<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut row = vec![0.0; self.k];
        for (j, columns) in self.out.chunks_exact_mut(self.m).enumerate() {
            self.w.decode_with(s, j * self.k, &mut row);
            all_dots(s, self.x, self.k, self.m, &row, columns);
        }
    }
}
