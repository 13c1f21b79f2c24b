//! `adapter_config.json` of a LoRA adapter.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::targets::{Targets, find_pattern};
use crate::error::{Error, Result};
use crate::formats::json::{Fields, read_json};

/// No adapter has a rank beyond this; the largest useful one is the width of the model.
const MAX_RANK: u64 = 1 << 20;

/// The settings of a LoRA adapter: y = x W^T + s (x A^T) B^T with s = alpha / r, or alpha / sqrt(r) for rsLoRA.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraConfig {
    /// Rank.
    pub r: usize,
    /// Numerator of the scale.
    pub lora_alpha: f64,
    /// Dropout on the adapter's input while training, in [0, 1).
    pub lora_dropout: f64,
    /// Whether the scale is alpha / sqrt(r).
    pub use_rslora: bool,
    /// Whether the base weights are stored as [in, out] (GPT-2's Conv1D). The adapter's own tensors never are.
    pub fan_in_fan_out: bool,
    /// Which modules it attaches to.
    pub target_modules: Targets,
    /// Other ranks for some modules: (regular expression for the end of the name, rank), the first match counts.
    pub rank_pattern: Vec<(String, usize)>,
    /// Other alphas for some modules.
    pub alpha_pattern: Vec<(String, f64)>,
    /// The model that it was trained on: a path or a Hub id.
    pub base_model: Option<String>,
    /// Every key of the file it was read from, so that those which are not understood here survive a round trip.
    pub raw: Map<String, Value>,
}

impl LoraConfig {
    /// A plain LoRA configuration.
    pub fn new(r: usize, lora_alpha: f64, target_modules: Targets) -> LoraConfig {
        LoraConfig {
            r,
            lora_alpha,
            lora_dropout: 0.0,
            use_rslora: false,
            fan_in_fan_out: false,
            target_modules,
            rank_pattern: Vec::new(),
            alpha_pattern: Vec::new(),
            base_model: None,
            raw: Map::new(),
        }
    }

    /// Reads an adapter_config.json.
    ///
    /// # Errors
    /// As [`read_json`] and [`LoraConfig::from_json`].
    pub fn read(path: &Path) -> Result<LoraConfig> {
        LoraConfig::from_json(path, &read_json(path)?)
    }

    /// Reads the object of an adapter_config.json; `path` names it in errors.
    ///
    /// # Errors
    /// [`Error::Format`], naming the key, for a missing, mistyped or absurd value; [`Error::Unsupported`], naming it,
    /// for another PEFT method and for every setting that would change what the adapter computes.
    pub fn from_json(path: &Path, map: &Map<String, Value>) -> Result<LoraConfig> {
        let fields = Fields::new(path, map);
        match fields.str("peft_type")? {
            Some("LORA") => {}
            Some(other) => return Err(Error::unsupported(format!("the adapter type {other}"), "LORA is")),
            None => return Err(fields.error("peft_type", "is missing; this does not look like an adapter")),
        }
        refuse_variants(&fields)?;
        let rank = |key: &str, value: Option<u64>| match value {
            Some(r) if (1..=MAX_RANK).contains(&r) => Ok(r as usize),
            Some(r) => Err(fields.error(key, format!("must be between 1 and {MAX_RANK}, not {r}"))),
            None => Err(fields.error(key, "is missing")),
        };
        let target_modules = match fields.value("target_modules") {
            Some(v) => Targets::from_json(v).ok_or_else(|| {
                fields.error(
                    "target_modules",
                    "must be a list of names, a regular expression or \"all-linear\"",
                )
            })?,
            None => return Err(fields.error("target_modules", "is missing")),
        };
        let lora_dropout = fields.float("lora_dropout")?.unwrap_or(0.0);
        if !(0.0..1.0).contains(&lora_dropout) {
            return Err(fields.error("lora_dropout", format!("must be in [0, 1), not {lora_dropout}")));
        }
        let rank_pattern =
            pattern(&fields, "rank_pattern", "rank_pattern.", |f, key| rank(key, f.uint(key)?))?;
        let alpha_pattern = pattern(&fields, "alpha_pattern", "alpha_pattern.", |f, key| {
            f.float(key)?.ok_or_else(|| f.error(key, "must be a number"))
        })?;
        Ok(LoraConfig {
            r: rank("r", fields.uint("r")?)?,
            lora_alpha: fields.float("lora_alpha")?.unwrap_or(8.0),
            lora_dropout,
            use_rslora: fields.bool("use_rslora")?.unwrap_or(false),
            fan_in_fan_out: fields.bool("fan_in_fan_out")?.unwrap_or(false),
            target_modules,
            rank_pattern,
            alpha_pattern,
            base_model: fields.str("base_model_name_or_path")?.map(str::to_owned),
            raw: map.clone(),
        })
    }

    /// The object of an adapter_config.json, as `peft` loads it.
    pub fn to_json(&self) -> Map<String, Value> {
        let mut map = self.raw.clone();
        for (key, value) in [
            ("peft_type", json!("LORA")),
            ("base_model_name_or_path", json!(self.base_model)),
            ("r", json!(self.r)),
            ("lora_alpha", number(self.lora_alpha)),
            ("lora_dropout", json!(self.lora_dropout)),
            ("use_rslora", json!(self.use_rslora)),
            ("fan_in_fan_out", json!(self.fan_in_fan_out)),
            ("target_modules", self.target_modules.to_json()),
            ("rank_pattern", self.rank_pattern.iter().map(|(k, r)| (k.clone(), json!(r))).collect()),
            ("alpha_pattern", self.alpha_pattern.iter().map(|(k, a)| (k.clone(), number(*a))).collect()),
        ] {
            map.insert(key.to_owned(), value);
        }
        for (key, default) in [
            ("task_type", json!("CAUSAL_LM")),
            ("bias", json!("none")),
            ("use_dora", json!(false)),
            ("modules_to_save", Value::Null),
            ("init_lora_weights", json!(true)),
            ("inference_mode", json!(true)),
        ] {
            map.entry(key).or_insert(default);
        }
        map
    }

    /// The rank of the adapter on `module`.
    ///
    /// # Errors
    /// [`Error::Config`] when a key of `rank_pattern` is not a regular expression.
    pub fn rank_of(&self, module: &str) -> Result<usize> {
        Ok(find_pattern(&self.rank_pattern, module)?.copied().unwrap_or(self.r))
    }

    /// The scale s of the adapter on `module`.
    ///
    /// # Errors
    /// [`Error::Config`] when a key of a pattern is not a regular expression.
    pub fn scale_of(&self, module: &str) -> Result<f64> {
        let alpha = find_pattern(&self.alpha_pattern, module)?.copied().unwrap_or(self.lora_alpha);
        let r = self.rank_of(module)? as f64;
        Ok(if self.use_rslora { alpha / r.sqrt() } else { alpha / r })
    }
}

/// Refuses what would make the adapter compute something else than the formula of [`LoraConfig`].
fn refuse_variants(fields: &Fields<'_>) -> Result<()> {
    let refuse = |what: String| {
        Err(Error::unsupported(format!("an adapter with {what}"), "plain LoRA and rsLoRA are"))
    };
    for key in ["use_dora", "use_qalora", "lora_bias"] {
        if fields.bool(key)?.unwrap_or(false) {
            return refuse(key.to_owned());
        }
    }
    match fields.str("bias")? {
        None | Some("none") => {}
        Some(other) => return refuse(format!("bias = \"{other}\"")),
    }
    for key in [
        "modules_to_save",
        "trainable_token_indices",
        "layer_replication",
        "target_parameters",
        "alora_invocation_tokens",
        "arrow_config",
        "kasa_config",
        "monteclora_config",
        "velora_config",
        "use_bdlora",
    ] {
        let empty = match fields.value(key) {
            None | Some(Value::Bool(false)) => true,
            Some(Value::Array(items)) => items.is_empty(),
            Some(Value::Object(map)) => map.is_empty(),
            Some(_) => false,
        };
        if !empty {
            return refuse(key.to_owned());
        }
    }
    // The others (pissa, olora, corda, loftq, ...) change the base weights when the adapter is loaded.
    match fields.value("init_lora_weights") {
        None | Some(Value::Bool(_)) => Ok(()),
        Some(Value::String(init)) if ["gaussian", "eva", "orthogonal"].contains(&init.as_str()) => Ok(()),
        Some(other) => refuse(format!("init_lora_weights = {other}")),
    }
}

fn pattern<'a, T>(
    fields: &Fields<'a>,
    key: &str,
    prefix: &'a str,
    read: impl Fn(&Fields<'a>, &str) -> Result<T>,
) -> Result<Vec<(String, T)>> {
    let Some(inner) = fields.object(key, prefix)? else { return Ok(Vec::new()) };
    inner.keys().map(|k| Ok((k.to_owned(), read(&inner, k)?))).collect()
}

/// Whole numbers without a fraction: `peft` declares alpha as an int.
fn number(x: f64) -> Value {
    if x.fract() == 0.0 && x.abs() < 9e15 { json!(x as i64) } else { json!(x) }
}
