//! CUDA kernels of attention: see kernels/attention.cu and kernels/attention_bwd.cu.

use super::OP;
use super::cu_seqlens::{CuSeqlens, Order};
use super::tiles::Geometry;
use crate::device::Device;
use crate::device::cuda::{Arguments, CudaDevice, Entry, Grid, Pointer, kernel};
use crate::ops::place::extent;
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

kernel! {
    /// Outputs and logarithms of the softmax sums.
    Forward in "attention" {
        tiles: Pointer, q_starts: Pointer, q_ends: Pointer, k_starts: Pointer, k_ends: Pointer,
        q: Pointer, k: Pointer, v: Pointer, out: Pointer, lse: Pointer,
        q_stride: i64, k_stride: i64, v_stride: i64, out_stride: i64, lse_stride: i64,
        group: i32, dim: i32, scale: f32, scale2: f32, causal: i32, window: i32,
    }
}

kernel! {
    /// delta = rowsum(dout o).
    Delta in "attention_bwd" {
        out: Pointer, dout: Pointer, delta: Pointer, tokens: u64, heads: u32, dim: u32, lanes: u32, packed: u32,
    }
}

kernel! {
    /// Some of the gradients.
    Backward in "attention_bwd" {
        tiles: Pointer, q_starts: Pointer, q_ends: Pointer, k_starts: Pointer, k_ends: Pointer,
        q: Pointer, k: Pointer, v: Pointer, dout: Pointer, lse: Pointer, delta: Pointer,
        dq: Pointer, dk: Pointer, dv: Pointer, q_stride: i64, k_stride: i64, lse_stride: i64,
        group: i32, dim: i32, scale: f32, scale2: f32, causal: i32, window: i32,
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

/// A kernel, and its dynamic shared memory in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kernel {
    entry: &'static str,
    shared: usize,
}

/// The kernels of the gradients of q, k and v. One kernel may compute the latter two.
type Gradients = [Kernel; 3];

/// Kernels for one size of heads, and how they cut their work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Plan<K> {
    /// The longest heads that they take.
    size: usize,
    kernels: K,
    /// Rows of a block.
    rows: usize,
    threads: u32,
}

/// Shared memory of what the threads of a block know in common (`KEPT_BYTES` of kernels/common/attention.cuh).
const KEPT: usize = 128;

/// On the ordinary cores.
const fn f32_plan<K: Copy>(size: usize, kernels: K) -> Plan<K> {
    Plan { size, kernels, rows: 64, threads: 256 }
}

const fn f32_kernel(entry: &'static str) -> Kernel {
    Kernel { entry, shared: 0 }
}

/// Queries, and a ring of `slots` tiles of `keys` rows.
const fn forward_plan(
    size: usize,
    entry: &'static str,
    rows: usize,
    keys: usize,
    slots: usize,
) -> Plan<Kernel> {
    let shared = (rows + keys * slots) * size * 2 + KEPT;
    Plan { size, kernels: Kernel { entry, shared }, rows, threads: 128 }
}

/// Own rows of heads of `size` elements; a ring of `stages` stages of `tile` rows of two matrices, with two f32 for each row; and
/// `own` matrices of own rows beside it.
#[derive(Clone, Copy)]
struct Shape {
    size: usize,
    rows: usize,
    tile: usize,
    stages: usize,
    own: usize,
}

impl Shape {
    const fn kernel(self, entry: &'static str) -> Kernel {
        let ring = self.stages * self.tile * (2 * self.size * 2 + 2 * 4);
        Kernel { entry, shared: ring + self.own * self.rows * self.size * 2 + KEPT }
    }

    /// One kernel for the gradients of keys and values.
    const fn two(self, dq: &'static str, dkdv: &'static str) -> Plan<Gradients> {
        self.plan([self.kernel(dq), self.kernel(dkdv), self.kernel(dkdv)])
    }

    /// A kernel for each gradient.
    const fn three(self, dq: &'static str, dk: &'static str, dv: &'static str) -> Plan<Gradients> {
        self.plan([self.kernel(dq), self.kernel(dk), self.kernel(dv)])
    }

    const fn plan(self, kernels: Gradients) -> Plan<Gradients> {
        Plan { size: self.size, kernels, rows: self.rows, threads: 128 }
    }
}

/// What limits the tiles stands in kernels/common/attention_forward.cuh.
const FORWARD_F32: &[Plan<Kernel>] = &[
    f32_plan(64, f32_kernel("attention_fwd_f32_d64")),
    f32_plan(128, f32_kernel("attention_fwd_f32_d128")),
    f32_plan(256, f32_kernel("attention_fwd_f32_d256")),
];
const FORWARD_BF16: &[Plan<Kernel>] = &[
    forward_plan(32, "attention_fwd_bf16_d32", 128, 64, 4),
    forward_plan(64, "attention_fwd_bf16_d64", 128, 64, 4),
    forward_plan(96, "attention_fwd_bf16_d96", 128, 64, 4),
    forward_plan(128, "attention_fwd_bf16_d128", 128, 64, 3),
    forward_plan(192, "attention_fwd_bf16_d192", 64, 32, 4),
    forward_plan(256, "attention_fwd_bf16_d256", 64, 32, 3),
];
const FORWARD_BF16_RAGGED: &[Plan<Kernel>] = &[
    forward_plan(64, "attention_fwd_bf16_d64_ragged", 128, 64, 4),
    forward_plan(128, "attention_fwd_bf16_d128_ragged", 128, 64, 3),
    forward_plan(256, "attention_fwd_bf16_d256_ragged", 64, 32, 3),
];

/// What limits the tiles stands in kernels/common/attention_backward.cuh.
const BACKWARD_F32: &[Plan<Gradients>] = &{
    const fn plan(size: usize, dq: &'static str, dkdv: &'static str) -> Plan<Gradients> {
        f32_plan(size, [f32_kernel(dq), f32_kernel(dkdv), f32_kernel(dkdv)])
    }
    [
        plan(64, "attention_bwd_dq_f32_d64", "attention_bwd_dkdv_f32_d64"),
        plan(128, "attention_bwd_dq_f32_d128", "attention_bwd_dkdv_f32_d128"),
        plan(256, "attention_bwd_dq_f32_d256", "attention_bwd_dkdv_f32_d256"),
    ]
};
const D32: Shape = Shape { size: 32, rows: 128, tile: 64, stages: 3, own: 0 };
const D64: Shape = Shape { size: 64, rows: 128, tile: 32, stages: 4, own: 0 };
const D64_KEYS: Shape = Shape { stages: 3, own: 1, ..D64 };
const D96: Shape = Shape { size: 96, rows: 64, tile: 32, stages: 3, own: 0 };
const D128: Shape = Shape { size: 128, ..D96 };
const D192: Shape = Shape { size: 192, stages: 2, ..D96 };
const D256: Shape = Shape { size: 256, rows: 64, tile: 16, stages: 2, own: 2 };
const BACKWARD_BF16: &[Plan<Gradients>] = &[
    D32.two("attention_bwd_dq_bf16_d32", "attention_bwd_dkdv_bf16_d32"),
    D64.plan([
        D64.kernel("attention_bwd_dq_bf16_d64"),
        D64_KEYS.kernel("attention_bwd_dkdv_bf16_d64"),
        D64_KEYS.kernel("attention_bwd_dkdv_bf16_d64"),
    ]),
    D96.two("attention_bwd_dq_bf16_d96", "attention_bwd_dkdv_bf16_d96"),
    D128.two("attention_bwd_dq_bf16_d128", "attention_bwd_dkdv_bf16_d128"),
    D192.three("attention_bwd_dq_bf16_d192", "attention_bwd_dk_bf16_d192", "attention_bwd_dv_bf16_d192"),
    D256.three("attention_bwd_dq_bf16_d256", "attention_bwd_dk_bf16_d256", "attention_bwd_dv_bf16_d256"),
];
const BACKWARD_BF16_RAGGED: &[Plan<Gradients>] = &[
    D64.plan([
        D64.kernel("attention_bwd_dq_bf16_d64_ragged"),
        D64_KEYS.kernel("attention_bwd_dkdv_bf16_d64_ragged"),
        D64_KEYS.kernel("attention_bwd_dkdv_bf16_d64_ragged"),
    ]),
    D128.two("attention_bwd_dq_bf16_d128_ragged", "attention_bwd_dkdv_bf16_d128_ragged"),
    D256.three(
        "attention_bwd_dq_bf16_d256_ragged",
        "attention_bwd_dk_bf16_d256_ragged",
        "attention_bwd_dv_bf16_d256_ragged",
    ),
];

/// The plan for heads of `dim` elements: of those for f32, for bf16 and f16, and for these two where rows do not all start on 16 bytes, the one of the
/// smallest size that holds them.
fn choose<K: Copy>(
    [of_f32, of_bf16, ragged]: [&[Plan<K>]; 3],
    dtype: DType,
    dim: usize,
    aligned: bool,
) -> Result<Plan<K>> {
    let plans = dtype.select(OP, [of_f32, if aligned { of_bf16 } else { ragged }])?;
    let fit = plans.iter().find(|plan| dim <= plan.size);
    fit.copied().ok_or_else(|| {
        let most = plans.iter().map(|plan| plan.size).max().unwrap_or(0);
        let detail = format!("heads of {dim} elements; the CUDA kernels take at most {most}");
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
    let plan = choose([FORWARD_F32, FORWARD_BF16, FORWARD_BF16_RAGGED], dtype, dim, aligned)?;
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
        scale2: geometry.scale * std::f32::consts::LOG2_E,
        causal: i32::from(geometry.causal),
        window: window(geometry),
    };
    let blocks = [tiles.shape()[0], geometry.heads, 1];
    launch(device, plan.kernels, dtype, plan.threads, blocks, arguments)?;
    Ok((out, lse))
}

fn launch(
    device: &'static CudaDevice,
    kernel: Kernel,
    dtype: DType,
    threads: u32,
    blocks: [usize; 3],
    arguments: impl Arguments,
) -> Result<()> {
    let entry = Entry::of(OP, kernel.entry, &[dtype])?;
    device.launch(entry, arguments, Grid { blocks, threads, shared: kernel.shared as u32 })
}

/// What the backward needs.
pub(super) struct Saved<'a> {
    pub qkv: [&'a Tensor; 3],
    pub out: &'a Tensor,
    pub lse: &'a Tensor,
    pub dout: &'a Tensor,
}

/// Those of the gradients of q, k and v that are wanted.
pub(super) fn backward(
    device: &'static CudaDevice,
    geometry: Geometry,
    saved: Saved<'_>,
    ends: &CuSeqlens,
    wanted: [bool; 3],
) -> Result<[Option<Tensor>; 3]> {
    let [q, k, v] = saved.qkv;
    let (dtype, dim, tokens) = (q.dtype(), geometry.head_dim, q.dims2(OP)?.0);
    let gradient = |x: &Tensor, wanted: bool| {
        wanted.then(|| Tensor::uninitialised(device, x.shape(), dtype)).transpose()
    };
    let grads = [gradient(q, wanted[0])?, gradient(k, wanted[1])?, gradient(v, wanted[2])?];
    let at = |x: &Tensor| x.pointer(OP, device);
    let at_grad = |x: &Option<Tensor>| x.as_ref().map_or(Ok(Pointer::NULL), at);
    let [q_at, k_at, v_at, dout_at] = [at(q)?, at(k)?, at(v)?, at(saved.dout)?];
    let grads_at = [at_grad(&grads[0])?, at_grad(&grads[1])?, at_grad(&grads[2])?];
    // A gradient that is not wanted is null, which is aligned.
    let [dq_at, dk_at, dv_at] = grads_at;
    let (q_cols, kv_cols) = (geometry.q_cols(), geometry.kv_cols());
    let aligned = aligned(dtype, dim, &[q_at, k_at, v_at, dout_at, dq_at, dk_at, dv_at], &[q_cols, kv_cols]);
    let plan = choose([BACKWARD_F32, BACKWARD_BF16, BACKWARD_BF16_RAGGED], dtype, dim, aligned)?;
    let spans = Spans::packed(ends, device)?;
    // The gradient of the values alone needs no delta.
    let delta =
        if wanted[0] || wanted[1] { Some(row_sums(device, geometry, saved.out, saved.dout)?) } else { None };
    let arguments = |tiles: &Tensor| -> Result<Backward> {
        Ok(Backward {
            tiles: at(tiles)?,
            q_starts: at(&spans.starts)?,
            q_ends: at(&spans.ends)?,
            k_starts: at(&spans.starts)?,
            k_ends: at(&spans.ends)?,
            q: q_at,
            k: k_at,
            v: v_at,
            dout: dout_at,
            lse: at(saved.lse)?,
            delta: at_grad(&delta)?,
            dq: dq_at,
            dk: dk_at,
            dv: dv_at,
            q_stride: q_cols as i64,
            k_stride: kv_cols as i64,
            lse_stride: tokens as i64,
            group: extent(OP, geometry.group())? as i32,
            dim: dim as i32,
            scale: geometry.scale,
            scale2: geometry.scale * std::f32::consts::LOG2_E,
            causal: i32::from(geometry.causal),
            window: window(geometry),
        })
    };
    let here = Device::Cuda(device.ordinal());
    let order = |causal| if geometry.causal { causal } else { Order::Whole };
    let [dq, dk, dv] = plan.kernels;
    if wanted[1] || wanted[2] {
        let tiles = ends.tiles(here, plan.rows, order(Order::After))?;
        let blocks = [tiles.shape()[0], geometry.kv_heads, 1];
        if wanted[1] {
            launch(device, dk, dtype, plan.threads, blocks, arguments(&tiles)?)?;
        }
        // Where one kernel computes both, it just has.
        if wanted[2] && !(wanted[1] && dk == dv) {
            launch(device, dv, dtype, plan.threads, blocks, arguments(&tiles)?)?;
        }
    }
    if wanted[0] {
        let tiles = ends.tiles(here, plan.rows, order(Order::Before))?;
        let blocks = [tiles.shape()[0], geometry.heads, 1];
        launch(device, dq, dtype, plan.threads, blocks, arguments(&tiles)?)?;
    }
    Ok(grads)
}

/// delta: the sum of dout o over each head of each token, f32 `[heads, T]`.
fn row_sums(device: &'static CudaDevice, geometry: Geometry, out: &Tensor, dout: &Tensor) -> Result<Tensor> {
    const TOKENS: usize = 32;
    const HEADS: usize = 8;
    let (heads, dim, tokens) = (geometry.heads, geometry.head_dim, out.dims2(OP)?.0);
    let delta = Tensor::uninitialised(device, &[heads, tokens], DType::F32)?;
    let entry = out.dtype().select(OP, ["attention_bwd_delta_f32", "attention_bwd_delta_bf16"])?;
    let entry = Entry::of(OP, entry, &[out.dtype()])?;
    let [out_at, dout_at] = [out.pointer(OP, device)?, dout.pointer(OP, device)?];
    let packed = aligned(out.dtype(), dim, &[out_at, dout_at], &[]);
    let packs = dim.div_ceil(if packed { out.dtype().pack() } else { 1 });
    let arguments = Delta {
        out: out_at,
        dout: dout_at,
        delta: delta.pointer(OP, device)?,
        tokens: tokens as u64,
        heads: extent(OP, heads)?,
        dim: extent(OP, dim)?,
        lanes: packs.next_power_of_two().min(32) as u32,
        packed: u32::from(packed),
    };
    let blocks = [tokens.div_ceil(TOKENS), heads.div_ceil(HEADS), 1];
    device.launch(entry, arguments, Grid { blocks, threads: (TOKENS * HEADS) as u32, shared: 0 })?;
    Ok(delta)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shared memory of a block on every GPU from sm_80 on, and threads that leave each of them 255 registers.
    const SHARED: usize = 99 << 10;
    const THREADS: u32 = 256;

    fn check<K: Copy>(plans: [&[Plan<K>]; 3], kernels: impl Fn(K) -> Vec<Kernel>) {
        for (dtype, aligned) in [
            (DType::F32, true),
            (DType::BF16, true),
            (DType::BF16, false),
            (DType::F16, true),
            (DType::F16, false),
        ] {
            let mut last = 0;
            for dim in 1..=256 {
                let plan = choose(plans, dtype, dim, aligned).unwrap();
                assert!(plan.size >= dim && plan.size >= last, "{dim}");
                assert!(plan.threads <= THREADS && plan.rows.is_multiple_of(plan.threads as usize / 32));
                for kernel in kernels(plan.kernels) {
                    assert!(kernel.shared <= SHARED, "{kernel:?}");
                    assert!(kernel.entry.contains(&format!("_d{}", plan.size)), "{kernel:?}");
                    let entry = Entry::of(OP, kernel.entry, &[dtype]).unwrap().to_string();
                    assert!(entry.contains(&format!("_{dtype}_")), "{entry}");
                    assert_eq!(kernel.entry.ends_with("_ragged"), !aligned, "{kernel:?}");
                }
                last = plan.size;
            }
            assert!(choose(plans, dtype, 257, aligned).is_err());
        }
        assert!(choose(plans, DType::U32, 64, true).is_err());
    }

    #[test]
    fn there_are_kernels_for_every_head_up_to_256_elements() {
        check([FORWARD_F32, FORWARD_BF16, FORWARD_BF16_RAGGED], |kernel| vec![kernel]);
        check([BACKWARD_F32, BACKWARD_BF16, BACKWARD_BF16_RAGGED], |kernels| kernels.to_vec());
        let error = choose([FORWARD_F32, FORWARD_BF16, FORWARD_BF16_RAGGED], DType::BF16, 257, true);
        assert_eq!(
            error.unwrap_err().to_string(),
            "attention: heads of 257 elements; the CUDA kernels take at most 256"
        );
    }
}
