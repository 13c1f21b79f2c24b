//! Views of matrices in host memory.

use half::{bf16, f16};

use crate::Result;
use crate::device::cpu::four_bit::Packed;
use crate::device::cpu::lanes::Lane;
use crate::device::cpu::signs::Signs;
use crate::device::cpu::{parallel, slices};
use crate::tensor::{DType, Element, QuantizedTensor, SignTensor, Tensor};

/// Elements of one of the float types, in 4-bit blocks, or signs.
#[derive(Clone, Copy)]
pub(super) enum Elements<'a> {
    F32(&'a [f32]),
    BF16(&'a [bf16]),
    F16(&'a [f16]),
    FourBit(Packed<'a>),
    Signs(Signs<'a>),
}

/// A matrix to read: f32, bf16, f16, in 4-bit blocks or of signs, with any strides. Element (i, j) is at `i * row_stride + j * col_stride`.
#[derive(Clone, Copy)]
pub struct Mat<'a> {
    pub(super) elements: Elements<'a>,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) row_stride: usize,
    pub(super) col_stride: usize,
}

impl<'a> Mat<'a> {
    /// A row-major matrix. Panics if `data` holds fewer elements.
    pub fn f32(data: &'a [f32], rows: usize, cols: usize) -> Mat<'a> {
        Mat::row_major(Elements::F32(data), data.len(), rows, cols)
    }

    fn row_major(elements: Elements<'a>, len: usize, rows: usize, cols: usize) -> Mat<'a> {
        assert!(rows.checked_mul(cols).is_some_and(|n| n <= len), "{rows} x {cols} matrix in {len} elements");
        Mat { elements, rows, cols, row_stride: cols, col_stride: 1 }
    }

    /// The matrix that a float tensor of two dimensions holds; `op` is named if it is none.
    pub fn of(tensor: &'a Tensor, op: &'static str) -> Result<Mat<'a>> {
        let (rows, cols) = tensor.dims2(op)?;
        let elements = match tensor.dtype() {
            DType::F32 => Elements::F32(tensor.as_f32()?),
            DType::BF16 => Elements::BF16(tensor.as_bf16()?),
            DType::F16 => Elements::F16(tensor.as_f16()?),
            other => return Err(other.not_a_float(op)),
        };
        Ok(Mat::row_major(elements, tensor.numel(), rows, cols))
    }

    /// The matrix that a quantized tensor in host memory stands for: it is decoded in the blocks in which it is used.
    pub fn of_quantized(tensor: &'a QuantizedTensor) -> Result<Mat<'a>> {
        let [rows, cols] = *tensor.shape();
        Ok(Mat::row_major(Elements::FourBit(Packed::of(tensor)?), tensor.numel(), rows, cols))
    }

    /// The matrix of a tensor of signs in host memory, +1 and -1, or each row times its scale: it is decoded in the blocks in which it is
    /// used.
    pub fn of_signs(tensor: &'a SignTensor, scales: Option<&'a [f32]>) -> Result<Mat<'a>> {
        let [rows, cols] = *tensor.shape();
        let signs = Signs::of(tensor, scales)?;
        Ok(Mat { elements: Elements::Signs(signs), rows, cols, row_stride: signs.stride(), col_stride: 1 })
    }

    /// The elements of row `i` in f32; `out` must hold as many as there are columns.
    pub(super) fn copy_row(self, i: usize, out: &mut [f32]) {
        assert_eq!(out.len(), self.cols);
        match self.elements {
            Elements::F32(data) => self.copy_row_of(data, i, out),
            Elements::BF16(data) => self.copy_row_of(data, i, out),
            Elements::F16(data) => self.copy_row_of(data, i, out),
            Elements::FourBit(packed) => {
                let at = |j: usize| i * self.row_stride + j * self.col_stride;
                out.iter_mut().enumerate().for_each(|(j, x)| packed.decode(at(j), std::slice::from_mut(x)));
            }
            Elements::Signs(signs) => {
                let at = |j: usize| i * self.row_stride + j * self.col_stride;
                out.iter_mut().enumerate().for_each(|(j, x)| *x = signs.element(at(j)));
            }
        }
    }

    fn copy_row_of<T: Lane + Element>(self, data: &[T], i: usize, out: &mut [f32]) {
        let start = i * self.row_stride;
        match self.is_row_major() {
            true => slices::convert(&data[start..][..self.cols], out),
            false => {
                let column = |j: usize| data[start + j * self.col_stride].to_f32();
                out.iter_mut().enumerate().for_each(|(j, x)| *x = column(j));
            }
        }
    }

    /// The transposed matrix, in the same memory.
    pub fn t(self) -> Mat<'a> {
        Mat {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }

    /// `len` rows from row `start`. Panics if there are fewer.
    pub fn row_range(self, start: usize, len: usize) -> Mat<'a> {
        assert!(
            start.checked_add(len).is_some_and(|end| end <= self.rows),
            "rows {start}..+{len} of {}",
            self.rows
        );
        if len == self.rows {
            return self;
        }
        let offset = if len == 0 || self.cols == 0 { 0 } else { start * self.row_stride };
        let elements = match self.elements {
            Elements::F32(x) => Elements::F32(&x[offset..]),
            Elements::BF16(x) => Elements::BF16(&x[offset..]),
            Elements::F16(x) => Elements::F16(&x[offset..]),
            Elements::FourBit(x) => Elements::FourBit(x.from(offset)),
            Elements::Signs(x) => Elements::Signs(x.from(offset)),
        };
        Mat { elements, rows: len, ..self }
    }

    /// `len` columns from column `start`. Panics if there are fewer.
    pub fn col_range(self, start: usize, len: usize) -> Mat<'a> {
        self.t().row_range(start, len).t()
    }

    /// Whether each stored row is contiguous (else, each column is).
    pub(super) fn is_row_major(self) -> bool {
        self.col_stride == 1
    }

    /// Whether the elements lie one after the other, row by row or column by column.
    pub(super) fn is_whole(self) -> bool {
        match self.is_row_major() {
            true => self.row_stride == self.cols || self.rows == 1,
            false => self.row_stride == 1 && self.col_stride == self.rows,
        }
    }

    /// One past the largest offset that the view reaches.
    pub(super) fn extent(self) -> usize {
        match (self.rows.checked_sub(1), self.cols.checked_sub(1)) {
            (Some(i), Some(j)) => i * self.row_stride + j * self.col_stride + 1,
            _ => 0,
        }
    }

    /// The same matrix in f32: itself, or a widened copy in `scratch` (rows stay rows, columns stay columns).
    pub(super) fn widen<'b>(self, scratch: &'b mut Vec<f32>) -> Mat<'b>
    where
        'a: 'b,
    {
        if matches!(self.elements, Elements::F32(_)) {
            return self;
        }
        if !self.is_row_major() {
            return self.t().widen(scratch).t();
        }
        let (rows, cols) = (self.rows, self.cols);
        scratch.resize(rows * cols, 0.0);
        match self.elements {
            Elements::F32(x) => self.widen_rows(x, scratch),
            Elements::BF16(x) => self.widen_rows(x, scratch),
            Elements::F16(x) => self.widen_rows(x, scratch),
            Elements::Signs(x) => parallel::rows_mut(scratch, cols, |first, piece| {
                for (i, out) in piece.chunks_exact_mut(cols).enumerate() {
                    let start = (first + i) * self.row_stride;
                    out.iter_mut().enumerate().for_each(|(j, out)| *out = x.element(start + j));
                }
            }),
            Elements::FourBit(x) => parallel::rows_mut(scratch, cols, |first, piece| {
                for (i, out) in piece.chunks_exact_mut(cols).enumerate() {
                    x.decode((first + i) * self.row_stride, out);
                }
            }),
        }
        Mat::f32(scratch, rows, cols)
    }

    /// Its rows, whose elements are `data`, one after the other in f32.
    fn widen_rows<T: Lane>(self, data: &[T], scratch: &mut [f32]) {
        parallel::rows_mut(scratch, self.cols, |first, piece| {
            for (i, out) in piece.chunks_exact_mut(self.cols).enumerate() {
                let start = (first + i) * self.row_stride;
                slices::convert(&data[start..start + self.cols], out);
            }
        });
    }
}

/// A matrix to write: f32, row-major; `row_stride` elements from row to row.
pub(super) struct MatMut<'a> {
    pub data: &'a mut [f32],
    pub rows: usize,
    pub cols: usize,
    pub row_stride: usize,
}

impl<'a> MatMut<'a> {
    /// A contiguous matrix. Panics if `data` has another length.
    pub fn new(data: &'a mut [f32], rows: usize, cols: usize) -> MatMut<'a> {
        assert_eq!(Some(data.len()), rows.checked_mul(cols), "{rows} x {cols} matrix");
        MatMut { data, rows, cols, row_stride: cols }
    }

    /// A block of it.
    pub fn block(&mut self, rows: (usize, usize), cols: (usize, usize)) -> MatMut<'_> {
        let ((i, m), (j, n)) = (rows, cols);
        assert!(i + m <= self.rows && j + n <= self.cols, "block outside the matrix");
        let offset = if m == 0 || n == 0 { 0 } else { i * self.row_stride + j };
        MatMut { data: &mut self.data[offset..], rows: m, cols: n, row_stride: self.row_stride }
    }

    /// One past the largest offset that the view reaches.
    pub fn extent(&self) -> usize {
        match (self.rows.checked_sub(1), self.cols) {
            (Some(i), n) if n > 0 => i * self.row_stride + n,
            _ => 0,
        }
    }
}
