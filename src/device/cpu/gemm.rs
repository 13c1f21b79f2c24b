//! Matrix products on the CPU: a sum of products in f32, over f32, bf16 and f16 operands.
//!
//! The arithmetic is the `gemm` crate's, except for a handful of rows times a weight (decoding), where a plain pass over the
//! weight is faster. In the crate each element of the result is summed by one thread, over blocks of the inner dimension
//! whose sizes depend on shapes and caches alone, so results do not depend on the number of threads.

use half::{bf16, f16};
use rayon::prelude::*;

use crate::device::cpu::coded::{self, Coded};
use crate::device::cpu::four_bit::PackedRows;
use crate::device::cpu::lanes::Lane;
use crate::device::cpu::matrix::{Elements, Mat, MatMut};
use crate::device::cpu::{gemv, parallel, slices};
use crate::tensor::{DType, Element};

/// One term of a [`gemm()`]: `alpha a b`.
#[derive(Clone, Copy)]
pub struct Product<'a> {
    /// A factor.
    pub alpha: f32,
    /// `[m, k]`.
    pub a: Mat<'a>,
    /// `[k, n]`.
    pub b: Mat<'a>,
}

impl<'a> Product<'a> {
    /// `a b`.
    pub fn of(a: Mat<'a>, b: Mat<'a>) -> Product<'a> {
        Product { alpha: 1.0, a, b }
    }
}

/// What the products are added to.
#[derive(Clone, Copy)]
pub enum Init<'a> {
    /// Nothing: what is in the output is ignored, NaN included.
    Zero,
    /// What is in the output.
    Keep,
    /// A vector of n elements, in each row.
    Bias(&'a [f32]),
}

/// Rows of a 16-bit result, or of a 16-bit left operand, that are f32 at a time. Each such panel widens the right operand again, at
/// a cost of about 1 / (2 PANEL_ROWS) of the product's.
const PANEL_ROWS: usize = 1024;

/// Elements of a 16-bit right operand that are f32 at a time: 1 MiB, a core's second-level cache.
const BLOCK_ELEMENTS: usize = 256 * 1024;

/// `out = init + sum_i alpha_i a_i b_i`, `out` row-major `[m, n]`. Sums are f32; a 16-bit result is rounded once, at the end.
///
/// Panics if shapes or lengths do not fit: callers check what users give them.
pub fn gemm<T: Element>(out: &mut [T], (m, n): (usize, usize), init: Init<'_>, products: &[Product<'_>]) {
    for p in products {
        let fits = p.a.rows == m && p.b.cols == n && p.a.cols == p.b.rows;
        assert!(fits, "[{m}, {n}] += [{}, {}] [{}, {}]", p.a.rows, p.a.cols, p.b.rows, p.b.cols);
    }
    if let Init::Bias(bias) = init {
        assert_eq!(bias.len(), n, "bias");
    }
    assert_eq!(Some(out.len()), m.checked_mul(n), "[{m}, {n}]");
    if out.is_empty() {
        return;
    }
    match T::DTYPE {
        DType::F32 => sum(MatMut::new(bytemuck::cast_slice_mut(out), m, n), init, products),
        DType::BF16 => sum_in_panels::<bf16>(bytemuck::cast_slice_mut(out), (m, n), init, products),
        DType::F16 => sum_in_panels::<f16>(bytemuck::cast_slice_mut(out), (m, n), init, products),
        DType::U32 | DType::U8 => unreachable!("no float type"),
    }
}

/// The sum of products, in f32 for some rows at a time.
fn sum_in_panels<T: Lane>(out: &mut [T], (m, n): (usize, usize), init: Init<'_>, products: &[Product<'_>]) {
    let mut panel = vec![0.0; m.min(PANEL_ROWS) * n];
    for (i, rows) in out.chunks_mut(PANEL_ROWS * n).enumerate() {
        let (start, len) = (i * PANEL_ROWS, rows.len() / n);
        let panel = &mut panel[..rows.len()];
        if matches!(init, Init::Keep) {
            slices::convert(rows, panel);
        }
        let products: Vec<Product<'_>> =
            products.iter().map(|p| Product { a: p.a.row_range(start, len), ..*p }).collect();
        sum(MatMut::new(panel, len, n), init, &products);
        let pieces = rows.par_chunks_mut(parallel::GRAIN).zip(panel.par_chunks(parallel::GRAIN));
        pieces.for_each(|(out, x)| slices::convert(x, out));
    }
}

/// The f32 sum of products.
fn sum(mut out: MatMut<'_>, init: Init<'_>, products: &[Product<'_>]) {
    let mut read = match init {
        Init::Zero => false,
        Init::Keep => true,
        Init::Bias(bias) => {
            out.data.chunks_exact_mut(bias.len()).for_each(|row| row.copy_from_slice(bias));
            true
        }
    };
    for p in products {
        add_product(&mut out, read, p);
        read = true;
    }
    if !read {
        out.data.fill(0.0);
    }
}

/// `out = alpha a b`, plus what is there if `read`.
fn add_product(out: &mut MatMut<'_>, read: bool, p: &Product<'_>) {
    if gemv::suits(p) {
        return gemv::gemv(out, read, p);
    }
    let (m, k, n) = (p.a.rows, p.a.cols, p.b.cols);
    match p.b.elements {
        Elements::FourBit(packed) if k > 0 && p.b.is_whole() => {
            let cols = if p.b.is_row_major() { n } else { k };
            return times_coded(out, read, p, PackedRows { packed, cols });
        }
        Elements::Signs(signs) if k > 0 && n > 0 => return times_coded(out, read, p, signs),
        _ => {}
    }
    // A 16-bit right operand is widened in blocks of its stored rows; its panels of the left operand too.
    let stored_rows = |row_len: usize| (BLOCK_ELEMENTS / row_len.max(1)).max(16);
    let (k_block, n_block) = match p.b.elements {
        Elements::F32(_) => (k, n),
        _ if p.b.is_row_major() => (stored_rows(n), n),
        _ => (k, stored_rows(k)),
    };
    let m_block = match p.a.elements {
        Elements::F32(_) => m,
        _ => PANEL_ROWS,
    };
    let (mut a_scratch, mut b_scratch) = (Vec::new(), Vec::new());
    for (i, mb) in blocks(m, m_block) {
        let mut read = read;
        for (l, kb) in blocks(k, k_block) {
            let a = p.a.row_range(i, mb).col_range(l, kb).widen(&mut a_scratch);
            for (j, nb) in blocks(n, n_block) {
                let b = p.b.row_range(l, kb).col_range(j, nb).widen(&mut b_scratch);
                add_product_f32(out.block((i, mb), (j, nb)), read, p.alpha, a, b);
            }
            read = true;
        }
    }
}

/// The same with a right operand in codes, whose stored rows are those of `w`.
fn times_coded(out: &mut MatMut<'_>, read: bool, p: &Product<'_>, w: impl Coded) {
    match p.b.is_row_major() {
        true => coded::times(out, read, p.alpha, p.a, w),
        false => coded::times_transposed(out, read, p.alpha, p.a, w),
    }
}

/// Starts and lengths of blocks of at most `block`; one empty block if `len` is 0.
fn blocks(len: usize, block: usize) -> impl Iterator<Item = (usize, usize)> {
    let step = block.max(1);
    (0..len.max(1)).step_by(step).map(move |start| (start, step.min(len - start)))
}

fn add_product_f32(out: MatMut<'_>, read: bool, alpha: f32, a: Mat<'_>, b: Mat<'_>) {
    let (Elements::F32(x), Elements::F32(y)) = (a.elements, b.elements) else {
        unreachable!("operands are widened before this")
    };
    assert!(a.extent() <= x.len() && b.extent() <= y.len() && out.extent() <= out.data.len());
    assert!(a.rows == out.rows && b.cols == out.cols && a.cols == b.rows);
    // SAFETY: element (i, j) of each view lies below its extent, which the slices cover; all strides are of slices, so they
    // fit isize; `out` is borrowed mutably, so it overlaps neither operand, and its rows do not overlap each other.
    unsafe {
        gemm::gemm(
            out.rows,
            out.cols,
            a.cols,
            out.data.as_mut_ptr(),
            1,
            out.row_stride as isize,
            read,
            x.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            y.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            1.0,
            alpha,
            false,
            false,
            false,
            gemm::Parallelism::Rayon(0),
        );
    }
}
