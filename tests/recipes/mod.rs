//! Training: schedules, records, checkpoints, the step, whole recipes.

mod checkpoints;
mod records;
mod schedules;
