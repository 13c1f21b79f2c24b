//! `warptune sft`: flags and config file to the fine-tuning recipe's options.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::cli::device;
use crate::cli::settings::{RawTrain, check, quant_kind, required, training_dtype};
use crate::cli::start::{Prepared, RunArgs};
use crate::data::{OverLong, PromptStyle, TrainOn};
use crate::formats::peft::{LoraConfig, Targets};
use crate::ops::quantize::Quantization;
use crate::train::recipes::sft::{DataOptions, Method, Options, run};

/// Learning rates that usually work: adapters bear more than whole models.
const LORA_RATE: f64 = 2e-4;
const FULL_RATE: f64 = 2e-5;

/// Fine-tune a model on examples, with LoRA or in all its weights.
#[derive(clap::Args, Default)]
pub(super) struct SftArgs {
    /// Model: a Hugging Face folder, a GGUF file, or a Hub id
    #[arg(long, value_name = "PATH_OR_ID")]
    model: Option<String>,
    /// Examples: JSON lines (or Parquet) in any of the usual formats
    #[arg(long, value_name = "FILE")]
    data: Option<String>,
    /// Validation examples, or the share of the training examples to hold out
    #[arg(long, value_name = "FILE_OR_SHARE")]
    validation: Option<String>,
    /// Train every weight instead of LoRA adapters
    #[arg(long)]
    full: bool,
    /// Quantize the frozen weights of the linear layers to 4 bits as they are loaded (QLoRA)
    #[arg(long, value_name = "nf4|fp4", conflicts_with = "full")]
    quantize: Option<String>,
    /// Let the adapters start as a repair of the quantization, found in N iterations (LoftQ)
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "1")]
    loftq: Option<u32>,
    /// Rank of the adapters
    #[arg(long, value_name = "R")]
    lora_r: Option<u32>,
    /// Numerator of the adapters' scale
    #[arg(long, value_name = "ALPHA")]
    lora_alpha: Option<f64>,
    /// Modules with adapters: all-linear, comma-separated name endings, or a regular expression
    #[arg(long, value_name = "MODULES")]
    lora_targets: Option<String>,
    /// Longest example, in tokens
    #[arg(long, value_name = "N")]
    max_tokens: Option<u32>,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
struct Raw {
    output: String,
    seed: u64,
    device: String,
    method: RawMethod,
    model: RawModel,
    data: RawData,
    lora: RawLora,
    train: RawTrain,
}

impl Default for Raw {
    fn default() -> Raw {
        Raw {
            output: String::new(),
            seed: 42,
            device: "cpu".to_string(),
            method: RawMethod::Lora,
            model: RawModel::default(),
            data: RawData::default(),
            lora: RawLora::default(),
            train: RawTrain::default(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawMethod {
    Lora,
    Full,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
struct RawModel {
    path: String,
    dtype: String,
    /// `nf4` or `fp4`: quantize the linear layers as they are loaded.
    quantize: Option<String>,
    /// Whether the scales are quantized too.
    double_quant: bool,
    /// Weights that share a scale.
    quant_block: usize,
}

impl Default for RawModel {
    fn default() -> RawModel {
        RawModel {
            path: String::new(),
            dtype: "f32".to_string(),
            quantize: None,
            double_quant: true,
            quant_block: 64,
        }
    }
}

/// What `data.validation` may be.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged, expecting = "a file, or the share of the examples to hold out (0 to 1)")]
enum RawValidation {
    Share(f64),
    File(String),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
struct RawData {
    train: String,
    validation: RawValidation,
    max_tokens: usize,
    over_long: RawOverLong,
    train_on: RawTrainOn,
    style: RawStyle,
    packing: bool,
}

impl Default for RawData {
    fn default() -> RawData {
        RawData {
            train: String::new(),
            validation: RawValidation::Share(0.05),
            max_tokens: 1024,
            over_long: RawOverLong::Error,
            train_on: RawTrainOn::Assistant,
            style: RawStyle::Chat,
            packing: true,
        }
    }
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawOverLong {
    Error,
    Drop,
    Truncate,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawTrainOn {
    Assistant,
    All,
    Last,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawStyle {
    Chat,
    Plain,
}

/// What `lora.targets` may be.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged, expecting = "\"all-linear\", name endings, or a regular expression")]
enum RawTargets {
    Text(String),
    Names(Vec<String>),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
struct RawLora {
    r: usize,
    alpha: f64,
    dropout: f64,
    rslora: bool,
    /// Iterations of LoftQ; 0: none.
    loftq: usize,
    targets: RawTargets,
}

impl Default for RawLora {
    fn default() -> RawLora {
        RawLora {
            r: 16,
            alpha: 32.0,
            dropout: 0.0,
            rslora: false,
            loftq: 0,
            targets: RawTargets::Text("all-linear".to_string()),
        }
    }
}

impl RawLora {
    fn resolve(&self, model: &str) -> Result<LoraConfig> {
        check("lora.r", self.r, self.r >= 1, "must be at least 1")?;
        check("lora.alpha", self.alpha, self.alpha > 0.0, "must be above 0")?;
        check(
            "lora.dropout",
            self.dropout,
            (0.0..1.0).contains(&self.dropout),
            "must be at least 0 and below 1",
        )?;
        let targets = match &self.targets {
            RawTargets::Names(names) => Targets::Names(names.clone()),
            RawTargets::Text(text) => targets(text),
        };
        let mut config = LoraConfig::new(self.r, self.alpha, targets);
        config.lora_dropout = self.dropout;
        config.use_rslora = self.rslora;
        config.base_model = Some(model.to_string());
        Ok(config)
    }
}

/// What a text says of target modules: all of them, names separated by commas, or else a regular expression.
pub(super) fn targets(text: &str) -> Targets {
    let names: Vec<&str> = text.split(',').map(str::trim).collect();
    let is_name = |name: &&str| {
        !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
    };
    match text {
        "all-linear" => Targets::AllLinear,
        _ if names.iter().all(is_name) => Targets::Names(names.into_iter().map(str::to_string).collect()),
        pattern => Targets::Regex(pattern.to_string()),
    }
}

impl SftArgs {
    /// Fine-tunes `model` on `data`.
    pub(super) fn new(model: String, data: String, run: RunArgs) -> SftArgs {
        SftArgs { model: Some(model), data: Some(data), run, ..SftArgs::default() }
    }

    pub(super) fn run(&self) -> Result<()> {
        let validation = self.validation.as_deref().map(|text| match text.parse::<f64>() {
            Ok(share) => toml::Value::Float(share),
            Err(_) => toml::Value::String(text.to_string()),
        });
        let flags = [
            ("model.path", self.model.clone().map(toml::Value::String)),
            ("model.quantize", self.quantize.clone().map(toml::Value::String)),
            ("data.train", self.data.clone().map(toml::Value::String)),
            ("data.validation", validation),
            ("method", self.full.then(|| "full".into())),
            ("lora.r", self.lora_r.map(|r| i64::from(r).into())),
            ("lora.loftq", self.loftq.map(|n| i64::from(n).into())),
            ("lora.alpha", self.lora_alpha.map(toml::Value::Float)),
            ("lora.targets", self.lora_targets.clone().map(toml::Value::String)),
            ("data.max_tokens", self.max_tokens.map(|n| i64::from(n).into())),
        ];
        let Prepared { mut raw, folder, start } = self.run.prepare::<Raw>("sft", &flags)?;
        raw.output = folder.display().to_string();
        let options = raw.resolve()?;
        let launch = self.run.launch("sft", &raw, &folder, start)?;
        run(&options, &launch)
    }
}

impl crate::cli::start::HasOutput for Raw {
    fn output(&self) -> &str {
        &self.output
    }
}

impl Raw {
    /// The recipe's options; settings that were left open are filled in.
    fn resolve(&mut self) -> Result<Options> {
        let model = required("model.path", &self.model.path, "--model PATH_OR_ID")?.to_string();
        let data = required("data.train", &self.data.train, "--data FILE")?.to_string();
        check("data.max_tokens", self.data.max_tokens, self.data.max_tokens >= 2, "must be at least 2")?;
        let dtype = training_dtype("model.dtype", &self.model.dtype)?;
        let quantization = match &self.model.quantize {
            None => None,
            Some(kind) => {
                let (block, double) = (self.model.quant_block, self.model.double_quant);
                let how = Quantization { kind: quant_kind("model.quantize", kind)?, block, double };
                how.check()?;
                Some(how)
            }
        };
        let (method, rate) = match self.method {
            RawMethod::Lora => (Method::Lora(Box::new(self.lora.resolve(&model)?)), LORA_RATE),
            RawMethod::Full => (Method::Full, FULL_RATE),
        };
        let (validation, validation_fraction) = match &self.data.validation {
            RawValidation::Share(share) => (None, *share),
            RawValidation::File(file) => (Some(PathBuf::from(file)), 0.0),
        };
        let examples = crate::data::SftOptions {
            max_tokens: self.data.max_tokens,
            over_long: match self.data.over_long {
                RawOverLong::Error => OverLong::Error,
                RawOverLong::Drop => OverLong::Drop,
                RawOverLong::Truncate => OverLong::Truncate,
            },
            train_on: match self.data.train_on {
                RawTrainOn::Assistant => TrainOn::Assistant,
                RawTrainOn::All => TrainOn::All,
                RawTrainOn::Last => TrainOn::Last,
            },
            style: match self.data.style {
                RawStyle::Chat => PromptStyle::Chat,
                RawStyle::Plain => PromptStyle::Plain,
            },
            format: None,
        };
        let train = Path::new(&data).to_path_buf();
        let packing = self.data.packing;
        Ok(Options {
            model,
            dtype,
            quantization,
            method,
            loftq: self.lora.loftq,
            data: DataOptions { train, validation, validation_fraction, packing, examples },
            train: self.train.resolve(rate, self.seed)?,
            output: PathBuf::from(&self.output),
            device: device::open(&self.device)?,
        })
    }
}
