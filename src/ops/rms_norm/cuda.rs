//! CUDA kernels of RMSNorm: see kernels/rms_norm.cu.

use super::OP;
use crate::Result;
use crate::device::cuda::plan::{RowPlan, common_pack, part_rows};
use crate::device::cuda::{CudaDevice, Entry, Grid, Pointer, kernel};
use crate::ops::place::extent;
use crate::tensor::{DType, Tensor};

kernel! {
    /// y and the scales.
    Forward in "rms_norm" {
        x: Pointer, weight: Pointer, y: Pointer, scales: Pointer, rows: u64, dim: u32, eps: f32, lanes: u32, packed: u32,
    }
}

kernel! {
    /// x = a + b, its y and the scales.
    ForwardSum in "rms_norm" {
        a: Pointer, b: Pointer, x: Pointer, weight: Pointer, y: Pointer, scales: Pointer, rows: u64, dim: u32, eps: f32,
        lanes: u32, packed: u32,
    }
}

kernel! {
    /// dx and another gradient of x.
    BackwardSum in "rms_norm" {
        x: Pointer, weight: Pointer, scales: Pointer, dy: Pointer, other: Pointer, dx: Pointer, rows: u64, dim: u32, lanes: u32,
        packed: u32,
    }
}

kernel! {
    /// dx.
    Backward in "rms_norm" {
        x: Pointer, weight: Pointer, scales: Pointer, dy: Pointer, dx: Pointer, rows: u64, dim: u32, lanes: u32, packed: u32,
    }
}

kernel! {
    /// The parts of dweight.
    WeightParts in "rms_norm" {
        x: Pointer, scales: Pointer, dy: Pointer, parts: Pointer, rows: u64, dim: u32, part_rows: u32, packed: u32,
    }
}

kernel! {
    /// Their sum.
    WeightSum in "rms_norm" { parts: Pointer, dweight: Pointer, count: u32, columns: u32 }
}

/// Packs of a row that a thread keeps in registers, forward and backward.
const KEEP_FORWARD: usize = 4;
const KEEP_BACKWARD: usize = 2;

/// y, and the factor 1 / sqrt(mean(x^2) + eps) of each group.
pub(super) fn forward(
    device: &'static CudaDevice,
    x: &Tensor,
    weight: &Tensor,
    eps: f32,
) -> Result<(Tensor, Tensor)> {
    let of_f32 = ["rms_norm_fwd_f32_f32", "rms_norm_fwd_f32_bf16"];
    let of_bf16 = ["rms_norm_fwd_bf16_f32", "rms_norm_fwd_bf16_bf16"];
    let entry = weight.dtype().select(OP, x.dtype().select(OP, [of_f32, of_bf16])?)?;
    let entry = Entry::of(OP, entry, &[x.dtype(), weight.dtype()])?;
    let dim = weight.numel();
    let rows = x.numel() / dim;
    let y = Tensor::uninitialised(device, x.shape(), x.dtype())?;
    let scales = Tensor::uninitialised(device, &[rows], DType::F32)?;
    let [x_at, weight_at] = [x.pointer(OP, device)?, weight.pointer(OP, device)?];
    let y_at = y.pointer(OP, device)?;
    let pack = common_pack(dim, &[x.dtype(), weight.dtype()], &[x_at, weight_at, y_at]);
    let plan = RowPlan::new(rows, dim, pack, KEEP_FORWARD);
    let arguments = Forward {
        x: x_at,
        weight: weight_at,
        y: y_at,
        scales: scales.pointer(OP, device)?,
        rows: rows as u64,
        dim: extent(OP, dim)?,
        eps,
        lanes: plan.lanes,
        packed: u32::from(pack > 1),
    };
    device.launch(entry, arguments, plan.grid)?;
    Ok((y, scales))
}

/// x = a + b, and its y and factors.
pub(super) fn forward_sum(
    device: &'static CudaDevice,
    a: &Tensor,
    b: &Tensor,
    weight: &Tensor,
    eps: f32,
) -> Result<[Tensor; 3]> {
    let of_f32 = ["rms_norm_fwd_f32_f32_sum", "rms_norm_fwd_f32_bf16_sum"];
    let of_bf16 = ["rms_norm_fwd_bf16_f32_sum", "rms_norm_fwd_bf16_bf16_sum"];
    let entry = weight.dtype().select(OP, a.dtype().select(OP, [of_f32, of_bf16])?)?;
    let entry = Entry::of(OP, entry, &[a.dtype(), weight.dtype()])?;
    let dim = weight.numel();
    let rows = a.numel() / dim;
    let x = Tensor::uninitialised(device, a.shape(), a.dtype())?;
    let y = Tensor::uninitialised(device, a.shape(), a.dtype())?;
    let scales = Tensor::uninitialised(device, &[rows], DType::F32)?;
    let [a_at, b_at] = [a.pointer(OP, device)?, b.pointer(OP, device)?];
    let [x_at, y_at] = [x.pointer(OP, device)?, y.pointer(OP, device)?];
    let weight_at = weight.pointer(OP, device)?;
    let pack = common_pack(dim, &[a.dtype(), weight.dtype()], &[a_at, b_at, x_at, weight_at, y_at]);
    let plan = RowPlan::new(rows, dim, pack, KEEP_FORWARD);
    let arguments = ForwardSum {
        a: a_at,
        b: b_at,
        x: x_at,
        weight: weight_at,
        y: y_at,
        scales: scales.pointer(OP, device)?,
        rows: rows as u64,
        dim: extent(OP, dim)?,
        eps,
        lanes: plan.lanes,
        packed: u32::from(pack > 1),
    };
    device.launch(entry, arguments, plan.grid)?;
    Ok([x, y, scales])
}

/// The gradient of x, with `other`, of x's type, added to it if there is one.
pub(super) fn grad_input(
    device: &'static CudaDevice,
    x: &Tensor,
    weight: &Tensor,
    scales: &Tensor,
    dy: &Tensor,
    other: Option<&Tensor>,
) -> Result<Tensor> {
    let of_f32 = ["rms_norm_bwd_f32_f32", "rms_norm_bwd_f32_bf16"];
    let of_bf16 = ["rms_norm_bwd_bf16_f32", "rms_norm_bwd_bf16_bf16"];
    let sums_of_f32 = ["rms_norm_bwd_f32_f32_sum", "rms_norm_bwd_f32_bf16_sum"];
    let sums_of_bf16 = ["rms_norm_bwd_bf16_f32_sum", "rms_norm_bwd_bf16_bf16_sum"];
    let entries = if other.is_some() { [sums_of_f32, sums_of_bf16] } else { [of_f32, of_bf16] };
    let entry = weight.dtype().select(OP, x.dtype().select(OP, entries)?)?;
    let entry = Entry::of(OP, entry, &[x.dtype(), weight.dtype()])?;
    let (dim, rows) = (weight.numel(), scales.numel());
    let dx = Tensor::uninitialised(device, x.shape(), x.dtype())?;
    let [x_at, weight_at] = [x.pointer(OP, device)?, weight.pointer(OP, device)?];
    let [dy_at, dx_at] = [dy.pointer(OP, device)?, dx.pointer(OP, device)?];
    let other_at = other.map_or(Ok(Pointer::NULL), |other| other.pointer(OP, device))?;
    let pack = common_pack(dim, &[x.dtype(), weight.dtype()], &[x_at, weight_at, dy_at, dx_at, other_at]);
    let plan = RowPlan::new(rows, dim, pack, KEEP_BACKWARD);
    let (rows, dim, packed) = (rows as u64, extent(OP, dim)?, u32::from(pack > 1));
    let scales_at = scales.pointer(OP, device)?;
    let (x, weight, scales, dy, dx_of, lanes) = (x_at, weight_at, scales_at, dy_at, dx_at, plan.lanes);
    if other.is_some() {
        let arguments =
            BackwardSum { x, weight, scales, dy, other: other_at, dx: dx_of, rows, dim, lanes, packed };
        device.launch(entry, arguments, plan.grid)?;
    } else {
        let arguments = Backward { x, weight, scales, dy, dx: dx_of, rows, dim, lanes, packed };
        device.launch(entry, arguments, plan.grid)?;
    }
    Ok(dx)
}

/// The gradient of the weight `[dim]`.
pub(super) fn grad_weight(
    device: &'static CudaDevice,
    x: &Tensor,
    scales: &Tensor,
    dy: &Tensor,
    dim: usize,
) -> Result<Tensor> {
    let entry = x.dtype().select(OP, ["rms_norm_bwd_dweight_f32", "rms_norm_bwd_dweight_bf16"])?;
    let entry = Entry::of(OP, entry, &[x.dtype()])?;
    let rows = scales.numel();
    let part_rows = part_rows(rows);
    let count = rows.div_ceil(part_rows);
    let parts = Tensor::uninitialised(device, &[count, dim], DType::F32)?;
    let [x_at, dy_at] = [x.pointer(OP, device)?, dy.pointer(OP, device)?];
    let parts_at = parts.pointer(OP, device)?;
    let pack = common_pack(dim, &[DType::F32], &[x_at, dy_at]);
    let dim32 = extent(OP, dim)?;
    let arguments = WeightParts {
        x: x_at,
        scales: scales.pointer(OP, device)?,
        dy: dy_at,
        parts: parts_at,
        rows: rows as u64,
        dim: dim32,
        part_rows: extent(OP, part_rows)?,
        packed: u32::from(pack > 1),
    };
    device.launch(entry, arguments, Grid::columns(dim, pack, count))?;
    let dweight = Tensor::uninitialised(device, &[dim], DType::F32)?;
    let dweight_at = dweight.pointer(OP, device)?;
    let arguments = WeightSum { parts: parts_at, dweight: dweight_at, count: count as u32, columns: dim32 };
    device.launch("rms_norm_bwd_dweight_sum", arguments, Grid::columns(dim, 1, 1))?;
    Ok(dweight)
}
