//! The flags that name a model, and perhaps a delta and an adapter.

use std::path::Path;

use crate::cli::device;
use crate::cli::settings::{float_dtype, quant_kind};
use crate::formats::bitdelta::{self, Delta};
use crate::formats::hub;
use crate::formats::peft::{CONFIG_FILE, LoraConfig};
use crate::ops::quantize::Quantization;
use crate::peft::lora;
use crate::text::{TOKENIZER_FILE, TextTokenizer};
use crate::train::base_model::{self, BaseModel};
use crate::{Error, Result};

/// A model, and perhaps a delta and an adapter on it.
#[derive(clap::Args)]
pub(super) struct ModelArgs {
    /// Model: a Hugging Face folder, a GGUF file, or a Hub id (default: the one that the delta or the adapter names)
    #[arg(long, value_name = "PATH_OR_ID", required_unless_present_any = ["adapter", "delta"])]
    model: Option<String>,
    /// Adapter: a folder in PEFT's layout, or a Hub id
    #[arg(long, value_name = "PATH_OR_ID")]
    adapter: Option<String>,
    /// 1-bit delta of the model: a folder of 'warptune bitdelta', or a Hub id
    #[arg(long, value_name = "PATH_OR_ID")]
    delta: Option<String>,
    /// Where to compute
    #[arg(long, value_name = device::VALUES, default_value = "cpu")]
    device: String,
    /// Type of weights and computation
    #[arg(long, value_name = "f32|bf16|f16", default_value = "f32")]
    dtype: String,
    /// Quantize the linear layers to 4 bits as they are loaded (blocks of 64, scales in 8 bits)
    #[arg(long, value_name = "nf4|fp4")]
    quantize: Option<String>,
}

impl ModelArgs {
    /// Whether an adapter was named.
    pub fn has_adapter(&self) -> bool {
        self.adapter.is_some()
    }

    /// Whether a delta was named.
    pub fn has_delta(&self) -> bool {
        self.delta.is_some()
    }

    /// The model with its delta and its adapter attached. Its tokenizer has the chat template that the adapter was trained with: the one beside the
    /// adapter; the model's own where a lone adapter tells nothing, or ChatML where the model has none either.
    pub fn load(&self) -> Result<BaseModel> {
        let dtype = float_dtype("dtype", &self.dtype)?;
        let device = device::open(&self.device)?;
        let adapter = self.adapter.as_deref().map(|adapter| hub::resolve(adapter, None)).transpose()?;
        let delta =
            self.delta.as_deref().map(|delta| Delta::open(&hub::resolve(delta, None)?)).transpose()?;
        let source = match (&self.model, &delta, &adapter) {
            (Some(model), ..) => model.clone(),
            (None, Some(delta), _) => base_of_delta(delta)?,
            (None, None, Some(folder)) => base_of(folder)?,
            (None, None, None) => return Err(Error::config("model", "is missing: give --model PATH_OR_ID")),
        };
        let how = self.quantize.as_deref().map(|kind| quant_kind("quantize", kind)).transpose()?;
        let how = how.map(Quantization::new);
        let path = hub::resolve(&source, None)?;
        let mut base = match &delta {
            Some(delta) => base_model::load_with_delta(&path, delta, dtype, how.as_ref())?,
            None => base_model::load_with(&path, dtype, how.as_ref())?,
        };
        base.model.to_device(device)?;
        if let Some(folder) = &adapter {
            lora::load(&mut base.model, folder)?;
            let tokenizer = &mut base.tokenizer;
            if folder.join(TOKENIZER_FILE).is_file() {
                if let Some(template) = TextTokenizer::load(folder)?.default_chat_template() {
                    tokenizer.set_chat_template(template);
                }
            } else if !tokenizer.has_chat_template() {
                let (template, _) = tokenizer.chat_template(false)?;
                tokenizer.set_chat_template(template.source());
            }
        }
        Ok(base)
    }
}

/// The model that a delta was made from.
fn base_of_delta(delta: &Delta) -> Result<String> {
    let path = delta.folder().join(bitdelta::CONFIG_FILE);
    let missing =
        || Error::format_key(&path, "base_model_name_or_path", "is empty: name the model with --model");
    delta.config().base_model.clone().ok_or_else(missing)
}

/// The model that an adapter was trained on.
fn base_of(adapter: &Path) -> Result<String> {
    let path = adapter.join(CONFIG_FILE);
    let missing =
        || Error::format_key(&path, "base_model_name_or_path", "is empty: name the model with --model");
    LoraConfig::read(&path)?.base_model.ok_or_else(missing)
}
