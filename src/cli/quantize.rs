//! `warptune quantize`: a model to a folder whose linear layers are in 4-bit blocks.

use std::path::PathBuf;

use crate::formats::{Checkpoint, hub};
use crate::models::quantize_checkpoint;
use crate::ops::quantize::Quantization;
use crate::tensor::QuantKind;
use crate::train::{base_model, say};
use crate::{Error, Result};

/// Quantize a model's linear layers to 4 bits, as bitsandbytes does, and write a Hugging Face folder that transformers loads
#[derive(clap::Args)]
pub(super) struct QuantizeArgs {
    /// Model: a Hugging Face folder, a GGUF file, or a Hub id
    #[arg(value_name = "PATH_OR_ID")]
    model: String,
    /// 4-bit NormalFloat (the default)
    #[arg(long, conflicts_with = "fp4")]
    nf4: bool,
    /// 4-bit floating point
    #[arg(long)]
    fp4: bool,
    /// Quantize the scales too, to 8 bits: 4.127 bits a weight instead of 4.5
    #[arg(long)]
    double_quant: bool,
    /// Weights that share a scale: a power of two from 32 to 4096
    #[arg(long, value_name = "N", default_value_t = 64)]
    block: usize,
    /// Folder for the quantized model
    #[arg(long = "out", short, value_name = "FOLDER")]
    output: PathBuf,
}

impl QuantizeArgs {
    pub(super) fn run(&self) -> Result<()> {
        if self.output.join("config.json").exists() {
            let detail = format!("{} already holds a model; choose another folder", self.output.display());
            return Err(Error::config("out", detail));
        }
        let kind = if self.fp4 && !self.nf4 { QuantKind::Fp4 } else { QuantKind::Nf4 };
        let how = Quantization { kind, block: self.block, double: self.double_quant };
        how.check()?;
        let path = hub::resolve(&self.model, None)?;
        let checkpoint = Checkpoint::open(&path)?;
        // What is wrong with it is said before the work.
        let tokenizer = base_model::load_tokenizer(&path)?;
        quantize_checkpoint(&checkpoint, &checkpoint.config()?, &how, &self.output)?;
        tokenizer.save(&self.output)?;
        let bytes = |path: PathBuf| std::fs::metadata(path).map(|m| m.len()).unwrap_or(0) as f64 / 1e6;
        say(format!(
            "model in {}: {:.1} MB",
            self.output.display(),
            bytes(self.output.join("model.safetensors"))
        ));
        Ok(())
    }
}
