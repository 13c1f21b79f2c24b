//! metrics.jsonl: one JSON object a step, in the order of the steps.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::formats::write_atomic;
use crate::{Error, Result};

/// What one optimizer step left behind; step 0 is the evaluation before any training.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Optimizer steps done.
    pub step: u64,
    /// Epochs done, with a fraction.
    pub epoch: f64,
    /// Training loss of the step: mean over its labelled tokens, in nats.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub loss: Option<f64>,
    /// Learning rate of the step.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub lr: Option<f64>,
    /// Global gradient norm before clipping.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub grad_norm: Option<f64>,
    /// Tokens trained on so far, in the whole run.
    pub tokens: u64,
    /// Tokens a second in this step (evaluation and checkpoints not counted).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub tokens_per_s: Option<f64>,
    /// Mean loss over the labelled tokens of the validation split, in nats.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub eval_loss: Option<f64>,
    /// exp(eval_loss).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub perplexity: Option<f64>,
    /// The most memory that the process has held, in MiB.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub peak_rss_mib: Option<f64>,
}

impl Record {
    /// The record with an evaluation of this loss.
    pub fn with_eval(self, loss: f64) -> Record {
        Record { eval_loss: Some(loss), perplexity: Some(loss.exp()), ..self }
    }
}

/// The open metrics.jsonl of a run.
pub struct MetricsFile {
    path: PathBuf,
    file: File,
}

impl MetricsFile {
    /// Opens `path` for a run that stands at `step`: lines of later steps, and a torn last line, are removed first, so
    /// that no step is there twice. Returns the lines that are left too.
    pub fn open(path: &Path, step: Option<u64>) -> Result<(MetricsFile, Vec<Record>)> {
        let kept = match step {
            Some(step) => read(path)?.into_iter().filter(|r| r.step <= step).collect(),
            None => Vec::new(),
        };
        write_atomic(path, |out| {
            kept.iter().try_for_each(|record| {
                out.write_all(line(path, record)?.as_bytes()).map_err(Error::io(path, "cannot write"))
            })
        })?;
        let file = OpenOptions::new().append(true).open(path).map_err(Error::io(path, "cannot open"))?;
        Ok((MetricsFile { path: path.to_path_buf(), file }, kept))
    }

    /// Adds a line. It has left the process when this returns, so a kill cannot take it back.
    pub fn append(&mut self, record: &Record) -> Result<()> {
        let line = line(&self.path, record)?;
        self.file.write_all(line.as_bytes()).map_err(Error::io(&self.path, "cannot write"))
    }

    /// Makes the lines so far durable: a checkpoint must not outlive the metrics that led to it.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(Error::io(&self.path, "cannot write"))
    }
}

fn line(path: &Path, record: &Record) -> Result<String> {
    let json = serde_json::to_string(record).map_err(|e| Error::format(path, e.to_string()))?;
    Ok(json + "\n")
}

/// The records of a metrics.jsonl (none if there is no such file). A last line without its end is what a killed run
/// leaves, and is passed over; anything else that is not a record is an error.
pub fn read(path: &Path) -> Result<Vec<Record>> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::io(path, "cannot read")(e)),
    };
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let parse = |(i, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|e| Error::data(path, i + 1, format!("not a metrics record: {e}")))
    };
    whole.lines().enumerate().map(parse).collect()
}

/// The most memory that this process has held, in MiB, where the system tells (Linux).
pub fn peak_rss_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kib = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?.trim().strip_suffix("kB")?;
    Some(kib.trim().parse::<f64>().ok()? / 1024.0)
}
