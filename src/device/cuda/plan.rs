//! Launch plans: pure functions from shapes to grids. What they choose follows from the shapes alone, and so do the order of
//! sums and the bits of results.

use super::Grid;

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
    use super::{Grid, RowPlan, part_rows};

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
}
