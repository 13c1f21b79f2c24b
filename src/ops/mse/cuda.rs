//! CUDA kernels of the squared error: see kernels/mse.cu.

use super::OP;
use crate::Result;
use crate::device::cuda::{CudaDevice, Grid, Pointer, kernel};
use crate::tensor::{DType, Tensor};

kernel! {
    /// The sum of each chunk, f64.
    Forward in "mse" { a: Pointer, b: Pointer, parts: Pointer, n: u64 }
}

kernel! {
    /// The loss.
    Finish in "mse" { parts: Pointer, chunks: u64, loss: Pointer, denominator: f32 }
}

kernel! {
    /// da.
    Backward in "mse" { a: Pointer, b: Pointer, dloss: Pointer, denominator: f32, da: Pointer, n: u64 }
}

/// Elements that a block sums, and its threads: those of kernels/mse.cu.
const CHUNK: usize = 8192;
const THREADS: u32 = 256;

pub(super) fn forward(
    device: &'static CudaDevice,
    a: &Tensor,
    b: &Tensor,
    denominator: f32,
) -> Result<Tensor> {
    let chunks = a.numel().div_ceil(CHUNK);
    // f64, which no tensor has.
    let parts = Tensor::uninitialised(device, &[chunks, 2], DType::U32)?;
    let loss = Tensor::uninitialised(device, &[], DType::F32)?;
    let [a_at, b_at] = [a.pointer(OP, device)?, b.pointer(OP, device)?];
    let [parts_at, loss_at] = [parts.pointer(OP, device)?, loss.pointer(OP, device)?];
    let arguments = Forward { a: a_at, b: b_at, parts: parts_at, n: a.numel() as u64 };
    device.launch("mse_fwd_f32", arguments, Grid::new(chunks, THREADS))?;
    let arguments = Finish { parts: parts_at, chunks: chunks as u64, loss: loss_at, denominator };
    device.launch("mse_finish", arguments, Grid::new(1, THREADS))?;
    Ok(loss)
}

pub(super) fn backward(
    device: &'static CudaDevice,
    a: &Tensor,
    b: &Tensor,
    dloss: &Tensor,
    denominator: f32,
) -> Result<Tensor> {
    let da = Tensor::uninitialised(device, a.shape(), DType::F32)?;
    let arguments = Backward {
        a: a.pointer(OP, device)?,
        b: b.pointer(OP, device)?,
        dloss: dloss.pointer(OP, device)?,
        denominator,
        da: da.pointer(OP, device)?,
        n: a.numel() as u64,
    };
    device.launch("mse_bwd_f32", arguments, device.spans(a.numel(), DType::F32.pack()))?;
    Ok(da)
}
