//! `warptune bitdelta convert`.

use std::path::PathBuf;

use super::{checkpoint, refuse_existing};
use crate::formats::bitdelta::{Delta, ReferenceFile, write_reference};
use crate::formats::hub;
use crate::peft::bitdelta::{CompressOptions, from_reference};
use crate::train::{base_model, say};
use crate::{Error, Result};

/// Turn a delta's folder into a file in the layout of the published code (safetensors), or such a file into a folder
#[derive(clap::Args)]
pub(super) struct ConvertArgs {
    /// The delta's folder, or the file (a diff.pt has to be saved as safetensors first)
    #[arg(value_name = "PATH")]
    delta: PathBuf,
    /// What it shall become
    #[arg(long, value_name = "reference|warptune")]
    to: String,
    /// The base, for a folder: a file does not say what it was made from
    #[arg(long, value_name = "PATH_OR_ID")]
    base: Option<String>,
    /// The fine-tuned model, whose config and tokenizer go into a folder (default: the base's config)
    #[arg(long, value_name = "PATH_OR_ID")]
    fine_tuned: Option<String>,
    /// The file, or the folder
    #[arg(long = "out", short, value_name = "PATH")]
    output: PathBuf,
}

impl ConvertArgs {
    pub(super) fn run(&self) -> Result<()> {
        match self.to.as_str() {
            "reference" => {
                if self.output.exists() {
                    let detail = format!("{} is there already; choose another file", self.output.display());
                    return Err(Error::config("out", detail));
                }
                write_reference(&self.output, &Delta::open(&self.delta)?)?;
            }
            "warptune" => {
                refuse_existing(&self.output)?;
                let base = self
                    .base
                    .as_deref()
                    .ok_or_else(|| Error::config("base", "is missing: give --base PATH_OR_ID"))?;
                let file = ReferenceFile::open(&self.delta)?;
                let fine = self.fine_tuned.as_deref();
                let config = fine.map(|fine| checkpoint(fine)?.config()).transpose()?;
                let tokenizer =
                    fine.map(|fine| base_model::load_tokenizer(&hub::resolve(fine, None)?)).transpose()?;
                let options = CompressOptions {
                    per_row: false,
                    base: Some(base.to_owned()),
                    fine_tuned: self.fine_tuned.clone(),
                };
                from_reference(&file, &checkpoint(base)?, config.as_ref(), &options, &self.output)?;
                tokenizer.map_or(Ok(()), |tokenizer| tokenizer.save(&self.output))?;
            }
            other => return Err(Error::config("to", format!("is '{other}'; allowed: reference, warptune"))),
        }
        say(format!("delta in {}", self.output.display()));
        Ok(())
    }
}
