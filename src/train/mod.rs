//! Training: the optimizer step, checkpoints, what a run writes down, and the recipes, which are explicit programs.

pub mod base_model;
pub mod batch;
pub mod checkpoint;
pub mod header;
pub mod interrupt;
pub mod launch;
pub mod memory_plan;
pub mod metrics;
mod optimizer_state;
pub mod options;
pub mod plot;
mod progress;
pub mod recipes;
mod recorder;
mod run_folder;
pub mod state;
pub mod step;
pub mod tensorboard;

pub use interrupt::Interrupt;
pub use progress::{TimeLeft, say};
pub use recorder::Recorder;
pub use run_folder::{RunFolder, next_free};
