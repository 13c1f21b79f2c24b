//! One block of a decoder: attention and MLP, each behind a norm and added to the residual stream.

use crate::Result;
use crate::autograd::{Param, Tape, Var};
use crate::nn::{Linear, Norm};
use crate::ops::attention::{AttentionSpec, CuSeqlens, attention};
use crate::ops::columns::columns;
use crate::ops::epilogue::Epilogue;
use crate::ops::gelu::GeluKind;
use crate::ops::kv_attention::KvAttentionSpec;
use crate::ops::rope::{RopeTable, rope_both};
use crate::tensor::Tensor;

/// How queries, keys and values are projected.
#[derive(Clone)]
pub(super) enum Qkv {
    /// By three layers.
    Separate { q: Linear, k: Linear, v: Linear },
    /// By one, whose outputs lie side by side (GPT-2's c_attn).
    Fused(Linear),
}

#[derive(Clone)]
pub(super) struct Attention {
    /// The module path.
    pub path: String,
    pub qkv: Qkv,
    pub output: Linear,
    /// Norms of each head of q and of k (Qwen3).
    pub head_norms: Option<(Norm, Norm)>,
    pub rope: Option<RopeTable>,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub window: Option<usize>,
}

impl Attention {
    fn scale(&self) -> f32 {
        (1.0 / (self.head_dim as f64).sqrt()) as f32
    }

    /// The attention over a packed batch.
    fn packed_spec(&self, cu_seqlens: &CuSeqlens) -> AttentionSpec {
        AttentionSpec {
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            scale: self.scale(),
            causal: true,
            window: self.window,
            cu_seqlens: cu_seqlens.clone(),
        }
    }

    /// The attention over caches.
    pub fn cached_spec(&self) -> KvAttentionSpec {
        KvAttentionSpec {
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            scale: self.scale(),
            window: self.window,
        }
    }

    /// Queries `[T, heads * head_dim]`, keys and values `[T, kv_heads * head_dim]`, normed, not yet turned to their positions.
    fn project(&self, tape: &Tape, x: &Var, adapters: bool) -> Result<[Var; 3]> {
        let [mut q, mut k, v] = match &self.qkv {
            Qkv::Separate { q, k, v } => {
                [q.forward(tape, x, adapters)?, k.forward(tape, x, adapters)?, v.forward(tape, x, adapters)?]
            }
            Qkv::Fused(all) => {
                let all = all.forward(tape, x, adapters)?;
                let (wide, narrow) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
                [
                    columns(tape, &all, 0, wide)?,
                    columns(tape, &all, wide, narrow)?,
                    columns(tape, &all, wide + narrow, narrow)?,
                ]
            }
        };
        if let Some((q_norm, k_norm)) = &self.head_norms {
            q = q_norm.forward(tape, &q)?;
            k = k_norm.forward(tape, &k)?;
        }
        Ok([q, k, v])
    }

    /// Attention over a packed batch of tokens at `positions` (u32 `[T]`).
    pub fn attend_packed(
        &self,
        tape: &Tape,
        [q, k, v]: &[Var; 3],
        positions: &Tensor,
        cu_seqlens: &CuSeqlens,
    ) -> Result<Var> {
        let spec = self.packed_spec(cu_seqlens);
        match &self.rope {
            Some(table) => {
                let [q, k] = rope_both(tape, q, k, positions, table, self.head_dim)?;
                attention(tape, &q, &k, v, &spec)
            }
            None => attention(tape, q, k, v, &spec),
        }
    }
}

#[derive(Clone)]
pub(super) enum Mlp {
    /// down(silu(gate(x)) * up(x)).
    Gated { gate: Linear, up: Linear, down: Linear },
    /// project(gelu(expand(x))).
    Plain { expand: Linear, project: Linear, gelu: GeluKind },
}

impl Mlp {
    /// Its output for x, added to the residual stream. The activation and the sum are epilogues of the products.
    fn forward(&self, tape: &Tape, x: &Var, residual: &Var, adapters: bool) -> Result<Var> {
        let (inner, last) = match self {
            Mlp::Gated { gate, up, down } => {
                let gate = gate.forward(tape, x, adapters)?;
                (up.forward_with(tape, x, adapters, Epilogue::SwiGlu(&gate))?, down)
            }
            Mlp::Plain { expand, project, gelu } => {
                (expand.forward_with(tape, x, adapters, Epilogue::Gelu(*gelu))?, project)
            }
        };
        last.forward_with(tape, &inner, adapters, Epilogue::Residual(residual))
    }
}

/// A block.
#[derive(Clone)]
pub(super) struct Layer {
    pub attention_norm: Norm,
    pub attention: Attention,
    pub mlp_norm: Norm,
    pub mlp: Mlp,
}

impl Layer {
    /// The residual stream x `[T, hidden]` after this block, with adapters or without. `attend` turns queries and keys to their positions
    /// and mixes the values of tokens: over the batch in training, over a cache in generation.
    pub fn forward(
        &self,
        tape: &Tape,
        x: &Var,
        adapters: bool,
        attend: impl FnOnce(&Attention, &[Var; 3]) -> Result<Var>,
    ) -> Result<Var> {
        let normed = self.attention_norm.forward(tape, x)?;
        let qkv = self.attention.project(tape, &normed, adapters)?;
        let mixed = {
            let _scope = tape.scope(self.attention.path.as_str());
            attend(&self.attention, &qkv)?
        };
        let mixed = self.attention.output.forward(tape, &mixed, adapters)?;
        let (x, normed) = self.mlp_norm.forward_sum(tape, x, &mixed)?;
        self.mlp.forward(tape, &normed, &x, adapters)
    }

    /// The linear layers, in the order in which their parameters are saved.
    pub fn linears(&self) -> Vec<&Linear> {
        let mut all = match &self.attention.qkv {
            Qkv::Separate { q, k, v } => vec![q, k, v],
            Qkv::Fused(all) => vec![all],
        };
        all.push(&self.attention.output);
        match &self.mlp {
            Mlp::Gated { gate, up, down, .. } => all.extend([gate, up, down]),
            Mlp::Plain { expand, project, .. } => all.extend([expand, project]),
        }
        all
    }

    /// As [`Layer::linears`], for changing them.
    pub fn linears_mut(&mut self) -> Vec<&mut Linear> {
        let mut all = match &mut self.attention.qkv {
            Qkv::Separate { q, k, v } => vec![q, k, v],
            Qkv::Fused(all) => vec![all],
        };
        all.push(&mut self.attention.output);
        match &mut self.mlp {
            Mlp::Gated { gate, up, down, .. } => all.extend([gate, up, down]),
            Mlp::Plain { expand, project, .. } => all.extend([expand, project]),
        }
        all
    }

    /// All parameters but the adapters'.
    pub fn parameters(&self) -> Vec<Param> {
        let mut all = self.attention_norm.parameters();
        all.extend(self.linears().into_iter().flat_map(Linear::parameters));
        if let Some((q_norm, k_norm)) = &self.attention.head_norms {
            all.extend(q_norm.parameters());
            all.extend(k_norm.parameters());
        }
        all.extend(self.mlp_norm.parameters());
        all
    }
}
