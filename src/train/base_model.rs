//! A model with its tokenizer, from wherever the user has it.

use std::path::{Path, PathBuf};

use crate::formats::Checkpoint;
use crate::models::Decoder;
use crate::tensor::DType;
use crate::text::{SpecialTokens, TextTokenizer};
use crate::{Error, Result};

/// A model ready for use.
pub struct BaseModel {
    /// The model, without adapters.
    pub model: Decoder,
    /// Its tokenizer.
    pub tokenizer: TextTokenizer,
}

/// The path of the weights that `source` names: a folder or file here, else a Hub id (downloaded into the Hub's cache).
///
/// # Errors
/// [`Error::Model`] if it is neither; [`Error::Hub`].
pub fn locate(source: &str) -> Result<PathBuf> {
    let path = Path::new(source);
    if path.exists() {
        return Ok(path.to_path_buf());
    }
    let parts: Vec<&str> = source.split('/').collect();
    let is_id = parts.len() == 2 && parts.iter().all(|p| !p.is_empty() && !p.starts_with('.'));
    if !is_id {
        return Err(Error::model(
            source,
            "there is no such file or folder, and it is not a Hub id (owner/name)",
        ));
    }
    Err(Error::unsupported("hub", source))
}

/// Loads the model and tokenizer at `path`, a Hugging Face folder or a GGUF file, with weights of type `dtype`.
///
/// # Errors
/// Those of reading either; [`Error::Text`] if the tokenizer is not the model's.
pub fn load(path: &Path, dtype: DType) -> Result<BaseModel> {
    let checkpoint = Checkpoint::open(path)?;
    let tokenizer = tokenizer(&checkpoint, path)?;
    let config = checkpoint.config()?;
    tokenizer.check_vocab(config.vocab_size)?;
    Ok(BaseModel { model: Decoder::load(&checkpoint, &config, dtype)?, tokenizer })
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
    let parts = gguf.tokenizer()?;
    let text = |id: Option<u32>| id.and_then(|id| parts.tokenizer.id_to_token(id));
    let special = SpecialTokens {
        bos: text(parts.bos),
        eos: text(parts.eos),
        pad: text(parts.pad),
        unk: text(parts.unk),
        stop_ids: parts.eot.into_iter().collect(),
        chat_templates: parts.chat_template.map(|t| ("default".to_string(), t)).into_iter().collect(),
    };
    TextTokenizer::from_parts(parts.tokenizer, special)
}
