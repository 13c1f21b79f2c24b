//! Attention of new tokens over a cache of keys and values (inference only).

mod append;
mod cpu;
mod cuda;
mod paged;
mod prefill;

use crate::ops::attention::tiles::Geometry;
use crate::tensor::{Element, Tensor};
use crate::{Error, Result};

pub(crate) use append::{kv_append, kv_append_turned};
pub(crate) use paged::{KvTable, PAGE, PageShape, Paged, paged_attention};

const OP: &str = "kv_attention";

/// Keys and values of one sequence so far, each `[len, kv_heads * head_dim]` row-major f32, the newest last.
#[derive(Clone, Copy)]
pub struct KvView<'a> {
    /// Keys.
    pub k: &'a [f32],
    /// Values.
    pub v: &'a [f32],
    /// Tokens in the cache, the new ones included.
    pub len: usize,
}

/// The shape of a cached attention.
#[derive(Clone, Copy, Debug)]
pub struct KvAttentionSpec {
    /// Query heads.
    pub heads: usize,
    /// Key/value heads, a divisor of `heads`.
    pub kv_heads: usize,
    /// Length of a head's vectors.
    pub head_dim: usize,
    /// Factor on the scores.
    pub scale: f32,
    /// A token sees itself and the `window - 1` tokens before it.
    pub window: Option<usize>,
}

impl KvAttentionSpec {
    fn geometry(&self) -> Geometry {
        Geometry {
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            scale: self.scale,
            causal: true,
            window: self.window,
        }
    }
}

/// Causal attention of the newest tokens of each sequence. q: `[sum of new_lens, heads * head_dim]`, the sequences one after
/// the other; sequence i has `new_lens[i]` new tokens, which are the last of `caches[i]`. Output as q. No backward.
///
/// Many new tokens are computed as [`attention`](crate::ops::attention::attention) does, a few straight from the cache. Errors: [`Error::Shape`]
/// if the lengths contradict each other; [`Error::DType`] if q is not of a float type.
pub fn kv_attention(
    q: &Tensor,
    new_lens: &[usize],
    caches: &[KvView<'_>],
    spec: &KvAttentionSpec,
) -> Result<Tensor> {
    if q.cuda_device().is_some() {
        let detail = format!("q {:?} is on {}, the caches are in host memory", q.shape(), q.device());
        return Err(Error::Cuda { what: OP.into(), detail });
    }
    let geometry = spec.geometry();
    geometry.check(OP)?;
    let (tokens, cols) = q.dims2(OP)?;
    let refuse = |detail: String| Err(Error::Shape { op: OP, detail });
    if cols != geometry.q_cols() {
        return refuse(format!("q {:?}; {} columns expected", q.shape(), geometry.q_cols()));
    }
    if new_lens.len() != caches.len() {
        return refuse(format!("new tokens of {} sequences, caches of {}", new_lens.len(), caches.len()));
    }
    let total = new_lens.iter().try_fold(0usize, |sum, &n| sum.checked_add(n));
    if total != Some(tokens) {
        return refuse(format!("q {:?} does not hold the new tokens {new_lens:?}", q.shape()));
    }
    for (i, (&new, cache)) in new_lens.iter().zip(caches).enumerate() {
        let elements = cache.len.checked_mul(geometry.kv_cols());
        if new > cache.len || elements != Some(cache.k.len()) || elements != Some(cache.v.len()) {
            return refuse(format!(
                "sequence {i}: {new} new tokens, a cache of {} tokens with {} elements of keys and {} of values",
                cache.len,
                cache.k.len(),
                cache.v.len()
            ));
        }
    }
    crate::dispatch_float!(OP, q.dtype(), T => {
        Ok(T::tensor(cpu::forward(geometry, T::slice(q)?, new_lens, caches), q.shape()))
    })
}
