//! CUDA kernels of attention over pages: see kernels/kv_attention.cu.

use super::OP;
use super::paged::{Attention, PAGE};
use crate::Result;
use crate::device::cuda::{Entry, Grid, Pointer, kernel};
use crate::ops::place::extent;
use crate::tensor::{DType, Tensor};

kernel! {
    /// Outputs, or those of parts.
    Forward in "kv_attention" {
        q: Pointer, sequences: Pointer, tokens_before: Pointer, pages: Pointer, out: Pointer, parts: Pointer, marks: Pointer,
        count: u32, page_capacity: u32, part_rows: u32, layer: u32, kv_heads: u32, group: u32, head_dim: u32, window: u32,
        scale: f32, packed: u32,
    }
}

kernel! {
    /// The outputs of parts.
    Merge in "kv_attention" {
        parts: Pointer, marks: Pointer, sequences: Pointer, out: Pointer, part_rows: u32, heads: u32, head_dim: u32,
        window: u32, packed: u32,
    }
}

/// How blocks of the forward kernel are made, as kernels/kv_attention.cu has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Block {
    /// The largest head that it takes.
    dim: usize,
    /// Rows of a tile.
    rows: usize,
    threads: u32,
    shared: u32,
}

impl Block {
    fn new(dtype: DType, head_dim: usize) -> Result<Block> {
        const STAGE_KEYS: usize = 16;
        const STAGES: usize = 2;
        const RING_BYTES: usize = 64 << 10;
        let dim = head_dim.next_power_of_two().max(64);
        // Rows, and what a warp needs beside its ring: maxima and sums, and on ordinary cores probabilities.
        let (rows, scratch) = dtype.select(OP, [(8, 8 * STAGE_KEYS * 4 + 8 * 4), (16, 0)])?;
        let ring = STAGES * 2 * STAGE_KEYS * dim * dtype.size();
        let warps = (RING_BYTES / ring).min(4);
        let shared = rows * dim * dtype.size() + warps * (ring + 2 * rows * 4 + scratch);
        Ok(Block { dim, rows, threads: 32 * warps as u32, shared: shared as u32 })
    }
}

/// Pages that a sequence's few new tokens see at most, of `longest` tokens in all.
fn most_pages(longest: usize, most_new: usize, window: Option<usize>) -> usize {
    let all = longest.div_ceil(PAGE).max(1);
    // All new tokens together see window + most_new - 1 keys. If the first is the last of its page, the last key but two of
    // those that follow decides how many more pages there are.
    let followers = window.map(|window| window.saturating_add(most_new).saturating_sub(3));
    followers.map_or(all, |keys| all.min((keys / PAGE).saturating_add(2)))
}

/// Whether packs of 16 bytes can be moved.
pub(super) fn is_packed(dtype: DType, head_dim: usize, pointers: &[Pointer]) -> bool {
    head_dim.is_multiple_of(dtype.pack()) && pointers.iter().all(|p| p.is_aligned())
}

/// Attention of sequences with less than many new tokens over a layer of the pages.
pub(super) fn forward(attention: &Attention<'_>) -> Result<()> {
    let Attention { table, layer, q, out, spec } = *attention;
    let shape = table.shape();
    let (device, sizes) = (shape.device(), table.sizes());
    let (dtype, kv_heads, head_dim) = shape.head();
    let block = Block::new(dtype, head_dim)?;
    let entry = match block.dim {
        64 => dtype.select(OP, ["kv_attention_fwd_f32_64", "kv_attention_fwd_bf16_64"])?,
        128 => dtype.select(OP, ["kv_attention_fwd_f32_128", "kv_attention_fwd_bf16_128"])?,
        _ => dtype.select(OP, ["kv_attention_fwd_f32_256", "kv_attention_fwd_bf16_256"])?,
    };
    let entry = Entry::of(OP, entry, &[dtype])?;
    let (heads, group) = (spec.heads, spec.heads / kv_heads);
    // Rows are counted in 32 bits.
    extent(OP, sizes.tokens.saturating_mul(heads))?;
    let splits = most_pages(sizes.longest, sizes.most_few(), spec.window);
    let parted = if splits > 1 { sizes.part_rows } else { 0 };
    let padded = head_dim.next_multiple_of(dtype.pack());
    let parts = Tensor::uninitialised(device, &[splits, parted, heads, padded], DType::F32)?;
    let marks = Tensor::uninitialised(device, &[splits, parted, heads, 2], DType::F32)?;
    let [sequences, pages] = table.parts()?;
    let [_, tokens_before] = table.tiles_and_tokens_before()?;
    let [q_at, out_at] = [q.pointer(OP, device)?, out.pointer(OP, device)?];
    let (parts_at, marks_at) = (parts.pointer(OP, device)?, marks.pointer(OP, device)?);
    let sequences_at = sequences.pointer(OP, device)?;
    let window = attention.window();
    let packed = u32::from(is_packed(dtype, head_dim, &[q_at, out_at]));
    let (part_rows, head_dim) = (parted as u32, extent(OP, head_dim)?);
    let arguments = Forward {
        q: q_at,
        sequences: sequences_at,
        tokens_before: tokens_before.pointer(OP, device)?,
        pages: pages.pointer(OP, device)?,
        out: out_at,
        parts: parts_at,
        marks: marks_at,
        count: extent(OP, sizes.sequences)?,
        page_capacity: extent(OP, sizes.page_capacity)?,
        part_rows,
        layer: extent(OP, layer)?,
        kv_heads: extent(OP, kv_heads)?,
        group: extent(OP, group)?,
        head_dim,
        window,
        scale: spec.scale * std::f32::consts::LOG2_E,
        packed,
    };
    // Room for the tiles of all sequences, wherever one ends within a tile.
    let tiles = sizes.less_than_many * group / block.rows + sizes.sequences;
    let grid = Grid { blocks: [tiles, splits, kv_heads], threads: block.threads, shared: block.shared };
    device.launch(entry, arguments, grid)?;
    if parted > 0 {
        const THREADS: usize = 128;
        let entry = dtype.select(OP, ["kv_attention_merge_f32", "kv_attention_merge_bf16"])?;
        let entry = Entry::of(OP, entry, &[dtype])?;
        let arguments = Merge {
            parts: parts_at,
            marks: marks_at,
            sequences: sequences_at,
            out: out_at,
            part_rows,
            heads: extent(OP, heads)?,
            head_dim,
            window,
            packed,
        };
        let blocks = [(heads * padded / 4).div_ceil(THREADS), sizes.most_few(), sizes.sequences];
        device.launch(entry, arguments, Grid { blocks, threads: THREADS as u32, shared: 0 })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Block, PAGE, most_pages};
    use crate::tensor::DType;

    #[test]
    fn blocks_fit_the_shared_memory_of_every_device() {
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            for head_dim in 1..=256 {
                let block = Block::new(dtype, head_dim).unwrap();
                assert!(block.dim >= head_dim && [64, 128, 256].contains(&block.dim));
                assert!(block.shared <= 99 << 10 && block.threads >= 32, "{block:?}");
            }
        }
        assert!(Block::new(DType::U32, 64).is_err());
    }

    #[test]
    fn a_sequence_sees_no_more_pages_than_it_is_split_into() {
        assert_eq!(most_pages(0, 0, None), 1);
        for (past, new) in [(0, 1), (0, 16), (250, 16), (255, 1), (256, 1), (1000, 7), (4000, 16)] {
            for window in
                [None, Some(1), Some(2), Some(240), Some(256), Some(257), Some(513), Some(usize::MAX)]
            {
                let first = window.map_or(0, |w: usize| (past + 1usize).saturating_sub(w)) / PAGE;
                let seen = (past + new - 1) / PAGE - first + 1;
                let planned = most_pages(past + new, new, window);
                assert!(seen <= planned && planned <= (past + new).div_ceil(PAGE), "{past} {new} {window:?}");
            }
        }
        // A window bounds what a long sequence costs.
        assert_eq!(most_pages(1 << 20, 1, Some(1024)), 5);
        assert_eq!(most_pages(1 << 20, 1, None), 4096);
    }
}
