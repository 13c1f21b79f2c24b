//! Parallel loops over slices. The split depends on the lengths alone, never on timing or the number of threads, and
//! no partial sums cross chunks here: results are the same bits on every run.

use rayon::prelude::*;

/// Elements below which a loop is not worth a second thread.
pub const GRAIN: usize = 16 * 1024;

/// `f(&mut out[i], x[i])` for every i. The slices must have the same length.
pub fn zip_mut<A: Send, B: Copy + Sync>(out: &mut [A], x: &[B], f: impl Fn(&mut A, B) + Sync) {
    assert_eq!(out.len(), x.len());
    let pieces = out.par_chunks_mut(GRAIN).zip(x.par_chunks(GRAIN));
    pieces.for_each(|(out, x)| out.iter_mut().zip(x).for_each(|(o, &x)| f(o, x)));
}

/// Calls `f(first_row, rows)` on pieces of `out` that are whole rows of `row_len` elements, about [`GRAIN`] elements each.
pub fn rows_mut<A: Send>(out: &mut [A], row_len: usize, f: impl Fn(usize, &mut [A]) + Sync) {
    if row_len == 0 {
        return;
    }
    let rows = GRAIN.div_ceil(row_len);
    out.par_chunks_mut(rows * row_len).enumerate().for_each(|(i, piece)| f(i * rows, piece));
}
