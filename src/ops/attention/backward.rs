//! Attention backward on the CPU. Each query head is a task, which finds its tiles' probabilities again and sums its
//! own gradients of keys and values; those of the heads that share them are then added in order.

use rayon::prelude::*;

use super::forward::Sequence;
use super::tiles::{Geometry, Head, KEY_TILE, Mask, QUERY_TILE, STRIP, split_heads, within};
use crate::device::cpu::lanes::math::exp;
use crate::device::cpu::lanes::{Kernel, Lane, Matrix, Simd, add_product, dispatch, store_product};

/// What the forward kept, and the gradient of its output.
#[derive(Clone, Copy)]
pub(super) struct Saved<'a, T> {
    pub out: &'a [T],
    pub lse: &'a [f32],
    pub dout: &'a [T],
}

/// Gradients of q, k and v; zeros where not wanted.
pub(super) fn backward<T: Lane>(
    geometry: Geometry,
    sequences: &[Sequence<'_, T, T>],
    saved: Saved<'_, T>,
    wanted: [bool; 3],
) -> [Vec<T>; 3] {
    let tokens = saved.out.len() / geometry.q_cols();
    let mut dq = vec![T::zeroed(); tokens * geometry.q_cols()];
    let mut dk = vec![T::zeroed(); tokens * geometry.kv_cols()];
    let mut dv = vec![T::zeroed(); tokens * geometry.kv_cols()];
    let (mut dq_rest, mut dk_rest, mut dv_rest) = (&mut dq[..], &mut dk[..], &mut dv[..]);
    let mut groups = Vec::new();
    let mut start = 0;
    for sequence in sequences {
        let len = sequence.queries(geometry);
        let (q_len, kv_len) = (len * geometry.q_cols(), len * geometry.kv_cols());
        let dq = dq_rest.split_off_mut(..q_len).unwrap_or_default();
        let dk = dk_rest.split_off_mut(..kv_len).unwrap_or_default();
        let dv = dv_rest.split_off_mut(..kv_len).unwrap_or_default();
        if len == 0 {
            continue;
        }
        let saved = Saved {
            out: &saved.out[start * geometry.q_cols()..][..q_len],
            lse: &saved.lse[start * geometry.heads..][..len * geometry.heads],
            dout: &saved.dout[start * geometry.q_cols()..][..q_len],
        };
        let mut heads = split_heads(dq, geometry.heads, geometry.head_dim).into_iter().enumerate();
        let dk = split_heads(dk, geometry.kv_heads, geometry.head_dim);
        let dv = split_heads(dv, geometry.kv_heads, geometry.head_dim);
        for (kv_head, (dk, dv)) in dk.into_iter().zip(dv).enumerate() {
            let dq = heads.by_ref().take(geometry.group()).collect();
            groups.push(Group { sequence, kv_head, saved, dq, dk, dv });
        }
        start += len;
    }
    groups.into_par_iter().for_each(|group| group.run(geometry, wanted));
    [dq, dk, dv]
}

/// A key/value head of one sequence with the query heads that use it.
struct Group<'a, 'b, T> {
    sequence: &'a Sequence<'a, T, T>,
    kv_head: usize,
    saved: Saved<'a, T>,
    /// Query heads, and where the gradients of their queries go.
    dq: Vec<(usize, Vec<&'b mut [T]>)>,
    dk: Vec<&'b mut [T]>,
    dv: Vec<&'b mut [T]>,
}

impl<T: Lane> Group<'_, '_, T> {
    fn run(self, geometry: Geometry, wanted: [bool; 3]) {
        let Group { sequence, kv_head, saved, dq, dk, dv } = self;
        let len = sequence.queries(geometry);
        let padded = geometry.padded();
        let keys = sequence.k_head(geometry, kv_head);
        let (packed, transposed) = (keys.pack(padded), keys.pack_transposed());
        let values = sequence.v_head(geometry, kv_head).pack_transposed();
        let parts: Vec<_> = dq
            .into_par_iter()
            .map(|(head, mut dq)| {
                let q = sequence.q_head(geometry, head);
                let kernel = HeadBackward {
                    geometry,
                    wanted,
                    mask: sequence.mask(geometry),
                    q,
                    out: Head { data: saved.out, ..q },
                    dout: Head { data: saved.dout, ..q },
                    lse: &saved.lse[head * len..(head + 1) * len],
                    keys: &packed,
                    keys_transposed: &transposed,
                    values_transposed: &values,
                    dq: &mut dq,
                };
                dispatch(kernel)
            })
            .collect();
        let mut parts = parts.into_iter();
        let Some((mut dk_sum, mut dv_sum)) = parts.next() else { return };
        for (dk, dv) in parts {
            dk_sum.iter_mut().zip(dk).for_each(|(sum, x)| *sum += x);
            dv_sum.iter_mut().zip(dv).for_each(|(sum, x)| *sum += x);
        }
        write_rows(&dk_sum, padded, dk);
        write_rows(&dv_sum, padded, dv);
    }
}

/// Rounds packed rows to where they belong.
fn write_rows<T: Lane>(packed: &[f32], padded: usize, rows: Vec<&mut [T]>) {
    for (row, packed) in rows.into_iter().zip(packed.chunks_exact(padded)) {
        row.iter_mut().zip(packed).for_each(|(out, &x)| *out = T::from_f32(x));
    }
}

/// One query head of one sequence.
struct HeadBackward<'a, 'b, T> {
    geometry: Geometry,
    /// Which of the gradients of q, k and v.
    wanted: [bool; 3],
    mask: Mask,
    q: Head<'a, T>,
    out: Head<'a, T>,
    dout: Head<'a, T>,
    lse: &'a [f32],
    keys: &'a [f32],
    keys_transposed: &'a [f32],
    values_transposed: &'a [f32],
    dq: &'a mut [&'b mut [T]],
}

/// A tile of queries: packed, and what their softmaxes need.
struct Queries<'a> {
    first: usize,
    q: Vec<f32>,
    dout: Vec<f32>,
    /// rowsum(do o).
    delta: Vec<f32>,
    lse: &'a [f32],
}

/// Packed gradients: of a tile's queries, and of all keys and values.
struct Sums {
    dq: Vec<f32>,
    dk: Vec<f32>,
    dv: Vec<f32>,
}

impl<T: Lane> Kernel for HeadBackward<'_, '_, T> {
    /// The head's gradients of keys and values, packed.
    type Output = (Vec<f32>, Vec<f32>);

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> (Vec<f32>, Vec<f32>) {
        let padded = self.geometry.padded();
        let empty = vec![0.0; self.keys.len()];
        let mut sums = Sums { dq: vec![0.0; QUERY_TILE * padded], dk: empty.clone(), dv: empty };
        for first in (0..self.dq.len()).step_by(QUERY_TILE) {
            let rows = QUERY_TILE.min(self.dq.len() - first);
            let queries = self.queries(first, rows);
            sums.dq.fill(0.0);
            for tile in self.mask.key_tiles(first..first + rows) {
                self.tile(s, tile, &queries, &mut sums);
            }
            for (out, dq) in self.dq[first..first + rows].iter_mut().zip(sums.dq.chunks_exact(padded)) {
                for (out, dq) in out.chunks_mut(S::LANES).zip(dq.chunks_exact(S::LANES)) {
                    T::store_some(s, s.load(dq), out);
                }
            }
        }
        (sums.dk, sums.dv)
    }
}

impl<T: Lane> HeadBackward<'_, '_, T> {
    #[inline(always)]
    fn queries(&self, first: usize, rows: usize) -> Queries<'_> {
        let padded = self.geometry.padded();
        let take = |head: Head<'_, T>| -> Vec<f32> {
            Head { data: &head.data[first * head.cols..(first + rows) * head.cols], ..head }.pack(padded)
        };
        let (out, dout) = (take(self.out), take(self.dout));
        let dot = |(a, b): (&[f32], &[f32])| a.iter().zip(b).map(|(a, b)| a * b).sum();
        let delta = out.chunks_exact(padded).zip(dout.chunks_exact(padded)).map(dot).collect();
        Queries { first, q: take(self.q), dout, delta, lse: &self.lse[first..first + rows] }
    }

    /// Adds what a tile of queries and a tile of keys give to each other.
    #[inline(always)]
    fn tile<S: Simd>(&self, s: S, tile: usize, queries: &Queries<'_>, sums: &mut Sums) {
        let (dim, padded) = (self.geometry.head_dim, self.geometry.padded());
        let rows = queries.lse.len();
        // Probabilities, and gradients of the scores; 0 where nobody looks.
        let mut p = [0.0; QUERY_TILE * KEY_TILE];
        let mut ds = [0.0; QUERY_TILE * KEY_TILE];
        // For each strip of keys, the queries that see any of them.
        let mut viewers = [(usize::MAX, 0); KEY_TILE / STRIP];
        for start in (0..rows).step_by(STRIP) {
            let end = rows.min(start + STRIP);
            let span = self.mask.span(queries.first + start..queries.first + end, tile);
            if span.is_empty() {
                continue;
            }
            for (first, last) in &mut viewers[span.start / STRIP..span.end.div_ceil(STRIP)] {
                *first = start.min(*first);
                *last = end.max(*last);
            }
            let corner = start * KEY_TILE + span.start;
            let shape = [end - start, span.len(), dim];
            let q = Matrix { data: &queries.q[start * padded..], row: padded, col: 1 };
            let keys = &self.keys_transposed[tile * dim + span.start..];
            store_product(s, shape, q, (keys, KEY_TILE), (&mut p[corner..], KEY_TILE));
            let dout = Matrix { data: &queries.dout[start * padded..], row: padded, col: 1 };
            let values = &self.values_transposed[tile * dim + span.start..];
            store_product(s, shape, dout, (values, KEY_TILE), (&mut ds[corner..], KEY_TILE));
            for row in start..end {
                let visible = within(self.mask.visible(queries.first + row), tile + span.start, span.len());
                let at = row * KEY_TILE + span.start..row * KEY_TILE + span.end;
                let (p, ds) = (&mut p[at.clone()], &mut ds[at]);
                self.row(s, p, ds, queries.lse[row], queries.delta[row]);
                for x in [p, ds] {
                    x[..visible.start].fill(0.0);
                    x[visible.end..].fill(0.0);
                }
            }
            if self.wanted[0] {
                let ds = Matrix { data: &ds[corner..], row: KEY_TILE, col: 1 };
                let keys = &self.keys[(tile + span.start) * padded..];
                let dq = &mut sums.dq[start * padded..];
                add_product(s, [end - start, padded, span.len()], ds, (keys, padded), (dq, padded));
            }
        }
        let viewed = viewers.into_iter().enumerate().filter(|(_, (first, last))| first < last);
        for (strip, (first, last)) in viewed {
            let corner = first * KEY_TILE + strip * STRIP;
            let shape = [STRIP, padded, last - first];
            let sum = (tile + strip * STRIP) * padded;
            if self.wanted[1] {
                let ds = Matrix { data: &ds[corner..], row: 1, col: KEY_TILE };
                let q = &queries.q[first * padded..];
                add_product(s, shape, ds, (q, padded), (&mut sums.dk[sum..], padded));
            }
            if self.wanted[2] {
                let p = Matrix { data: &p[corner..], row: 1, col: KEY_TILE };
                let dout = &queries.dout[first * padded..];
                add_product(s, shape, p, (dout, padded), (&mut sums.dv[sum..], padded));
            }
        }
    }

    /// From scores and do v^T of a row to p and the scores' gradients.
    #[inline(always)]
    fn row<S: Simd>(&self, s: S, p: &mut [f32], ds: &mut [f32], lse: f32, delta: f32) {
        let scale = s.splat(self.geometry.scale);
        let (lse, delta) = (s.splat(-lse), s.splat(delta));
        for (p, ds) in p.chunks_exact_mut(S::LANES).zip(ds.chunks_exact_mut(S::LANES)) {
            let probability = exp(s, s.madd(s.load(p), scale, lse));
            s.store(probability, p);
            let gradient = s.mul(s.sub(s.load(ds), delta), s.mul(probability, scale));
            s.store(gradient, ds);
        }
    }
}
