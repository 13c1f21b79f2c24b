//! A few rows times a weight: `out [m, n] = alpha x W^T` for small m, where time is that of reading W once. Weight rows are
//! shared out in fixed blocks; each element is one dot product, summed in an order that depends on its length alone.

use rayon::prelude::*;

use crate::device::cpu::gemm::Product;
use crate::device::cpu::lanes::{Kernel, Lane, Simd, dispatch};
use crate::device::cpu::matrix::{Elements, Mat, MatMut};

/// Rows of x up to which this is faster than the GEMM, which packs W first.
const MAX_ROWS: usize = 4;

/// Weight elements a task reads.
const TASK_ELEMENTS: usize = 64 * 1024;

/// Weight rows whose dot products a kernel computes at once.
const GROUP: usize = 4;

/// Whether `p` is such a product: a few rows, and a weight whose rows (columns of b) are contiguous.
pub(super) fn suits(p: &Product<'_>) -> bool {
    p.a.rows <= MAX_ROWS && p.b.row_stride == 1 && p.b.col_stride == p.b.rows && p.b.rows > 0
}

/// `out = alpha a b`, plus what is there if `read`.
pub(super) fn gemv(out: &mut MatMut<'_>, read: bool, p: &Product<'_>) {
    let (m, k, n) = (p.a.rows, p.a.cols, p.b.cols);
    let x = contiguous(p.a);
    // Column j of the result: `m` dot products with row j of the weight.
    let mut columns = vec![0.0; n * m];
    let rows = (TASK_ELEMENTS / k).next_multiple_of(GROUP).max(GROUP);
    let x = Rows { x: &x, k, m };
    match p.b.elements {
        Elements::F32(w) => x.times(&w[..n * k], rows, &mut columns),
        Elements::BF16(w) => x.times(&w[..n * k], rows, &mut columns),
    }
    for i in 0..m {
        let row = &mut out.data[i * out.row_stride..][..n];
        for (y, column) in row.iter_mut().zip(columns.chunks_exact(m)) {
            *y = p.alpha * column[i] + if read { *y } else { 0.0 };
        }
    }
}

/// The elements row by row, in f32.
fn contiguous(x: Mat<'_>) -> Vec<f32> {
    let at = |i: usize| match x.elements {
        Elements::F32(v) => v[i],
        Elements::BF16(v) => v[i].to_f32(),
    };
    let index = |i| (0..x.cols).map(move |j| i * x.row_stride + j * x.col_stride);
    (0..x.rows).flat_map(index).map(at).collect()
}

/// The few rows, in f32.
struct Rows<'a> {
    x: &'a [f32],
    k: usize,
    m: usize,
}

impl Rows<'_> {
    /// `columns[j * m + i] = x_i . w_j`, `rows` weight rows a task.
    fn times<T: Lane>(&self, w: &[T], rows: usize, columns: &mut [f32]) {
        let tasks = columns.par_chunks_mut(rows * self.m).zip(w.par_chunks(rows * self.k));
        tasks.for_each(|(out, w)| dispatch(Task { x: self.x, k: self.k, m: self.m, w, out }));
    }
}

struct Task<'a, T> {
    x: &'a [f32],
    k: usize,
    m: usize,
    w: &'a [T],
    out: &'a mut [f32],
}

impl<T: Lane> Kernel for Task<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.m {
            1 => self.groups::<S, 1>(s),
            2 => self.groups::<S, 2>(s),
            3 => self.groups::<S, 3>(s),
            _ => self.groups::<S, MAX_ROWS>(s),
        }
    }
}

impl<T: Lane> Task<'_, T> {
    #[inline(always)]
    fn groups<S: Simd, const M: usize>(self, s: S) {
        let (x, k) = (self.x, self.k);
        let mut w = self.w.chunks_exact(GROUP * k);
        let mut out = self.out.chunks_exact_mut(GROUP * M);
        for (w, out) in w.by_ref().zip(out.by_ref()) {
            dots::<S, T, M, GROUP>(s, x, w, k, out);
        }
        for (w, out) in w.remainder().chunks_exact(k).zip(out.into_remainder().chunks_exact_mut(M)) {
            dots::<S, T, M, 1>(s, x, w, k, out);
        }
    }
}

/// `out[r * M + i] = x_i . w_r`. Each is the same whatever M and R are.
#[inline(always)]
fn dots<S: Simd, T: Lane, const M: usize, const R: usize>(
    s: S,
    x: &[f32],
    w: &[T],
    k: usize,
    out: &mut [f32],
) {
    assert!(x.len() == M * k && w.len() == R * k && out.len() == M * R);
    let mut sums = [[s.splat(0.0); M]; R];
    let whole = k / S::LANES * S::LANES;
    let mut l = 0;
    while l < whole {
        let mut xs = [s.splat(0.0); M];
        for i in 0..M {
            xs[i] = s.load(&x[i * k + l..]);
        }
        for r in 0..R {
            let w = T::load(s, &w[r * k + l..]);
            for i in 0..M {
                sums[r][i] = s.madd(w, xs[i], sums[r][i]);
            }
        }
        l += S::LANES;
    }
    for r in 0..R {
        for i in 0..M {
            let tail = x[i * k + whole..][..k - whole].iter().zip(&w[r * k + whole..]);
            out[r * M + i] = tail.fold(s.sum(sums[r][i]), |sum, (x, w)| sum + x * w.to_f32());
        }
    }
}
