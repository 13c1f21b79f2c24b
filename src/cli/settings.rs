//! The sections of a config file that recipes share: raw as in the file, and checked once on the way to typed options.

use serde::{Deserialize, Serialize};

use crate::optim::States;
use crate::optim::schedule::ScheduleKind;
use crate::tensor::{DType, QuantKind};
use crate::train::options::{TrainOptions, Warmup, check_dtype};
use crate::{Error, Result};

/// `[train]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct RawTrain {
    /// Highest learning rate; unset takes the recipe's usual one.
    pub lr: Option<f64>,
    pub schedule: ScheduleKind,
    pub optimizer: RawOptimizer,
    /// Whether optimizer states may lie in host memory where a device has no room.
    pub paged: bool,
    /// Unset takes `warmup_ratio`.
    pub warmup_steps: Option<u64>,
    pub warmup_ratio: f64,
    pub weight_decay: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub epsilon: f64,
    /// 0 turns clipping off.
    pub clip_norm: f64,
    pub batch_size: usize,
    pub grad_accumulation: usize,
    pub epochs: u64,
    pub max_steps: Option<u64>,
    pub eval_every: u64,
    pub save_every: u64,
    pub keep_last: usize,
    /// Unset: for models in 4 bits.
    pub gradient_checkpointing: Option<bool>,
}

/// What `train.optimizer` may be.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lowercase")]
pub(super) enum RawOptimizer {
    AdamW,
    AdamW8bit,
}

impl RawOptimizer {
    /// How it keeps its averages.
    pub fn states(self) -> States {
        match self {
            RawOptimizer::AdamW => States::F32,
            RawOptimizer::AdamW8bit => States::Blockwise8,
        }
    }
}

impl Default for RawTrain {
    fn default() -> RawTrain {
        RawTrain {
            lr: None,
            schedule: ScheduleKind::Cosine,
            optimizer: RawOptimizer::AdamW,
            paged: false,
            warmup_steps: None,
            warmup_ratio: 0.03,
            weight_decay: 0.0,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            clip_norm: 1.0,
            batch_size: 4,
            grad_accumulation: 1,
            epochs: 1,
            max_steps: None,
            eval_every: 50,
            save_every: 100,
            keep_last: 2,
            gradient_checkpointing: None,
        }
    }
}

impl RawTrain {
    /// Checks every number. `usual_lr` is for a config that names none; it is then written down in the resolved one.
    pub fn resolve(&mut self, usual_lr: f64, seed: u64) -> Result<TrainOptions> {
        let lr = *self.lr.get_or_insert(usual_lr);
        check("train.lr", lr, lr > 0.0, "must be above 0")?;
        check(
            "train.warmup_ratio",
            self.warmup_ratio,
            (0.0..=1.0).contains(&self.warmup_ratio),
            "must be in 0..=1",
        )?;
        check("train.weight_decay", self.weight_decay, self.weight_decay >= 0.0, "must not be negative")?;
        check("train.beta1", self.beta1, (0.0..1.0).contains(&self.beta1), "must be at least 0 and below 1")?;
        check("train.beta2", self.beta2, (0.0..1.0).contains(&self.beta2), "must be at least 0 and below 1")?;
        check("train.epsilon", self.epsilon, self.epsilon > 0.0, "must be above 0")?;
        check(
            "train.clip_norm",
            self.clip_norm,
            self.clip_norm >= 0.0,
            "must not be negative (0: no clipping)",
        )?;
        let at_least_one = [
            ("train.batch_size", self.batch_size as u64),
            ("train.grad_accumulation", self.grad_accumulation as u64),
            ("train.epochs", self.epochs),
            ("train.max_steps", self.max_steps.unwrap_or(1)),
        ];
        for (key, value) in at_least_one {
            check(key, value, value >= 1, "must be at least 1")?;
        }
        Ok(TrainOptions {
            learning_rate: lr,
            schedule: self.schedule,
            warmup: self.warmup_steps.map_or(Warmup::Ratio(self.warmup_ratio), Warmup::Steps),
            weight_decay: self.weight_decay,
            beta1: self.beta1,
            beta2: self.beta2,
            epsilon: self.epsilon,
            states: self.optimizer.states(),
            paged: self.paged,
            clip_norm: (self.clip_norm > 0.0).then_some(self.clip_norm),
            batch_size: self.batch_size,
            accumulation: self.grad_accumulation,
            epochs: self.epochs,
            max_steps: self.max_steps,
            eval_every: self.eval_every,
            save_every: self.save_every,
            keep_last: self.keep_last,
            gradient_checkpointing: self.gradient_checkpointing,
            seed,
        })
    }
}

/// An [`Error::Config`] for `key` unless `valid`.
pub(super) fn check(key: &str, value: impl std::fmt::Display, valid: bool, rule: &str) -> Result<()> {
    if valid { Ok(()) } else { Err(Error::config(key, format!("is {value}; it {rule}"))) }
}

/// The float type that `key` names.
pub(super) fn float_dtype(key: &str, name: &str) -> Result<DType> {
    match name {
        "f32" => Ok(DType::F32),
        "bf16" => Ok(DType::BF16),
        "f16" => Ok(DType::F16),
        other => Err(Error::config(key, format!("is '{other}'; allowed: f32, bf16, f16"))),
    }
}

/// The float type that `key` names, for training.
pub(super) fn training_dtype(key: &str, name: &str) -> Result<DType> {
    let dtype = float_dtype(key, name)?;
    check_dtype(key, dtype).map(|()| dtype)
}

/// The kind of 4-bit codes that `key` names.
pub(super) fn quant_kind(key: &str, name: &str) -> Result<QuantKind> {
    name.parse().map_err(|_| Error::config(key, format!("is '{name}'; allowed: nf4, fp4")))
}

/// A setting that has no default.
pub(super) fn required<'a>(key: &str, value: &'a str, flag: &str) -> Result<&'a str> {
    match value {
        "" => Err(Error::config(key, format!("is missing: give {flag}, or set it in the config file"))),
        value => Ok(value),
    }
}
