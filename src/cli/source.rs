//! The flags that name a model, and perhaps an adapter.

use std::path::PathBuf;

use crate::Result;
use crate::cli::settings::float_dtype;
use crate::peft::lora;
use crate::train::base_model::{self, BaseModel};

/// A model, and perhaps an adapter on it.
#[derive(clap::Args)]
pub(super) struct ModelArgs {
    /// Model: a Hugging Face folder, a GGUF file, or a Hub id
    #[arg(long, value_name = "PATH_OR_ID")]
    model: String,
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
        let mut base = base_model::load(&base_model::locate(&self.model)?, dtype)?;
        if let Some(folder) = &self.adapter {
            lora::load(&mut base.model, folder)?;
        }
        Ok(base)
    }
}
