//! CUDA kernels of the attention of many new tokens over pages: see kernels/kv_prefill.cu.

use super::OP;
use super::cuda::is_packed;
use super::paged::Attention;
use crate::device::cuda::{Entry, Grid, Pointer, kernel};
use crate::ops::place::extent;
use crate::tensor::DType;
use crate::{Error, Result};

kernel! {
    /// Outputs.
    Prefill in "kv_prefill" {
        tiles: Pointer, sequences: Pointer, pages: Pointer, q: Pointer, out: Pointer,
        page_capacity: u32, layer: u32, kv_heads: u32, group: u32, dim: u32, window: u32, scale2: f32, packed: u32,
    }
}

/// How one kernel is launched.
#[derive(Clone, Copy, Debug)]
struct Plan {
    /// The longest heads that it takes.
    size: usize,
    entry: &'static str,
    /// Queries of a tile.
    rows: usize,
    threads: u32,
    /// Dynamic shared memory in bytes.
    shared: usize,
}

/// The tiles of kernels/common/attention_f32.cuh.
const fn ordinary_cores(size: usize, entry: &'static str) -> Plan {
    Plan { size, entry, rows: 64, threads: 256, shared: 0 }
}

/// Those of kernels/common/attention_forward.cuh: queries, a ring of `slots` tiles of `keys` rows, and what all threads know.
const fn tensor_cores(size: usize, entry: &'static str, rows: usize, keys: usize, slots: usize) -> Plan {
    Plan { size, entry, rows, threads: 128, shared: (rows + keys * slots) * size * 2 + 128 }
}

const F32: [Plan; 3] = [
    ordinary_cores(64, "kv_prefill_fwd_f32_d64"),
    ordinary_cores(128, "kv_prefill_fwd_f32_d128"),
    ordinary_cores(256, "kv_prefill_fwd_f32_d256"),
];
const HALF: [Plan; 3] = [
    tensor_cores(64, "kv_prefill_fwd_bf16_d64", 128, 64, 4),
    tensor_cores(128, "kv_prefill_fwd_bf16_d128", 128, 64, 3),
    tensor_cores(256, "kv_prefill_fwd_bf16_d256", 64, 32, 3),
];

impl Plan {
    fn new(dtype: DType, head_dim: usize) -> Result<Plan> {
        let plans = dtype.select(OP, [F32, HALF])?;
        let fit = plans.iter().find(|plan| head_dim <= plan.size);
        fit.copied().ok_or_else(|| {
            let detail = format!("heads of {head_dim} elements; the CUDA kernels take at most 256");
            Error::Shape { op: OP, detail }
        })
    }
}

/// The queries of a tile.
pub(super) fn tile_rows(dtype: DType, head_dim: usize) -> Result<usize> {
    Ok(Plan::new(dtype, head_dim)?.rows)
}

/// Attention of sequences with many new tokens over a layer of the pages.
pub(super) fn forward(attention: &Attention<'_>) -> Result<()> {
    let Attention { table, layer, q, out, spec } = *attention;
    let (device, sizes) = (table.shape().device(), table.sizes());
    let (dtype, kv_heads, head_dim) = table.shape().head();
    let plan = Plan::new(dtype, head_dim)?;
    let [sequences, pages] = table.parts()?;
    let [tiles, _] = table.tiles_and_tokens_before()?;
    let [q_at, out_at] = [q.pointer(OP, device)?, out.pointer(OP, device)?];
    let arguments = Prefill {
        tiles: tiles.pointer(OP, device)?,
        sequences: sequences.pointer(OP, device)?,
        pages: pages.pointer(OP, device)?,
        q: q_at,
        out: out_at,
        page_capacity: extent(OP, sizes.page_capacity)?,
        layer: extent(OP, layer)?,
        kv_heads: extent(OP, kv_heads)?,
        group: extent(OP, spec.heads / kv_heads)?,
        dim: extent(OP, head_dim)?,
        window: attention.window(),
        scale2: spec.scale * std::f32::consts::LOG2_E,
        packed: u32::from(is_packed(dtype, head_dim, &[q_at, out_at])),
    };
    let blocks = [sizes.tiles, spec.heads, 1];
    let entry = Entry::of(OP, plan.entry, &[dtype])?;
    device.launch(entry, arguments, Grid { blocks, threads: plan.threads, shared: plan.shared as u32 })
}

#[cfg(test)]
mod tests {
    use super::Plan;
    use crate::tensor::DType;

    #[test]
    fn there_is_a_kernel_for_every_head_and_it_fits_every_device() {
        for (dtype, name) in [(DType::F32, "f32"), (DType::BF16, "bf16"), (DType::F16, "bf16")] {
            for head_dim in 1..=256 {
                let plan = Plan::new(dtype, head_dim).unwrap();
                assert!(
                    plan.size >= head_dim && plan.entry.ends_with(&format!("_d{}", plan.size)),
                    "{plan:?}"
                );
                assert!(plan.entry.contains(name) && plan.shared <= 99 << 10, "{plan:?}");
            }
            assert!(Plan::new(dtype, 257).is_err());
        }
        assert!(Plan::new(DType::U32, 64).is_err());
    }
}
