//! How a run optimizes, whatever its recipe.

use crate::device::Device;
use crate::models::Decoder;
use crate::optim::States;
use crate::optim::schedule::{Schedule, ScheduleKind};
use crate::tensor::DType;
use crate::{Error, Result};

/// The length of a warm-up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Warmup {
    /// So many optimizer steps.
    Steps(u64),
    /// This share of all steps, rounded up.
    Ratio(f64),
}

/// Whether models can be trained with activations of `dtype`, which setting `key` names.
///
/// # Errors
/// [`Error::Config`] for f16: most gradients are below its smallest numbers unless the loss is scaled, which it is not.
pub fn check_dtype(key: &str, dtype: DType) -> Result<()> {
    match dtype {
        DType::F16 => {
            let detail = "is f16, whose range is too small for gradients: train in bf16, or f32";
            Err(Error::config(key, detail))
        }
        _ => Ok(()),
    }
}

/// How a run optimizes, and when it evaluates and saves. The numbers have been checked.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainOptions {
    /// Highest learning rate.
    pub learning_rate: f64,
    /// What follows the warm-up.
    pub schedule: ScheduleKind,
    /// The warm-up.
    pub warmup: Warmup,
    /// Decoupled weight decay of matrices (not of norms and biases).
    pub weight_decay: f64,
    /// AdamW's decay of the first moment.
    pub beta1: f64,
    /// AdamW's decay of the second moment.
    pub beta2: f64,
    /// AdamW's epsilon.
    pub epsilon: f64,
    /// How AdamW keeps its averages.
    pub states: States,
    /// Whether what does not fit into a device's memory of AdamW's state is kept in host memory.
    pub paged: bool,
    /// Gradients are scaled down to this global norm.
    pub clip_norm: Option<f64>,
    /// Sequences a micro-batch.
    pub batch_size: usize,
    /// Micro-batches an optimizer step.
    pub accumulation: usize,
    /// Times that the data are gone through, unless `max_steps` says otherwise.
    pub epochs: u64,
    /// Optimizer steps, whatever the epochs.
    pub max_steps: Option<u64>,
    /// Evaluate each so many steps (0: at the end alone).
    pub eval_every: u64,
    /// Save each so many steps (0: at the end alone).
    pub save_every: u64,
    /// Checkpoints to keep (0: all).
    pub keep_last: usize,
    /// Whether layers are computed again in the backward instead of keeping their state; `None`: where the model's weights are in 4 bits, since
    /// whoever quantizes lacks memory, not time.
    pub gradient_checkpointing: Option<bool>,
    /// Seed of everything random in the run.
    pub seed: u64,
}

impl TrainOptions {
    /// Steps at a constant learning rate and nothing else: no warm-up, weight decay, clipping, evaluation or checkpoints; AdamW's usual
    /// settings, one epoch, seed 0.
    pub fn constant(learning_rate: f64, batch_size: usize) -> TrainOptions {
        TrainOptions {
            learning_rate,
            schedule: ScheduleKind::Constant,
            warmup: Warmup::Steps(0),
            weight_decay: 0.0,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            states: States::F32,
            paged: false,
            clip_norm: None,
            batch_size,
            accumulation: 1,
            epochs: 1,
            max_steps: None,
            eval_every: 0,
            save_every: 0,
            keep_last: 0,
            gradient_checkpointing: None,
            seed: 0,
        }
    }

    /// Whether layers of `model` are computed again in the backward.
    pub fn checkpoints_layers(&self, model: &Decoder) -> bool {
        self.gradient_checkpointing.unwrap_or_else(|| model.quantized_weights().next().is_some())
    }

    /// The memory that a device has for the run, if optimizer states that do not fit may be in host memory.
    ///
    /// # Errors
    /// [`Error::Cuda`] when the driver does not tell.
    pub fn room(&self, device: Device) -> Result<Option<usize>> {
        match device {
            Device::Cuda(_) if self.paged => Ok(Some(device.cuda()?.memory_room()?)),
            _ => Ok(None),
        }
    }

    /// Optimizer steps of a run whose epochs have `batches` micro-batches each.
    pub fn total_steps(&self, batches: u64) -> u64 {
        self.max_steps.unwrap_or_else(|| self.steps_per_epoch(batches).saturating_mul(self.epochs))
    }

    /// Optimizer steps of one epoch of `batches` micro-batches: the last step takes what is left.
    pub fn steps_per_epoch(&self, batches: u64) -> u64 {
        batches.div_ceil(self.accumulation as u64)
    }

    /// Whether something done every `every` steps (0: at the end alone) is due after step `step` of `total`.
    pub fn is_due(every: u64, step: u64, total: u64) -> bool {
        step == total || (every > 0 && step.is_multiple_of(every))
    }

    /// The schedule of a run of `total_steps` steps.
    pub fn schedule(&self, total_steps: u64) -> Schedule {
        let warmup_steps = match self.warmup {
            Warmup::Steps(steps) => steps,
            Warmup::Ratio(ratio) => (total_steps as f64 * ratio).ceil() as u64,
        };
        Schedule { kind: self.schedule, peak: self.learning_rate, warmup_steps, total_steps }
    }
}
