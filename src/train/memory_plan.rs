//! How much memory a run will take, told before it starts.

use crate::Result;
use crate::autograd::Param;
use crate::device::Device;
use crate::formats::DecoderConfig;
use crate::formats::peft::LoraConfig;
use crate::models::{Decoder, TensorSlot, tensor_slots};
use crate::ops::linear_cross_entropy::logits_budget;
use crate::ops::quantize::Quantization;
use crate::optim::{StateBytes, States, in_host_memory};
use crate::peft::lora;
use crate::tensor::DType;

/// How large a model is, and what of it is trained.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Bytes of parameters, as they are stored.
    pub parameters: usize,
    /// Bytes of weights in 4-bit blocks, scales included.
    pub quantized: usize,
    /// Elements of each parameter that is trained.
    pub trained: Vec<usize>,
    /// The ranks of all adapters together.
    pub ranks: usize,
}

impl Sizes {
    /// Of a model, with its adapters.
    pub fn of(model: &Decoder) -> Sizes {
        let params: Vec<Param> =
            model.parameters().into_iter().chain(lora::adapter_parameters(model)).collect();
        let adapters = model.linears().filter_map(|(_, linear)| linear.adapter());
        Sizes {
            quantized: model.quantized_weights().map(|weight| weight.value().bytes()).sum(),
            // Whoever attached them checked that A is a matrix.
            ranks: adapters.map(|adapter| adapter.a.value().shape()[0]).sum(),
            ..Sizes::of_parameters(&params)
        }
    }

    /// Of parameters.
    pub fn of_parameters(params: &[Param]) -> Sizes {
        Sizes {
            parameters: params.iter().map(|p| p.value().numel() * p.value().dtype().size()).sum(),
            trained: params.iter().filter(|p| p.is_trainable()).map(|p| p.value().numel()).collect(),
            ..Sizes::default()
        }
    }

    /// Of a model that is on paper alone. With `lora` its weights are of type `dtype`, or quantized where `quantization` says how, and f32
    /// adapters are trained; without, all its weights are, in f32.
    ///
    /// # Errors
    /// Targets of the adapters that the model has not.
    pub fn on_paper(
        config: &DecoderConfig,
        dtype: DType,
        quantization: Option<&Quantization>,
        lora: Option<&LoraConfig>,
    ) -> Result<Sizes> {
        let slots = tensor_slots(config)?;
        let numel = |shape: &[usize]| shape.iter().product::<usize>();
        let Some(lora) = lora else {
            let trained: Vec<usize> = slots.iter().map(|slot| numel(&slot.shape)).collect();
            return Ok(Sizes {
                parameters: 4 * trained.iter().sum::<usize>(),
                quantized: 0,
                trained,
                ranks: 0,
            });
        };
        let mut sizes = Sizes::default();
        for slot in &slots {
            match quantization {
                Some(how) if slot.linear => sizes.quantized += how.bytes(numel(&slot.shape)),
                _ => sizes.parameters += numel(&slot.shape) * dtype.size(),
            }
        }
        let linears: Vec<(&str, [usize; 2])> = slots.iter().filter_map(TensorSlot::linear).collect();
        let names: Vec<&str> = linears.iter().map(|(module, _)| *module).collect();
        let targets = lora.target_modules.select(&names)?;
        for (module, [out, input]) in linears.iter().filter(|(module, _)| targets.contains(module)) {
            let r = lora.rank_of(module)?;
            sizes.ranks += r;
            sizes.trained.extend([r * input, r * out]);
        }
        sizes.parameters += 4 * sizes.trained.iter().sum::<usize>();
        Ok(sizes)
    }
}

/// What a step works on.
#[derive(Clone, Copy, Debug)]
pub struct StepShape {
    /// Tokens of a micro-batch, at most.
    pub tokens: usize,
    /// Type of the activations.
    pub dtype: DType,
    /// Whether layers are computed again in the backward.
    pub checkpointing: bool,
    /// Whether gradients are summed over several micro-batches.
    pub accumulating: bool,
    /// Bytes of logits that are there at a time, where the loss does not go through them in chunks.
    pub logits: Option<usize>,
    /// Where.
    pub device: Device,
}

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
    /// What the layers keep together when the forward ends.
    pub activations: usize,
    /// A chunk of logits, which becomes its gradient in place.
    pub logits: usize,
    /// The most that activations, gradients and logits need at one time: they come and go.
    pub peak: usize,
}

impl MemoryPlan {
    /// The plan of a step.
    ///
    /// A layer keeps, for each token, the residual stream twice, both norms' outputs, q, k, v and the attention's output, the
    /// MLP's inner vectors, and what adapters make of their inputs; and the factors of adapters, where they are of another type than
    /// activations. With checkpointing it keeps its input alone, and one layer at a time is computed again.
    ///
    /// The peak is at the end of the forward, when all is kept and there are logits; or in the backward, where gradients come as activations
    /// go, at its first or its last layer.
    pub fn new(config: &DecoderConfig, sizes: &Sizes, step: &StepShape) -> MemoryPlan {
        let trained: usize = sizes.trained.iter().sum();
        let layers = config.num_layers.max(1);
        let gated = config.rope.is_some();
        let (queries, keys) = (config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim);
        let inner = config.intermediate_size * if gated { 3 } else { 2 };
        let normed = if config.qk_norm { queries + keys } else { 0 };
        let a_token = 4 * config.hidden_size + 2 * queries + 2 * keys + normed + inner;
        let casts = if step.dtype == DType::F32 { 0 } else { trained * step.dtype.size() / layers };
        let of_tokens = |width: usize| step.tokens * width * step.dtype.size();
        let layer = of_tokens(a_token) + 4 * step.tokens * sizes.ranks / layers + casts;
        let stream = of_tokens(config.hidden_size);
        let activations = layers * if step.checkpointing { stream } else { layer };
        let chunk = logits_budget(step.device).min(step.tokens * config.vocab_size * 4);
        let logits = step.logits.unwrap_or(chunk);

        // Gradients of the residual stream and of one inner vector flow at a time.
        let flow = of_tokens(2 * config.hidden_size + config.intermediate_size);
        let gradients = trained * 4;
        let (at_first, at_last) = match step.accumulating {
            true => (gradients, gradients),
            false => (gradients / layers, gradients),
        };
        let backward = match step.checkpointing {
            true => (activations + at_first).max(stream + at_last) + layer + flow,
            false => (activations + at_first).max(layer + at_last) + flow,
        };
        let forward = activations + logits + 2 * stream + if step.accumulating { gradients } else { 0 };
        MemoryPlan {
            weights: sizes.parameters + sizes.quantized,
            quantized: sizes.quantized,
            gradients,
            optimizer: trained * 8,
            paged: 0,
            layer,
            activations,
            logits,
            peak: forward.max(backward),
        }
    }

    /// With the averages in this form. `room` is the device's memory for the whole run, if what does not fit of the averages may be in host
    /// memory.
    pub fn with_optimizer(mut self, sizes: &Sizes, states: States, room: Option<usize>) -> MemoryPlan {
        let sizes: Vec<StateBytes> = sizes
            .trained
            .iter()
            .map(|&n| StateBytes::of(n, DType::F32, states, true, |bytes| bytes))
            .collect();
        let left = room.map_or(usize::MAX, |room| room.saturating_sub(self.weights + self.peak));
        let on_host = in_host_memory(&sizes, left);
        self.paged =
            sizes.iter().zip(on_host).filter(|(_, on_host)| *on_host).map(|(size, _)| size.pageable).sum();
        self.optimizer = sizes.iter().map(|size| size.total()).sum::<usize>() - self.paged;
        self
    }

    /// Everything together, but for what is in host memory although the run is not.
    pub fn total(&self) -> usize {
        self.weights + self.optimizer + self.peak
    }
}

impl std::fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "about {}: weights {}{}, optimizer {}{}, a step {} (activations {}, {} a layer; gradients {}; logits {})",
            mib(self.total()),
            mib(self.weights),
            match self.quantized {
                0 => String::new(),
                bytes => format!(" ({} of them in 4 bits)", mib(bytes)),
            },
            mib(self.optimizer),
            match self.paged {
                0 => String::new(),
                bytes => format!(" (and {} in host memory)", mib(bytes)),
            },
            mib(self.peak),
            mib(self.activations),
            mib(self.layer),
            mib(self.gradients),
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
