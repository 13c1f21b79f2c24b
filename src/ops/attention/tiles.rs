//! What the attention kernels share: the mask, packed keys and values, and outputs split by head and tile.

use std::ops::Range;

use crate::device::cpu::lanes::MAX_LANES;
use crate::tensor::Element;
use crate::{Error, Result};

/// Queries of a tile. 64 queries and 64 keys of 64 elements are 16 KiB each: they stay in the first-level cache.
pub(crate) const QUERY_TILE: usize = 64;
/// Keys of a tile.
pub(crate) const KEY_TILE: usize = 64;
/// Rows that are masked together: keys that none of them sees are left out of their products.
pub(super) const STRIP: usize = 16;

/// Heads, their size, the factor on the scores, and who sees whom.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Geometry {
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub scale: f32,
    pub causal: bool,
    pub window: Option<usize>,
}

impl Geometry {
    /// Errors of op `op` for numbers that describe no attention.
    pub(crate) fn check(&self, op: &'static str) -> Result<()> {
        let refuse = |detail: String| Err(Error::Shape { op, detail });
        if self.kv_heads == 0 || self.heads == 0 || !self.heads.is_multiple_of(self.kv_heads) {
            return refuse(format!(
                "{} heads do not share {} key/value heads evenly",
                self.heads, self.kv_heads
            ));
        }
        if self.head_dim == 0 || self.heads.checked_mul(self.head_dim).is_none() {
            return refuse(format!("{} heads of {} elements", self.heads, self.head_dim));
        }
        if !(self.scale.is_finite() && self.scale > 0.0) {
            return refuse(format!("a scale of {}; it must be above 0", self.scale));
        }
        match self.window {
            Some(0) => refuse("a window of 0 tokens; a token sees at least itself".to_string()),
            Some(_) if !self.causal => refuse("a window needs causal attention".to_string()),
            _ => Ok(()),
        }
    }

    pub(crate) fn q_cols(&self) -> usize {
        self.heads * self.head_dim
    }

    pub(crate) fn kv_cols(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Query heads of a key/value head.
    pub(crate) fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// The length of a head's packed rows: whole registers.
    pub(crate) fn padded(&self) -> usize {
        self.head_dim.next_multiple_of(MAX_LANES)
    }

    /// The mask of a sequence whose newest `queries` of `keys` tokens ask.
    pub(crate) fn mask(&self, queries: usize, keys: usize) -> Mask {
        let window = self.window.unwrap_or(usize::MAX);
        Mask { past: keys - queries, keys, causal: self.causal, window }
    }
}

/// Which keys each query of a sequence sees: always a range.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mask {
    past: usize,
    keys: usize,
    causal: bool,
    window: usize,
}

impl Mask {
    /// The keys that a query sees.
    pub(crate) fn visible(&self, query: usize) -> Range<usize> {
        if !self.causal {
            return 0..self.keys;
        }
        let end = self.past + query + 1;
        end.saturating_sub(self.window)..end
    }

    /// The keys that at least one of some successive queries sees.
    fn visible_to_any(&self, queries: Range<usize>) -> Range<usize> {
        self.visible(queries.start).start..self.visible(queries.end - 1).end
    }

    /// The first keys of the tiles that some successive queries see.
    pub(super) fn key_tiles(&self, queries: Range<usize>) -> impl Iterator<Item = usize> + use<> {
        let visible = self.visible_to_any(queries);
        (visible.start / KEY_TILE * KEY_TILE..visible.end).step_by(KEY_TILE)
    }

    /// The part of the key tile at `tile` that some successive queries see, widened to whole registers.
    #[inline(always)]
    pub(super) fn span(&self, queries: Range<usize>, tile: usize) -> Range<usize> {
        let span = within(self.visible_to_any(queries), tile, KEY_TILE);
        match span.is_empty() {
            true => 0..0,
            false => span.start / MAX_LANES * MAX_LANES..span.end.next_multiple_of(MAX_LANES),
        }
    }
}

/// The part of `range` that is in `start .. start + len`, counted from `start`.
#[inline(always)]
pub(super) fn within(range: Range<usize>, start: usize, len: usize) -> Range<usize> {
    let end = range.end.clamp(start, start + len);
    range.start.clamp(start, end) - start..end - start
}

/// One head's columns of a matrix whose rows have `cols` columns.
#[derive(Clone, Copy)]
pub(crate) struct Head<'a, T> {
    pub data: &'a [T],
    pub cols: usize,
    pub head: usize,
    pub head_dim: usize,
}

impl<'a, T: Element> Head<'a, T> {
    /// The head's rows.
    pub(super) fn rows(self) -> impl ExactSizeIterator<Item = &'a [T]> {
        let start = self.head * self.head_dim;
        self.data.chunks_exact(self.cols).map(move |row| &row[start..start + self.head_dim])
    }

    /// Rows in f32, each padded with zeros to `padded` columns; their number padded to whole registers.
    pub(crate) fn pack(self, padded: usize) -> Vec<f32> {
        let rows = self.rows();
        let mut packed = vec![0.0; rows.len().next_multiple_of(MAX_LANES) * padded];
        for (packed, row) in packed.chunks_exact_mut(padded).zip(rows) {
            packed.iter_mut().zip(row).for_each(|(p, x)| *p = x.to_f32());
        }
        packed
    }

    /// Tiles of KEY_TILE rows, each transposed to `[head_dim, KEY_TILE]`; the last is padded with zeros.
    pub(crate) fn pack_transposed(self) -> Vec<f32> {
        let rows = self.rows();
        let mut packed = vec![0.0; rows.len().next_multiple_of(KEY_TILE) * self.head_dim];
        for (i, row) in rows.enumerate() {
            let tile = &mut packed[i / KEY_TILE * KEY_TILE * self.head_dim..];
            for (p, x) in tile[i % KEY_TILE..].iter_mut().step_by(KEY_TILE).zip(row) {
                *p = x.to_f32();
            }
        }
        packed
    }
}

/// Takes a matrix of `heads * head_dim` columns apart: for each head, its piece of each row.
pub(super) fn split_heads<T>(data: &mut [T], heads: usize, head_dim: usize) -> Vec<Vec<&mut [T]>> {
    let mut split: Vec<Vec<&mut [T]>> = (0..heads).map(|_| Vec::new()).collect();
    for row in data.chunks_exact_mut(heads * head_dim) {
        for (piece, head) in row.chunks_exact_mut(head_dim).zip(&mut split) {
            head.push(piece);
        }
    }
    split
}
