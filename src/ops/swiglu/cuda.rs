//! CUDA kernels of SwiGLU: see kernels/swiglu.cu.

use super::OP;
use crate::Result;
use crate::device::cuda::{CudaDevice, Entry, Pointer, kernel};
use crate::tensor::Tensor;

kernel! {
    /// y.
    Forward in "swiglu" { gate: Pointer, up: Pointer, y: Pointer, n: u64 }
}

kernel! {
    /// dgate and dup.
    Backward in "swiglu" { gate: Pointer, up: Pointer, dy: Pointer, dgate: Pointer, dup: Pointer, n: u64 }
}

/// y.
pub(super) fn forward(device: &'static CudaDevice, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    let entry = gate.dtype().select(OP, ["swiglu_fwd_f32", "swiglu_fwd_bf16"])?;
    let entry = Entry::of(OP, entry, &[gate.dtype()])?;
    let y = Tensor::uninitialised(device, gate.shape(), gate.dtype())?;
    let arguments = Forward {
        gate: gate.pointer(OP, device)?,
        up: up.pointer(OP, device)?,
        y: y.pointer(OP, device)?,
        n: gate.numel() as u64,
    };
    device.launch(entry, arguments, device.spans(gate.numel(), gate.dtype().pack()))?;
    Ok(y)
}

/// dgate and dup.
pub(super) fn backward(
    device: &'static CudaDevice,
    gate: &Tensor,
    up: &Tensor,
    dy: &Tensor,
) -> Result<(Tensor, Tensor)> {
    let entry = gate.dtype().select(OP, ["swiglu_bwd_f32", "swiglu_bwd_bf16"])?;
    let entry = Entry::of(OP, entry, &[gate.dtype()])?;
    let dgate = Tensor::uninitialised(device, gate.shape(), gate.dtype())?;
    let dup = Tensor::uninitialised(device, gate.shape(), gate.dtype())?;
    let arguments = Backward {
        gate: gate.pointer(OP, device)?,
        up: up.pointer(OP, device)?,
        dy: dy.pointer(OP, device)?,
        dgate: dgate.pointer(OP, device)?,
        dup: dup.pointer(OP, device)?,
        n: gate.numel() as u64,
    };
    device.launch(entry, arguments, device.spans(gate.numel(), gate.dtype().pack()))?;
    Ok((dgate, dup))
}
