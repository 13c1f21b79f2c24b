//! Training: schedules, records, checkpoints, the step, whole recipes.

mod checkpoints;
mod devices;
mod golden_steps;
mod memory_plan;
mod pretrain;
mod records;
mod schedules;
mod sft;
mod step;

use warptune::optim::schedule::ScheduleKind;
use warptune::train::options::{TrainOptions, Warmup};

/// Options of a short run.
fn options() -> TrainOptions {
    TrainOptions {
        learning_rate: 1e-2,
        schedule: ScheduleKind::Constant,
        warmup: Warmup::Steps(0),
        weight_decay: 0.0,
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        clip_norm: None,
        batch_size: 4,
        accumulation: 1,
        epochs: 1,
        max_steps: Some(20),
        eval_every: 10,
        save_every: 0,
        keep_last: 2,
        gradient_checkpointing: false,
        seed: 5,
    }
}
