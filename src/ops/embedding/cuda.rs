//! CUDA kernels of the embedding: see kernels/embedding.cu.

use super::OP;
use crate::Result;
use crate::device::Device;
use crate::device::cuda::{CudaDevice, Entry, Grid, Pointer, kernel};
use crate::ops::place::extent;
use crate::tensor::{DType, Tensor};

kernel! {
    /// The rows of the ids.
    Forward in "embedding" {
        ids: Pointer, table: Pointer, y: Pointer, count: u64, vocab: u32, dim: u32, block_rows: u32, packed: u32,
    }
}

kernel! {
    /// Sorted tiles of pairs (id, t).
    SortTiles in "embedding" { ids: Pointer, pairs: Pointer, count: u32, tile: u32 }
}

kernel! {
    /// Runs of pairs, merged two by two.
    SortMerge in "embedding" { from: Pointer, to: Pointer, count: u32, run: u32 }
}

kernel! {
    /// The rows of dtable that occur.
    Backward in "embedding" {
        pairs: Pointer, dy: Pointer, dtable: Pointer, count: u32, vocab: u32, dim: u32, packed: u32,
    }
}

/// Threads of a block that copies rows or merges runs.
const THREADS: usize = 256;
/// Columns that a thread of the backward has: 16 bytes of dtable.
const PACK_BACKWARD: usize = 4;

/// Row `ids[t]` of `table` for each t, of type `dtype`; NaN for an id outside the table.
pub(super) fn forward(
    device: &'static CudaDevice,
    ids: &Tensor,
    table: &Tensor,
    dtype: DType,
) -> Result<Tensor> {
    let of_f32 = ["embedding_fwd_f32_f32", "embedding_fwd_f32_bf16"];
    let of_bf16 = ["embedding_fwd_bf16_f32", "embedding_fwd_bf16_bf16"];
    let entry = dtype.select(OP, table.dtype().select(OP, [of_f32, of_bf16])?)?;
    let entry = Entry::of(OP, entry, &[table.dtype(), dtype])?;
    let (vocab, dim) = table.dims2(OP)?;
    let count = ids.numel();
    let y = Tensor::uninitialised(device, &[count, dim], dtype)?;
    if y.numel() == 0 {
        return Ok(y);
    }
    let (table_at, y_at) = (table.pointer(OP, device)?, y.pointer(OP, device)?);
    let pack = table.dtype().pack().min(dtype.pack());
    let packed = dim.is_multiple_of(pack) && table_at.is_aligned() && y_at.is_aligned();
    let block_rows = block_rows(if packed { dim / pack } else { dim });
    let arguments = Forward {
        ids: ids.pointer(OP, device)?,
        table: table_at,
        y: y_at,
        count: count as u64,
        vocab: extent(OP, vocab)?,
        dim: extent(OP, dim)?,
        block_rows: block_rows as u32,
        packed: u32::from(packed),
    };
    device.launch(entry, arguments, Grid::new(count.div_ceil(block_rows), THREADS as u32))?;
    Ok(y)
}

/// Rows of `packs` packs that a block copies: each of its threads has two packs, or more of long rows.
fn block_rows(packs: usize) -> usize {
    (2 * THREADS / packs.max(1)).clamp(1, 2 * THREADS)
}

/// The gradient of a table of `shape`, f32.
pub(super) fn grad_table(
    device: &'static CudaDevice,
    ids: &Tensor,
    dy: &Tensor,
    shape: &[usize],
) -> Result<Tensor> {
    let entry = dy.dtype().select(OP, ["embedding_bwd_f32", "embedding_bwd_bf16"])?;
    let entry = Entry::of(OP, entry, &[dy.dtype()])?;
    let dtable = Tensor::zeros_on(Device::Cuda(device.ordinal()), shape, DType::F32)?;
    let (count, vocab, dim) = (ids.numel(), shape[0], shape[1]);
    if count == 0 || dtable.numel() == 0 {
        return Ok(dtable);
    }
    let pairs = sorted(device, ids)?;
    let dy_at = dy.pointer(OP, device)?;
    let pack = if dim.is_multiple_of(PACK_BACKWARD) && dy_at.is_aligned() { PACK_BACKWARD } else { 1 };
    let arguments = Backward {
        pairs: pairs.pointer(OP, device)?,
        dy: dy_at,
        dtable: dtable.pointer(OP, device)?,
        count: extent(OP, count)?,
        vocab: extent(OP, vocab)?,
        dim: extent(OP, dim)?,
        packed: u32::from(pack > 1),
    };
    device.launch(entry, arguments, Grid::rows(dim, pack, count))?;
    Ok(dtable)
}

/// The pairs (id, t), 64 bits each, in order.
fn sorted(device: &'static CudaDevice, ids: &Tensor) -> Result<Tensor> {
    let count = ids.numel();
    let plan = SortPlan::new(count);
    let buffer = || Tensor::uninitialised(device, &[2 * count], DType::U32);
    let mut pairs = buffer()?;
    let arguments = SortTiles {
        ids: ids.pointer(OP, device)?,
        pairs: pairs.pointer(OP, device)?,
        count: extent(OP, count)?,
        tile: plan.tile as u32,
    };
    let grid = Grid::new(count.div_ceil(plan.tile), plan.tile as u32 / 2);
    device.launch("embedding_bwd_sort_tiles", arguments, grid)?;
    for run in plan.runs() {
        let merged = buffer()?;
        let arguments = SortMerge {
            from: pairs.pointer(OP, device)?,
            to: merged.pointer(OP, device)?,
            count: extent(OP, count)?,
            run: run as u32,
        };
        let grid = Grid::new(count.div_ceil(THREADS), THREADS as u32);
        device.launch("embedding_bwd_sort_merge", arguments, grid)?;
        pairs = merged;
    }
    Ok(pairs)
}

/// How `count` pairs are sorted.
#[derive(Clone, Copy, Debug)]
struct SortPlan {
    count: usize,
    /// Pairs that one block sorts: a power of two.
    tile: usize,
}

impl SortPlan {
    /// Tiles of 512: one of 2048 is a single block for six times as long, which two more passes of merging are not.
    fn new(count: usize) -> SortPlan {
        SortPlan { count, tile: count.next_power_of_two().clamp(64, 512) }
    }

    /// The lengths of the runs that are merged, pass by pass.
    fn runs(self) -> impl Iterator<Item = usize> {
        std::iter::successors(Some(self.tile), |run| Some(2 * run)).take_while(move |&run| run < self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::{SortPlan, block_rows};

    #[test]
    fn merging_ends_with_one_run() {
        for count in (1..5000).chain([65_536, 1 << 20, (1 << 20) + 1]) {
            let plan = SortPlan::new(count);
            assert!(plan.tile.is_power_of_two() && (64..=512).contains(&plan.tile));
            let last = plan.runs().last().map_or(plan.tile, |run| 2 * run);
            assert!(last >= count && plan.runs().all(|run| run < count));
        }
        assert_eq!(SortPlan::new(512).runs().count(), 0);
        assert_eq!(SortPlan::new(2049).runs().collect::<Vec<_>>(), [512, 1024, 2048]);
    }

    #[test]
    fn short_rows_share_a_block() {
        assert_eq!((block_rows(1), block_rows(72), block_rows(512), block_rows(5000)), (512, 7, 1, 1));
    }
}
