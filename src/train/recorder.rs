//! Everything that a run writes down about its steps, in one call: metrics.jsonl, TensorBoard, loss.svg, the progress.

use std::path::{Path, PathBuf};

use crate::Result;
use crate::train::metrics::{MetricsFile, Record, peak_rss_mib};
use crate::train::plot::loss_svg;
use crate::train::progress::Progress;
use crate::train::tensorboard::EventFile;

/// The open records of a run folder.
pub struct Recorder {
    folder: PathBuf,
    metrics: MetricsFile,
    events: EventFile,
    records: Vec<Record>,
    progress: Progress,
}

impl Recorder {
    /// Opens the records in `folder`. `resumed_at` is the step at which the run goes on (what the files say of later
    /// steps is removed), `None` for a new run.
    pub fn open(folder: &Path, resumed_at: Option<u64>, total_steps: u64) -> Result<Recorder> {
        let (metrics, records) = MetricsFile::open(&folder.join("metrics.jsonl"), resumed_at)?;
        Ok(Recorder {
            folder: folder.to_path_buf(),
            metrics,
            events: EventFile::open(folder, resumed_at)?,
            records,
            progress: Progress::new(resumed_at.unwrap_or(0), total_steps),
        })
    }

    /// Writes down a step, and draws the curve anew if it holds an evaluation.
    pub fn record(&mut self, mut record: Record) -> Result<()> {
        record.peak_rss_mib = peak_rss_mib().map(f64::round);
        self.metrics.append(&record)?;
        let scalars = [
            ("train/loss", record.loss),
            ("train/learning_rate", record.lr),
            ("train/grad_norm", record.grad_norm),
            ("train/tokens_per_s", record.tokens_per_s),
            ("eval/loss", record.eval_loss),
            ("eval/perplexity", record.perplexity),
        ];
        let known: Vec<_> = scalars.iter().filter_map(|&(tag, value)| Some((tag, value?))).collect();
        self.events.append(record.step, &known)?;
        self.progress.step(&record);
        let evaluated = record.eval_loss.is_some();
        self.records.push(record);
        if evaluated { self.draw() } else { Ok(()) }
    }

    /// Makes the metrics durable and draws the curve; to be called before a checkpoint.
    pub fn sync(&self) -> Result<()> {
        self.metrics.sync()?;
        self.draw()
    }

    /// Ends the progress display and returns the records, earlier parts of a resumed run included.
    pub fn finish(self) -> Vec<Record> {
        self.records
    }

    fn draw(&self) -> Result<()> {
        loss_svg(&self.folder.join("loss.svg"), &self.records)
    }
}
