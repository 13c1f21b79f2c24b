//! The factors' gradients.

use super::thin::RankTile;
use super::{Kept, Run, SMALL_THREADS, SMALL_TILE, STEP, THREADS, TILE};
use crate::Result;
use crate::device::cuda::plan::Split;
use crate::device::cuda::{Grid, Pointer, kernel};
use crate::ops::lora_matmul::OP;
use crate::tensor::{DType, Tensor};

kernel! {
    /// Parts of dA and dB, on tensor cores.
    FactorParts in "lora_matmul" {
        x: Pointer, v: Pointer, dy: Pointer, u: Pointer, keep: Pointer, words: u32, chunks: Pointer, chunk_rows: u32,
        parts: Pointer, m: u32, k: u32, n: u32, padded: u32, inner: u32,
    }
}

kernel! {
    /// The same on the ordinary cores.
    FactorPartsF32 in "lora_matmul" {
        x: Pointer, v: Pointer, dy: Pointer, u: Pointer, keep: Pointer, words: u32, chunks: Pointer, chunk_rows: u32,
        parts: Pointer, m: u32, k: u32, n: u32, padded: u32,
    }
}

kernel! {
    /// Their sum.
    FactorSums in "lora_matmul" {
        parts: Pointer, first: Pointer, count: u32, da: Pointer, db: Pointer, k: u32, n: u32, rank: u32, padded: u32,
        keep_scale: f32,
    }
}

impl Run<'_> {
    /// dA from x and v, dB from dy and u; each only if it is wanted.
    pub(super) fn factor_grads(
        &self,
        x_v: Option<(&Tensor, &Tensor)>,
        dy_u: Option<(&Tensor, &Tensor)>,
        kept: Option<&Kept>,
    ) -> Result<[Option<Tensor>; 2]> {
        if x_v.is_none() && dy_u.is_none() {
            return Ok([None, None]);
        }
        let (m, padded) = (self.m, self.padded);
        // A side that is not wanted has no columns.
        let side = |pair: Option<(&Tensor, &Tensor)>| -> Result<(Pointer, Pointer, usize)> {
            let Some((data, rank)) = pair else { return Ok((Pointer::NULL, Pointer::NULL, 0)) };
            Ok((self.pointer(data)?, self.pointer(rank)?, data.dims2(OP)?.1))
        };
        let ((x, v, k), (dy, u, n)) = (side(x_v)?, side(dy_u)?);
        let (keep, words, keep_scale) = self.keep(kept)?;
        let chunks = self.table(|tables| &tables.chunks)?;
        let matrices: Vec<&Tensor> = [x_v, dy_u].iter().flatten().map(|(data, _)| *data).collect();
        let tile = RankTile::new(padded, self.aligned(&matrices)?);
        let (across, along) = if self.tensor_cores { (TILE, tile.len()) } else { (SMALL_TILE, SMALL_TILE) };
        let (tiles, rank_tiles) = (k.div_ceil(across) + n.div_ceil(across), padded.div_ceil(along));
        // Several adapters have chunks of their own, in a table.
        let split = match &self.tables {
            Some(tables) => Split { parts: tables.chunks.shape()[0], steps: 0 },
            None => Split::new(tiles * rank_tiles, m.div_ceil(STEP)),
        };
        let parts = self.new_tensor(&[split.parts, k + n, padded], DType::F32)?;
        let [m32, k32, n32, padded32] = [m, k, n, padded].map(|size| size as u32);
        let (parts_at, chunk_rows) = (self.pointer(&parts)?, (split.steps * STEP) as u32);
        let blocks = [tiles, rank_tiles, split.parts];
        if self.tensor_cores {
            let entry = tile.entry([
                "lora_matmul_bwd_parts_bf16_r16",
                "lora_matmul_bwd_parts_bf16_r32",
                "lora_matmul_bwd_parts_bf16_r64",
                "lora_matmul_bwd_parts_bf16_r32_ragged",
            ]);
            let arguments = FactorParts {
                x,
                v,
                dy,
                u,
                keep,
                words,
                chunks,
                chunk_rows,
                parts: parts_at,
                m: m32,
                k: k32,
                n: n32,
                padded: padded32,
                inner: (self.pieces() * padded) as u32,
            };
            self.launch(entry, arguments, Grid { blocks, threads: THREADS, shared: tile.shared() })?;
        } else {
            let entries = ["lora_matmul_bwd_parts_f32", "lora_matmul_bwd_parts_bf16"];
            let arguments = FactorPartsF32 {
                x,
                v,
                dy,
                u,
                keep,
                words,
                chunks,
                chunk_rows,
                parts: parts_at,
                m: m32,
                k: k32,
                n: n32,
                padded: padded32,
            };
            let grid = Grid { blocks, threads: SMALL_THREADS, shared: 0 };
            self.launch(self.dtype.select(OP, entries)?, arguments, grid)?;
        }
        let grad = |of: &Tensor| self.new_tensor(of.shape(), DType::F32);
        let da = x_v.map(|_| grad(&self.layer.a)).transpose()?;
        let db = dy_u.map(|_| grad(&self.layer.b)).transpose()?;
        let at = |grad: &Option<Tensor>| grad.as_ref().map_or(Ok(Pointer::NULL), |grad| self.pointer(grad));
        let arguments = FactorSums {
            parts: parts_at,
            first: self.table(|tables| &tables.first)?,
            count: split.parts as u32,
            da: at(&da)?,
            db: at(&db)?,
            k: k32,
            n: n32,
            rank: self.rank as u32,
            padded: padded32,
            keep_scale,
        };
        let blocks = [k.div_ceil(32) + n.div_ceil(32), padded.div_ceil(32), self.adapters];
        self.device.launch("lora_matmul_bwd_factors", arguments, Grid { blocks, threads: 256, shared: 0 })?;
        Ok([da, db])
    }
}
