//! How a run is started: what a recipe is told beside its options.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::Result;
use crate::train::checkpoint::Checkpoints;
use crate::train::interrupt::Interrupt;
use crate::train::state::TrainerState;

/// Whether a run is new.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// A new run in a new folder.
    New,
    /// Go on from the newest checkpoint in the run folder; from the beginning if it was killed before its first.
    Latest,
    /// Go on from this checkpoint.
    Checkpoint(PathBuf),
}

/// What a recipe is told beside its options.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The settings as text, for the run folder.
    pub config_toml: String,
    /// The settings that decide what is computed, by key: a resumed run must have the same.
    pub settings: BTreeMap<String, String>,
    /// Whether the run is new.
    pub start: Start,
    /// Show the header and stop.
    pub dry_run: bool,
    /// Set when the run shall stop.
    pub interrupt: Interrupt,
    /// The command that resumes the run, for the message after a stop.
    pub resume_command: String,
}

/// A checkpoint to go on from.
#[derive(Clone, Debug)]
pub struct ResumePoint {
    /// Its folder.
    pub folder: PathBuf,
    /// Where the run stood.
    pub state: TrainerState,
}

impl Launch {
    /// Whether the run folder must not hold a run yet.
    pub fn is_new(&self) -> bool {
        self.start == Start::New
    }

    /// The checkpoint to go on from, if any.
    pub fn resume_point(&self, checkpoints: &Checkpoints) -> Result<Option<ResumePoint>> {
        let folder = match &self.start {
            Start::New => None,
            Start::Latest => checkpoints.latest()?,
            Start::Checkpoint(folder) => Some(folder.clone()),
        };
        folder.map(|folder| Ok(ResumePoint { state: TrainerState::load(&folder)?, folder })).transpose()
    }
}
