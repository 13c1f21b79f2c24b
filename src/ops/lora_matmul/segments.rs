//! Which rows of a batch go through which adapter.

use std::ops::Range;
use std::sync::Arc;

use super::OP;
use crate::device::{Copies, Device};
use crate::ops::place::extent;
use crate::tensor::Tensor;
use crate::{Error, Result};

/// The rows of a batch, in order, as runs that go through one adapter each, or through none. Cheap to clone. What kernels need of it
/// is copied to a device once, by whoever asks first, and shared by all clones: so a batch uploads it once, not each layer.
#[derive(Clone)]
pub struct Segments(Arc<Shared>);

struct Shared {
    runs: Box<[Segment]>,
    rows: usize,
    /// By the number of adapters in the stack.
    copies: Copies<Tables, usize>,
    /// For 1-bit deltas.
    delta_copies: Copies<DeltaTables>,
}

/// Rows that go through one adapter, or through none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The rows.
    pub rows: Range<usize>,
    /// The number of the adapter, or of the 1-bit delta, in its stack.
    pub adapter: Option<usize>,
}

impl Segments {
    /// From the number of rows and the adapter of each run. Runs without rows are dropped, neighbours with the same adapter joined.
    pub fn new(runs: impl IntoIterator<Item = (usize, Option<usize>)>) -> Segments {
        let mut all: Vec<Segment> = Vec::new();
        let mut rows = 0;
        for (len, adapter) in runs.into_iter().filter(|(len, _)| *len > 0) {
            let end = rows + len;
            match all.last_mut() {
                Some(last) if last.adapter == adapter => last.rows.end = end,
                _ => all.push(Segment { rows: rows..end, adapter }),
            }
            rows = end;
        }
        Segments(Arc::new(Shared {
            runs: all.into(),
            rows,
            copies: Copies::default(),
            delta_copies: Copies::default(),
        }))
    }

    /// All rows.
    pub fn rows(&self) -> usize {
        self.0.rows
    }

    /// The runs, in order.
    pub fn runs(&self) -> &[Segment] {
        &self.0.runs
    }

    /// An error of op `op` if an adapter is not one of `count`.
    pub(in crate::ops) fn check(&self, op: &'static str, count: usize) -> Result<()> {
        match self.runs().iter().filter_map(|run| run.adapter).find(|adapter| *adapter >= count) {
            None => Ok(()),
            Some(adapter) => {
                let detail = format!("adapter {adapter} of a stack of {count}, numbered from 0");
                Err(Error::Shape { op, detail })
            }
        }
    }

    /// What the kernels of a stack of `adapters` adapters need.
    ///
    /// # Errors
    /// [`Error::Shape`] for 2^31 rows or more; [`Error::Cuda`] when the copy fails.
    pub(super) fn tables(&self, device: Device, adapters: usize) -> Result<Tables> {
        self.0.copies.get(device, adapters, || {
            extent(OP, self.rows())?;
            Tables::new(self.runs(), self.rows(), adapters, device)
        })
    }

    /// What the kernels of a stack of 1-bit deltas need.
    ///
    /// # Errors
    /// Those of [`Segments::tables`].
    pub(in crate::ops) fn delta_tables(&self, device: Device) -> Result<DeltaTables> {
        self.0.delta_copies.get(device, (), || {
            extent(OP, self.rows())?;
            DeltaTables::new(self.runs(), device)
        })
    }
}

impl std::fmt::Debug for Segments {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.runs()).finish()
    }
}

/// Rows of a tile of the kernels.
const TILE: usize = 128;

/// Rows of a part of the sums over rows: kernels/common/low_rank.cuh, `factor_parts`. At 4096 rows, four for each tile of columns.
const CHUNK: usize = 1024;

/// Ranges of rows are `[begin, end, adapter, 0]`.
#[derive(Clone)]
pub(super) struct Tables {
    /// Every row, in ranges of at most [`TILE`] rows of one run; adapter -1 for none.
    pub tiles: Tensor,
    /// The runs that have an adapter.
    pub segments: Tensor,
    /// For each tile of all rows, whatever runs it meets: the first of `segments` that it meets, and the first behind them.
    pub meets: Tensor,
    /// The rows of `segments` in ranges of at most [`CHUNK`] rows, by adapter.
    pub chunks: Tensor,
    /// For each adapter the first of its chunks; then their number.
    pub first: Tensor,
    /// For each row its adapter, -1 for none.
    pub adapter_of: Tensor,
}

impl Tables {
    fn new(runs: &[Segment], rows: usize, adapters: usize, device: Device) -> Result<Tables> {
        let [tiles, segments, meets, chunks, first, adapter_of] = tables(runs, rows, adapters);
        let upload = |data: Vec<u32>, columns: usize| {
            let len = data.len() / columns;
            Tensor::from_u32(data, &[len, columns]).to_device(device)
        };
        Ok(Tables {
            tiles: upload(tiles, 4)?,
            segments: upload(segments, 4)?,
            meets: upload(meets, 2)?,
            chunks: upload(chunks, 4)?,
            first: upload(first, 1)?,
            adapter_of: upload(adapter_of, 1)?,
        })
    }
}

/// Rows of a piece for which the bits of a 1-bit delta are streamed; and of a tile on the ordinary cores.
const DELTA_FEW: usize = 16;
const DELTA_SMALL: usize = 64;

/// For kernels of 1-bit deltas (kernels/sign_matmul.cu): rows `[begin, end, delta, 0]`, delta -1 for none. How a run is cut, and which kernel
/// makes it, follows from its own length alone, and so do the bits of its results.
#[derive(Clone)]
pub(in crate::ops) struct DeltaTables {
    /// The rows of the runs of at most [`DELTA_FEW`] rows, and of those without a delta, in ranges of at most as many.
    pub few: Tensor,
    /// Those of the other runs, in ranges of at most [`TILE`] rows.
    pub tiles: Tensor,
    /// All rows, in ranges of at most [`DELTA_SMALL`].
    pub small: Tensor,
}

impl DeltaTables {
    fn new(runs: &[Segment], device: Device) -> Result<DeltaTables> {
        let [few, tiles, small] = delta_tables(runs).map(|ranges| {
            let len = ranges.len();
            Tensor::from_u32(ranges.into_flattened(), &[len, 4]).to_device(device)
        });
        Ok(DeltaTables { few: few?, tiles: tiles?, small: small? })
    }
}

/// The tables, in the order of the fields of [`DeltaTables`].
fn delta_tables(runs: &[Segment]) -> [Vec<[u32; 4]>; 3] {
    let is_few = |run: &&Segment| run.adapter.is_none() || run.rows.len() <= DELTA_FEW;
    let few = runs.iter().filter(is_few).flat_map(|run| pieces(run, DELTA_FEW));
    let tiles = runs.iter().filter(|run| !is_few(run)).flat_map(|run| pieces(run, TILE));
    let small = runs.iter().flat_map(|run| pieces(run, DELTA_SMALL));
    [few.collect(), tiles.collect(), small.collect()]
}

/// The adapter of rows as kernels take it.
fn number(adapter: Option<usize>) -> u32 {
    adapter.map_or(u32::MAX, |adapter| adapter as u32)
}

/// A range of rows as kernels take it.
fn range(rows: Range<usize>, adapter: Option<usize>) -> [u32; 4] {
    [rows.start as u32, rows.end as u32, number(adapter), 0]
}

/// A run in ranges of at most `len` rows.
fn pieces(run: &Segment, len: usize) -> impl Iterator<Item = [u32; 4]> {
    let (run, end) = (run.clone(), run.rows.end);
    run.rows.step_by(len).map(move |start| range(start..end.min(start + len), run.adapter))
}

/// The tables, in the order of the fields of [`Tables`].
fn tables(runs: &[Segment], rows: usize, adapters: usize) -> [Vec<u32>; 6] {
    let tiles = runs.iter().flat_map(|run| pieces(run, TILE)).flatten().collect();
    let of_adapters: Vec<&Segment> = runs.iter().filter(|run| run.adapter.is_some()).collect();
    let segments = of_adapters.iter().flat_map(|run| range(run.rows.clone(), run.adapter)).collect();
    let meets = (0..rows).step_by(TILE).flat_map(|start| {
        let before = of_adapters.partition_point(|run| run.rows.end <= start);
        let until = of_adapters.partition_point(|run| run.rows.start < start + TILE);
        [before as u32, until.max(before) as u32]
    });
    let mut chunks: Vec<[u32; 4]> = of_adapters.iter().flat_map(|run| pieces(run, CHUNK)).collect();
    // Stable: the chunks of an adapter stay in the order of their rows.
    chunks.sort_by_key(|chunk| chunk[2]);
    let first = (0..=adapters).map(|a| chunks.partition_point(|chunk| (chunk[2] as usize) < a) as u32);
    let adapter_of = runs.iter().flat_map(|run| run.rows.clone().map(move |_| number(run.adapter)));
    [tiles, segments, meets.collect(), chunks.as_flattened().to_vec(), first.collect(), adapter_of.collect()]
}

#[cfg(test)]
mod tests {
    use super::{CHUNK, DELTA_SMALL, OP, Segment, Segments, TILE, delta_tables, tables};

    #[test]
    fn neighbours_are_joined_and_empty_runs_dropped() {
        let segments =
            Segments::new([(0, Some(3)), (2, Some(1)), (0, None), (3, Some(1)), (1, None), (4, None)]);
        let run = |rows, adapter| Segment { rows, adapter };
        assert_eq!(segments.runs(), [run(0..5, Some(1)), run(5..10, None)]);
        assert_eq!(segments.rows(), 10);
        assert!(segments.check(OP, 2).is_ok());
        let error = segments.check(OP, 1).unwrap_err().to_string();
        assert_eq!(error, "lora_matmul: adapter 1 of a stack of 1, numbered from 0");
        assert!(Segments::new([]).runs().is_empty());
    }

    #[test]
    fn tables_cover_every_row_of_every_run_once() {
        let lens = [
            (1, Some(2)),
            (126, None),
            (2, Some(0)),
            (300, Some(2)),
            (2100, Some(1)),
            (5, None),
            (1, Some(0)),
        ];
        let segments = Segments::new(lens);
        let (rows, adapters) = (segments.rows(), 4);
        let adapter_of = |row: usize| {
            let run = segments.runs().iter().find(|run| run.rows.contains(&row)).unwrap();
            run.adapter.map_or(u32::MAX, |a| a as u32)
        };
        let [tiles, of_adapters, meets, chunks, first, adapters_of_rows] =
            tables(segments.runs(), rows, adapters);
        let check = |ranges: &[u32], longest: usize, bare: bool| {
            let mut seen = vec![0; rows];
            for range in ranges.chunks(4) {
                let [begin, end] = [range[0] as usize, range[1] as usize];
                assert!(begin < end && end - begin <= longest);
                for (row, seen) in seen.iter_mut().enumerate().take(end).skip(begin) {
                    assert_eq!(adapter_of(row), range[2]);
                    *seen += 1;
                }
            }
            for (row, seen) in seen.into_iter().enumerate() {
                assert_eq!(seen, u32::from(bare || adapter_of(row) != u32::MAX), "row {row}");
            }
        };
        assert_eq!(adapters_of_rows, (0..rows).map(adapter_of).collect::<Vec<u32>>());
        check(&tiles, TILE, true);
        check(&of_adapters, rows, false);
        check(&chunks, CHUNK, false);
        for (tile, meets) in meets.chunks(2).enumerate() {
            for (i, run) in of_adapters.chunks(4).enumerate() {
                let overlaps = (run[0] as usize) < (tile + 1) * TILE && run[1] as usize > tile * TILE;
                assert_eq!(
                    overlaps,
                    (meets[0] as usize..meets[1] as usize).contains(&i),
                    "tile {tile}, run {i}"
                );
            }
        }
        assert_eq!(meets.len() / 2, rows.div_ceil(TILE));
        assert_eq!(first.len(), adapters + 1);
        for adapter in 0..adapters {
            let [begin, end] = [first[adapter] as usize, first[adapter + 1] as usize];
            let own: Vec<_> = chunks.chunks(4).skip(begin).take(end - begin).collect();
            assert!(own.iter().all(|chunk| chunk[2] as usize == adapter));
            assert!(own.is_sorted_by_key(|chunk| chunk[0]));
        }
        assert_eq!(first[adapters] as usize, chunks.len() / 4);
        assert!(tables(&[], 0, 2).iter().take(4).all(Vec::is_empty));

        // Of deltas: those of few rows and the others are all.
        let [few, tiles, small] = delta_tables(segments.runs());
        check(small.as_flattened(), DELTA_SMALL, true);
        assert!(
            few.iter().all(|range| range[1] - range[0] <= 16)
                && tiles.iter().all(|range| range[2] != u32::MAX)
        );
        let mut all = [few, tiles].concat();
        all.sort_unstable();
        check(all.as_flattened(), TILE, true);
        assert!(delta_tables(&[]).iter().all(Vec::is_empty));
    }
}
