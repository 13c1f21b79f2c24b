//! Attention of new tokens over a cache of keys and values (inference only).

use crate::Result;
use crate::tensor::Tensor;

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

/// Causal attention of the newest tokens of each sequence. q: `[sum of new_lens, heads * head_dim]`, the sequences one after
/// the other; sequence i has `new_lens[i]` new tokens, which are the last of `caches[i]`. No backward.
pub fn kv_attention(
    q: &Tensor,
    new_lens: &[usize],
    caches: &[KvView<'_>],
    spec: &KvAttentionSpec,
) -> Result<Tensor> {
    let _ = (q, new_lens, caches, spec);
    Err(crate::Error::unsupported("kv_attention", "being written"))
}
