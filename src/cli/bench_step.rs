//! `warptune bench-step`: the time of whole LoRA steps, for comparisons with other engines.

use std::time::Instant;

use crate::Result;
use crate::cli::random_ids;
use crate::cli::source::ModelArgs;
use crate::data::{Batch, Sample};
use crate::device::philox::Philox;
use crate::formats::peft::{LoraConfig, Targets};
use crate::optim::schedule::ScheduleKind;
use crate::peft::lora;
use crate::train::batch::batch_loss;
use crate::train::metrics::peak_rss_mib;
use crate::train::options::{TrainOptions, Warmup};
use crate::train::say;
use crate::train::step::{Stepper, Window, decay_matrices};

/// Time LoRA steps (r 16, alpha 32, all linear modules) on random tokens and print JSON.
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
    /// Recompute layers in the backward
    #[arg(long)]
    gradient_checkpointing: bool,
}

impl BenchStepArgs {
    pub(super) fn run(&self) -> Result<()> {
        let mut model = self.source.load()?.model;
        model.set_checkpointing(self.gradient_checkpointing);
        lora::attach(&mut model, &LoraConfig::new(16, 32.0, Targets::AllLinear), 0)?;
        let options = TrainOptions {
            learning_rate: 1e-4,
            schedule: ScheduleKind::Constant,
            warmup: Warmup::Steps(0),
            weight_decay: 0.0,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            clip_norm: Some(1.0),
            batch_size: self.batch,
            accumulation: 1,
            epochs: 1,
            max_steps: None,
            eval_every: 0,
            save_every: 0,
            keep_last: 0,
            gradient_checkpointing: self.gradient_checkpointing,
            seed: 0,
        };
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
        let mut sorted = times.clone();
        sorted.sort_by(f64::total_cmp);
        let median = sorted.get(sorted.len() / 2);
        say(serde_json::json!({
            "step_ms": times,
            "median_ms": median,
            "peak_rss_mib": peak_rss_mib(),
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
