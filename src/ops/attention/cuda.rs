//! CUDA kernels of attention: see kernels/attention.cu.

use super::OP;
use super::cu_seqlens::{CuSeqlens, Order};
use super::tiles::Geometry;
use crate::device::Device;
use crate::device::cuda::{CudaDevice, Grid, Pointer, kernel};
use crate::ops::place::extent;
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

kernel! {
    /// Outputs and logarithms of the softmax sums.
    Forward in "attention" {
        tiles: Pointer, q_starts: Pointer, q_ends: Pointer, k_starts: Pointer, k_ends: Pointer,
        q: Pointer, k: Pointer, v: Pointer, out: Pointer, lse: Pointer,
        q_stride: i64, k_stride: i64, v_stride: i64, out_stride: i64, lse_stride: i64,
        group: i32, dim: i32, scale: f32, causal: i32, window: i32,
    }
}

/// Rows of queries, keys or values on a device: row r begins at element `offset + r stride` of the tensor, with the heads side by side.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows<'a> {
    pub tensor: &'a Tensor,
    pub offset: usize,
    pub stride: usize,
}

impl<'a> Rows<'a> {
    /// The rows of a matrix.
    pub(crate) fn of(tensor: &'a Tensor) -> Result<Rows<'a>> {
        Ok(Rows { tensor, offset: 0, stride: tensor.dims2(OP)?.1 })
    }

    fn pointer(&self, device: &'static CudaDevice) -> Result<Pointer> {
        let start = self.tensor.pointer(OP, device)?;
        Ok(Pointer(start.0 + (self.offset * self.tensor.dtype().size()) as u64))
    }
}

/// Where sequences lie among rows: sequence s is rows `starts[s] .. ends[s]`, u32 `[sequences]` each, on the device. Kernels trust them.
#[derive(Clone, Debug)]
pub(crate) struct Spans {
    pub starts: Tensor,
    pub ends: Tensor,
}

impl Spans {
    /// Sequences that follow each other without gaps.
    pub(crate) fn packed(ends: &CuSeqlens, device: &'static CudaDevice) -> Result<Spans> {
        let copy = ends.on(Device::Cuda(device.ordinal()))?;
        let sequences = ends.len() - 1;
        Ok(Spans { starts: copy.rows(0, sequences)?, ends: copy.rows(1, sequences)? })
    }
}

/// How a kernel cuts its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Plan {
    entry: &'static str,
    /// Rows of a block.
    rows: usize,
    threads: u32,
    /// Dynamic shared memory in bytes.
    shared: u32,
}

/// The longest head that there are kernels for.
const MAX_HEAD_DIM: usize = 256;

/// The forward kernel for heads of `dim` elements; `aligned` where all rows start on 16 bytes. What limits the tiles stands in
/// kernels/common/attention_forward.cuh.
fn forward_plan(dtype: DType, dim: usize, aligned: bool) -> Result<Plan> {
    let of_f32 = |entry| Plan { entry, rows: 64, threads: 256, shared: 0 };
    let of_bf16 = |entry, bucket: usize, rows: usize, ring_rows: usize| Plan {
        entry,
        rows,
        threads: 128,
        shared: ((rows + ring_rows) * bucket * 2) as u32,
    };
    let plans = match (dtype, aligned) {
        (DType::F32, _) => &[
            (64, of_f32("attention_fwd_f32_d64")),
            (128, of_f32("attention_fwd_f32_d128")),
            (256, of_f32("attention_fwd_f32_d256")),
        ][..],
        (DType::BF16, true) => &[
            (32, of_bf16("attention_fwd_bf16_d32", 32, 128, 4 * 64)),
            (64, of_bf16("attention_fwd_bf16_d64", 64, 128, 4 * 64)),
            (96, of_bf16("attention_fwd_bf16_d96", 96, 128, 4 * 64)),
            (128, of_bf16("attention_fwd_bf16_d128", 128, 128, 3 * 64)),
            (192, of_bf16("attention_fwd_bf16_d192", 192, 64, 4 * 32)),
            (256, of_bf16("attention_fwd_bf16_d256", 256, 64, 3 * 32)),
        ],
        (DType::BF16, false) => &[
            (64, of_bf16("attention_fwd_bf16_d64_ragged", 64, 128, 4 * 64)),
            (128, of_bf16("attention_fwd_bf16_d128_ragged", 128, 128, 3 * 64)),
            (256, of_bf16("attention_fwd_bf16_d256_ragged", 256, 64, 3 * 32)),
        ],
        (other, _) => {
            return Err(Error::DType { op: OP, detail: format!("{other} operand, f32 or bf16 expected") });
        }
    };
    smallest(plans, dim)
}

/// The plan of the smallest size that holds heads of `dim` elements.
fn smallest(plans: &[(usize, Plan)], dim: usize) -> Result<Plan> {
    let fit = plans.iter().find(|(size, _)| dim <= *size);
    fit.map(|(_, plan)| *plan).ok_or_else(|| {
        let detail = format!("heads of {dim} elements; the CUDA kernels take at most {MAX_HEAD_DIM}");
        Error::Shape { op: OP, detail }
    })
}

/// Whether all rows of all operands start on 16 bytes and their heads are whole packs of those.
fn aligned(dtype: DType, dim: usize, pointers: &[Pointer], strides: &[usize]) -> bool {
    let whole = |len: &usize| len.is_multiple_of(dtype.pack());
    whole(&dim) && strides.iter().all(whole) && pointers.iter().all(|p| p.is_aligned())
}

/// A window as kernels take it; the widest where there is none.
fn window(geometry: Geometry) -> i32 {
    geometry.window.and_then(|window| i32::try_from(window).ok()).unwrap_or(i32::MAX)
}

/// Attention of packed queries `[T, heads * head_dim]` over the keys and values of their sequences: the output, and the natural
/// logarithm of each softmax's sum, f32 `[heads, T]`. Sequence s has the queries `queries[s] .. queries[s + 1]`, at most as many as it has
/// keys; they are of its newest tokens. Nothing is checked of `keys` or of the rows of k and v.
pub(crate) fn forward(
    device: &'static CudaDevice,
    geometry: Geometry,
    [q, k, v]: [Rows<'_>; 3],
    queries: &CuSeqlens,
    keys: &Spans,
) -> Result<(Tensor, Tensor)> {
    let (dtype, dim, tokens) = (q.tensor.dtype(), geometry.head_dim, queries.last().copied().unwrap_or(0));
    let out = Tensor::uninitialised(device, &[tokens, geometry.q_cols()], dtype)?;
    let lse = Tensor::uninitialised(device, &[geometry.heads, tokens], DType::F32)?;
    let [q_at, k_at, v_at] = [q.pointer(device)?, k.pointer(device)?, v.pointer(device)?];
    let out_at = out.pointer(OP, device)?;
    let aligned =
        aligned(dtype, dim, &[q_at, k_at, v_at, out_at], &[q.stride, k.stride, v.stride, geometry.q_cols()]);
    let plan = forward_plan(dtype, dim, aligned)?;
    let order = if geometry.causal { Order::Before } else { Order::Whole };
    let tiles = queries.tiles(Device::Cuda(device.ordinal()), plan.rows, order)?;
    let queries = Spans::packed(queries, device)?;
    let arguments = Forward {
        tiles: tiles.pointer(OP, device)?,
        q_starts: queries.starts.pointer(OP, device)?,
        q_ends: queries.ends.pointer(OP, device)?,
        k_starts: keys.starts.pointer(OP, device)?,
        k_ends: keys.ends.pointer(OP, device)?,
        q: q_at,
        k: k_at,
        v: v_at,
        out: out_at,
        lse: lse.pointer(OP, device)?,
        q_stride: q.stride as i64,
        k_stride: k.stride as i64,
        v_stride: v.stride as i64,
        out_stride: geometry.q_cols() as i64,
        lse_stride: tokens as i64,
        group: extent(OP, geometry.group())? as i32,
        dim: dim as i32,
        scale: geometry.scale,
        causal: i32::from(geometry.causal),
        window: window(geometry),
    };
    let blocks = [tiles.shape()[0], geometry.heads, 1];
    device.launch(plan.entry, arguments, Grid { blocks, threads: plan.threads, shared: plan.shared })?;
    Ok((out, lse))
}
