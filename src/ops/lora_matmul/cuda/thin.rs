//! u and v, and how thin products are shared out.

use super::{Factors, Kept, Pass, Run, SMALL_THREADS, SMALL_TILE, STEP, THREADS, TILE};
use crate::Result;
use crate::device::cuda::plan::Split;
use crate::device::cuda::{Grid, Pointer, kernel};
use crate::ops::lora_matmul::OP;
use crate::tensor::{DType, Tensor};

kernel! {
    /// Parts of u or v, on tensor cores.
    Down in "lora_matmul" {
        x: Pointer, factor: Pointer, ld: i64, factor_stride: i64, has_low: u32, tiles: Pointer, scales: Pointer, scale: f32,
        parts: Pointer, m: u32, k: u32, padded: u32, part_steps: u32, seed: u64, stream: u64, threshold: u32,
    }
}

kernel! {
    /// The same on the ordinary cores.
    DownF32 in "lora_matmul" {
        x: Pointer, factor: Pointer, keep: Pointer, words: u32, tiles: Pointer, scales: Pointer, scale: f32, parts: Pointer,
        m: u32, k: u32, rank: u32, padded: u32, part_steps: u32,
    }
}

kernel! {
    /// Their sum.
    RankSums in "lora_matmul" { parts: Pointer, to: Pointer, count: u32, m: u32, padded: u32, pieces: u32 }
}

/// The rank that a block of the thin kernels has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RankTile {
    Of16,
    Of32,
    Of64,
    /// 32, where not all rows start on 16 bytes.
    Ragged,
}

impl RankTile {
    /// The smallest that holds the rank, or the largest: then several blocks do.
    pub fn new(padded: usize, aligned: bool) -> RankTile {
        match padded {
            _ if !aligned => RankTile::Ragged,
            0..=16 => RankTile::Of16,
            17..=32 => RankTile::Of32,
            _ => RankTile::Of64,
        }
    }

    pub fn len(self) -> usize {
        match self {
            RankTile::Of16 => 16,
            RankTile::Of32 | RankTile::Ragged => 32,
            RankTile::Of64 => 64,
        }
    }

    /// Shared memory of a block: four stages of a tile, and of two tiles (high and low parts) of the rank.
    pub fn shared(self) -> u32 {
        (4 * DType::BF16.size() * STEP * (TILE + 2 * self.len())) as u32
    }

    /// The kernel for it, of those in the order of the variants.
    pub fn entry(self, entries: [&'static str; 4]) -> &'static str {
        entries[self as usize]
    }
}

impl Run<'_> {
    /// u of x, or v of dy: `[M, pieces padded]` in 16 bits for tensor cores, else `[M, padded]` f32. Forward, the mask is `kept`, or drawn
    /// inside on tensor cores.
    pub(super) fn down(
        &self,
        pass: Pass,
        x: &Tensor,
        factors: &Factors,
        kept: Option<&Kept>,
    ) -> Result<Tensor> {
        let row_tiles = match &self.tables {
            Some(tables) => tables.tiles.shape()[0],
            None => self.m.div_ceil(TILE),
        };
        let (parts, count) = match self.tensor_cores {
            true => self.down_parts(pass, x, factors, row_tiles)?,
            false => self.down_parts_f32(pass, x, factors, row_tiles, kept)?,
        };
        self.rank_sums(&parts, count)
    }

    /// u or v from `count` parts `[count, M, padded]` f32.
    pub(super) fn rank_sums(&self, parts: &Tensor, count: usize) -> Result<Tensor> {
        let (m, padded) = (self.m, self.padded);
        let (entry, pieces, dtype) = match self.tensor_cores {
            true => ("lora_matmul_rank_bf16", self.pieces(), self.dtype),
            false => ("lora_matmul_rank_f32", 1, DType::F32),
        };
        let to = self.new_tensor(&[m, pieces * padded], dtype)?;
        let arguments = RankSums {
            parts: self.pointer(parts)?,
            to: self.pointer(&to)?,
            count: count as u32,
            m: m as u32,
            padded: padded as u32,
            pieces: pieces as u32,
        };
        self.launch(entry, arguments, rank_sums_grid(m, padded))?;
        Ok(to)
    }

    /// The scale that is not an adapter's own: with a mask, of what it keeps too.
    fn common_scale(&self, pass: Pass) -> f32 {
        let mask = if pass == Pass::Forward { self.layer.mask.as_ref() } else { None };
        self.layer.one_scale() * mask.map_or(1.0, |mask| mask.scale)
    }

    /// The parts `[count, M, padded]`, and their count.
    fn down_parts(
        &self,
        pass: Pass,
        x: &Tensor,
        factors: &Factors,
        row_tiles: usize,
    ) -> Result<(Tensor, usize)> {
        let (m, padded, (_, k)) = (self.m, self.padded, x.dims2(OP)?);
        let (factor, ld) = &factors.down;
        let mask = if pass == Pass::Forward { self.layer.mask.as_ref() } else { None };
        let tile = RankTile::new(padded, self.aligned(&[x])?);
        let rank_tiles = padded.div_ceil(tile.len());
        let split = Split::new(row_tiles * rank_tiles, k.div_ceil(STEP));
        let parts = self.new_tensor(&[split.parts, m, padded], DType::F32)?;
        let entry = match mask {
            None => tile.entry([
                "lora_matmul_down_bf16_r16",
                "lora_matmul_down_bf16_r32",
                "lora_matmul_down_bf16_r64",
                "lora_matmul_down_bf16_r32_ragged",
            ]),
            Some(_) => tile.entry([
                "lora_matmul_down_bf16_r16_dropout",
                "lora_matmul_down_bf16_r32_dropout",
                "lora_matmul_down_bf16_r64_dropout",
                "lora_matmul_down_bf16_r32_dropout_ragged",
            ]),
        };
        let arguments = Down {
            x: self.pointer(x)?,
            factor: self.pointer(factor)?,
            ld: *ld as i64,
            factor_stride: Factors::stride(factor, self.adapters),
            has_low: u32::from(self.has_low),
            tiles: self.table(|tables| &tables.tiles)?,
            scales: self.scales()?,
            scale: self.common_scale(pass),
            parts: self.pointer(&parts)?,
            m: m as u32,
            k: k as u32,
            padded: padded as u32,
            part_steps: split.steps as u32,
            seed: mask.map_or(0, |mask| mask.random.seed),
            stream: mask.map_or(0, |mask| mask.random.stream),
            threshold: mask.map_or(0, |mask| mask.threshold),
        };
        let blocks = [row_tiles, rank_tiles, split.parts];
        self.launch(entry, arguments, Grid { blocks, threads: THREADS, shared: tile.shared() })?;
        Ok((parts, split.parts))
    }

    /// The same on the ordinary cores.
    fn down_parts_f32(
        &self,
        pass: Pass,
        x: &Tensor,
        factors: &Factors,
        row_tiles: usize,
        kept: Option<&Kept>,
    ) -> Result<(Tensor, usize)> {
        let (m, padded, (_, k)) = (self.m, self.padded, x.dims2(OP)?);
        // A tile of rows is two of these blocks'.
        let blocks = [2 * row_tiles, padded.div_ceil(SMALL_TILE)];
        let split = Split::new(blocks[0] * blocks[1], k.div_ceil(STEP));
        let parts = self.new_tensor(&[split.parts, m, padded], DType::F32)?;
        let entries = match pass {
            Pass::Forward => ["lora_matmul_fwd_down_f32", "lora_matmul_fwd_down_bf16"],
            Pass::Backward => ["lora_matmul_bwd_down_f32", "lora_matmul_bwd_down_bf16"],
        };
        let (keep, words, _) = self.keep(kept)?;
        let arguments = DownF32 {
            x: self.pointer(x)?,
            factor: self.pointer(&factors.down.0)?,
            keep,
            words,
            tiles: self.table(|tables| &tables.tiles)?,
            scales: self.scales()?,
            scale: self.common_scale(pass),
            parts: self.pointer(&parts)?,
            m: m as u32,
            k: k as u32,
            rank: self.rank as u32,
            padded: padded as u32,
            part_steps: split.steps as u32,
        };
        let grid = Grid { blocks: [blocks[0], blocks[1], split.parts], threads: SMALL_THREADS, shared: 0 };
        self.launch(x.dtype().select(OP, entries)?, arguments, grid)?;
        Ok((parts, split.parts))
    }
}

/// A thread for eight elements; rows in x, what a block has no threads for in y.
fn rank_sums_grid(m: usize, padded: usize) -> Grid {
    const THREADS: usize = 256;
    let lanes = (padded / 8).clamp(1, THREADS);
    let blocks = [m.div_ceil(THREADS / lanes), (padded / 8).div_ceil(lanes), 1];
    Grid { blocks, threads: THREADS as u32, shared: 0 }
}

#[cfg(test)]
mod tests {
    use super::{RankTile, rank_sums_grid};

    #[test]
    fn tiles_hold_the_rank() {
        for padded in (8..=256).step_by(8) {
            let tile = RankTile::new(padded, true).len();
            assert!(tile >= padded || tile == 64);
            assert!(tile / 2 < padded || tile == 16);
        }
        assert_eq!(RankTile::Of64.shared(), 64 << 10);
        let names = ["r16", "r32", "r64", "ragged"];
        assert_eq!(RankTile::new(40, true).entry(names), "r64");
        assert_eq!(RankTile::new(40, false).entry(names), "ragged");
    }

    #[test]
    fn every_element_of_the_rank_is_summed() {
        for packs in 1..700 {
            let grid = rank_sums_grid(1000, 8 * packs);
            let lanes = packs.min(grid.threads as usize);
            assert!(grid.threads == 256 && grid.blocks[0] * (256 / lanes) >= 1000);
            assert!(grid.blocks[1] * lanes >= packs);
        }
        assert_eq!(rank_sums_grid(5, 0).blocks[1], 0);
    }
}
