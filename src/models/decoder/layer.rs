//! One block of a decoder: attention and MLP, each behind a norm and added to the residual stream.

use crate::Result;
use crate::autograd::{Param, Tape, Var};
use crate::nn::{Linear, Norm};
use crate::ops::add::add;
use crate::ops::attention::{AttentionSpec, CuSeqlens};
use crate::ops::columns::columns;
use crate::ops::gelu::{GeluKind, gelu};
use crate::ops::kv_attention::KvAttentionSpec;
use crate::ops::rope::{RopeTable, rope};
use crate::ops::swiglu::swiglu;
use crate::tensor::Tensor;

/// What all layers of one forward pass share.
#[derive(Clone)]
pub(super) struct Pass {
    /// The position of each token, u32 `[T]`.
    pub positions: Tensor,
    /// Whether adapters take part. Part of the pass, so that a checkpointed layer computes the same the second time.
    pub adapters: bool,
}

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
    pub fn packed_spec(&self, cu_seqlens: &CuSeqlens) -> AttentionSpec {
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

    /// Queries `[T, heads * head_dim]`, keys and values `[T, kv_heads * head_dim]`, normed and turned.
    fn project(&self, tape: &Tape, x: &Var, pass: &Pass) -> Result<[Var; 3]> {
        let [mut q, mut k, v] = match &self.qkv {
            Qkv::Separate { q, k, v } => [
                q.forward(tape, x, pass.adapters)?,
                k.forward(tape, x, pass.adapters)?,
                v.forward(tape, x, pass.adapters)?,
            ],
            Qkv::Fused(all) => {
                let all = all.forward(tape, x, pass.adapters)?;
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
        if let Some(table) = &self.rope {
            q = rope(tape, &q, &pass.positions, table, self.head_dim)?;
            k = rope(tape, &k, &pass.positions, table, self.head_dim)?;
        }
        Ok([q, k, v])
    }
}

#[derive(Clone)]
pub(super) enum Mlp {
    /// down(silu(gate(x)) * up(x)).
    Gated { path: String, gate: Linear, up: Linear, down: Linear },
    /// project(gelu(expand(x))).
    Plain { path: String, expand: Linear, project: Linear, gelu: GeluKind },
}

impl Mlp {
    fn forward(&self, tape: &Tape, x: &Var, adapters: bool) -> Result<Var> {
        match self {
            Mlp::Gated { path, gate, up, down } => {
                let gate = gate.forward(tape, x, adapters)?;
                let up = up.forward(tape, x, adapters)?;
                let hidden = {
                    let _scope = tape.scope(path.as_str());
                    swiglu(tape, &gate, &up)?
                };
                down.forward(tape, &hidden, adapters)
            }
            Mlp::Plain { path, expand, project, gelu: kind } => {
                let expanded = expand.forward(tape, x, adapters)?;
                let hidden = {
                    let _scope = tape.scope(path.as_str());
                    gelu(tape, &expanded, *kind)?
                };
                project.forward(tape, &hidden, adapters)
            }
        }
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
    /// The residual stream x `[T, hidden]` after this block. `attend` mixes the values of tokens: over the batch in
    /// training, over a cache in generation.
    pub fn forward(
        &self,
        tape: &Tape,
        x: &Var,
        pass: &Pass,
        attend: impl FnOnce(&Attention, &[Var; 3]) -> Result<Var>,
    ) -> Result<Var> {
        let normed = self.attention_norm.forward(tape, x)?;
        let qkv = self.attention.project(tape, &normed, pass)?;
        let mixed = {
            let _scope = tape.scope(self.attention.path.as_str());
            attend(&self.attention, &qkv)?
        };
        let x = add(tape, x, &self.attention.output.forward(tape, &mixed, pass.adapters)?)?;
        let normed = self.mlp_norm.forward(tape, &x)?;
        add(tape, &x, &self.mlp.forward(tape, &normed, pass.adapters)?)
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
