//! Cached attention on the CPU. Sequences with many new tokens take the tiled path of [`attention`](crate::ops::attention);
//! for a few, packing the cache would cost more than the attention: they read it in place, once for all heads that share it.

use std::ops::Range;

use rayon::prelude::*;

use crate::device::cpu::lanes::math::exp;
use crate::device::cpu::lanes::{Kernel, Lane, MAX_LANES, Matrix, Simd, add_product, dispatch};
use crate::ops::attention::tiles::{Geometry, Mask};
use crate::ops::attention::{Sequence, forward as tiled};
use crate::ops::kv_attention::KvView;

/// New tokens up to which a sequence's cache is read in place.
const FEW: usize = 4;

/// Keys that are taken at a time: their values stay in the first-level cache for all heads.
const KEYS: usize = 64;

/// The outputs of all sequences, one after the other. The lengths have been checked.
pub(super) fn forward<Q: Lane>(
    geometry: Geometry,
    q: &[Q],
    new_lens: &[usize],
    caches: &[KvView<'_>],
) -> Vec<Q> {
    let mut rest = q;
    let mut sequences = Vec::with_capacity(caches.len());
    for (&new, cache) in new_lens.iter().zip(caches) {
        let (q, behind) = rest.split_at(new * geometry.q_cols());
        rest = behind;
        sequences.push(Sequence { q, k: cache.k, v: cache.v });
    }
    let outputs: Vec<_> = sequences
        .into_par_iter()
        .map(|sequence| {
            // Reading in place needs heads of whole registers.
            let whole = geometry.head_dim.is_multiple_of(MAX_LANES);
            match (1..=FEW).contains(&sequence.queries(geometry)) && whole {
                true => in_place(geometry, sequence),
                false => tiled(geometry, &[sequence]).0,
            }
        })
        .collect();
    outputs.concat()
}

/// The output of one sequence with few queries.
fn in_place<Q: Lane>(geometry: Geometry, sequence: Sequence<'_, Q, f32>) -> Vec<Q> {
    let queries = sequence.queries(geometry);
    let (group, dim) = (geometry.group(), geometry.head_dim);
    let mut out = vec![Q::zeroed(); sequence.q.len()];
    // For each key/value head: the rows of all queries of the query heads that use it.
    let head_rows = |kv_head: usize| {
        (0..queries).map(move |query| {
            let start = query * geometry.q_cols() + kv_head * group * dim;
            start..start + group * dim
        })
    };
    let results: Vec<Vec<f32>> = (0..geometry.kv_heads)
        .into_par_iter()
        .map(|kv_head| {
            let q: Vec<f32> = head_rows(kv_head).flat_map(|at| &sequence.q[at]).map(|x| x.to_f32()).collect();
            dispatch(InPlace { geometry, mask: sequence.mask(geometry), sequence, kv_head, q: &q })
        })
        .collect();
    for (kv_head, result) in results.into_iter().enumerate() {
        for (at, result) in head_rows(kv_head).zip(result.chunks_exact(group * dim)) {
            out[at].iter_mut().zip(result).for_each(|(out, &x)| *out = Q::from_f32(x));
        }
    }
    out
}

/// One key/value head: `group` heads of each query, f32, the queries one after the other.
struct InPlace<'a, Q> {
    geometry: Geometry,
    mask: Mask,
    sequence: Sequence<'a, Q, f32>,
    kv_head: usize,
    q: &'a [f32],
}

impl<Q: Lane> Kernel for InPlace<'_, Q> {
    type Output = Vec<f32>;

    /// The outputs, laid out as q. Two passes over the scores, which are few: softmax needs no shrinking.
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Vec<f32> {
        let Geometry { head_dim: dim, scale, .. } = self.geometry;
        let cols = self.geometry.kv_cols();
        let column = self.kv_head * dim;
        let group = self.geometry.group();
        let rows = self.q.len() / dim;
        let (first, last) = (self.mask.visible(0), self.mask.visible(rows / group - 1));
        let seen = first.start..last.end;
        let width = seen.len().next_multiple_of(MAX_LANES);
        let mut scores = vec![f32::NEG_INFINITY; rows * width];
        for (i, key) in seen.clone().enumerate() {
            let key = &self.sequence.k[key * cols + column..][..dim];
            for (q, scores) in self.q.chunks_exact(dim).zip(scores.chunks_exact_mut(width)) {
                scores[i] = dot(s, q, key) * scale;
            }
        }
        let mut sums = vec![0.0; rows];
        for (row, (scores, sum)) in scores.chunks_exact_mut(width).zip(&mut sums).enumerate() {
            let visible = self.mask.visible(row / group);
            *sum = softmax(s, scores, visible.start - seen.start..visible.end - seen.start);
        }
        let mut out = vec![0.0; rows * dim];
        for start in (0..seen.len()).step_by(KEYS) {
            let keys = KEYS.min(seen.len() - start);
            let p = Matrix { data: &scores[start..], row: width, col: 1 };
            let values = &self.sequence.v[(seen.start + start) * cols + column..];
            add_product(s, [rows, dim, keys], p, (values, cols), (&mut out, dim));
        }
        for (out, sum) in out.chunks_exact_mut(dim).zip(sums) {
            out.iter_mut().for_each(|x| *x /= sum);
        }
        out
    }
}

/// a b; the lengths are a multiple of LANES.
#[inline(always)]
fn dot<S: Simd>(s: S, a: &[f32], b: &[f32]) -> f32 {
    let mut sum = s.splat(0.0);
    for (a, b) in a.chunks_exact(S::LANES).zip(b.chunks_exact(S::LANES)) {
        sum = s.madd(s.load(a), s.load(b), sum);
    }
    s.sum(sum)
}

/// Turns scores into e^(score - max), 0 where not visible, and returns their sum.
#[inline(always)]
fn softmax<S: Simd>(s: S, scores: &mut [f32], visible: Range<usize>) -> f32 {
    scores[..visible.start].fill(f32::NEG_INFINITY);
    scores[visible.end..].fill(f32::NEG_INFINITY);
    let mut top = s.splat(f32::NEG_INFINITY);
    for x in scores.chunks_exact(S::LANES) {
        top = s.max(s.load(x), top);
    }
    let top = s.splat(s.largest(top));
    let mut total = s.splat(0.0);
    for x in scores.chunks_exact_mut(S::LANES) {
        let p = exp(s, s.sub(s.load(x), top));
        total = s.add(total, p);
        s.store(p, x);
    }
    s.sum(total)
}
