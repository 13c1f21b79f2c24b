//! Launch plans: pure functions from shapes to grids. What they choose follows from the shapes alone, and so do the order of
//! sums and the bits of results.

use super::{Grid, Pointer};
use crate::tensor::DType;

/// Threads of a block of kernels/common/rows.cuh at most.
const MAX_THREADS: usize = 256;

impl Grid {
    /// For a loop over `elements` elements in packs of `pack` (kernels/common/spans.cuh): a thread for each pack, but no
    /// more blocks than fill every multiprocessor four times, since what is left over then costs little.
    pub fn spans(elements: usize, pack: usize, multiprocessors: usize) -> Grid {
        const WAVES: usize = 4;
        const THREADS: usize = 256;
        const RESIDENT_BLOCKS: usize = 2048 / THREADS;
        let blocks = elements.div_ceil(pack).div_ceil(THREADS);
        Grid::new(blocks.min(multiprocessors * RESIDENT_BLOCKS * WAVES), THREADS as u32)
    }

    /// A thread for each pack of `columns` columns, in x; `rows` rows or parts of rows, in y.
    pub fn columns(columns: usize, pack: usize, rows: usize) -> Grid {
        let packs = columns.div_ceil(pack);
        let threads = packs.next_multiple_of(32).clamp(32, MAX_THREADS);
        Grid { blocks: [packs.div_ceil(threads), rows, 1], threads: threads as u32, shared: 0 }
    }

    /// As [`Grid::columns`] with the rows in x, which may be more than a grid has blocks in y.
    pub fn rows(columns: usize, pack: usize, rows: usize) -> Grid {
        let grid = Grid::columns(columns, pack, rows);
        Grid { blocks: [rows, grid.blocks[0], 1], ..grid }
    }
}

/// The elements of a pack of rows of `dim` elements: 16 bytes of the largest of the operands' types, if all of them and the rows are
/// aligned to that; else one.
pub fn common_pack(dim: usize, types: &[DType], pointers: &[Pointer]) -> usize {
    let pack = types.iter().map(|t| t.pack()).min().unwrap_or(1);
    if dim.is_multiple_of(pack) && pointers.iter().all(|p| p.is_aligned()) { pack } else { 1 }
}

/// How sums over steps are split between blocks where there are few tiles of results; the parts are added in order afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Split {
    /// Parts of a sum.
    pub parts: usize,
    /// Steps of a part.
    pub steps: usize,
}

impl Split {
    /// Blocks that a product is split for: two on each multiprocessor of an A100. A constant, so that other GPUs get the same bits.
    const BLOCKS: usize = 216;
    /// Steps that a part has at least: below, filling the stages of a block and adding the parts cost more than what is won.
    const LEAST_STEPS: usize = 8;

    /// For `tiles` tiles, each a sum of `steps` steps. No part is empty.
    pub fn new(tiles: usize, steps: usize) -> Split {
        let parts = (Split::BLOCKS / tiles.max(1)).min(steps / Split::LEAST_STEPS).max(1);
        // As few as have the steps of the longest.
        let each = steps.div_ceil(parts).max(1);
        Split { parts: steps.div_ceil(each).max(1), steps: each }
    }
}

/// How the rows of a kernel of kernels/common/rows.cuh are shared out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowPlan {
    /// The grid.
    pub grid: Grid,
    /// Threads of a row: one warp, or the whole block.
    pub lanes: u32,
}

impl RowPlan {
    /// For `rows` rows of `dim` elements in packs of `pack`, of which a thread keeps `keep` in registers: as few warps as keep
    /// the whole row. Rows that one warp can keep share a block of four warps.
    pub fn new(rows: usize, dim: usize, pack: usize, keep: usize) -> RowPlan {
        const SHORT_ROWS: usize = 4;
        let lanes = dim.div_ceil(pack).div_ceil(keep).next_multiple_of(32).clamp(32, MAX_THREADS);
        let grid = match lanes {
            32 => Grid::new(rows.div_ceil(SHORT_ROWS), 32 * SHORT_ROWS as u32),
            _ => Grid::new(rows, lanes as u32),
        };
        RowPlan { grid, lanes: lanes as u32 }
    }
}

/// How many rows one part of a sum over rows has: at most 256 parts, of 32 rows at least.
pub fn part_rows(rows: usize) -> usize {
    rows.div_ceil(256).max(32)
}

#[cfg(test)]
mod tests {
    use super::{Grid, RowPlan, Split, part_rows};

    #[test]
    fn elementwise_grids_cover_small_tensors_and_stay_small_for_large_ones() {
        assert_eq!(Grid::spans(0, 8, 108).blocks, [0, 1, 1]);
        assert_eq!(Grid::spans(1, 8, 108).blocks, [1, 1, 1]);
        assert_eq!(Grid::spans(2048, 8, 108).blocks, [1, 1, 1]);
        assert_eq!(Grid::spans(2049, 8, 108).blocks, [2, 1, 1]);
        assert_eq!(Grid::spans(1 << 40, 8, 108).blocks, [108 * 32, 1, 1]);
    }

    #[test]
    fn rows_of_every_length_are_covered_by_whole_warps() {
        for dim in 1..5000 {
            for (pack, keep) in [(1, 4), (4, 4), (8, 2)] {
                let plan = RowPlan::new(13, dim, pack, keep);
                let (lanes, threads) = (plan.lanes as usize, plan.grid.threads as usize);
                assert!(lanes % 32 == 0 && lanes <= 256 && threads % lanes == 0 && threads <= 256);
                let rows = plan.grid.blocks[0] * (threads / lanes);
                // A block whose threads wait for each other has a row, and one only.
                assert!(if lanes == 32 { rows >= 13 } else { rows == 13 && threads == lanes });
                assert!(lanes == 256 || lanes * pack * keep >= dim, "{dim} elements in {plan:?}");
            }
        }
    }

    #[test]
    fn columns_and_parts_are_covered() {
        for columns in 1..3000 {
            let grid = Grid::columns(columns, 4, 7);
            assert!(grid.blocks[0] * grid.threads as usize * 4 >= columns);
            assert_eq!(grid.blocks[1], 7);
        }
        for rows in [0, 1, 31, 33, 8192, 8193, 1 << 20] {
            assert!(part_rows(rows) >= 32 && rows.div_ceil(part_rows(rows)) <= 256);
        }
    }

    #[test]
    fn every_step_is_in_one_part() {
        for tiles in [0, 1, 2, 31, 64, 108, 109, 4096] {
            for steps in 0..700 {
                let split = Split::new(tiles, steps);
                assert!(split.parts >= 1 && split.steps >= 1);
                assert!(split.parts * split.steps >= steps, "{tiles} tiles, {steps} steps: {split:?}");
                assert!(
                    split.parts == 1 || (split.parts - 1) * split.steps < steps,
                    "{tiles} tiles, {steps} steps: {split:?}"
                );
                assert!(split.parts == 1 || (tiles * split.parts <= 216 && split.steps >= 8));
            }
        }
        // A thin product of 4096 rows and columns; a long batch; a single token; SmolLM2's width for 128 rows.
        assert_eq!(Split::new(32, 128), Split { parts: 6, steps: 22 });
        assert_eq!(Split::new(256, 128), Split { parts: 1, steps: 128 });
        assert_eq!(Split::new(1, 128), Split { parts: 16, steps: 8 });
        assert_eq!(Split::new(5, 128).parts, 16);
    }
}
