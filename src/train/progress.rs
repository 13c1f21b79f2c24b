//! What a run shows while it goes: a bar on a terminal, plain lines elsewhere.

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

/// How long a run will still take, from how long its steps have taken.
#[derive(Clone, Debug)]
pub struct TimeLeft {
    total: u64,
    first: u64,
    since: Instant,
}

impl TimeLeft {
    /// The run stands at step `first` of `total` at the time `now`.
    pub fn new(first: u64, total: u64, now: Instant) -> TimeLeft {
        TimeLeft { total, first, since: now }
    }

    /// What is left at the time `now`, when `step` has ended; `None` while no step has. What came before the first step (the
    /// evaluation of the model as it was) is not a step's time, so the clock starts anew after it.
    pub fn after(&mut self, step: u64, now: Instant) -> Option<Duration> {
        if step <= self.first {
            self.since = now;
            return None;
        }
        let (done, left) = (step - self.first, self.total.saturating_sub(step));
        Some(now.saturating_duration_since(self.since).mul_f64(left as f64 / done as f64))
    }
}

/// The progress of a run, on standard error.
pub struct Progress {
    bar: ProgressBar,
    total: u64,
    time_left: TimeLeft,
    last_line: Option<Instant>,
}

impl Progress {
    /// Starts at `step` of `total` steps.
    pub fn new(step: u64, total: u64) -> Progress {
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len}  {msg}") {
            bar.set_style(style);
        }
        bar.set_position(step);
        Progress { bar, total, time_left: TimeLeft::new(step, total, Instant::now()), last_line: None }
    }

    /// Shows a step.
    pub fn step(&mut self, record: &Record) {
        let text = describe(record);
        let now = Instant::now();
        let left = self.time_left.after(record.step, now).map(human_time);
        let line = left.map_or_else(|| text.clone(), |left| format!("{text}  left {left}"));
        let evaluated = record.eval_loss.is_some();
        self.bar.set_position(record.step);
        self.bar.set_message(line.clone());
        if !self.bar.is_hidden() {
            if evaluated {
                self.bar.println(format!("step {}  {text}", record.step));
            }
            return;
        }
        let due = self.last_line.is_none_or(|at| now.saturating_duration_since(at) >= PLAIN_INTERVAL);
        if due || evaluated || record.step == self.total {
            self.last_line = Some(now);
            let _ = writeln!(std::io::stderr(), "step {}/{}  {line}", record.step, self.total);
        }
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
