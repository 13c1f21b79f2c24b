//! `warptune bitdelta distill`: flags and config file to the recipe's options.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::cli::device;
use crate::cli::settings::{RawTrain, check, required, training_dtype};
use crate::cli::start::{HasOutput, Prepared, RunArgs};
use crate::train::recipes::distill::{DataOptions, Options, run};
use crate::{Error, Result};

/// The paper's.
const RATE: f64 = 1e-4;

/// Train a delta's scales until base + delta says what the fine-tuned model says (its signs stay)
#[derive(clap::Args)]
pub(super) struct DistillArgs {
    /// The base: a Hugging Face folder, a GGUF file, or a Hub id
    #[arg(long, value_name = "PATH_OR_ID")]
    base: Option<String>,
    /// The fine-tuned model
    #[arg(long, value_name = "PATH_OR_ID")]
    fine_tuned: Option<String>,
    /// The delta (default: the run compresses the model first)
    #[arg(long, value_name = "FOLDER")]
    delta: Option<String>,
    /// Calibration texts: a text file, or JSON lines (or Parquet) in any of the usual formats
    #[arg(long, value_name = "FILE")]
    data: Option<String>,
    /// A scale for each row of a matrix, where the run makes the delta
    #[arg(long, conflicts_with = "delta")]
    per_row: bool,
    /// Samples to train on
    #[arg(long, value_name = "N")]
    samples: Option<u32>,
    /// Tokens of a sample at most
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
    model: RawModel,
    data: RawData,
    train: RawTrain,
}

impl Default for Raw {
    fn default() -> Raw {
        // 800 samples in batches of 4: the paper's 200 steps.
        let train = RawTrain { warmup_ratio: 0.0, clip_norm: 0.0, batch_size: 4, ..RawTrain::default() };
        Raw {
            output: String::new(),
            seed: 42,
            device: "cpu".to_string(),
            model: RawModel::default(),
            data: RawData::default(),
            train,
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
struct RawModel {
    base: String,
    fine_tuned: String,
    /// Empty: the run compresses the model first.
    delta: String,
    /// A scale for each row, where the run makes the delta.
    per_row: bool,
    dtype: String,
}

impl Default for RawModel {
    fn default() -> RawModel {
        RawModel {
            base: String::new(),
            fine_tuned: String::new(),
            delta: String::new(),
            per_row: false,
            dtype: "f32".to_string(),
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
struct RawData {
    train: String,
    samples: usize,
    validation_samples: usize,
    max_tokens: usize,
}

impl Default for RawData {
    fn default() -> RawData {
        RawData { train: String::new(), samples: 800, validation_samples: 32, max_tokens: 128 }
    }
}

impl HasOutput for Raw {
    fn output(&self) -> &str {
        &self.output
    }
}

impl DistillArgs {
    pub(super) fn run(&self) -> Result<()> {
        let text = |value: &Option<String>| value.clone().map(toml::Value::String);
        let number = |value: Option<u32>| value.map(|n| i64::from(n).into());
        let flags = [
            ("model.base", text(&self.base)),
            ("model.fine_tuned", text(&self.fine_tuned)),
            ("model.delta", text(&self.delta)),
            ("model.per_row", self.per_row.then_some(toml::Value::Boolean(true))),
            ("data.train", text(&self.data)),
            ("data.samples", number(self.samples)),
            ("data.max_tokens", number(self.max_tokens)),
        ];
        let Prepared { mut raw, folder, start } = self.run.prepare::<Raw>("bitdelta", &flags)?;
        raw.output = folder.display().to_string();
        let options = raw.resolve()?;
        let launch = self.run.launch("bitdelta distill", &raw, &folder, start)?;
        run(&options, &launch)
    }
}

impl Raw {
    /// The recipe's options; settings that were left open are filled in.
    fn resolve(&mut self) -> Result<Options> {
        let base = required("model.base", &self.model.base, "--base PATH_OR_ID")?.to_string();
        let fine_tuned =
            required("model.fine_tuned", &self.model.fine_tuned, "--fine-tuned PATH_OR_ID")?.to_string();
        let train = PathBuf::from(required("data.train", &self.data.train, "--data FILE")?);
        check("data.samples", self.data.samples, self.data.samples >= 1, "must be at least 1")?;
        check("data.max_tokens", self.data.max_tokens, self.data.max_tokens >= 2, "must be at least 2")?;
        if self.model.per_row && !self.model.delta.is_empty() {
            let detail = "is for a delta that the run makes; the one that is named has its scales already";
            return Err(Error::config("model.per_row", detail));
        }
        Ok(Options {
            base,
            fine_tuned,
            delta: (!self.model.delta.is_empty()).then(|| PathBuf::from(&self.model.delta)),
            per_row: self.model.per_row,
            dtype: training_dtype("model.dtype", &self.model.dtype)?,
            data: DataOptions {
                train,
                samples: self.data.samples,
                validation_samples: self.data.validation_samples,
                max_tokens: self.data.max_tokens,
            },
            train: self.train.resolve(RATE, self.seed)?,
            output: PathBuf::from(&self.output),
            device: device::open(&self.device)?,
        })
    }
}
