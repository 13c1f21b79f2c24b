//! From a config to layers: which parameters there are, what Hugging Face calls them, and how they fit together.

use std::sync::Arc;

use super::Decoder;
use super::layer::{Attention, Layer, Mlp, Qkv};
use crate::autograd::Param;
use crate::formats::{Activation, Architecture, DecoderConfig, Rope, RopeScaling};
use crate::nn::{Embedding, Linear, Norm, QuantizedWeight, Weight};
use crate::ops::gelu::GeluKind;
use crate::ops::rope;
use crate::tensor::{DType, QuantizedTensor, Tensor};
use crate::{Error, Result};

/// What a parameter starts as in a model that was never trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// Normal, with the config's standard deviation.
    Normal,
    /// Normal, smaller: the last projection of a residual branch.
    Residual,
    /// Ones (a norm's factors).
    Ones,
    /// Zeros (biases).
    Zeros,
}

/// A parameter that the model needs.
pub(super) struct Slot<'a> {
    /// Its name in a Hugging Face checkpoint.
    pub name: &'a str,
    /// Its shape in memory.
    pub shape: &'a [usize],
    /// Its value in a fresh model.
    pub start: Start,
    /// Whether checkpoints hold the transpose (GPT-2's Conv1D).
    pub transposed: bool,
    /// Whether it is the weight of a linear layer (the output projection is none), which may be quantized.
    pub linear: bool,
}

/// The value of a slot.
pub(super) enum Value {
    /// Floats.
    Dense(Tensor),
    /// 4-bit blocks, for the weight of a linear layer.
    Quantized(QuantizedTensor),
}

/// Gives the value of a parameter: from a checkpoint, or fresh.
pub(super) type Source<'a> = dyn FnMut(&Slot<'_>) -> Result<Value> + 'a;

struct Builder<'a, 'b> {
    config: &'a DecoderConfig,
    source: &'a mut Source<'b>,
}

/// Builds the model that `config` describes from the values that `source` gives.
pub(super) fn build(config: &DecoderConfig, dtype: DType, source: &mut Source<'_>) -> Result<Decoder> {
    let mut builder = Builder { config, source };
    let gpt2 = config.architecture == Architecture::Gpt2;
    let (vocab, hidden) = (config.vocab_size, config.hidden_size);
    let names = if gpt2 {
        ["transformer.wte", "transformer.h", "transformer.ln_f"]
    } else {
        ["model.embed_tokens", "model.layers", "model.norm"]
    };
    let embedding = builder.embedding(names[0], [vocab, hidden])?;
    let positions = match config.rope {
        Some(_) => None,
        None => Some(builder.embedding("transformer.wpe", [config.max_positions, hidden])?),
    };
    let table = config.rope.as_ref().map(|r| rope_table(r, config.head_dim)).transpose()?;
    let mut layers = Vec::with_capacity(config.num_layers);
    for i in 0..config.num_layers {
        let path = format!("{}.{i}", names[1]);
        let layer =
            if gpt2 { builder.gpt2_layer(&path, i)? } else { builder.llama_layer(&path, i, &table)? };
        layers.push(Arc::new(layer));
    }
    let norm = builder.norm(names[2], hidden)?;
    let head = if config.tie_word_embeddings {
        embedding.weight().clone()
    } else {
        builder.param("lm_head.weight", &[vocab, hidden], Start::Normal)?
    };
    Ok(Decoder {
        config: config.clone(),
        embedding,
        positions,
        layers,
        norm,
        head,
        dtype,
        checkpointing: false,
        adapters: true,
    })
}

/// The rotary embedding's table, from the config's settings.
fn rope_table(settings: &Rope, head_dim: usize) -> Result<rope::RopeTable> {
    let scaling = match settings.scaling {
        RopeScaling::None => rope::RopeScaling::None,
        RopeScaling::Linear { factor } => rope::RopeScaling::Linear { factor: factor as f32 },
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_positions } => {
            rope::RopeScaling::Llama3 {
                factor: factor as f32,
                low_freq_factor: low_freq_factor as f32,
                high_freq_factor: high_freq_factor as f32,
                original_max_position: original_max_positions,
            }
        }
    };
    rope::RopeTable::new(head_dim, settings.theta as f32, scaling, rope::RopePairing::Half)
}

/// What tells one linear layer of a block from another.
struct Shape {
    out: usize,
    input: usize,
    bias: bool,
    start: Start,
    transposed: bool,
}

impl Builder<'_, '_> {
    fn param(&mut self, name: &str, shape: &[usize], start: Start) -> Result<Param> {
        match (self.source)(&Slot { name, shape, start, transposed: false, linear: false })? {
            Value::Dense(value) => Ok(Param::new(name, value)),
            Value::Quantized(_) => Err(Error::model(name, "is in 4 bits; only linear layers can be")),
        }
    }

    fn embedding(&mut self, path: &str, shape: [usize; 2]) -> Result<Embedding> {
        Ok(Embedding::new(path, self.param(&format!("{path}.weight"), &shape, Start::Normal)?))
    }

    fn norm(&mut self, path: &str, len: usize) -> Result<Norm> {
        let path = path.to_string();
        let weight = self.param(&format!("{path}.weight"), &[len], Start::Ones)?;
        let eps = self.config.norm_eps as f32;
        if self.config.architecture != Architecture::Gpt2 {
            return Ok(Norm::Rms { path, weight, eps });
        }
        let bias = self.param(&format!("{path}.bias"), &[len], Start::Zeros)?;
        Ok(Norm::Layer { path, weight, bias, eps })
    }

    fn linear(&mut self, path: String, shape: Shape) -> Result<Linear> {
        let name = format!("{path}.weight");
        let dims = [shape.out, shape.input];
        let (start, transposed) = (shape.start, shape.transposed);
        let weight =
            match (self.source)(&Slot { name: &name, shape: &dims, start, transposed, linear: true })? {
                Value::Dense(value) => Weight::Dense(Param::new(name, value)),
                Value::Quantized(value) => Weight::Quantized(QuantizedWeight::new(name, value)),
            };
        let bias = match shape.bias {
            true => Some(self.param(&format!("{path}.bias"), &[shape.out], Start::Zeros)?),
            false => None,
        };
        Ok(Linear::new(path, weight, bias))
    }

    fn llama_layer(&mut self, path: &str, index: usize, table: &Option<rope::RopeTable>) -> Result<Layer> {
        let config = self.config;
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let (wide, narrow) = (config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim);
        if config.activation != Activation::Silu {
            return Err(Error::unsupported(
                format!("{:?} in a gated MLP", config.activation),
                "silu (SwiGLU) is",
            ));
        }
        let attention_path = format!("{path}.self_attn");
        let mut linear = |module: &str, out, input, bias, start| {
            self.linear(format!("{path}.{module}"), Shape { out, input, bias, start, transposed: false })
        };
        let qkv = Qkv::Separate {
            q: linear("self_attn.q_proj", wide, hidden, config.qkv_bias, Start::Normal)?,
            k: linear("self_attn.k_proj", narrow, hidden, config.qkv_bias, Start::Normal)?,
            v: linear("self_attn.v_proj", narrow, hidden, config.qkv_bias, Start::Normal)?,
        };
        let output = linear("self_attn.o_proj", hidden, wide, config.o_bias, Start::Residual)?;
        let mlp = Mlp::Gated {
            gate: linear("mlp.gate_proj", inner, hidden, config.mlp_bias, Start::Normal)?,
            up: linear("mlp.up_proj", inner, hidden, config.mlp_bias, Start::Normal)?,
            down: linear("mlp.down_proj", hidden, inner, config.mlp_bias, Start::Residual)?,
        };
        let head_norms = match config.qk_norm {
            true => Some((
                self.norm(&format!("{attention_path}.q_norm"), config.head_dim)?,
                self.norm(&format!("{attention_path}.k_norm"), config.head_dim)?,
            )),
            false => None,
        };
        Ok(Layer {
            attention_norm: self.norm(&format!("{path}.input_layernorm"), hidden)?,
            attention: Attention {
                path: attention_path,
                qkv,
                output,
                head_norms,
                rope: table.clone(),
                heads: config.num_heads,
                kv_heads: config.num_kv_heads,
                head_dim: config.head_dim,
                window: config.window(index),
            },
            mlp_norm: self.norm(&format!("{path}.post_attention_layernorm"), hidden)?,
            mlp,
        })
    }

    fn gpt2_layer(&mut self, path: &str, index: usize) -> Result<Layer> {
        let config = self.config;
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let gelu = match config.activation {
            Activation::GeluTanh => GeluKind::Tanh,
            Activation::GeluErf => GeluKind::Erf,
            Activation::Silu => {
                return Err(Error::unsupported("silu in an MLP without a gate", "gelu and gelu_new are"));
            }
        };
        let mut linear = |module: &str, out, input, start| {
            self.linear(format!("{path}.{module}"), Shape { out, input, bias: true, start, transposed: true })
        };
        let qkv = Qkv::Fused(linear("attn.c_attn", 3 * hidden, hidden, Start::Normal)?);
        let output = linear("attn.c_proj", hidden, hidden, Start::Residual)?;
        let mlp = Mlp::Plain {
            expand: linear("mlp.c_fc", inner, hidden, Start::Normal)?,
            project: linear("mlp.c_proj", hidden, inner, Start::Residual)?,
            gelu,
        };
        Ok(Layer {
            attention_norm: self.norm(&format!("{path}.ln_1"), hidden)?,
            attention: Attention {
                path: format!("{path}.attn"),
                qkv,
                output,
                head_norms: None,
                rope: None,
                heads: config.num_heads,
                kv_heads: config.num_kv_heads,
                head_dim: config.head_dim,
                window: config.window(index),
            },
            mlp_norm: self.norm(&format!("{path}.ln_2"), hidden)?,
            mlp,
        })
    }
}
