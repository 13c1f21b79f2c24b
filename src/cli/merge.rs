//! `warptune merge`: an adapter (or a 1-bit delta) into the weights of its model; or a model alone, from GGUF or in another type, as a plain folder.

use std::path::PathBuf;

use crate::autograd::Tape;
use crate::cli::random_ids;
use crate::cli::settings::quant_kind;
use crate::cli::source::ModelArgs;
use crate::device::philox::Philox;
use crate::models::Decoder;
use crate::nn::TokenBatch;
use crate::ops::quantize::Quantization;
use crate::peft::{bitdelta, lora};
use crate::tensor::Tensor;
use crate::train::base_model::{self, BaseModel};
use crate::train::say;
use crate::{Error, Result};

/// Sample sequences that --verify compares logits on, and their length.
const SEQUENCES: u64 = 4;
const LENGTH: usize = 64;

/// Merge an adapter or a delta into its model and write a plain Hugging Face folder (without either: convert the model)
#[derive(clap::Args)]
pub(super) struct MergeArgs {
    #[command(flatten)]
    source: ModelArgs,
    /// Folder for the merged model
    #[arg(long = "out", short, value_name = "FOLDER")]
    output: PathBuf,
    /// Quantize the merged linear layers to 4 bits (blocks of 64, scales in 8 bits)
    #[arg(long, value_name = "nf4|fp4")]
    requantize: Option<String>,
    /// Load the result and compare its logits with those of model + adapter (or delta)
    #[arg(long)]
    verify: bool,
}

impl MergeArgs {
    pub(super) fn run(&self) -> Result<()> {
        if self.output.join("config.json").exists() {
            let detail = format!("{} already holds a model; choose another folder", self.output.display());
            return Err(Error::config("out", detail));
        }
        let requantize = self.requantize.as_deref().map(|kind| quant_kind("requantize", kind)).transpose()?;
        let BaseModel { mut model, tokenizer } = self.source.load()?;
        let tokens = sample_tokens(model.config().vocab_size, model.config().max_positions)?;
        let before = if self.verify { Some(logits(&model, &tokens)?) } else { None };
        if self.source.has_adapter() {
            lora::merge(&mut model)?;
        }
        if self.source.has_delta() {
            bitdelta::fold(&mut model)?;
        }
        // What had none is as it was read.
        let dtype = model.dtype();
        model.dequantize(dtype)?;
        if let Some(kind) = requantize {
            model.quantize(&Quantization::new(kind))?;
        }
        model.save(&self.output)?;
        tokenizer.save(&self.output)?;
        say(format!("model in {}", self.output.display()));
        if let Some(before) = before {
            // From the disk: what others will load.
            let saved = base_model::load(&self.output, model.dtype())?.model;
            report(&before, &logits(&saved, &tokens)?, model.config().vocab_size)?;
        }
        Ok(())
    }
}

/// The same tokens on every call.
fn sample_tokens(vocab: usize, max_positions: usize) -> Result<TokenBatch> {
    let length = LENGTH.min(max_positions);
    let sequences: Vec<Vec<u32>> =
        (0..SEQUENCES).map(|s| random_ids(Philox { seed: 0, stream: s }, length, vocab)).collect();
    TokenBatch::packed(&sequences)
}

fn logits(model: &Decoder, tokens: &TokenBatch) -> Result<Tensor> {
    let hidden = model.hidden(&Tape::inference(), tokens)?;
    model.logits(hidden.value())
}

fn report(before: &Tensor, after: &Tensor, vocab: usize) -> Result<()> {
    let (before, after) = (before.fetch_f32()?, after.fetch_f32()?);
    let largest = |values: &mut dyn Iterator<Item = f32>| values.fold(0.0f32, |m, x| m.max(x.abs()));
    let gap = largest(&mut before.iter().zip(&after).map(|(b, a)| b - a));
    let size = largest(&mut before.iter().copied());
    let rows = before.chunks_exact(vocab).zip(after.chunks_exact(vocab));
    let positions = before.len() / vocab.max(1);
    let agree = rows.filter(|(b, a)| argmax(b) == argmax(a)).count();
    say(format!(
        "largest logit gap {gap:.3e} (largest logit {size:.2}) over {positions} positions; the likeliest token agrees at {agree}"
    ));
    Ok(())
}

fn argmax(row: &[f32]) -> Option<usize> {
    row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map(|(i, _)| i)
}
