//! Launch plans: pure functions from shapes to grids. What they choose follows from the shapes, and, for the tiles of a product
//! ([`StreamK`]), from how many blocks a GPU runs at once; and so do the order of sums and the bits of results.

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

/// The blocks of a kernel that run at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slots {
    /// Multiprocessors.
    pub multiprocessors: usize,
    /// Blocks on each.
    pub each: usize,
}

impl Slots {
    /// Of blocks with `shared` bytes of shared memory, where a block can have `opt_in` bytes at most: the driver keeps 1 KiB of each block's for
    /// itself. `most` fit the registers.
    pub fn new(multiprocessors: usize, opt_in: usize, shared: usize, most: usize) -> Slots {
        const RESERVED: usize = 1 << 10;
        let each = (opt_in + RESERVED) / (shared + RESERVED);
        Slots { multiprocessors: multiprocessors.max(1), each: each.clamp(1, most) }
    }

    fn total(self) -> usize {
        self.multiprocessors * self.each
    }
}

/// What a tile of a product costs, in clocks of a multiprocessor of an A100 that does nothing else: its datasheet's arithmetic, and L2's 47 bytes
/// a clock. Other GPUs differ; what they would choose is then not the best, and still right.
#[derive(Clone, Copy, Debug)]
pub struct TileCost {
    /// A span of k.
    pub span: usize,
    /// Writing the sums of a part, and reading them again.
    pub part: usize,
}

impl TileCost {
    /// kernels/common/gemm.cuh: 128 x 128 on tensor cores, 1024 multiplications a clock.
    pub const TENSOR_CORES: TileCost = TileCost { span: 1024, part: 2800 };
    /// kernels/common/gemm_f32.cuh: 64 x 64 on 64 lanes.
    pub const ORDINARY_CORES: TileCost = TileCost { span: 4096, part: 700 };
}

/// How the tiles of a product are shared out among blocks: see kernels/common/stream_k.cuh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamK {
    /// Tiles that are a block's each: the first ones.
    pub whole: usize,
    /// Tiles that are made in pieces.
    pub tail: usize,
    /// Blocks that make them.
    pub blocks: usize,
    /// Spans of a block.
    pub each: usize,
    /// Spans from a tile to the next one on the blocks' line.
    pub stride: usize,
}

impl StreamK {
    /// Length of a span of k.
    pub const SPAN: usize = 64;
    /// Spans that a block has at least: below, filling the stages of a block costs more than what is won.
    const LEAST: usize = 4;
    /// Clocks for the launch that adds the parts: about 2 microseconds.
    const LAUNCH: usize = 2800;

    /// For `tiles` tiles, each a sum over `k`, where the blocks in `slots` run at once.
    ///
    /// Whole waves of tiles stay whole. Those of the last one are cut in equal parts, as many as there are slots for, or streamed, whichever takes
    /// less time by `cost`; or they stay whole too, if that would not take a sixteenth off the whole product's time.
    pub fn new(tiles: usize, k: usize, slots: Slots, cost: TileCost) -> StreamK {
        let spans = k.div_ceil(StreamK::SPAN);
        let (total, tail) = (slots.total(), tiles % slots.total());
        let as_it_is = StreamK { whole: tiles, tail: 0, blocks: 0, each: 1, stride: 1 };
        // The kernels count with 32 bits.
        let too_long = tail.checked_mul(2 * spans).is_none_or(|line| line > i32::MAX as usize);
        if tail == 0 || spans < 2 * StreamK::LEAST || too_long {
            return as_it_is;
        }
        let whole = tiles - tail;
        let parts = (total / tail).min(spans / StreamK::LEAST).max(1);
        // As few as have the spans of the longest.
        let each = spans.div_ceil(parts);
        let parts = spans.div_ceil(each);
        let in_parts = StreamK { whole, tail, blocks: tail * parts, each, stride: parts * each };
        let each = (tail * spans).div_ceil(total).max(StreamK::LEAST);
        let streamed = StreamK { whole, tail, blocks: (tail * spans).div_ceil(each), each, stride: spans };

        let time = |plan: &StreamK| {
            let busiest =
                whole / total * slots.each * spans + plan.blocks.div_ceil(slots.multiprocessors) * plan.each;
            // No piece crosses to the next tile where tiles have whole blocks.
            let parts = if plan.stride.is_multiple_of(plan.each) { plan.blocks } else { plan.places() };
            busiest * cost.span + (parts * cost.part).div_ceil(slots.multiprocessors) + StreamK::LAUNCH
        };
        let best = if time(&streamed) < time(&in_parts) { streamed } else { in_parts };
        let now = tiles.div_ceil(slots.multiprocessors) * spans * cost.span;
        if time(&best) * 16 <= now * 15 { best } else { as_it_is }
    }

    /// Blocks of the product's launch.
    pub fn grid(&self) -> usize {
        self.whole + self.blocks
    }

    /// Places for the sums of pieces, each of a tile's size: piece b of the line, of tile t of the tail, has place b + t.
    pub fn places(&self) -> usize {
        if self.tail == 0 { 0 } else { self.blocks + self.tail - 1 }
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
    use super::{Grid, RowPlan, Slots, Split, StreamK, TileCost, part_rows};

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

    const A100: Slots = Slots { multiprocessors: 108, each: 2 };

    #[test]
    fn blocks_that_run_at_once() {
        let each = |shared_memory: usize| Slots::new(108, shared_memory, 64 << 10, 2).each;
        // What a block can have of shared memory on A100, RTX 4090, H100; and on none.
        assert_eq!([163 << 10, 99 << 10, 227 << 10, 0].map(each), [2, 1, 2, 1]);
        assert_eq!(Slots::new(0, 163 << 10, 9 << 10, 4), Slots { multiprocessors: 1, each: 4 });
    }

    /// The pieces of each tile of the tail as kernels/common/stream_k.cuh cuts them: place, from, to.
    fn pieces(plan: &StreamK, spans: usize) -> Vec<Vec<(usize, usize, usize)>> {
        let mut tiles = vec![Vec::new(); plan.tail];
        for block in 0..plan.blocks {
            let at = block * plan.each;
            let (tile, first) = (at / plan.stride, at % plan.stride);
            tiles[tile].push((block + tile, first, (first + plan.each).min(spans)));
            let rest = (first + plan.each).saturating_sub(plan.stride);
            if rest > 0 && tile + 1 < plan.tail {
                tiles[tile + 1].push((block + tile + 1, 0, rest.min(spans)));
            }
        }
        tiles
    }

    #[test]
    fn every_span_of_every_tile_is_in_one_piece() {
        let mut streamed = 0;
        for slots in [A100, Slots { multiprocessors: 128, each: 1 }, Slots { multiprocessors: 3, each: 2 }] {
            for tiles in (0..40).chain([59, 60, 107, 108, 120, 215, 216, 217, 256, 300, 448, 1024]) {
                for spans in (0..70).chain([128, 172, 1001]) {
                    for cost in [TileCost::TENSOR_CORES, TileCost::ORDINARY_CORES] {
                        let plan = StreamK::new(tiles, spans * StreamK::SPAN, slots, cost);
                        assert_eq!(plan.whole + plan.tail, tiles);
                        assert!(plan.blocks <= slots.total() && plan.each >= 1 && plan.stride >= 1);
                        assert!(plan.tail == 0 || plan.whole.is_multiple_of(slots.total()));
                        let (mut places, what) = (0..plan.places(), format!("{tiles} x {spans}: {plan:?}"));
                        for (tile, pieces) in pieces(&plan, spans).iter().enumerate() {
                            let mut end = 0;
                            for &(place, from, to) in pieces {
                                assert!(from == end && to > from, "{what}: {pieces:?}");
                                // Places rise by one from piece to piece of a tile, and no two pieces have one.
                                let next = places.next().unwrap();
                                assert!(
                                    place == next || (from == 0 && place == next + 1),
                                    "{what}: {pieces:?}"
                                );
                                places.start = place + 1;
                                end = to;
                            }
                            assert_eq!(end, spans, "{what}");
                            // What the sum computes for itself.
                            let begin = tile * plan.stride;
                            let (first, last) = (begin / plan.each, (begin + spans - 1) / plan.each);
                            assert_eq!(pieces[0].0, first + tile, "{what}");
                            assert_eq!(pieces.len(), last - first + 1, "{what}");
                        }
                        streamed +=
                            usize::from(plan.tail > 0 && plan.stride == spans && spans % plan.each != 0);
                    }
                }
            }
        }
        assert!(streamed > 100);
    }

    #[test]
    fn waves_that_are_not_full_are_shared_out() {
        let plan = |tiles, k| StreamK::new(tiles, k, A100, TileCost::TENSOR_CORES);
        // Full waves, and those that are nearly so, stay as they are.
        for tiles in [216, 432, 200, 100, 1024, 4096] {
            assert_eq!(plan(tiles, 4096).whole, tiles);
        }
        // A little more than a wave: its 40 tiles are streamed through all slots.
        assert_eq!(plan(256, 4096), StreamK { whole: 216, tail: 40, blocks: 214, each: 12, stride: 64 });
        // A thin product of 4096 columns; a single tile, in parts of the least length; nothing where k is short.
        assert_eq!(plan(32, 4096), StreamK { whole: 0, tail: 32, blocks: 205, each: 10, stride: 64 });
        assert_eq!(plan(1, 4096), StreamK { whole: 0, tail: 1, blocks: 16, each: 4, stride: 64 });
        assert_eq!(plan(217, 448).tail, 0);
        // More multiplications than 32 bits count.
        assert_eq!(plan(256, 1 << 40).tail, 0);
        assert_eq!(StreamK::new(0, 4096, A100, TileCost::TENSOR_CORES).grid(), 0);
    }
}
