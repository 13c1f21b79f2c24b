//! CUDA kernel of the sum.

use super::OP;
use crate::Result;
use crate::device::cuda::{CudaDevice, Entry, Pointer, kernel};
use crate::tensor::Tensor;

kernel! {
    /// kernels/add.cu
    Add in "add" { a: Pointer, b: Pointer, y: Pointer, n: u64 }
}

pub(super) fn sum(device: &'static CudaDevice, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let entry = a.dtype().select(OP, ["add_fwd_f32", "add_fwd_bf16"])?;
    let entry = Entry::of(OP, entry, &[a.dtype()])?;
    let y = Tensor::uninitialised(device, a.shape(), a.dtype())?;
    let [a_at, b_at, y_at] = [a.pointer(OP, device)?, b.pointer(OP, device)?, y.pointer(OP, device)?];
    let arguments = Add { a: a_at, b: b_at, y: y_at, n: a.numel() as u64 };
    device.launch(entry, arguments, device.spans(a.numel(), a.dtype().pack()))?;
    Ok(y)
}
