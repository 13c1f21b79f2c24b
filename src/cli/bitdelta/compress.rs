//! `warptune bitdelta compress`.

use std::path::PathBuf;

use super::{checkpoint, info, refuse_existing};
use crate::Result;
use crate::formats::bitdelta::Delta;
use crate::formats::hub;
use crate::peft::bitdelta::{CompressOptions, compress};
use crate::train::{base_model, say};

/// Compress a fine-tuned model to a 1-bit delta from its base
#[derive(clap::Args)]
pub(super) struct CompressArgs {
    /// The model that was fine-tuned: a Hugging Face folder, a GGUF file, or a Hub id
    #[arg(long, value_name = "PATH_OR_ID")]
    base: String,
    /// What became of it
    #[arg(long, value_name = "PATH_OR_ID")]
    fine_tuned: String,
    /// A scale for each row of a matrix instead of one for the matrix
    #[arg(long)]
    per_row: bool,
    /// Folder for the delta
    #[arg(long = "out", short, value_name = "FOLDER")]
    output: PathBuf,
}

impl CompressArgs {
    pub(super) fn run(&self) -> Result<()> {
        refuse_existing(&self.output)?;
        let (base, fine) = (checkpoint(&self.base)?, checkpoint(&self.fine_tuned)?);
        // What is wrong with it is said before the work.
        let tokenizer = base_model::load_tokenizer(&hub::resolve(&self.fine_tuned, None)?)?;
        let options = CompressOptions {
            per_row: self.per_row,
            base: Some(self.base.clone()),
            fine_tuned: Some(self.fine_tuned.clone()),
        };
        let bar = indicatif::ProgressBar::new(0).with_message("matrices");
        compress(&base, &fine, &options, &self.output, &mut |done, all| {
            bar.set_length(all as u64);
            bar.set_position(done as u64);
        })?;
        bar.finish_and_clear();
        tokenizer.save(&self.output)?;
        say(format!("delta in {}", self.output.display()));
        info::say_sizes(&Delta::open(&self.output)?)
    }
}
