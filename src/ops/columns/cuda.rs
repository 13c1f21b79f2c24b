//! CUDA kernels of a range of columns: see kernels/columns.cu.

use super::OP;
use crate::Result;
use crate::device::cuda::{CudaDevice, Grid, Pointer, kernel};
use crate::ops::place::extent;
use crate::tensor::Tensor;

kernel! {
    /// A part of each row, or its gradient; lengths are in words.
    Columns in "columns" { source: Pointer, target: Pointer, cols: u32, start: u32, len: u32 }
}

/// `[T, len]` from the columns from `start` on.
pub(super) fn cut(device: &'static CudaDevice, x: &Tensor, start: usize, len: usize) -> Result<Tensor> {
    let (rows, cols) = x.dims2(OP)?;
    let y = Tensor::uninitialised(device, &[rows, len], x.dtype())?;
    let entries = ["columns_fwd_b2", "columns_fwd_b4", "columns_fwd_b16"];
    launch(device, entries, x, &y, [cols, start, len])?;
    Ok(y)
}

/// `[T, cols]`: x in the columns from `start` on, zeros in the others.
pub(super) fn padded(device: &'static CudaDevice, x: &Tensor, start: usize, cols: usize) -> Result<Tensor> {
    let (rows, len) = x.dims2(OP)?;
    let y = Tensor::uninitialised(device, &[rows, cols], x.dtype())?;
    let entries = ["columns_bwd_b2", "columns_bwd_b4", "columns_bwd_b16"];
    launch(device, entries, x, &y, [cols, start, len])?;
    Ok(y)
}

/// Copies words of 16 bytes where everything is aligned to them, else elements. `entries`: for words of 2, 4 and 16 bytes.
fn launch(
    device: &'static CudaDevice,
    [of_2, of_4, of_16]: [&'static str; 3],
    source: &Tensor,
    target: &Tensor,
    lengths: [usize; 3],
) -> Result<()> {
    let (rows, target_cols) = target.dims2(OP)?;
    let pack = source.dtype().pack();
    let (source_at, target_at) = (source.pointer(OP, device)?, target.pointer(OP, device)?);
    let aligned =
        lengths.iter().all(|n| n.is_multiple_of(pack)) && source_at.is_aligned() && target_at.is_aligned();
    let (entry, pack) = match (aligned, source.dtype().size()) {
        (true, _) => (of_16, pack),
        (false, 2) => (of_2, 1),
        (false, _) => (of_4, 1),
    };
    let [cols, start, len] = lengths.map(|n| n / pack);
    let arguments = Columns {
        source: source_at,
        target: target_at,
        cols: extent(OP, cols)?,
        start: extent(OP, start)?,
        len: extent(OP, len)?,
    };
    device.launch(entry, arguments, Grid::rows(target_cols, pack, rows))
}
