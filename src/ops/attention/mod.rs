//! Self-attention over a packed batch, tile by tile (FlashAttention, arXiv 2205.14135): the matrix of scores is never built.

mod backward;
mod cu_seqlens;
pub(crate) mod cuda;
mod forward;
pub(crate) mod tiles;

pub use cu_seqlens::CuSeqlens;
pub(crate) use forward::{Sequence, forward};

use super::place::place;
use crate::autograd::{Tape, Var};
use crate::tensor::Element;
use crate::{Error, Result};
use tiles::Geometry;

const OP: &str = "attention";

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
    pub cu_seqlens: CuSeqlens,
}

impl AttentionSpec {
    fn geometry(&self) -> Geometry {
        Geometry {
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            scale: self.scale,
            causal: self.causal,
            window: self.window,
        }
    }
}

/// softmax(scale q k^T + mask) v by online softmax. q: `[T, heads * head_dim]`, k and v: `[T, kv_heads * head_dim]`; output as q.
///
/// Tokens see tokens of their own sequence only. Scores, softmax and sums are f32. Saved: q, k, v, the output o, and the
/// logarithm of each softmax's sum, `[heads, T]`. Backward finds the probabilities p of each tile again from these; with
/// delta = rowsum(do o): `dv = p^T do`, `ds = p (do v^T - delta) scale`, `dq = ds k`, `dk = ds^T q`; a key/value head sums
/// over its query heads in order. The result of a sequence does not depend, in any bit, on what else is in the batch.
/// Errors: [`Error::Shape`] if the operands, `cu_seqlens` or the window do not fit; [`Error::DType`] if the operands'
/// types differ.
pub fn attention(tape: &Tape, q: &Var, k: &Var, v: &Var, spec: &AttentionSpec) -> Result<Var> {
    let geometry = spec.geometry();
    geometry.check(OP)?;
    let (tokens, _) = q.value().dims2(OP)?;
    let (q_shape, kv_shape) = ([tokens, geometry.q_cols()], [tokens, geometry.kv_cols()]);
    if q.shape() != q_shape || k.shape() != kv_shape || v.shape() != kv_shape {
        let detail = format!(
            "q {:?}, k {:?}, v {:?}; expected {q_shape:?} and twice {kv_shape:?}",
            q.shape(),
            k.shape(),
            v.shape()
        );
        return Err(Error::Shape { op: OP, detail });
    }
    if q.dtype() != k.dtype() || q.dtype() != v.dtype() {
        let detail = format!("q {}, k {} and v {} differ in type", q.dtype(), k.dtype(), v.dtype());
        return Err(Error::DType { op: OP, detail });
    }
    check_ends(&spec.cu_seqlens, tokens)?;

    if let Some(device) = place(OP, [q.value(), k.value(), v.value()])? {
        let operands = [cuda::Rows::of(q.value())?, cuda::Rows::of(k.value())?, cuda::Rows::of(v.value())?];
        let keys = cuda::Spans::packed(&spec.cu_seqlens, device)?;
        let (out, lse) = cuda::forward(device, geometry, operands, &spec.cu_seqlens, &keys)?;
        let saved = [q.value().clone(), k.value().clone(), v.value().clone()];
        let (out_saved, ends) = (out.clone(), spec.cu_seqlens.clone());
        return tape.record(OP, &[q, k, v], out, move |dout, context| {
            let wanted = [0, 1, 2].map(|i| context.needs(i));
            let saved = cuda::Saved { qkv: saved.each_ref(), out: &out_saved, lse: &lse, dout: &dout };
            let grads = cuda::backward(device, geometry, saved, &ends, wanted)?;
            for (i, grad) in grads.into_iter().enumerate() {
                if let Some(grad) = grad {
                    context.give(i, grad)?;
                }
            }
            Ok(())
        });
    }

    crate::dispatch_float!(OP, q.dtype(), T => {
        let operands = (T::slice(q.value())?, T::slice(k.value())?, T::slice(v.value())?);
        let (out, lse) = forward(geometry, &sequences(geometry, &spec.cu_seqlens, operands));
        let out = T::tensor(out, q.shape());
        let (q_saved, k_saved, v_saved, out_saved) =
            (q.value().clone(), k.value().clone(), v.value().clone(), out.clone());
        let ends = spec.cu_seqlens.clone();
        tape.record(OP, &[q, k, v], out, move |dout, context| {
            let operands = (T::slice(&q_saved)?, T::slice(&k_saved)?, T::slice(&v_saved)?);
            let saved = backward::Saved { out: T::slice(&out_saved)?, lse: &lse, dout: T::slice(&dout)? };
            let sequences = sequences(geometry, &ends, operands);
            let wanted = [0, 1, 2].map(|i| context.needs(i));
            let grads = backward::backward(geometry, &sequences, saved, wanted);
            for (i, (grad, shape)) in grads.into_iter().zip([&q_shape, &kv_shape, &kv_shape]).enumerate() {
                if wanted[i] {
                    context.give(i, T::tensor(grad, shape))?;
                }
            }
            Ok(())
        })
    })
}

fn check_ends(ends: &[usize], tokens: usize) -> Result<()> {
    let sound = ends.first() == Some(&0) && ends.last() == Some(&tokens) && ends.is_sorted();
    if sound {
        return Ok(());
    }
    let detail = format!("cu_seqlens {ends:?} does not rise from 0 to the {tokens} tokens of the batch");
    Err(Error::Shape { op: OP, detail })
}

/// The sequences of a packed batch whose `cu_seqlens` has been checked.
fn sequences<'a, T>(
    geometry: Geometry,
    ends: &[usize],
    (q, k, v): (&'a [T], &'a [T], &'a [T]),
) -> Vec<Sequence<'a, T, T>> {
    let (q_cols, kv_cols) = (geometry.q_cols(), geometry.kv_cols());
    let ranges = ends.windows(2).map(|w| (w[0], w[1]));
    let sequence = |(start, end)| Sequence {
        q: &q[start * q_cols..end * q_cols],
        k: &k[start * kv_cols..end * kv_cols],
        v: &v[start * kv_cols..end * kv_cols],
    };
    ranges.map(sequence).collect()
}
