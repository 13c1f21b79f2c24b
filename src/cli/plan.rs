//! `warptune plan`: what a training step of a model takes, from its config alone.

use std::path::Path;

use crate::Result;
use crate::cli::settings::{RawOptimizer, check, quant_kind, training_dtype};
use crate::cli::sft::targets;
use crate::device::Device;
use crate::formats::peft::LoraConfig;
use crate::formats::{Checkpoint, DecoderConfig, hub, read_json};
use crate::ops::quantize::Quantization;
use crate::train::header;
use crate::train::memory_plan::{MemoryPlan, Sizes, StepShape};

/// Say how much device memory a training step will take, from a model's config.json; no weights are needed
#[derive(clap::Args)]
pub(super) struct PlanArgs {
    /// A config.json, a Hugging Face folder, a GGUF file, or a Hub id
    #[arg(value_name = "CONFIG")]
    model: String,
    /// Frozen linear weights in 4 bits (QLoRA: blocks of 64, scales in 8 bits)
    #[arg(long, value_name = "nf4|fp4", conflicts_with = "full")]
    quantize: Option<String>,
    /// Every weight is trained, instead of LoRA adapters
    #[arg(long)]
    full: bool,
    /// Rank of the adapters
    #[arg(long, value_name = "R", default_value_t = 16)]
    lora_r: usize,
    /// Modules with adapters: all-linear, comma-separated name endings, or a regular expression
    #[arg(long, value_name = "MODULES", default_value = "all-linear")]
    lora_targets: String,
    /// Tokens a sequence
    #[arg(long, value_name = "N", default_value_t = 2048)]
    max_tokens: usize,
    /// Sequences a micro-batch
    #[arg(long, value_name = "N", default_value_t = 1)]
    batch_size: usize,
    /// Micro-batches an optimizer step
    #[arg(long, value_name = "N", default_value_t = 1)]
    grad_accumulation: usize,
    /// Whether layers are computed again in the backward (default: where weights are in 4 bits)
    #[arg(long, value_name = "true|false")]
    gradient_checkpointing: Option<bool>,
    /// The optimizer
    #[arg(long, value_name = "adamw|adamw8bit", default_value = "adamw")]
    optimizer: RawOptimizer,
    /// The device's memory: optimizer states that do not fit go to host memory, as with train.paged
    #[arg(long, value_name = "GIB")]
    device_memory: Option<f64>,
    /// Type of the computation, and of frozen weights
    #[arg(long, value_name = "f32|bf16", default_value = "bf16")]
    dtype: String,
}

impl PlanArgs {
    pub(super) fn run(&self) -> Result<()> {
        let dtype = training_dtype("dtype", &self.dtype)?;
        let how = self.quantize.as_deref().map(|kind| quant_kind("quantize", kind)).transpose()?;
        let how = how.map(Quantization::new);
        for (key, value) in [
            ("lora-r", self.lora_r),
            ("max-tokens", self.max_tokens),
            ("batch-size", self.batch_size),
            ("grad-accumulation", self.grad_accumulation),
        ] {
            check(key, value, value >= 1, "must be at least 1")?;
        }
        let config = config(&self.model)?;
        let lora = LoraConfig::new(self.lora_r, self.lora_r as f64, targets(&self.lora_targets));
        let sizes = Sizes::on_paper(&config, dtype, how.as_ref(), (!self.full).then_some(&lora))?;
        let step = StepShape {
            tokens: self.max_tokens.saturating_mul(self.batch_size),
            dtype,
            checkpointing: self.gradient_checkpointing.unwrap_or(how.is_some()),
            accumulating: self.grad_accumulation > 1,
            logits: None,
            device: Device::Cuda(0),
        };
        let room = self.device_memory.map(|gib| (gib * f64::from(1 << 30)) as usize);
        let plan = MemoryPlan::new(&config, &sizes, &step);
        header::memory(&plan.with_optimizer(&sizes, self.optimizer.states(), room));
        Ok(())
    }
}

/// The config of a model, whose weights need not be there.
fn config(model: &str) -> Result<DecoderConfig> {
    let path = Path::new(model);
    let file = if path.is_dir() { path.join("config.json") } else { path.to_path_buf() };
    if file.is_file() && file.extension().is_some_and(|extension| extension == "json") {
        return DecoderConfig::from_json(&file, &read_json(&file)?);
    }
    Checkpoint::open(&hub::resolve(model, None)?)?.config()
}
