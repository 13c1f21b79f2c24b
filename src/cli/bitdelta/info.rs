//! `warptune bitdelta info`.

use std::path::PathBuf;

use super::{checkpoint, mb};
use crate::Result;
use crate::formats::bitdelta::Delta;
use crate::peft::bitdelta::{MatrixError, errors, sizes};
use crate::train::header::count;
use crate::train::say;

/// Show what a delta holds and weighs; with both models, how far each matrix is from the fine-tuned one
#[derive(clap::Args)]
pub(super) struct InfoArgs {
    /// The delta's folder
    #[arg(value_name = "FOLDER")]
    delta: PathBuf,
    /// The base, to measure errors
    #[arg(long, value_name = "PATH_OR_ID", requires = "fine_tuned")]
    base: Option<String>,
    /// The fine-tuned model, to measure errors
    #[arg(long, value_name = "PATH_OR_ID", requires = "base")]
    fine_tuned: Option<String>,
}

impl InfoArgs {
    pub(super) fn run(&self) -> Result<()> {
        let delta = Delta::open(&self.delta)?;
        let config = delta.config();
        let name = |name: &Option<String>| name.as_deref().unwrap_or("(not named)").to_owned();
        say(format!("base         {}, sha256 {}", name(&config.base_model), config.base_sha256()));
        say(format!("fine-tuned   {}", name(&config.fine_tuned_model)));
        let recipe = config.recipe.iter().map(|(key, value)| match value.as_str() {
            Some(text) => format!("{key}: {text}"),
            None => format!("{key}: {value}"),
        });
        let each = if config.per_row { "row" } else { "matrix" };
        say(format!("scales       one a {each}; {}", recipe.collect::<Vec<_>>().join(", ")));
        say_sizes(&delta)?;
        let found = match (&self.base, &self.fine_tuned) {
            (Some(base), Some(fine)) => errors(&delta, &checkpoint(base)?, &checkpoint(fine)?)?,
            _ => Vec::new(),
        };
        table(&delta, &found)
    }
}

/// What the delta weighs, beside the model in bf16.
pub(super) fn say_sizes(delta: &Delta) -> Result<()> {
    let sizes = sizes(delta)?;
    let ratio = |whole: u64, part: u64| whole as f64 / part.max(1) as f64;
    say(format!(
        "projections  {} of {} weights: {}, {:.2} times less than in bf16 ({})",
        delta.config().modules.len(),
        count((sizes.projections_bf16 / 2) as usize),
        mb(sizes.projections),
        ratio(sizes.projections_bf16, sizes.projections),
        mb(sizes.projections_bf16)
    ));
    say(format!(
        "in full      {} other tensors that differ from the base's: {}",
        sizes.full_tensors,
        mb(sizes.full)
    ));
    say(format!(
        "in all       {}, {:.2} times less than the model in bf16 ({})",
        mb(sizes.total),
        ratio(sizes.model_bf16, sizes.total),
        mb(sizes.model_bf16)
    ));
    Ok(())
}

/// A line for each matrix.
fn table(delta: &Delta, errors: &[MatrixError]) -> Result<()> {
    let modules = &delta.config().modules;
    let width = modules.iter().map(|m| m.name.len()).max().unwrap_or(0);
    let (of_delta, of_weight) = if errors.is_empty() { ("", "") } else { ("error of D", "of W") };
    say(format!(
        "\n{:width$}  {:>16}  {:>11}  {of_delta:>10}  {of_weight:>8}",
        "projection", "shape", "scale"
    ));
    for module in modules {
        let scale = delta.scale(&module.name)?;
        let mean = scale.iter().map(|&x| f64::from(x)).sum::<f64>() / scale.len().max(1) as f64;
        let shape = format!("{} x {}", module.shape[0], module.shape[1]);
        let error = match errors.iter().find(|error| error.module == module.name) {
            None => String::new(),
            Some(error) => format!("  {:>9.2}%  {:>7.3}%", 100.0 * error.of_delta, 100.0 * error.of_weight),
        };
        say(format!("{:width$}  {shape:>16}  {mean:>11.4e}{error}", module.name));
    }
    if !errors.is_empty() {
        let mean =
            |of: fn(&MatrixError) -> f64| 100.0 * errors.iter().map(of).sum::<f64>() / errors.len() as f64;
        let (of_delta, of_weight) = (mean(|e| e.of_delta), mean(|e| e.of_weight));
        say(format!("{:width$}  {:>16}  {:>11}  {of_delta:>9.2}%  {of_weight:>7.3}%", "mean", "", ""));
        say("error: |D - scale S| of |D|, D = W_fine - W_base, and of |W_fine|");
    }
    Ok(())
}
