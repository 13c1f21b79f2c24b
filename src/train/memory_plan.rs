//! How much memory a run will take, told before it starts.

use crate::autograd::Param;
use crate::device::Device;
use crate::formats::DecoderConfig;
use crate::nn::QuantizedWeight;
use crate::ops::linear_cross_entropy::logits_budget;
use crate::optim::{StateBytes, States, in_host_memory};
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
    /// AdamW's averages and master copies, of what is trained, as far as they are where the parameters are.
    pub optimizer: usize,
    /// And what of them is in host memory, for which the device has no room.
    pub paged: usize,
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
            paged: 0,
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

    /// With the averages in this form. `room` is the device's memory for the whole run, if what does not fit of the averages may be in host
    /// memory.
    pub fn with_optimizer(mut self, params: &[Param], states: States, room: Option<usize>) -> MemoryPlan {
        let trained = params.iter().filter(|p| p.is_trainable());
        let sizes: Vec<StateBytes> =
            trained.map(|p| StateBytes::of(p, states, true, |bytes| bytes)).collect();
        let left =
            room.map_or(usize::MAX, |room| room.saturating_sub(self.weights + self.beside_optimizer()));
        let on_host = in_host_memory(&sizes, left);
        self.paged =
            sizes.iter().zip(on_host).filter(|(_, on_host)| *on_host).map(|(size, _)| size.pageable).sum();
        self.optimizer = sizes.iter().map(|size| size.total()).sum::<usize>() - self.paged;
        self
    }

    /// What a step takes beside weights and averages.
    pub fn beside_optimizer(&self) -> usize {
        self.gradients + self.activations + self.logits
    }

    /// Everything together, but for what is in host memory although the run is not.
    pub fn total(&self) -> usize {
        self.weights + self.optimizer + self.beside_optimizer()
    }
}

impl std::fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "about {}: weights {}{}, gradients {}, optimizer {}{}, activations {} ({} a layer), logits {}",
            mib(self.total()),
            mib(self.weights),
            match self.quantized {
                0 => String::new(),
                bytes => format!(" ({} of them in 4 bits)", mib(bytes)),
            },
            mib(self.gradients),
            mib(self.optimizer),
            match self.paged {
                0 => String::new(),
                bytes => format!(" (and {} in host memory)", mib(bytes)),
            },
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
