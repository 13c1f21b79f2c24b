//! Learning-rate schedules, by the formulas of transformers' `get_scheduler`.

use std::f64::consts::PI;

/// The shape of a schedule after its warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScheduleKind {
    /// The peak rate to the end (transformers' `constant_with_warmup`).
    Constant,
    /// Down to zero in a straight line.
    Linear,
    /// Down to zero along half a cosine.
    Cosine,
}

/// A learning rate for each optimizer step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// What follows the warm-up.
    pub kind: ScheduleKind,
    /// The highest rate, reached at step `warmup_steps`.
    pub peak: f64,
    /// Steps over which the rate rises from zero in a straight line.
    pub warmup_steps: u64,
    /// Steps of the whole run, warm-up included.
    pub total_steps: u64,
}

impl Schedule {
    /// The rate of step `step`, counted from 0. With a warm-up the first step's rate is 0, as it is in transformers.
    ///
    /// With s = `step`, w = `warmup_steps`, n = `total_steps`: peak s / max(1, w) while s < w; then peak (constant),
    /// peak max(0, (n - s) / max(1, n - w)) (linear), or peak max(0, (1 + cos(pi (s - w) / max(1, n - w))) / 2) (cosine).
    pub fn rate(&self, step: u64) -> f64 {
        let length = self.total_steps.saturating_sub(self.warmup_steps).max(1) as f64;
        let factor = if step < self.warmup_steps {
            step as f64 / self.warmup_steps as f64
        } else {
            match self.kind {
                ScheduleKind::Constant => 1.0,
                ScheduleKind::Linear => self.total_steps.saturating_sub(step) as f64 / length,
                ScheduleKind::Cosine => {
                    (0.5 * (1.0 + (PI * ((step - self.warmup_steps) as f64 / length)).cos())).max(0.0)
                }
            }
        };
        self.peak * factor
    }
}
