//! CUDA kernels of LayerNorm: see kernels/layer_norm.cu.

use super::OP;
use crate::Result;
use crate::device::cuda::plan::{RowPlan, common_pack, part_rows};
use crate::device::cuda::{CudaDevice, Entry, Grid, Pointer, kernel};
use crate::ops::place::extent;
use crate::tensor::{DType, Tensor};

kernel! {
    /// y and the moments.
    Forward in "layer_norm" {
        x: Pointer, weight: Pointer, bias: Pointer, y: Pointer, moments: Pointer, rows: u64, dim: u32, eps: f32, lanes: u32,
        packed: u32,
    }
}

kernel! {
    /// dx.
    Backward in "layer_norm" {
        x: Pointer, weight: Pointer, moments: Pointer, dy: Pointer, dx: Pointer, rows: u64, dim: u32, lanes: u32, packed: u32,
    }
}

kernel! {
    /// The parts of dweight and dbias.
    AffineParts in "layer_norm" {
        x: Pointer, moments: Pointer, dy: Pointer, parts: Pointer, rows: u64, dim: u32, part_rows: u32, packed: u32,
    }
}

kernel! {
    /// Their sums.
    AffineSum in "layer_norm" { parts: Pointer, sums: Pointer, count: u32, columns: u32 }
}

/// Packs of a row that a thread keeps in registers, forward and backward.
const KEEP_FORWARD: usize = 4;
const KEEP_BACKWARD: usize = 2;

/// y, and each row's mean and factor 1 / sqrt(var + eps), f32 `[M, 2]`.
pub(super) fn forward(
    device: &'static CudaDevice,
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    eps: f32,
) -> Result<(Tensor, Tensor)> {
    // The kernels know weight and bias of one type; two types meet in f32, which both fit.
    let dtype = if weight.dtype() == bias.dtype() { weight.dtype() } else { DType::F32 };
    let (weight, bias) = (weight.to_dtype(dtype)?, bias.to_dtype(dtype)?);
    let of_f32 = ["layer_norm_fwd_f32_f32", "layer_norm_fwd_f32_bf16"];
    let of_bf16 = ["layer_norm_fwd_bf16_f32", "layer_norm_fwd_bf16_bf16"];
    let entry = dtype.select(OP, x.dtype().select(OP, [of_f32, of_bf16])?)?;
    let entry = Entry::of(OP, entry, &[x.dtype(), dtype])?;
    let (rows, dim) = x.dims2(OP)?;
    let y = Tensor::uninitialised(device, x.shape(), x.dtype())?;
    let moments = Tensor::uninitialised(device, &[rows, 2], DType::F32)?;
    let (x_at, y_at) = (x.pointer(OP, device)?, y.pointer(OP, device)?);
    let (weight_at, bias_at) = (weight.pointer(OP, device)?, bias.pointer(OP, device)?);
    let pack = common_pack(dim, &[x.dtype(), dtype], &[x_at, weight_at, bias_at, y_at]);
    let plan = RowPlan::new(rows, dim, pack, KEEP_FORWARD);
    let arguments = Forward {
        x: x_at,
        weight: weight_at,
        bias: bias_at,
        y: y_at,
        moments: moments.pointer(OP, device)?,
        rows: rows as u64,
        dim: extent(OP, dim)?,
        eps,
        lanes: plan.lanes,
        packed: u32::from(pack > 1),
    };
    device.launch(entry, arguments, plan.grid)?;
    Ok((y, moments))
}

/// The gradient of x.
pub(super) fn grad_input(
    device: &'static CudaDevice,
    x: &Tensor,
    weight: &Tensor,
    moments: &Tensor,
    dy: &Tensor,
) -> Result<Tensor> {
    let of_f32 = ["layer_norm_bwd_f32_f32", "layer_norm_bwd_f32_bf16"];
    let of_bf16 = ["layer_norm_bwd_bf16_f32", "layer_norm_bwd_bf16_bf16"];
    let entry = weight.dtype().select(OP, x.dtype().select(OP, [of_f32, of_bf16])?)?;
    let entry = Entry::of(OP, entry, &[x.dtype(), weight.dtype()])?;
    let (rows, dim) = x.dims2(OP)?;
    let dx = Tensor::uninitialised(device, x.shape(), x.dtype())?;
    let [x_at, weight_at] = [x.pointer(OP, device)?, weight.pointer(OP, device)?];
    let [dy_at, dx_at] = [dy.pointer(OP, device)?, dx.pointer(OP, device)?];
    let pack = common_pack(dim, &[x.dtype(), weight.dtype()], &[x_at, weight_at, dy_at, dx_at]);
    let plan = RowPlan::new(rows, dim, pack, KEEP_BACKWARD);
    let arguments = Backward {
        x: x_at,
        weight: weight_at,
        moments: moments.pointer(OP, device)?,
        dy: dy_at,
        dx: dx_at,
        rows: rows as u64,
        dim: extent(OP, dim)?,
        lanes: plan.lanes,
        packed: u32::from(pack > 1),
    };
    device.launch(entry, arguments, plan.grid)?;
    Ok(dx)
}

/// The gradients of weight and bias, `[dim]` each.
pub(super) fn grad_affine(
    device: &'static CudaDevice,
    x: &Tensor,
    moments: &Tensor,
    dy: &Tensor,
) -> Result<[Tensor; 2]> {
    let entry = x.dtype().select(OP, ["layer_norm_bwd_affine_f32", "layer_norm_bwd_affine_bf16"])?;
    let entry = Entry::of(OP, entry, &[x.dtype()])?;
    let (rows, dim) = x.dims2(OP)?;
    let part_rows = part_rows(rows);
    let count = rows.div_ceil(part_rows);
    let parts = Tensor::uninitialised(device, &[count, 2 * dim], DType::F32)?;
    let [x_at, dy_at] = [x.pointer(OP, device)?, dy.pointer(OP, device)?];
    let parts_at = parts.pointer(OP, device)?;
    let pack = common_pack(dim, &[DType::F32], &[x_at, dy_at]);
    let arguments = AffineParts {
        x: x_at,
        moments: moments.pointer(OP, device)?,
        dy: dy_at,
        parts: parts_at,
        rows: rows as u64,
        dim: extent(OP, dim)?,
        part_rows: extent(OP, part_rows)?,
        packed: u32::from(pack > 1),
    };
    device.launch(entry, arguments, Grid::columns(dim, pack, count))?;
    let sums = Tensor::uninitialised(device, &[2 * dim], DType::F32)?;
    let sums_at = sums.pointer(OP, device)?;
    let columns = extent(OP, 2 * dim)?;
    let arguments = AffineSum { parts: parts_at, sums: sums_at, count: count as u32, columns };
    device.launch("layer_norm_bwd_affine_sum", arguments, Grid::columns(2 * dim, 1, 1))?;
    Ok([sums.rows(0, dim)?, sums.rows(dim, dim)?])
}
