//! Matrices of signs on the CPU. A bit becomes a sign by a mask on registers of ones, which is exact, rather than by twice the sum where the bit is
//! set less the sum of all, which cancels.

use rayon::prelude::*;

use crate::Result;
use crate::device::cpu::coded::Coded;
use crate::device::cpu::lanes::{Kernel, Simd, dispatch};
use crate::tensor::SignTensor;

/// Rows of x at a time, as in a few rows times any other weight.
const GROUP: usize = 4;

/// A sign tensor's memory on the host, from some element on. Elements are counted with those that pad the rows.
#[derive(Clone, Copy)]
pub(super) struct Signs<'a> {
    bits: &'a [u8],
    /// A factor for each row; 1 without.
    scales: Option<&'a [f32]>,
    /// Elements from row to row.
    stride: usize,
    /// The element that element 0 of the view is.
    start: usize,
}

impl<'a> Signs<'a> {
    /// The memory of a tensor; an error if it is on a device.
    pub fn of(tensor: &'a SignTensor, scales: Option<&'a [f32]>) -> Result<Signs<'a>> {
        let stride = 8 * SignTensor::row_bytes(tensor.shape()[1]);
        Ok(Signs { bits: tensor.bits().as_u8()?, scales, stride, start: 0 })
    }

    /// Elements from row to row.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// The same from element `offset` on.
    pub fn from(self, offset: usize) -> Signs<'a> {
        Signs { start: self.start + offset, ..self }
    }

    /// Element `offset`.
    pub fn element(self, offset: usize) -> f32 {
        let at = self.start + offset;
        if self.is_positive(at) { self.scale(at) } else { -self.scale(at) }
    }

    #[inline(always)]
    fn is_positive(&self, at: usize) -> bool {
        self.bits[at / 8] >> (at % 8) & 1 == 1
    }

    /// The scale of the row of an element.
    #[inline(always)]
    fn scale(&self, at: usize) -> f32 {
        self.scales.map_or(1.0, |scales| scales[at / self.stride])
    }

    /// The bits of the elements from `at` on, which are at the beginning of a byte: those of a register.
    #[inline(always)]
    fn register<S: Simd>(&self, at: usize) -> u32 {
        let bytes = &self.bits[at / 8..];
        match S::LANES {
            8 => u32::from(bytes[0]),
            _ => u32::from(u16::from_le_bytes([bytes[0], bytes[1]])),
        }
    }
}

impl Coded for Signs<'_> {
    #[inline(always)]
    fn decode_with<S: Simd>(self, s: S, row: usize, col: usize, out: &mut [f32]) {
        let at = self.start + row * self.stride + col;
        let scale = self.scale(at);
        let one = |at: usize| if self.is_positive(at) { scale } else { -scale };
        // To the beginning of a byte.
        let (head, out) = out.split_at_mut((at.next_multiple_of(8) - at).min(out.len()));
        head.iter_mut().enumerate().for_each(|(i, out)| *out = one(at + i));
        let (at, whole) = (at + head.len(), out.len() / S::LANES * S::LANES);
        let magnitude = s.splat(scale);
        let mut done = 0;
        while done < whole {
            s.store(s.flip(magnitude, self.register::<S>(at + done)), &mut out[done..]);
            done += S::LANES;
        }
        for (i, out) in out[whole..].iter_mut().enumerate() {
            *out = one(at + whole + i);
        }
    }
}

/// `columns[j * m + i] = x_i . w_j` for the `m` rows of x, f32 `[m, k]`, and the rows of w; `rows` of them a task. Each element is summed in an
/// order that depends on k alone.
pub(super) fn rows_times(w: Signs<'_>, (x, m): (&[f32], usize), k: usize, rows: usize, columns: &mut [f32]) {
    columns.par_chunks_mut(rows * m).enumerate().for_each(|(task, out)| {
        dispatch(Rows { w: w.from(task * rows * w.stride), x, k, m, out });
    });
}

struct Rows<'a> {
    w: Signs<'a>,
    x: &'a [f32],
    k: usize,
    m: usize,
    out: &'a mut [f32],
}

impl Kernel for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // As many sums as have room in the registers beside each other, so that none waits for another.
        match S::LANES {
            16 => self.groups::<S, 4>(s),
            _ => self.groups::<S, 2>(s),
        }
    }
}

impl Rows<'_> {
    #[inline(always)]
    fn groups<S: Simd, const U: usize>(self, s: S) {
        let Rows { w, x, k, m, out } = self;
        for (group, x) in x.chunks(GROUP * k).enumerate() {
            let first = group * GROUP;
            match x.len() / k {
                1 => dots::<S, 1, U>(s, w, x, out, (m, first)),
                2 => dots::<S, 2, U>(s, w, x, out, (m, first)),
                3 => dots::<S, 3, U>(s, w, x, out, (m, first)),
                _ => dots::<S, GROUP, U>(s, w, x, out, (m, first)),
            }
        }
    }
}

/// `columns[j * m + first + i] = x_i . w_j` for M rows of x; U sums of each, whose elements take turns.
#[inline(always)]
fn dots<S: Simd, const M: usize, const U: usize>(
    s: S,
    w: Signs<'_>,
    x: &[f32],
    columns: &mut [f32],
    (m, first): (usize, usize),
) {
    let k = x.len() / M;
    let whole = k / (U * S::LANES) * (U * S::LANES);
    let one = s.splat(1.0);
    for (j, column) in columns.chunks_exact_mut(m).enumerate() {
        let start = w.start + j * w.stride;
        let mut sums = [[s.splat(0.0); U]; M];
        let mut l = 0;
        while l < whole {
            for u in 0..U {
                let at = l + u * S::LANES;
                let signs = s.flip(one, w.register::<S>(start + at));
                for (i, sums) in sums.iter_mut().enumerate() {
                    sums[u] = s.madd(signs, s.load(&x[i * k + at..]), sums[u]);
                }
            }
            l += U * S::LANES;
        }
        let scale = w.scale(start);
        for (i, (sums, y)) in sums.into_iter().zip(&mut column[first..]).enumerate() {
            let sum = sums.into_iter().skip(1).fold(sums[0], |sum, other| s.add(sum, other));
            let tail = x[i * k + whole..(i + 1) * k].iter().enumerate();
            let sum = tail.fold(
                s.sum(sum),
                |sum, (l, x)| if w.is_positive(start + whole + l) { sum + x } else { sum - x },
            );
            *y = scale * sum;
        }
    }
}
