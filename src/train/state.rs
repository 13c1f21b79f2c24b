//! What a checkpoint says of the run itself, beside the weights and the optimizer's state.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::data::Cursor;
use crate::formats::{read_json, write_json};
use crate::{Error, Result};

const FORMAT: u32 = 1;

/// Where a run stands, between two optimizer steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainerState {
    /// Version of this file's layout.
    format: u32,
    /// Optimizer steps done.
    pub step: u64,
    /// Forward passes done: numbers the dropout masks.
    pub micro_step: u64,
    /// Tokens trained on.
    pub tokens: u64,
    /// Where the next micro-batch comes from.
    pub cursor: Cursor,
    /// The lowest evaluation loss so far.
    pub best: Option<BestEval>,
    /// The settings that decide what is computed, by key; a run cannot go on with others.
    pub settings: BTreeMap<String, String>,
    /// Identifies the training data and their order.
    pub data: String,
}

/// An evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct BestEval {
    /// Optimizer steps done before it.
    pub step: u64,
    /// Its loss. JSON numbers do not come back bit for bit everywhere, so the bits are what is written.
    #[serde(with = "bits")]
    pub loss: f64,
}

impl TrainerState {
    /// The start of a run.
    pub fn start(settings: BTreeMap<String, String>, data: String) -> TrainerState {
        TrainerState {
            format: FORMAT,
            step: 0,
            micro_step: 0,
            tokens: 0,
            cursor: Cursor::default(),
            best: None,
            settings,
            data,
        }
    }

    /// Notes a step of `micro_batches` and `tokens`, after which the data stand at `cursor`.
    pub fn advance(&mut self, micro_batches: usize, tokens: usize, cursor: Cursor) {
        self.step += 1;
        self.micro_step += micro_batches as u64;
        self.tokens += tokens as u64;
        self.cursor = cursor;
    }

    /// Epochs done, where each has `batches` micro-batches.
    pub fn epochs(&self, batches: usize) -> f64 {
        self.cursor.epoch as f64 + self.cursor.index as f64 / batches.max(1) as f64
    }

    /// Notes an evaluation after the present step.
    pub fn note_eval(&mut self, loss: f64) {
        if self.best.is_none_or(|best| loss < best.loss) {
            self.best = Some(BestEval { step: self.step, loss });
        }
    }

    /// Writes the state into a checkpoint folder.
    pub fn save(&self, folder: &Path) -> Result<()> {
        let path = folder.join("trainer_state.json");
        match serde_json::to_value(self) {
            Ok(serde_json::Value::Object(map)) => write_json(&path, &map),
            Ok(_) => Err(Error::format(path, "the state is not an object")),
            Err(e) => Err(Error::format(path, e.to_string())),
        }
    }

    /// Reads the state in a checkpoint folder.
    pub fn load(folder: &Path) -> Result<TrainerState> {
        let path = folder.join("trainer_state.json");
        let map = read_json(&path)?;
        if map.get("format").and_then(serde_json::Value::as_u64) != Some(u64::from(FORMAT)) {
            let detail =
                format!("is not a version {FORMAT} state; it was written by another version of warptune");
            return Err(Error::format_key(path, "format", detail));
        }
        serde_json::from_value(map.into()).map_err(|e| Error::format(path, e.to_string()))
    }

    /// Checks that a run with `settings` and `data` computes what this one did.
    ///
    /// # Errors
    /// [`Error::Config`] naming the first setting that differs, [`Error::Model`] for other data.
    pub fn check_same_run(&self, settings: &BTreeMap<String, String>, data: &str) -> Result<()> {
        let keys = self.settings.keys().chain(settings.keys());
        for key in keys {
            let (then, now) = (self.settings.get(key), settings.get(key));
            if then != now {
                let show = |value: Option<&String>| value.map_or("not set".to_string(), Clone::clone);
                let detail = format!(
                    "is {} but the run to resume had {}: a resumed run is the same run, so start a new one for other settings",
                    show(now),
                    show(then)
                );
                return Err(Error::config(key, detail));
            }
        }
        if self.data != data {
            let detail = "the training data are not those of the run to resume (they, the tokenizer or the template changed)";
            return Err(Error::model("resume", detail));
        }
        Ok(())
    }
}

mod bits {
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(x: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{:016x}", x.to_bits()))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        let text = String::deserialize(deserializer)?;
        u64::from_str_radix(&text, 16).map(f64::from_bits).map_err(serde::de::Error::custom)
    }
}
