//! `warptune bench-step` and `bench-generate`: whole training steps and answers on random tokens, timed, for comparisons with
//! other engines (tools/bench). Both print one JSON object.

use std::ops::ControlFlow;
use std::time::Instant;

use serde_json::json;

use crate::Result;
use crate::cli::random_ids;
use crate::cli::source::ModelArgs;
use crate::data::{Batch, Sample};
use crate::device::Device;
use crate::device::philox::Philox;
use crate::formats::peft::{LoraConfig, Targets};
use crate::generate::{GenerateOptions, generate};
use crate::peft::lora;
use crate::train::batch::batch_loss;
use crate::train::metrics::peak_rss_mib;
use crate::train::options::TrainOptions;
use crate::train::say;
use crate::train::step::{Stepper, Window, decay_matrices};

/// Time LoRA steps (all linear modules) on random tokens and print JSON.
#[derive(clap::Args)]
pub(super) struct BenchStepArgs {
    #[command(flatten)]
    source: ModelArgs,
    /// Sequences a step
    #[arg(long, default_value_t = 4)]
    batch: usize,
    /// Tokens a sequence
    #[arg(long, default_value_t = 256)]
    length: usize,
    /// Steps that are timed
    #[arg(long, default_value_t = 10)]
    steps: u64,
    /// Steps before them
    #[arg(long, default_value_t = 2)]
    warmup: u64,
    /// Rank of the adapters
    #[arg(long, default_value_t = 16)]
    lora_r: usize,
    /// Numerator of the adapters' scale
    #[arg(long, default_value_t = 32.0)]
    lora_alpha: f64,
    /// Recompute layers in the backward
    #[arg(long)]
    gradient_checkpointing: bool,
}

impl BenchStepArgs {
    pub(super) fn run(&self) -> Result<()> {
        let mut model = self.source.load()?.model;
        model.set_checkpointing(self.gradient_checkpointing);
        lora::attach(&mut model, &LoraConfig::new(self.lora_r, self.lora_alpha, Targets::AllLinear), 0)?;
        let options = TrainOptions { clip_norm: Some(1.0), ..TrainOptions::constant(1e-4, self.batch) };
        let mut stepper = Stepper::new(decay_matrices(lora::adapter_parameters(&model)), &options)?;
        let mut times = Vec::new();
        for step in 0..self.warmup + self.steps {
            let batch = self.random_batch(model.config().vocab_size, step);
            let window = Window {
                batches: std::slice::from_ref(&batch),
                labelled: batch.loss_tokens,
                step: step + 1,
                micro_step: step,
            };
            let started = Instant::now();
            stepper.step(&window, options.learning_rate, &|tape, batch, denominator| {
                batch_loss(&model, tape, batch, denominator)
            })?;
            if step >= self.warmup {
                times.push(started.elapsed().as_secs_f64() * 1e3);
            }
        }
        let device_peak = match model.device() {
            Device::Cpu => None,
            device => Some(device.cuda()?.memory_stats().peak),
        };
        say(json!({
            "step_ms": times, "median_ms": median(&times), "peak_rss_mib": peak_rss_mib(), "device_peak_bytes": device_peak,
        }));
        Ok(())
    }

    /// Other tokens each step.
    fn random_batch(&self, vocab: usize, step: u64) -> Batch {
        let sample = |s: usize| Sample {
            ids: random_ids(Philox { seed: s as u64, stream: step }, self.length, vocab),
            trained: vec![true; self.length],
            line: s + 1,
        };
        let samples: Vec<Sample> = (0..self.batch).map(sample).collect();
        Batch::new(&samples)
    }
}

/// Time greedy answers to random tokens, the prompt included, and print JSON.
#[derive(clap::Args)]
pub(super) struct BenchGenerateArgs {
    #[command(flatten)]
    source: ModelArgs,
    /// Tokens of the prompt
    #[arg(long, default_value_t = 16)]
    prompt: usize,
    /// Tokens of the answer
    #[arg(long = "new", default_value_t = 64)]
    new_tokens: usize,
    /// Answers that are timed, after one that is not
    #[arg(long, default_value_t = 5)]
    runs: usize,
}

impl BenchGenerateArgs {
    pub(super) fn run(&self) -> Result<()> {
        let model = self.source.load()?.model;
        let prompt = random_ids(Philox { seed: 0, stream: 0 }, self.prompt, model.config().vocab_size);
        // No token ends the answer.
        let options = GenerateOptions { max_new_tokens: self.new_tokens, ..GenerateOptions::default() };
        let mut rates = Vec::new();
        for run in 0..=self.runs {
            let started = Instant::now();
            let answers = generate(&model, std::slice::from_ref(&prompt), &options, &mut |_, _| {
                ControlFlow::Continue(())
            })?;
            let new: usize = answers.iter().map(|a| a.ids.len()).sum();
            if run > 0 {
                rates.push(new as f64 / started.elapsed().as_secs_f64());
            }
        }
        say(json!({
            "tokens_per_s": rates,
            "median_tokens_per_s": median(&rates),
            "peak_rss_mib": peak_rss_mib(),
        }));
        Ok(())
    }
}

pub(super) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.get(sorted.len() / 2)?;
    Some(if sorted.len().is_multiple_of(2) { (sorted[sorted.len() / 2 - 1] + middle) / 2.0 } else { *middle })
}
