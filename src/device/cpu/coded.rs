//! Many rows times a weight in codes (4-bit blocks, signs), in both directions. The weight is decoded in tiles that stay in the second-level cache,
//! where the micro-kernel meets them; tiles are shared out among threads, and each element is summed by one of them, in the order of the inner
//! dimension.

use rayon::prelude::*;

use crate::device::cpu::lanes::{Kernel, Matrix, Simd, add_product, dispatch, store_product};
use crate::device::cpu::matrix::{Mat, MatMut};

/// A matrix that is decoded in pieces of its rows.
pub(super) trait Coded: Copy + Send + Sync {
    /// Elements of row `row` from column `col` on. Must be `#[inline(always)]`.
    fn decode_with<S: Simd>(self, s: S, row: usize, col: usize, out: &mut [f32]);
}

/// Rows of the other factor in a panel, which the micro-kernel holds in two registers of AVX-512.
const PANEL: usize = 32;

/// Weight rows of a task of the forward, and inner elements at a time: 64 KiB of decoded weight beside a panel of 32 KiB.
const ROWS: usize = 64;
const DEPTH: usize = 256;

/// Weight columns of a task of the backward, one block of the usual size, and weight rows at a time: a tile of 32 KiB.
const COLUMNS: usize = 64;
const HEIGHT: usize = 128;

/// Rows of the other factor at a time: what is copied of it, and of the result, stays small.
const MAX_ROWS: usize = 1024;

/// `out = alpha a W^T`, plus what is there if `read`; W `[n, k]`.
pub(super) fn times_transposed(out: &mut MatMut<'_>, read: bool, alpha: f32, a: Mat<'_>, w: impl Coded) {
    let (n, k) = (out.cols, a.cols);
    for first in (0..a.rows).step_by(MAX_ROWS) {
        let rows = MAX_ROWS.min(a.rows - first);
        let panels = panels(a.row_range(first, rows));
        let padded = rows.next_multiple_of(PANEL);
        let mut columns = vec![0.0; n * padded];
        columns.par_chunks_mut(ROWS * padded).enumerate().for_each(|(task, out)| {
            dispatch(Forward { w, first: task * ROWS, panels: &panels, k, padded, out });
        });
        let out = out.block((first, rows), (0, n));
        let stride = out.row_stride;
        let len = out.extent();
        out.data[..len].par_chunks_mut(PANEL * stride).enumerate().for_each(|(panel, out)| {
            for (task, columns) in columns.chunks(ROWS * padded).enumerate() {
                let len = columns.len() / padded * PANEL;
                let columns = columns[panel * len..][..len].chunks_exact(PANEL);
                for (j, column) in columns.enumerate().map(|(j, column)| (task * ROWS + j, column)) {
                    for (row, value) in out.chunks_mut(stride).zip(column) {
                        row[j] = alpha * value + if read { row[j] } else { 0.0 };
                    }
                }
            }
        });
    }
}

/// The rows in panels of PANEL, each `[k, PANEL]`, the last filled up with zeros.
fn panels(a: Mat<'_>) -> Vec<f32> {
    let k = a.cols;
    let mut panels = vec![0.0; a.rows.next_multiple_of(PANEL) * k];
    panels.par_chunks_mut(PANEL * k).enumerate().for_each(|(panel, out)| {
        let mut row = vec![0.0; k];
        for i in 0..PANEL.min(a.rows - panel * PANEL) {
            a.copy_row(panel * PANEL + i, &mut row);
            out.iter_mut().skip(i).step_by(PANEL).zip(&row).for_each(|(out, x)| *out = *x);
        }
    });
    panels
}

/// For some weight rows and each panel of x, in the order of the panels: `out [rows, PANEL] = W x^T`.
struct Forward<'a, W> {
    w: W,
    /// The first of the weight rows.
    first: usize,
    panels: &'a [f32],
    k: usize,
    padded: usize,
    out: &'a mut [f32],
}

impl<W: Coded> Kernel for Forward<'_, W> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Forward { w, first: row, panels, k, padded, out } = self;
        let rows = out.len() / padded;
        let mut tile = vec![0.0; rows * DEPTH.min(k)];
        for first in (0..k).step_by(DEPTH) {
            let depth = DEPTH.min(k - first);
            let tile = &mut tile[..rows * depth];
            for (i, out) in tile.chunks_exact_mut(depth).enumerate() {
                w.decode_with(s, row + i, first, out);
            }
            let a = Matrix { data: tile, row: depth, col: 1 };
            for (panel, x) in panels.chunks_exact(PANEL * k).enumerate() {
                let b = (&x[first * PANEL..], PANEL);
                let c = (&mut out[panel * rows * PANEL..][..rows * PANEL], PANEL);
                match first {
                    0 => store_product(s, [rows, PANEL, depth], a, b, c),
                    _ => add_product(s, [rows, PANEL, depth], a, b, c),
                }
            }
        }
    }
}

/// `out = alpha a W`, plus what is there if `read`; W `[a.cols, out.cols]`.
pub(super) fn times(out: &mut MatMut<'_>, read: bool, alpha: f32, a: Mat<'_>, w: impl Coded) {
    let (n, k) = (a.cols, out.cols);
    for first in (0..a.rows).step_by(MAX_ROWS) {
        let rows = MAX_ROWS.min(a.rows - first);
        let left = slabs(a.row_range(first, rows));
        let mut tiles = vec![0.0; k.div_ceil(COLUMNS) * rows * COLUMNS];
        tiles.par_chunks_mut(rows * COLUMNS).enumerate().for_each(|(task, out)| {
            dispatch(Backward { w, left: &left, n, k, column: task * COLUMNS, out });
        });
        let out = out.block((first, rows), (0, k));
        let stride = out.row_stride;
        let len = out.extent();
        out.data[..len].par_chunks_mut(stride).enumerate().for_each(|(i, out)| {
            for (out, tile) in out[..k].chunks_mut(COLUMNS).zip(tiles.chunks_exact(rows * COLUMNS)) {
                for (out, value) in out.iter_mut().zip(&tile[i * COLUMNS..]) {
                    *out = alpha * value + if read { *out } else { 0.0 };
                }
            }
        });
    }
}

/// The columns in slabs of HEIGHT, each `[rows, HEIGHT]` (the last is narrower): rows that lie a whole matrix row apart would meet in few sets
/// of the cache.
fn slabs(a: Mat<'_>) -> Vec<f32> {
    let mut slabs = vec![0.0; a.rows * a.cols];
    slabs.par_chunks_mut(a.rows * HEIGHT).enumerate().for_each(|(slab, out)| {
        let width = out.len() / a.rows;
        let columns = a.col_range(slab * HEIGHT, width);
        out.chunks_exact_mut(width).enumerate().for_each(|(i, row)| columns.copy_row(i, row));
    });
    slabs
}

/// `out [rows, COLUMNS] = a W` for the weight columns from `column` on.
struct Backward<'a, W> {
    w: W,
    left: &'a [f32],
    n: usize,
    k: usize,
    column: usize,
    out: &'a mut [f32],
}

impl<W: Coded> Kernel for Backward<'_, W> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Backward { w, left, n, k, column, out } = self;
        let (rows, width) = (out.len() / COLUMNS, COLUMNS.min(k - column));
        // What is beyond the last column stays zero.
        let mut tile = [0.0; HEIGHT * COLUMNS];
        for first in (0..n).step_by(HEIGHT) {
            let height = HEIGHT.min(n - first);
            for (i, row) in tile.chunks_exact_mut(COLUMNS).take(height).enumerate() {
                w.decode_with(s, first + i, column, &mut row[..width]);
            }
            let a = Matrix { data: &left[first * rows..], row: height, col: 1 };
            let shape = [rows, COLUMNS, height];
            match first {
                0 => store_product(s, shape, a, (&tile, COLUMNS), (&mut *out, COLUMNS)),
                _ => add_product(s, shape, a, (&tile, COLUMNS), (&mut *out, COLUMNS)),
            }
        }
    }
}
