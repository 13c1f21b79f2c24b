//! Attention forward on the CPU. Keys and values of each key/value head are packed once; tiles of queries run in parallel.

use rayon::prelude::*;

use super::tiles::{Geometry, Head, KEY_TILE, Mask, QUERY_TILE, STRIP, split_heads, within};
use crate::device::cpu::lanes::math::exp;
use crate::device::cpu::lanes::{Kernel, Lane, Matrix, Simd, add_product, dispatch, store_product};

/// A sequence: queries `[M, heads * head_dim]`, keys and values `[L, kv_heads * head_dim]`; the queries are of its last M tokens.
#[derive(Clone, Copy)]
pub(crate) struct Sequence<'a, Q, K> {
    pub q: &'a [Q],
    pub k: &'a [K],
    pub v: &'a [K],
}

impl<'a, Q: Copy, K: Copy> Sequence<'a, Q, K> {
    pub(crate) fn queries(&self, geometry: Geometry) -> usize {
        self.q.len() / geometry.q_cols()
    }

    pub(crate) fn mask(&self, geometry: Geometry) -> Mask {
        geometry.mask(self.queries(geometry), self.k.len() / geometry.kv_cols())
    }

    pub(super) fn q_head(&self, geometry: Geometry, head: usize) -> Head<'a, Q> {
        Head { data: self.q, cols: geometry.q_cols(), head, head_dim: geometry.head_dim }
    }

    pub(crate) fn k_head(&self, geometry: Geometry, head: usize) -> Head<'a, K> {
        Head { data: self.k, cols: geometry.kv_cols(), head, head_dim: geometry.head_dim }
    }

    pub(crate) fn v_head(&self, geometry: Geometry, head: usize) -> Head<'a, K> {
        Head { data: self.v, cols: geometry.kv_cols(), head, head_dim: geometry.head_dim }
    }
}

/// The outputs of all sequences, one after the other, and the logarithms of the softmax sums, `[heads, M]` for each sequence.
pub(crate) fn forward<Q: Lane, K: Lane>(
    geometry: Geometry,
    sequences: &[Sequence<'_, Q, K>],
) -> (Vec<Q>, Vec<f32>) {
    let queries: usize = sequences.iter().map(|s| s.queries(geometry)).sum();
    let mut out = vec![Q::zeroed(); queries * geometry.q_cols()];
    let mut lse = vec![0.0; queries * geometry.heads];
    let (mut out_rest, mut lse_rest) = (&mut out[..], &mut lse[..]);
    let mut groups = Vec::new();
    for sequence in sequences {
        let queries = sequence.queries(geometry);
        let out = out_rest.split_off_mut(..queries * geometry.q_cols()).unwrap_or_default();
        let lse = lse_rest.split_off_mut(..queries * geometry.heads).unwrap_or_default();
        if queries == 0 {
            continue;
        }
        let heads = split_heads(out, geometry.heads, geometry.head_dim);
        let mut heads = heads.into_iter().zip(lse.chunks_exact_mut(queries)).enumerate();
        for kv_head in 0..geometry.kv_heads {
            groups.push((sequence, kv_head, heads.by_ref().take(geometry.group()).collect::<Vec<_>>()));
        }
    }
    groups.into_par_iter().for_each(|(sequence, kv_head, heads)| {
        let keys = sequence.k_head(geometry, kv_head).pack_transposed();
        let values = sequence.v_head(geometry, kv_head).pack(geometry.padded());
        let mask = sequence.mask(geometry);
        heads.into_par_iter().for_each(|(head, (mut out, lse))| {
            let q = sequence.q_head(geometry, head);
            let tiles = out.par_chunks_mut(QUERY_TILE).zip(lse.par_chunks_mut(QUERY_TILE)).enumerate();
            tiles.for_each(|(i, (out, lse))| {
                let first = i * QUERY_TILE;
                let q = Head { data: &q.data[first * q.cols..][..out.len() * q.cols], ..q };
                let q = q.pack(geometry.padded());
                dispatch(Tile { geometry, mask, first, q: &q, keys: &keys, values: &values, out, lse });
            });
        });
    });
    (out, lse)
}

/// A tile of queries of one head.
struct Tile<'a, 'b, Q> {
    geometry: Geometry,
    mask: Mask,
    /// The first query.
    first: usize,
    /// Queries, packed.
    q: &'a [f32],
    /// All keys, packed in transposed tiles.
    keys: &'a [f32],
    /// All values, packed.
    values: &'a [f32],
    /// The output's rows.
    out: &'a mut [&'b mut [Q]],
    lse: &'a mut [f32],
}

/// What is known of a query's softmax after some tiles of keys.
#[derive(Clone, Copy)]
struct Softmax {
    /// The largest scaled score.
    max: f32,
    /// The sum of e^(scaled score - max).
    sum: f32,
}

impl<Q: Lane> Kernel for Tile<'_, '_, Q> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (dim, padded, scale) = (self.geometry.head_dim, self.geometry.padded(), self.geometry.scale);
        let rows = self.out.len();
        let mut softmax = [Softmax { max: f32::NEG_INFINITY, sum: 0.0 }; QUERY_TILE];
        let mut sums = vec![0.0; rows * padded];
        let mut scores = [0.0; STRIP * KEY_TILE];
        for tile in self.mask.key_tiles(self.first..self.first + rows) {
            let keys = &self.keys[tile * dim..];
            for start in (0..rows).step_by(STRIP) {
                let strip = STRIP.min(rows - start);
                let first = self.first + start;
                let span = self.mask.span(first..first + strip, tile);
                if span.is_empty() {
                    continue;
                }
                let q = Matrix { data: &self.q[start * padded..], row: padded, col: 1 };
                let shape = [strip, span.len(), dim];
                store_product(s, shape, q, (&keys[span.start..], KEY_TILE), (&mut scores, KEY_TILE));
                for row in 0..strip {
                    let visible = within(self.mask.visible(first + row), tile + span.start, span.len());
                    let scores = &mut scores[row * KEY_TILE..][..span.len()];
                    let sums = &mut sums[(start + row) * padded..][..padded];
                    softmax[start + row].take_in(s, scores, visible, scale, sums);
                }
                let p = Matrix { data: &scores, row: KEY_TILE, col: 1 };
                let values = &self.values[(tile + span.start) * padded..];
                let shape = [strip, padded, span.len()];
                add_product(s, shape, p, (values, padded), (&mut sums[start * padded..], padded));
            }
        }
        let results = self.out.iter_mut().zip(self.lse).zip(sums.chunks_exact(padded));
        for (((out, lse), sums), softmax) in results.zip(softmax) {
            *lse = softmax.max + softmax.sum.ln();
            let factor = s.splat(1.0 / softmax.sum);
            for (out, sums) in out.chunks_mut(S::LANES).zip(sums.chunks_exact(S::LANES)) {
                Q::store_some(s, s.mul(s.load(sums), factor), out);
            }
        }
    }
}

impl Softmax {
    /// Takes in some scores (whole registers), of which only `visible` count, and turns them into e^(scaled score - max).
    /// Where the maximum rises, the sums so far shrink with it.
    #[inline(always)]
    fn take_in<S: Simd>(
        &mut self,
        s: S,
        scores: &mut [f32],
        visible: std::ops::Range<usize>,
        scale: f32,
        sums: &mut [f32],
    ) {
        if visible.is_empty() {
            scores.fill(0.0);
            return;
        }
        scores[..visible.start].fill(f32::NEG_INFINITY);
        scores[visible.end..].fill(f32::NEG_INFINITY);
        let mut top = s.splat(f32::NEG_INFINITY);
        for x in scores.chunks_exact(S::LANES) {
            top = s.max(s.load(x), top);
        }
        let max = s.largest(top) * scale;
        if max > self.max {
            if self.sum != 0.0 {
                let shrink = s.lanes(exp(s, s.splat(self.max - max)))[0];
                self.sum *= shrink;
                for sums in sums.chunks_exact_mut(S::LANES) {
                    s.store(s.mul(s.load(sums), s.splat(shrink)), sums);
                }
            }
            self.max = max;
        }
        let (scale, max) = (s.splat(scale), s.splat(-self.max));
        let mut total = s.splat(0.0);
        for x in scores.chunks_exact_mut(S::LANES) {
            let p = exp(s, s.madd(s.load(x), scale, max));
            total = s.add(total, p);
            s.store(p, x);
        }
        self.sum += s.sum(total);
    }
}
