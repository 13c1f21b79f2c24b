//! Training: schedules, records, checkpoints, the step, whole recipes.

mod checkpoints;
mod devices;
mod distill;
mod golden_steps;
mod memory_plan;
mod pretrain;
mod qlora;
mod records;
mod schedules;
mod sft;
mod step;

use warptune::train::options::TrainOptions;

/// Options of a short run.
fn options() -> TrainOptions {
    TrainOptions {
        max_steps: Some(20),
        eval_every: 10,
        keep_last: 2,
        seed: 5,
        ..TrainOptions::constant(1e-2, 4)
    }
}
