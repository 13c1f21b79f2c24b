//! Optimizers, gradient clipping and learning-rate schedules.

pub mod adamw;
pub mod clip;
pub mod schedule;
