//! `warptune bitdelta`: fine-tuned models as 1-bit deltas from their base.

mod apply;
mod compress;
mod convert;
mod distill;
mod info;

use std::path::Path;

use clap::Subcommand;

use crate::formats::bitdelta::CONFIG_FILE;
use crate::formats::{Checkpoint, hub};
use crate::{Error, Result};

/// Fine-tuned models as 1-bit deltas from their base (BitDelta): compress, distill, look at, apply, convert
#[derive(clap::Args)]
pub(super) struct BitdeltaArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Compress(compress::CompressArgs),
    Distill(Box<distill::DistillArgs>),
    Info(info::InfoArgs),
    Apply(apply::ApplyArgs),
    Convert(convert::ConvertArgs),
}

impl BitdeltaArgs {
    pub(super) fn run(&self) -> Result<()> {
        match &self.command {
            Command::Compress(args) => args.run(),
            Command::Distill(args) => args.run(),
            Command::Info(args) => args.run(),
            Command::Apply(args) => args.run(),
            Command::Convert(args) => args.run(),
        }
    }
}

/// The weights of a model that a flag names.
fn checkpoint(source: &str) -> Result<Checkpoint> {
    Checkpoint::open(&hub::resolve(source, None)?)
}

/// Refuses a folder that holds a delta already.
fn refuse_existing(folder: &Path) -> Result<()> {
    match folder.join(CONFIG_FILE).exists() {
        true => Err(Error::config(
            "out",
            format!("{} already holds a delta; choose another folder", folder.display()),
        )),
        false => Ok(()),
    }
}

fn mb(bytes: u64) -> String {
    match bytes as f64 {
        x if x >= 1e9 => format!("{:.2} GB", x / 1e9),
        x if x >= 1e5 => format!("{:.1} MB", x / 1e6),
        x => format!("{:.1} kB", x / 1e3),
    }
}
