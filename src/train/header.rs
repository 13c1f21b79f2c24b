//! What a run says of itself before it starts.

use std::collections::BTreeMap;
use std::path::Path;

use crate::Result;
use crate::autograd::Param;
use crate::data::Stats;
use crate::device::Device;
use crate::formats::DecoderConfig;
use crate::nn::QuantizedWeight;
use crate::train::memory_plan::MemoryPlan;
use crate::train::metrics::Record;
use crate::train::options::TrainOptions;
use crate::train::state::TrainerState;
use crate::train::{RunFolder, say};

/// The device that the run computes on.
///
/// # Errors
/// Those of [`Device::cuda`].
pub fn device(device: Device) -> Result<()> {
    let what = match device {
        Device::Cpu => format!("{} threads", rayon::current_num_threads()),
        Device::Cuda(_) => {
            let found = device.cuda()?.properties();
            let (major, minor) = found.capability;
            format!(
                "{}, compute capability {major}.{minor}, {} multiprocessors, {:.1} GiB",
                found.name,
                found.multiprocessors,
                found.memory as f64 / f64::from(1 << 30)
            )
        }
    };
    say(format!("device      {device}, {what}"));
    Ok(())
}

/// The model's shape and parameters.
pub fn model(source: &str, config: &DecoderConfig, params: &[Param], quantized: &[QuantizedWeight]) {
    say(format!(
        "model       {source}: {}, {} layers, hidden {}, vocabulary {}",
        config.architecture.model_type(),
        config.num_layers,
        config.hidden_size,
        config.vocab_size
    ));
    let mut counts: BTreeMap<(bool, &str), usize> = BTreeMap::new();
    for param in params {
        let value = param.value();
        *counts.entry((!param.is_trainable(), value.dtype().name())).or_default() += value.numel();
    }
    for weight in quantized {
        let value = weight.value();
        *counts.entry((true, value.kind().name())).or_default() += value.numel();
    }
    let part = |(&(frozen, dtype), &n): (&(bool, &str), &usize)| {
        format!("{} {} ({dtype})", count(n), if frozen { "frozen" } else { "trainable" })
    };
    let parts: Vec<String> = counts.iter().map(part).collect();
    say(format!("parameters  {}: {}", count(counts.values().sum()), parts.join(", ")));
}

/// The memory plan.
pub fn memory(plan: &MemoryPlan) {
    say(format!("memory      {plan}"));
}

/// A set of examples.
pub fn data(name: &str, stats: &Stats) {
    say(format!(
        "{name:<11} {} examples, {} tokens, {} with loss; lengths: half up to {}, longest {}",
        stats.examples,
        stats.tokens,
        stats.loss_tokens,
        stats.length_percentile(50),
        stats.length_percentile(100)
    ));
}

/// The steps ahead.
pub fn steps(total: u64, batches_per_epoch: usize, train: &TrainOptions) {
    let steps_per_epoch = train.steps_per_epoch(batches_per_epoch as u64);
    say(format!(
        "steps       {total} ({:.2} epochs), each {} x {} sequences; AdamW with {} states{}, learning rate {:e}, {:?}",
        total as f64 / steps_per_epoch as f64,
        train.accumulation,
        train.batch_size,
        train.states,
        if train.paged { " (paged)" } else { "" },
        train.learning_rate,
        train.schedule
    ));
}

/// Where the results go.
pub fn output(folder: &Path) {
    say(format!("output      {}", folder.display()));
}

/// A count as people read it: 134.5 M.
pub fn count(n: usize) -> String {
    match n as f64 {
        x if x >= 1e9 => format!("{:.2} B", x / 1e9),
        x if x >= 1e6 => format!("{:.2} M", x / 1e6),
        x if x >= 1e4 => format!("{:.1} k", x / 1e3),
        _ => n.to_string(),
    }
}

/// What a finished run leaves.
pub fn results(folder: &RunFolder, result: &Path, records: &[Record], state: &TrainerState) {
    let losses = |of: fn(&Record) -> Option<f64>| {
        let mut all = records.iter().filter_map(of);
        let first = all.next()?;
        Some((first, all.next_back().unwrap_or(first)))
    };
    if let Some((first, last)) = losses(|r| r.loss) {
        say(format!("training loss    {first:.4} -> {last:.4}"));
    }
    if let Some((first, last)) = losses(|r| r.eval_loss) {
        let best =
            state.best.map(|b| format!(" (best {:.4} at step {})", b.loss, b.step)).unwrap_or_default();
        say(format!("validation loss  {first:.4} -> {last:.4}{best}"));
    }
    say(format!("saved            {}", result.display()));
    say(format!("curve            {}", folder.join("loss.svg").display()));
}
