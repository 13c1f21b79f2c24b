//! The folder of a run: where its files are, and whether it is new or goes on.
//!
//! ```text
//! config.toml     every setting, defaults written out; usable as --config again
//! metrics.jsonl   a line a step
//! events.out...   the same for TensorBoard
//! loss.svg        the curve
//! checkpoints/    checkpoint-N: what --resume needs
//! adapter/        the result (PEFT layout), or model/ (Hugging Face layout)
//! ```

use std::path::{Path, PathBuf};

use crate::formats::write_atomic;
use crate::train::checkpoint::Checkpoints;
use crate::{Error, Result};

/// A run's folder.
#[derive(Clone, Debug)]
pub struct RunFolder {
    path: PathBuf,
}

impl RunFolder {
    /// The folder `path` for a run that is new or goes on.
    pub fn new(path: impl Into<PathBuf>) -> RunFolder {
        RunFolder { path: path.into() }
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The run's checkpoints.
    pub fn checkpoints(&self, keep_last: usize) -> Checkpoints {
        Checkpoints::new(self.path.join("checkpoints"), keep_last)
    }

    /// A result's place, e.g. `adapter`.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// That there is no run yet, for a `new` one.
    ///
    /// # Errors
    /// [`Error::Config`] if there is one.
    pub fn refuse_existing(&self, new: bool) -> Result<()> {
        if new && self.path.join("metrics.jsonl").exists() {
            let detail = format!(
                "{} already holds a run: continue it with --resume {}, or choose another folder",
                self.path.display(),
                self.path.display()
            );
            return Err(Error::config("output", detail));
        }
        Ok(())
    }

    /// Creates the folder where there is none, and writes the run's settings.
    ///
    /// # Errors
    /// As [`RunFolder::refuse_existing`]; [`Error::Io`].
    pub fn prepare(&self, config_toml: &str, new: bool) -> Result<()> {
        self.refuse_existing(new)?;
        std::fs::create_dir_all(&self.path).map_err(Error::io(&self.path, "cannot create the folder"))?;
        let path = self.path.join("config.toml");
        write_atomic(&path, |out| {
            out.write_all(config_toml.as_bytes()).map_err(Error::io(&path, "cannot write"))
        })
    }
}

/// The first of `base-1`, `base-2`, ... that does not exist.
pub fn next_free(base: &Path) -> PathBuf {
    let name = base.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let numbered = |n: u64| base.with_file_name(format!("{name}-{n}"));
    (1..).map(numbered).find(|path| !path.exists()).unwrap_or_else(|| base.to_path_buf())
}
