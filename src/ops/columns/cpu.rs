//! CPU kernels: copies of parts of rows.

use super::OP;
use crate::device::cpu::parallel;
use crate::tensor::{Element, Tensor};
use crate::{Result, dispatch_float};

/// `[T, len]` from the columns from `start` on.
pub(super) fn cut(x: &Tensor, start: usize, len: usize) -> Result<Tensor> {
    let (rows, cols) = x.dims2(OP)?;
    dispatch_float!(OP, x.dtype(), T => {
        let source = T::slice(x)?;
        let mut out = bytemuck::zeroed_vec::<T>(rows * len);
        parallel::rows_mut(&mut out, len, |first, piece| {
            for (i, row) in piece.chunks_exact_mut(len).enumerate() {
                row.copy_from_slice(&source[(first + i) * cols + start..][..len]);
            }
        });
        Ok(T::tensor(out, &[rows, len]))
    })
}

/// `[T, cols]`: x in the columns from `start` on, zeros in the others.
pub(super) fn padded(x: &Tensor, start: usize, cols: usize) -> Result<Tensor> {
    let (rows, len) = x.dims2(OP)?;
    dispatch_float!(OP, x.dtype(), T => {
        let source = T::slice(x)?;
        let mut out = bytemuck::zeroed_vec::<T>(rows * cols);
        parallel::rows_mut(&mut out, cols, |first, piece| {
            for (i, row) in piece.chunks_exact_mut(cols).enumerate() {
                row[start..start + len].copy_from_slice(&source[(first + i) * len..][..len]);
            }
        });
        Ok(T::tensor(out, &[rows, cols]))
    })
}
