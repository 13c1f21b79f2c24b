//! The flags that name a model, and perhaps an adapter.

use std::path::{Path, PathBuf};

use crate::cli::settings::float_dtype;
use crate::formats::peft::{CONFIG_FILE, LoraConfig};
use crate::peft::lora;
use crate::train::base_model::{self, BaseModel};
use crate::{Error, Result};

/// A model, and perhaps an adapter on it.
#[derive(clap::Args)]
pub(super) struct ModelArgs {
    /// Model: a Hugging Face folder, a GGUF file, or a Hub id (default: the one that the adapter names)
    #[arg(long, value_name = "PATH_OR_ID", required_unless_present = "adapter")]
    model: Option<String>,
    /// Adapter folder (PEFT layout)
    #[arg(long, value_name = "FOLDER")]
    adapter: Option<PathBuf>,
    /// Type of weights and computation
    #[arg(long, value_name = "f32|bf16", default_value = "f32")]
    dtype: String,
}

impl ModelArgs {
    /// The model with its adapter attached.
    pub fn load(&self) -> Result<BaseModel> {
        let dtype = float_dtype("dtype", &self.dtype)?;
        let source = match (&self.model, &self.adapter) {
            (Some(model), _) => model.clone(),
            (None, Some(folder)) => base_of(folder)?,
            (None, None) => return Err(Error::config("model", "is missing: give --model PATH_OR_ID")),
        };
        let mut base = base_model::load(&base_model::locate(&source)?, dtype)?;
        if let Some(folder) = &self.adapter {
            lora::load(&mut base.model, folder)?;
        }
        Ok(base)
    }
}

/// The model that an adapter was trained on.
fn base_of(adapter: &Path) -> Result<String> {
    let path = adapter.join(CONFIG_FILE);
    let missing =
        || Error::format_key(&path, "base_model_name_or_path", "is empty: name the model with --model");
    LoraConfig::read(&path)?.base_model.ok_or_else(missing)
}
