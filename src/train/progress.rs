//! What a run shows while it goes: a bar on a terminal, plain lines elsewhere.

use std::cell::Cell;
use std::io::Write;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::train::metrics::Record;

/// Without a terminal, a line at most this often (and at the first and last step, and with each evaluation).
const PLAIN_INTERVAL: Duration = Duration::from_secs(5);

/// Writes a line to standard output. A closed pipe must not end a training run, so a failure is passed over.
pub fn say(line: impl std::fmt::Display) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// The progress of a run, on standard error.
pub struct Progress {
    bar: ProgressBar,
    total: u64,
    started_at: u64,
    start: Instant,
    last_line: Cell<Option<Instant>>,
}

impl Progress {
    /// Starts at `step` of `total` steps.
    pub fn new(step: u64, total: u64) -> Progress {
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len}  {msg}  left {eta}") {
            bar.set_style(style);
        }
        bar.set_position(step);
        bar.reset_eta();
        Progress { bar, total, started_at: step, start: Instant::now(), last_line: Cell::new(None) }
    }

    /// Shows a step.
    pub fn step(&self, record: &Record) {
        let text = describe(record);
        self.bar.set_position(record.step);
        self.bar.set_message(text.clone());
        let evaluated = record.eval_loss.is_some();
        if !self.bar.is_hidden() {
            if evaluated {
                self.bar.println(format!("step {}  {text}", record.step));
            }
            return;
        }
        let due = self.last_line.get().is_none_or(|at| at.elapsed() >= PLAIN_INTERVAL);
        if due || evaluated || record.step == self.total {
            self.last_line.set(Some(Instant::now()));
            let left = human_time(self.time_left(record.step));
            let _ = writeln!(std::io::stderr(), "step {}/{}  {text}  left {left}", record.step, self.total);
        }
    }

    fn time_left(&self, step: u64) -> Duration {
        let done = step.saturating_sub(self.started_at).max(1);
        self.start.elapsed().mul_f64(self.total.saturating_sub(step) as f64 / done as f64)
    }
}

impl Drop for Progress {
    /// Takes the bar away, so that what is said next (an error, the results) begins on a clean line.
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn describe(record: &Record) -> String {
    let parts = [
        record.loss.map(|x| format!("loss {x:.4}")),
        record.eval_loss.map(|x| format!("validation {x:.4}")),
        record.perplexity.map(|x| format!("perplexity {x:.2}")),
        record.lr.map(|x| format!("lr {x:.2e}")),
        record.grad_norm.map(|x| format!("grad {x:.3}")),
        record.tokens_per_s.map(|x| format!("{x:.0} tokens/s")),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join("  ")
}

/// A duration as "1h 02m", "3m 20s" or "12s".
fn human_time(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m {s:02}s"),
        (h, m, _) => format!("{h}h {m:02}m"),
    }
}
