//! A model with its tokenizer.

use std::path::Path;

use crate::Result;
use crate::formats::Checkpoint;
use crate::formats::bitdelta::Delta;
use crate::models::Decoder;
use crate::ops::quantize::Quantization;
use crate::peft::bitdelta;
use crate::tensor::DType;
use crate::text::{TOKENIZER_FILE, TextTokenizer};

/// A model ready for use.
pub struct BaseModel {
    /// The model, without adapters.
    pub model: Decoder,
    /// Its tokenizer.
    pub tokenizer: TextTokenizer,
}

/// Loads the model and tokenizer at `path`, a Hugging Face folder or a GGUF file, with weights of type `dtype`.
///
/// # Errors
/// Those of reading either; [`Error::Text`](crate::Error::Text) if the tokenizer is not the model's.
pub fn load(path: &Path, dtype: DType) -> Result<BaseModel> {
    load_with(path, dtype, None)
}

/// As [`load`], with the linear layers quantized as they are read, where that is asked for.
///
/// # Errors
/// Those of [`load`] and [`Decoder::load_quantized`].
pub fn load_with(path: &Path, dtype: DType, how: Option<&Quantization>) -> Result<BaseModel> {
    let checkpoint = Checkpoint::open(path)?;
    let mut tokenizer = tokenizer(&checkpoint, path)?;
    let config = checkpoint.config()?;
    tokenizer.check_vocab(config.vocab_size)?;
    tokenizer.add_eos_ids(&config.eos);
    let model = match how {
        Some(how) => Decoder::load_quantized(&checkpoint, &config, dtype, how)?,
        None => Decoder::load(&checkpoint, &config, dtype)?,
    };
    Ok(BaseModel { model, tokenizer })
}

/// The model that the base at `path` and a delta make, and the tokenizer beside the delta; the base's where there is none.
///
/// # Errors
/// Those of [`load_with`] and [`bitdelta::load`].
pub fn load_with_delta(
    path: &Path,
    delta: &Delta,
    dtype: DType,
    how: Option<&Quantization>,
) -> Result<BaseModel> {
    let checkpoint = Checkpoint::open(path)?;
    let mut tokenizer = match delta.folder().join(TOKENIZER_FILE).is_file() {
        true => TextTokenizer::load(delta.folder())?,
        false => tokenizer(&checkpoint, path)?,
    };
    tokenizer.check_vocab(delta.model_config().vocab_size)?;
    tokenizer.add_eos_ids(&delta.model_config().eos);
    Ok(BaseModel { model: bitdelta::load(checkpoint, delta, dtype, how)?, tokenizer })
}

/// The tokenizer of the model at `path` alone.
///
/// # Errors
/// Those of reading it.
pub fn load_tokenizer(path: &Path) -> Result<TextTokenizer> {
    if path.join("tokenizer.json").is_file() {
        return TextTokenizer::load(path);
    }
    tokenizer(&Checkpoint::open(path)?, path)
}

fn tokenizer(checkpoint: &Checkpoint, path: &Path) -> Result<TextTokenizer> {
    let Some(gguf) = checkpoint.gguf() else {
        let folder = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new(".")) };
        return TextTokenizer::load(folder);
    };
    TextTokenizer::from_gguf(gguf.tokenizer()?)
}
