//! How much memory a run will take, told before it starts.

use crate::autograd::Param;
use crate::device::Device;
use crate::formats::DecoderConfig;
use crate::nn::QuantizedWeight;
use crate::ops::linear_cross_entropy::logits_budget;
use crate::tensor::DType;

/// Predicted bytes of a training step, by purpose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Parameters and quantized weights, as they are stored.
    pub weights: usize,
    /// What of them is in 4-bit blocks, scales included.
    pub quantized: usize,
    /// Gradients: f32, of what is trained.
    pub gradients: usize,
    /// AdamW's two moments: f32, of what is trained.
    pub optimizer: usize,
    /// What one layer keeps for its backward.
    pub layer: usize,
    /// What the layers keep together, and the gradients that flow through one of them.
    pub activations: usize,
    /// A chunk of logits, which becomes its gradient in place.
    pub logits: usize,
}

impl MemoryPlan {
    /// The plan for micro-batches of at most `tokens` tokens. `params` are all parameters, adapters' included.
    ///
    /// A layer keeps, for each token, the residual stream twice, both norms' outputs, q, k, v and the attention's output, and the
    /// MLP's inner vectors. With `checkpointing` it keeps its input alone, and one layer at a time is computed again.
    pub fn new(
        config: &DecoderConfig,
        params: &[Param],
        activations: DType,
        tokens: usize,
        checkpointing: bool,
        device: Device,
    ) -> MemoryPlan {
        let trained: usize = params.iter().filter(|p| p.is_trainable()).map(|p| p.value().numel()).sum();
        let gated = config.rope.is_some();
        let (queries, keys) = (config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim);
        let inner = config.intermediate_size * if gated { 3 } else { 2 };
        let normed = if config.qk_norm { queries + keys } else { 0 };
        let a_token = 4 * config.hidden_size + 2 * queries + 2 * keys + normed + inner;
        let layer = tokens * a_token * activations.size();
        let kept = if checkpointing { tokens * config.hidden_size * activations.size() } else { layer };
        MemoryPlan {
            weights: params.iter().map(|p| p.value().numel() * p.value().dtype().size()).sum(),
            quantized: 0,
            gradients: trained * 4,
            optimizer: trained * 8,
            layer,
            // Once more for the layer whose backward runs: its gradients, or its recomputed state.
            activations: kept * config.num_layers + layer,
            logits: logits_budget(device).min(tokens * config.vocab_size * 4),
        }
    }

    /// With the model's weights in 4-bit blocks, which are no parameters.
    pub fn with_quantized<'a>(
        mut self,
        weights: impl IntoIterator<Item = &'a QuantizedWeight>,
    ) -> MemoryPlan {
        let bytes: usize = weights.into_iter().map(|weight| weight.value().bytes()).sum();
        self.quantized += bytes;
        self.weights += bytes;
        self
    }

    /// Everything together.
    pub fn total(&self) -> usize {
        self.weights + self.gradients + self.optimizer + self.activations + self.logits
    }
}

impl std::fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "about {}: weights {}{}, gradients {}, optimizer {}, activations {} ({} a layer), logits {}",
            mib(self.total()),
            mib(self.weights),
            match self.quantized {
                0 => String::new(),
                bytes => format!(" ({} of them in 4 bits)", mib(bytes)),
            },
            mib(self.gradients),
            mib(self.optimizer),
            mib(self.activations),
            mib(self.layer),
            mib(self.logits)
        )
    }
}

fn mib(bytes: usize) -> String {
    let mib = bytes as f64 / f64::from(1 << 20);
    match mib {
        x if x >= 10_240.0 => format!("{:.1} GiB", x / 1024.0),
        x if x >= 10.0 => format!("{x:.0} MiB"),
        x => format!("{x:.2} MiB"),
    }
}
