//! config.json of a decoder model: raw JSON in, validated settings out, and back.

mod generation;
mod parse;
mod rope;
mod write;

use serde_json::{Map, Value};

pub use generation::GenerationConfig;
pub use rope::{Rope, RopeScaling};

/// The decoder families that one implementation covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// Llama 1/2/3, SmolLM, SmolLM2, TinyLlama, ...
    Llama,
    /// Mistral: Llama with a sliding window.
    Mistral,
    /// Qwen2 and 2.5: Llama with biases on q, k and v.
    Qwen2,
    /// Qwen3: RMSNorm on each head of q and k.
    Qwen3,
    /// GPT-2: learned positions, LayerNorm, GELU MLP.
    Gpt2,
}

impl Architecture {
    /// Every architecture, in the order of the error message that lists them.
    pub const ALL: [Architecture; 5] = [
        Architecture::Llama,
        Architecture::Mistral,
        Architecture::Qwen2,
        Architecture::Qwen3,
        Architecture::Gpt2,
    ];

    /// The `model_type` of config.json.
    pub fn model_type(self) -> &'static str {
        match self {
            Architecture::Llama => "llama",
            Architecture::Mistral => "mistral",
            Architecture::Qwen2 => "qwen2",
            Architecture::Qwen3 => "qwen3",
            Architecture::Gpt2 => "gpt2",
        }
    }

    /// The class that transformers loads the model with (`architectures` of config.json).
    pub fn class_name(self) -> &'static str {
        match self {
            Architecture::Llama => "LlamaForCausalLM",
            Architecture::Mistral => "MistralForCausalLM",
            Architecture::Qwen2 => "Qwen2ForCausalLM",
            Architecture::Qwen3 => "Qwen3ForCausalLM",
            Architecture::Gpt2 => "GPT2LMHeadModel",
        }
    }
}

/// The MLP's activation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// x sigmoid(x), gated (SwiGLU) in the Llama family.
    Silu,
    /// GELU by its tanh approximation.
    GeluTanh,
    /// GELU by the error function.
    GeluErf,
}

/// The shape of a decoder model, validated once: every number is in a sane range and they fit each other.
#[derive(Debug, Clone, PartialEq)]
pub struct DecoderConfig {
    /// The family.
    pub architecture: Architecture,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub num_layers: usize,
    /// Query heads.
    pub num_heads: usize,
    /// Key and value heads; divides `num_heads`.
    pub num_kv_heads: usize,
    /// Width of one head. `num_heads * head_dim` need not be `hidden_size` (Qwen3).
    pub head_dim: usize,
    /// Longest sequence that the model was made for, in tokens; for GPT-2 the rows of the position embedding.
    pub max_positions: usize,
    /// Epsilon of RMSNorm or LayerNorm.
    pub norm_eps: f64,
    /// Rotary position embedding; None means learned positions (GPT-2).
    pub rope: Option<Rope>,
    /// Whether the output projection is the embedding.
    pub tie_word_embeddings: bool,
    /// Whether q, k and v have biases.
    pub qkv_bias: bool,
    /// Whether the attention's output projection has a bias.
    pub o_bias: bool,
    /// Whether the MLP's projections have biases.
    pub mlp_bias: bool,
    /// Whether each head of q and k is normalized (Qwen3).
    pub qk_norm: bool,
    /// A windowed layer's token sees itself and the `sliding_window - 1` tokens before it. None: no layer has a window.
    pub sliding_window: Option<usize>,
    /// Which layers are windowed, one entry a layer; all false without a window.
    pub windowed_layers: Vec<bool>,
    /// The MLP's activation.
    pub activation: Activation,
    /// Token that begins a text, if config.json names one. Not checked against the vocabulary.
    pub bos: Option<u32>,
    /// Tokens that end a text; may be empty.
    pub eos: Vec<u32>,
    /// Padding token.
    pub pad: Option<u32>,
    /// Type that the weights were saved in ("float32", "bfloat16", "float16"), if the file says.
    pub dtype: Option<String>,
    /// Every key of the file it was read from, so that those which are not understood here survive a round trip.
    pub raw: Map<String, Value>,
}

impl DecoderConfig {
    /// The window of a layer, in tokens, or None when it sees everything before it.
    pub fn window(&self, layer: usize) -> Option<usize> {
        self.sliding_window.filter(|_| self.windowed_layers.get(layer).copied().unwrap_or(false))
    }
}
