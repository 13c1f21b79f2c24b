//! Self-attention over a packed batch.

use std::sync::Arc;

use crate::Result;
use crate::autograd::{Tape, Var};

/// The shape of an attention.
#[derive(Clone, Debug)]
pub struct AttentionSpec {
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; a divisor of `heads`: query head h uses key/value head h / (heads / kv_heads).
    pub kv_heads: usize,
    /// Length of a head's vectors.
    pub head_dim: usize,
    /// Factor on the scores, usually 1 / sqrt(head_dim).
    pub scale: f32,
    /// A token sees itself and those before it in its sequence; if false, the whole sequence.
    pub causal: bool,
    /// With `causal`: a token sees itself and the `window - 1` tokens before it.
    pub window: Option<usize>,
    /// 0, then the end of each sequence in the packed batch.
    pub cu_seqlens: Arc<[usize]>,
}

/// softmax(scale q k^T + mask) v by online softmax. q: `[T, heads * head_dim]`, k and v: `[T, kv_heads * head_dim]`.
pub fn attention(tape: &Tape, q: &Var, k: &Var, v: &Var, spec: &AttentionSpec) -> Result<Var> {
    let _ = (tape, q, k, v, spec);
    Err(crate::Error::unsupported("attention", "being written"))
}
