//! CUDA kernels of GELU: see kernels/gelu.cu.

use super::{GeluKind, OP};
use crate::Result;
use crate::device::cuda::{CudaDevice, Entry, Pointer, kernel};
use crate::tensor::Tensor;

kernel! {
    /// y.
    Forward in "gelu" { x: Pointer, y: Pointer, n: u64 }
}

kernel! {
    /// dx.
    Backward in "gelu" { x: Pointer, dy: Pointer, dx: Pointer, n: u64 }
}

/// y.
pub(super) fn forward(device: &'static CudaDevice, x: &Tensor, kind: GeluKind) -> Result<Tensor> {
    let entries = match kind {
        GeluKind::Erf => ["gelu_fwd_f32_erf", "gelu_fwd_bf16_erf"],
        GeluKind::Tanh => ["gelu_fwd_f32_tanh", "gelu_fwd_bf16_tanh"],
    };
    let entry = Entry::of(OP, x.dtype().select(OP, entries)?, &[x.dtype()])?;
    let y = Tensor::uninitialised(device, x.shape(), x.dtype())?;
    let arguments = Forward { x: x.pointer(OP, device)?, y: y.pointer(OP, device)?, n: x.numel() as u64 };
    device.launch(entry, arguments, device.spans(x.numel(), x.dtype().pack()))?;
    Ok(y)
}

/// dx.
pub(super) fn backward(
    device: &'static CudaDevice,
    x: &Tensor,
    dy: &Tensor,
    kind: GeluKind,
) -> Result<Tensor> {
    let entries = match kind {
        GeluKind::Erf => ["gelu_bwd_f32_erf", "gelu_bwd_bf16_erf"],
        GeluKind::Tanh => ["gelu_bwd_f32_tanh", "gelu_bwd_bf16_tanh"],
    };
    let entry = Entry::of(OP, x.dtype().select(OP, entries)?, &[x.dtype()])?;
    let dx = Tensor::uninitialised(device, x.shape(), x.dtype())?;
    let arguments = Backward {
        x: x.pointer(OP, device)?,
        dy: dy.pointer(OP, device)?,
        dx: dx.pointer(OP, device)?,
        n: x.numel() as u64,
    };
    device.launch(entry, arguments, device.spans(x.numel(), x.dtype().pack()))?;
    Ok(dx)
}
