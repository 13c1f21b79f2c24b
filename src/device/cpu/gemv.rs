//! A few rows times a weight: `out [m, n] = alpha x W^T` for small m, where time is that of reading W once. Weight rows are
//! shared out in fixed blocks; each element is one dot product, summed in an order that depends on its length alone.

use rayon::prelude::*;

use crate::device::cpu::gemm::Product;
use crate::device::cpu::lanes::{Kernel, Lane, Simd, dispatch};
use crate::device::cpu::matrix::{Elements, Mat, MatMut};
use crate::device::cpu::{four_bit, signs};

/// Rows of x up to which this is faster than the GEMM, which packs W first.
const MAX_ROWS: usize = 16;

/// Rows of x at a time. More would hide no more latency, and not fit the first-level cache beside the weight's row.
const GROUP: usize = 4;

/// Weight elements of a task; they stay in the second-level cache while one group of rows after the other meets them.
const TASK_ELEMENTS: usize = 64 * 1024;

/// Whether `p` is such a product: a few rows, and a weight whose rows (columns of b) are contiguous.
pub(super) fn suits(p: &Product<'_>) -> bool {
    // Rows of signs end with a whole word.
    let adjacent = p.b.col_stride == p.b.rows || matches!(p.b.elements, Elements::Signs(_));
    p.a.rows <= MAX_ROWS && p.b.row_stride == 1 && adjacent && p.b.rows > 0
}

/// `out = alpha a b`, plus what is there if `read`.
pub(super) fn gemv(out: &mut MatMut<'_>, read: bool, p: &Product<'_>) {
    let (m, k, n) = (p.a.rows, p.a.cols, p.b.cols);
    let x = contiguous(p.a);
    // Column j of the result: `m` dot products with row j of the weight.
    let mut columns = vec![0.0; n * m];
    let rows = (TASK_ELEMENTS / k).max(1);
    let x = Rows { x: &x, k, m };
    match p.b.elements {
        Elements::F32(w) => x.times(&w[..n * k], rows, &mut columns),
        Elements::BF16(w) => x.times(&w[..n * k], rows, &mut columns),
        Elements::F16(w) => x.times(&w[..n * k], rows, &mut columns),
        Elements::FourBit(w) => four_bit::rows_times(w, (x.x, x.m), k, rows, &mut columns),
        Elements::Signs(w) => signs::rows_times(w, (x.x, x.m), k, rows, &mut columns),
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
    let mut all = vec![0.0; x.rows * x.cols];
    all.chunks_exact_mut(x.cols.max(1)).enumerate().for_each(|(i, row)| x.copy_row(i, row));
    all
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
        all_dots(s, self.x, self.k, self.m, self.w, self.out);
    }
}

/// `columns[j * m + i] = x_i . w_j` for the `m` rows of x (`[m, k]`) and the rows of w.
#[inline(always)]
pub(super) fn all_dots<S: Simd, T: Lane>(s: S, x: &[f32], k: usize, m: usize, w: &[T], columns: &mut [f32]) {
    for (group, x) in x.chunks(GROUP * k).enumerate() {
        let first = group * GROUP;
        match x.len() / k {
            1 => dots::<S, T, 1>(s, x, w, columns, m, first),
            2 => dots::<S, T, 2>(s, x, w, columns, m, first),
            3 => dots::<S, T, 3>(s, x, w, columns, m, first),
            _ => dots::<S, T, GROUP>(s, x, w, columns, m, first),
        }
    }
}

/// `columns[j * m + first + i] = x_i . w_j` for M rows of x. One weight row at a time: a single stream of memory is read almost twice
/// as fast as four beside each other.
#[inline(always)]
fn dots<S: Simd, T: Lane, const M: usize>(
    s: S,
    x: &[f32],
    w: &[T],
    columns: &mut [f32],
    m: usize,
    first: usize,
) {
    let k = x.len() / M;
    let whole = k / S::LANES * S::LANES;
    for (w, column) in w.chunks_exact(k).zip(columns.chunks_exact_mut(m)) {
        let mut sums = [s.splat(0.0); M];
        let mut l = 0;
        while l < whole {
            let lanes = T::load(s, &w[l..]);
            for (i, sum) in sums.iter_mut().enumerate() {
                *sum = s.madd(lanes, s.load(&x[i * k + l..]), *sum);
            }
            l += S::LANES;
        }
        for (i, (sum, y)) in sums.into_iter().zip(&mut column[first..]).enumerate() {
            let tail = x[i * k + whole..].iter().zip(&w[whole..]);
            *y = tail.fold(s.sum(sum), |sum, (x, w)| sum + x * w.to_f32());
        }
    }
}
