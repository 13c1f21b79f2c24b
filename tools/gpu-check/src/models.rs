//! Training steps of whole models, in the shapes of SmolLM2-135M and Llama-3.2-1B, with random weights.

use std::path::Path;

use serde_json::json;
use warptune::Result;
use warptune::data::{Batch, Sample};
use warptune::device::Device;
use warptune::device::philox::Philox;
use warptune::formats::DecoderConfig;
use warptune::formats::peft::{LoraConfig, Targets};
use warptune::models::{DecodeStep, Decoder};
use warptune::peft::lora;
use warptune::tensor::{DType, Tensor};
use warptune::train::batch::batch_loss;
use warptune::train::options::TrainOptions;
use warptune::train::step::{Stepper, Window, decay_matrices};

use crate::Sizes;
use crate::clock::seconds;
use crate::report::{Measured, Step};

/// Learning rate of the steps.
const RATE: f64 = 1e-4;

/// A model, a method and a batch.
pub struct ModelCase {
    /// The model whose shape it has (in a check of tiny sizes, only the name).
    pub shape: &'static str,
    /// How it is trained.
    pub method: &'static str,
    config: serde_json::Value,
    lora: bool,
    sequences: usize,
    length: usize,
}

/// hidden, MLP, layers, heads, key/value heads, vocabulary, of a model with tied embeddings.
fn config([hidden, inner, layers, heads, kv_heads, vocab]: [usize; 6]) -> serde_json::Value {
    json!({
        "model_type": "llama", "vocab_size": vocab, "hidden_size": hidden, "intermediate_size": inner,
        "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv_heads,
        "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 1e5, "tie_word_embeddings": true,
    })
}

/// The cases of a check.
pub fn all(sizes: Sizes) -> Vec<ModelCase> {
    let small = if sizes.full { [576, 1536, 30, 9, 3, 49152] } else { [32, 48, 2, 2, 1, 96] };
    let large = if sizes.full { [2048, 8192, 16, 32, 8, 128_256] } else { [64, 96, 2, 4, 2, 128] };
    let (sequences, length) = if sizes.full { (8, 1024) } else { (2, 24) };
    let case = |shape, dims, lora, sequences| {
        let method = if lora { "LoRA r=16 bf16" } else { "full bf16" };
        ModelCase { shape, method, config: config(dims), lora, sequences, length }
    };
    vec![
        case("SmolLM2-135M", small, true, sequences),
        case("SmolLM2-135M", small, false, sequences),
        case("Llama-3.2-1B", large, true, sequences / 2),
        case("Llama-3.2-1B", large, false, sequences / 2),
    ]
}

impl ModelCase {
    fn model(&self) -> Result<Decoder> {
        let object = self.config.as_object().cloned().unwrap_or_default();
        let config = DecoderConfig::from_json(Path::new("gpu-check"), &object)?;
        Decoder::init(&config, 1, DType::BF16)
    }

    /// Whether adapters are trained, not the weights.
    pub fn is_lora(&self) -> bool {
        self.lora
    }

    /// Times a decode step of one sequence, captured as a graph, on an empty cache: what the weights' bytes cost, and the launches.
    pub fn decode(&self, device: Device) -> Result<Measured> {
        let model = self.model()?;
        let weights: usize = model.parameters().iter().map(|p| p.value().numel()).sum();
        model.to_device(device)?;
        let mut step = DecodeStep::new(&model);
        let mut cache = model.new_cache();
        let ids = Tensor::from_u32(vec![1], &[1]).to_device(device)?;
        let time = seconds(device, || {
            cache.truncate(1);
            step.step(&ids, &mut [&mut cache]).map(drop)
        })?;
        Ok(Measured {
            name: format!("decode step, {} shape, 1 sequence", self.shape),
            seconds: time,
            operations: 2.0 * weights as f64,
            bytes: 2.0 * weights as f64,
            cublas: None,
            cublaslt: None,
        })
    }

    /// Times a step.
    pub fn measure(&self, device: Device) -> Result<Step> {
        let mut model = self.model()?;
        let config = model.config().clone();
        let weights: usize = model.parameters().iter().map(|p| p.value().numel()).sum();
        let trained = match self.lora {
            true => {
                lora::attach(&mut model, &LoraConfig::new(16, 32.0, Targets::AllLinear), 1)?;
                lora::adapter_parameters(&model)
            }
            false => model.parameters(),
        };
        model.to_device(device)?;
        let mut stepper = Stepper::new(
            decay_matrices(trained),
            &TrainOptions { clip_norm: Some(1.0), ..TrainOptions::constant(RATE, self.sequences) },
        )?;
        let batch = self.batch(config.vocab_size);
        let mut step = 0;
        let mut loss = 0.0;
        let time = seconds(device, || {
            let window = Window {
                batches: std::slice::from_ref(&batch),
                labelled: batch.loss_tokens,
                step: step + 1,
                micro_step: step,
            };
            let found = stepper.step(&window, RATE, &|tape, batch, n| batch_loss(&model, tape, batch, n))?;
            loss = found.loss;
            step += 1;
            Ok(())
        })?;
        let tokens = batch.len() as f64;
        // The embedding is a look-up, but with tied embeddings it is the output projection too. Of attention, a token sees
        // half of its sequence: scores and values, 2 operations each, forward once and backward 2.5 times.
        let per_weight = if self.lora { 4.0 } else { 6.0 };
        let seen = self.length as f64 / 2.0;
        let width = (config.num_heads * config.head_dim * config.num_layers) as f64;
        let attention = 3.5 * 4.0 * seen * width;
        Ok(Step {
            name: format!("{} {}, {} x {} tokens", self.shape, self.method, self.sequences, self.length),
            seconds: time,
            tokens,
            operations: tokens * (per_weight * weights as f64 + attention),
            loss,
        })
    }

    fn batch(&self, vocab: usize) -> Batch {
        let sample = |s: usize| {
            let random = Philox { seed: 2, stream: s as u64 };
            let id = |i: usize| ((u64::from(random.word(i as u64)) * vocab as u64) >> 32) as u32;
            Sample { ids: (0..self.length).map(id).collect(), trained: vec![true; self.length], line: s + 1 }
        };
        Batch::new(&(0..self.sequences).map(sample).collect::<Vec<_>>())
    }
}
