//! Training: the optimizer step, checkpoints, what a run writes down, and the recipes, which are explicit programs.

pub mod checkpoint;
pub mod interrupt;
pub mod memory_plan;
pub mod metrics;
pub mod plot;
mod progress;
pub mod recipes;
mod recorder;
mod run_folder;
pub mod state;
pub mod step;
pub mod tensorboard;

pub use interrupt::Interrupt;
pub use progress::{Progress, human_time, say};
pub use recorder::Recorder;
pub use run_folder::{RunFolder, next_free};
