//! `warptune pretrain`: flags and config file to the pretraining recipe's options.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::cli::device;
use crate::cli::settings::{RawTrain, check, training_dtype};
use crate::cli::start::{HasOutput, Prepared, RunArgs};
use crate::train::recipes::pretrain::{ModelShape, Options, TokenizerSource, run};
use crate::{Error, Result};

/// A learning rate that usually works for small models.
const RATE: f64 = 1e-3;

/// Train a new model on texts (causal language modelling).
#[derive(clap::Args)]
pub(super) struct PretrainArgs {
    /// Text file, or JSON lines with "text" (repeatable)
    #[arg(long, value_name = "FILE")]
    data: Vec<String>,
    /// Folder with a tokenizer.json (default: a byte-level BPE is trained on the texts)
    #[arg(long, value_name = "FOLDER")]
    tokenizer: Option<String>,
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
    tokenizer: RawTokenizer,
    data: RawData,
    train: RawTrain,
}

impl Default for Raw {
    fn default() -> Raw {
        Raw {
            output: String::new(),
            seed: 42,
            device: "cpu".to_string(),
            model: RawModel::default(),
            tokenizer: RawTokenizer::default(),
            data: RawData::default(),
            train: RawTrain { weight_decay: 0.1, beta2: 0.95, batch_size: 16, ..RawTrain::default() },
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
struct RawModel {
    dtype: String,
    hidden_size: usize,
    intermediate_size: usize,
    num_layers: usize,
    num_heads: usize,
    num_kv_heads: usize,
    max_positions: usize,
    rope_theta: f64,
    norm_eps: f64,
    tie_word_embeddings: bool,
}

impl Default for RawModel {
    fn default() -> RawModel {
        RawModel {
            dtype: "f32".to_string(),
            hidden_size: 128,
            intermediate_size: 352,
            num_layers: 4,
            num_heads: 4,
            num_kv_heads: 2,
            max_positions: 512,
            rope_theta: 10_000.0,
            norm_eps: 1e-5,
            tie_word_embeddings: true,
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
struct RawTokenizer {
    /// Empty: train one.
    path: String,
    vocab_size: usize,
}

impl Default for RawTokenizer {
    fn default() -> RawTokenizer {
        RawTokenizer { path: String::new(), vocab_size: 4096 }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
struct RawData {
    files: Vec<String>,
    block: usize,
    validation: f64,
}

impl Default for RawData {
    fn default() -> RawData {
        RawData { files: Vec::new(), block: 256, validation: 0.01 }
    }
}

impl HasOutput for Raw {
    fn output(&self) -> &str {
        &self.output
    }
}

impl PretrainArgs {
    pub(super) fn run(&self) -> Result<()> {
        let files = self.data.iter().map(|file| toml::Value::String(file.clone())).collect();
        let flags = [
            ("data.files", (!self.data.is_empty()).then_some(toml::Value::Array(files))),
            ("tokenizer.path", self.tokenizer.clone().map(toml::Value::String)),
        ];
        let Prepared { mut raw, folder, start } = self.run.prepare::<Raw>("pretrain", &flags)?;
        raw.output = folder.display().to_string();
        let options = raw.resolve()?;
        let launch = self.run.launch("pretrain", &raw, &folder, start)?;
        run(&options, &launch)
    }
}

impl Raw {
    fn resolve(&mut self) -> Result<Options> {
        if self.data.files.is_empty() {
            return Err(Error::config(
                "data.files",
                "is missing: give --data FILE, or set it in the config file",
            ));
        }
        let (block, limit) = (self.data.block, self.model.max_positions);
        check(
            "data.block",
            block,
            (2..=limit).contains(&block),
            "must be at least 2 and at most model.max_positions",
        )?;
        let model = &self.model;
        Ok(Options {
            model: ModelShape {
                hidden_size: model.hidden_size,
                intermediate_size: model.intermediate_size,
                num_layers: model.num_layers,
                num_heads: model.num_heads,
                num_kv_heads: model.num_kv_heads,
                max_positions: model.max_positions,
                rope_theta: model.rope_theta,
                norm_eps: model.norm_eps,
                tie_word_embeddings: model.tie_word_embeddings,
            },
            dtype: training_dtype("model.dtype", &model.dtype)?,
            tokenizer: match self.tokenizer.path.as_str() {
                "" => TokenizerSource::Train(self.tokenizer.vocab_size),
                path => TokenizerSource::Folder(PathBuf::from(path)),
            },
            files: self.data.files.iter().map(PathBuf::from).collect(),
            block,
            validation_fraction: self.data.validation,
            train: self.train.resolve(RATE, self.seed)?,
            output: PathBuf::from(&self.output),
            device: device::open(&self.device)?,
        })
    }
}
