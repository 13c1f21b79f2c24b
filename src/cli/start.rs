//! What the training commands share: the flags, where the config comes from, how a run starts or goes on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::Value;

use crate::cli::config;
use crate::cli::device;
use crate::cli::interrupt;
use crate::train::launch::{Launch, Start};
use crate::train::next_free;
use crate::{Error, Result};

/// `--resume` without a folder: the run that the config names.
const AUTO: &str = "auto";

/// Settings that may differ when a run is resumed, since they do not change what it computes (on another device, nothing but
/// the last bits). The data are compared by content.
const FREE: [&str; 10] = [
    "output",
    "device",
    "model.path",
    "data.train",
    "data.validation",
    "data.files",
    "train.eval_every",
    "train.save_every",
    "train.keep_last",
    "train.paged",
];

/// Flags of every training command.
#[derive(clap::Args, Default)]
pub(super) struct RunArgs {
    /// Settings as a TOML file; flags and --set win over it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// One setting, e.g. --set train.lr=1e-4 (repeatable)
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// The run's folder (default: the next free one under runs/)
    #[arg(long = "out", short, value_name = "FOLDER")]
    output: Option<String>,
    /// Highest learning rate
    #[arg(long, value_name = "RATE")]
    lr: Option<f64>,
    /// Times to go through the data
    #[arg(long, value_name = "N")]
    epochs: Option<u32>,
    /// Optimizer steps, whatever the epochs
    #[arg(long, value_name = "N")]
    max_steps: Option<u32>,
    /// Sequences a micro-batch
    #[arg(long, value_name = "N")]
    batch_size: Option<u32>,
    /// Micro-batches an optimizer step
    #[arg(long, value_name = "N")]
    grad_accumulation: Option<u32>,
    /// AdamW with its averages in f32, or in blocks of 8-bit codes, a quarter of the memory
    #[arg(long, value_name = "adamw|adamw8bit")]
    optimizer: Option<String>,
    /// Keep optimizer states in host memory where the device has no room for them
    #[arg(long)]
    paged: bool,
    /// Recompute layers in the backward to save memory
    #[arg(long)]
    gradient_checkpointing: bool,
    /// Where to compute (default: cpu)
    #[arg(long, value_name = device::VALUES)]
    device: Option<String>,
    /// Type of the computation
    #[arg(long, value_name = "f32|bf16")]
    dtype: Option<String>,
    /// Seed of everything random
    #[arg(long, value_name = "N")]
    seed: Option<u32>,
    /// Go on with a run: its folder, one of its checkpoints, or nothing for the folder that the config names
    #[arg(long, value_name = "FOLDER", num_args = 0..=1, default_missing_value = AUTO)]
    resume: Option<String>,
    /// Show model, plan and data, and stop
    #[arg(long)]
    dry_run: bool,
}

/// A config that names an output folder.
pub(super) trait HasOutput {
    /// The folder, empty if none is named.
    fn output(&self) -> &str;
}

/// Settings, read and merged, and what they say of the run's folder.
pub(super) struct Prepared<T> {
    pub raw: T,
    pub folder: PathBuf,
    pub start: Start,
}

impl RunArgs {
    /// A new run with the settings of a file, in the folder `output`, on a device; perhaps of so many steps alone.
    pub fn new(config: PathBuf, output: String, device: String, max_steps: Option<u32>) -> RunArgs {
        let (config, output, device) = (Some(config), Some(output), Some(device));
        RunArgs { config, output, device, max_steps, ..RunArgs::default() }
    }

    /// Reads the config: `--config`, else that of the run to resume; `flags` are the command's own.
    pub fn prepare<T: Default + Serialize + DeserializeOwned + HasOutput>(
        &self,
        command: &str,
        flags: &[(&'static str, Option<Value>)],
    ) -> Result<Prepared<T>> {
        let number = |n: Option<u32>| n.map(|n| Value::Integer(n.into()));
        let mut all = vec![
            ("output", self.output.clone().map(Value::String)),
            ("seed", number(self.seed)),
            ("device", self.device.clone().map(Value::String)),
            ("model.dtype", self.dtype.clone().map(Value::String)),
            ("train.lr", self.lr.map(Value::Float)),
            ("train.epochs", number(self.epochs)),
            ("train.max_steps", number(self.max_steps)),
            ("train.batch_size", number(self.batch_size)),
            ("train.grad_accumulation", number(self.grad_accumulation)),
            ("train.optimizer", self.optimizer.clone().map(Value::String)),
            ("train.paged", self.paged.then_some(Value::Boolean(true))),
            ("train.gradient_checkpointing", self.gradient_checkpointing.then_some(Value::Boolean(true))),
        ];
        all.extend(flags.iter().cloned());

        let named = self.resume.as_deref().filter(|folder| *folder != AUTO).map(Path::new);
        let (resumed_folder, start) = match named {
            None if self.resume.is_some() => (None, Start::Latest),
            None => (None, Start::New),
            Some(folder) if folder.join("trainer_state.json").is_file() => {
                let run = folder.parent().and_then(Path::parent).unwrap_or(Path::new("."));
                (Some(run.to_path_buf()), Start::Checkpoint(folder.to_path_buf()))
            }
            Some(folder) if folder.join("config.toml").is_file() => {
                (Some(folder.to_path_buf()), Start::Latest)
            }
            Some(folder) => {
                let detail = format!("{} is neither a run folder nor a checkpoint", folder.display());
                return Err(Error::config("resume", detail));
            }
        };
        let saved = resumed_folder.as_ref().map(|folder| folder.join("config.toml"));
        let file = self.config.clone().or(saved);
        let raw: T = config::load(file.as_deref(), &self.set, &all)?;
        let folder = match (resumed_folder, raw.output()) {
            (Some(folder), _) => folder,
            (None, "") if start == Start::Latest => {
                let detail = "name the run folder: --resume FOLDER (the config names no output)";
                return Err(Error::config("resume", detail));
            }
            (None, "") => next_free(&Path::new("runs").join(command)),
            (None, output) => PathBuf::from(output),
        };
        Ok(Prepared { raw, folder, start })
    }

    /// What the recipe is told beside its options. `raw` is the resolved config.
    pub fn launch<T: Serialize>(
        &self,
        command: &str,
        raw: &T,
        folder: &Path,
        start: Start,
    ) -> Result<Launch> {
        let config_toml = config::to_toml(raw)?;
        let mut settings = BTreeMap::new();
        let table =
            config_toml.parse().map_err(|e| Error::config("config", format!("does not read back: {e}")))?;
        flatten("", &Value::Table(table), &mut settings);
        settings.retain(|key, _| !FREE.contains(&key.as_str()));
        Ok(Launch {
            config_toml,
            settings,
            start,
            dry_run: self.dry_run,
            interrupt: interrupt::on_ctrl_c()?,
            resume_command: format!("warptune {command} --resume {}", folder.display()),
        })
    }
}

/// Every leaf under its dotted key, as text.
fn flatten(key: &str, value: &Value, out: &mut BTreeMap<String, String>) {
    match value {
        Value::Table(table) => {
            for (name, value) in table {
                let key = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
                flatten(&key, value, out);
            }
        }
        other => {
            out.insert(key.to_string(), other.to_string());
        }
    }
}
