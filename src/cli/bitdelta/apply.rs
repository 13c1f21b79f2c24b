//! `warptune bitdelta apply`.

use std::path::PathBuf;

use super::checkpoint;
use crate::cli::settings::float_dtype;
use crate::formats::bitdelta::Delta;
use crate::formats::hub;
use crate::peft::bitdelta::apply;
use crate::text::TOKENIZER_FILE;
use crate::train::{base_model, say};
use crate::{Error, Result};

/// Add a delta to its base and write a plain Hugging Face folder
#[derive(clap::Args)]
pub(super) struct ApplyArgs {
    /// The base: a Hugging Face folder, a GGUF file, or a Hub id (default: the one that the delta names)
    #[arg(long, value_name = "PATH_OR_ID")]
    base: Option<String>,
    /// The delta's folder
    #[arg(long, value_name = "FOLDER")]
    delta: PathBuf,
    /// Type of the weights (default: those of the base)
    #[arg(long, value_name = "f32|bf16|f16")]
    dtype: Option<String>,
    /// Folder for the model
    #[arg(long = "out", short, value_name = "FOLDER")]
    output: PathBuf,
}

impl ApplyArgs {
    pub(super) fn run(&self) -> Result<()> {
        if self.output.join("model.safetensors").exists() {
            let detail = format!("{} already holds a model; choose another folder", self.output.display());
            return Err(Error::config("out", detail));
        }
        let dtype = self.dtype.as_deref().map(|name| float_dtype("dtype", name)).transpose()?;
        let delta = Delta::open(&self.delta)?;
        let missing =
            || Error::config("base", "is missing, and the delta names none: give --base PATH_OR_ID");
        let base = self.base.clone().or_else(|| delta.config().base_model.clone()).ok_or_else(missing)?;
        // A delta from the reference layout has no tokenizer: then it is the base's.
        let tokenizer = match self.delta.join(TOKENIZER_FILE).is_file() {
            true => base_model::load_tokenizer(&self.delta)?,
            false => base_model::load_tokenizer(&hub::resolve(&base, None)?)?,
        };
        apply(checkpoint(&base)?, &delta, dtype, &self.output)?;
        tokenizer.save(&self.output)?;
        say(format!("model in {}", self.output.display()));
        Ok(())
    }
}
