//! CUDA kernel of dropout: see kernels/dropout.cu.

use super::{Mask, OP};
use crate::Result;
use crate::device::cuda::{CudaDevice, Entry, Pointer, kernel};
use crate::tensor::Tensor;

kernel! {
    /// The masked and scaled elements.
    Dropout in "dropout" { x: Pointer, y: Pointer, n: u64, seed: u64, stream: u64, threshold: u32, scale: f32 }
}

/// The masked and scaled elements, of the same type.
pub(super) fn masked(device: &'static CudaDevice, x: &Tensor, mask: &Mask) -> Result<Tensor> {
    let entry = x.dtype().select(OP, ["dropout_fwd_f32", "dropout_fwd_bf16"])?;
    let entry = Entry::of(OP, entry, &[x.dtype()])?;
    let y = Tensor::uninitialised(device, x.shape(), x.dtype())?;
    let arguments = Dropout {
        x: x.pointer(OP, device)?,
        y: y.pointer(OP, device)?,
        n: x.numel() as u64,
        seed: mask.random.seed,
        stream: mask.random.stream,
        threshold: mask.threshold,
        scale: mask.scale,
    };
    device.launch(entry, arguments, device.spans(x.numel(), x.dtype().pack()))?;
    Ok(y)
}
