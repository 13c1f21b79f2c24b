//! Checkpoint folders that are there whole or not at all.
//!
//! `checkpoints/checkpoint-N` is what a run needs to go on after step N as if it had never stopped. It is written as
//! `checkpoint-N.tmp`, flushed to the disk, and renamed: a process killed half-way leaves the previous checkpoints as
//! they were, and a `.tmp` folder that nothing reads and the next run removes.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

const PREFIX: &str = "checkpoint-";

/// The checkpoints of one run.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    folder: PathBuf,
    keep_last: usize,
}

impl Checkpoints {
    /// The checkpoints in `folder` (created with the first one), of which the newest `keep_last` are kept; 0 keeps all.
    pub fn new(folder: impl Into<PathBuf>, keep_last: usize) -> Checkpoints {
        Checkpoints { folder: folder.into(), keep_last }
    }

    /// Complete checkpoints, oldest first: their steps and folders.
    pub fn list(&self) -> Result<Vec<(u64, PathBuf)>> {
        let mut found: Vec<(u64, PathBuf)> =
            self.entries()?.into_iter().filter_map(|path| Some((step_of(&path)?, path))).collect();
        found.sort();
        Ok(found)
    }

    /// The newest complete checkpoint.
    pub fn latest(&self) -> Result<Option<PathBuf>> {
        Ok(self.list()?.pop().map(|(_, path)| path))
    }

    /// Removes what killed runs left half-written.
    pub fn remove_leftovers(&self) -> Result<()> {
        let leftover = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with(PREFIX) && name.ends_with(".tmp")
        };
        self.entries()?.iter().filter(|path| leftover(path)).try_for_each(|path| remove(path))
    }

    /// Removes the checkpoints after `step`: a run that goes on from there makes them anew.
    pub fn remove_after(&self, step: u64) -> Result<()> {
        self.list()?.iter().filter(|(other, _)| *other > step).try_for_each(|(_, path)| remove(path))
    }

    /// Writes the checkpoint of `step`: `write` fills a folder, which then takes its place. When anything fails the
    /// earlier checkpoints are as they were.
    pub fn save(&self, step: u64, write: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let target = self.folder.join(format!("{PREFIX}{step}"));
        let partial = self.folder.join(format!("{PREFIX}{step}.tmp"));
        fs::create_dir_all(&self.folder).map_err(Error::io(&self.folder, "cannot create the folder"))?;
        remove(&partial)?;
        fs::create_dir(&partial).map_err(Error::io(&partial, "cannot create the folder"))?;
        let written = write(&partial).and_then(|()| sync_tree(&partial)).and_then(|()| {
            remove(&target)?;
            fs::rename(&partial, &target).map_err(Error::io(&target, "cannot put the checkpoint in place"))
        });
        if let Err(e) = written {
            // Best effort: the error that matters is the first one, and the leftover is never read.
            let _ = fs::remove_dir_all(&partial);
            return Err(e);
        }
        sync(&self.folder)?;
        self.prune()?;
        Ok(target)
    }

    fn prune(&self) -> Result<()> {
        if self.keep_last == 0 {
            return Ok(());
        }
        let all = self.list()?;
        let surplus = all.len().saturating_sub(self.keep_last);
        all[..surplus].iter().try_for_each(|(_, path)| remove(path))
    }

    fn entries(&self) -> Result<Vec<PathBuf>> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(Error::io(&self.folder, "cannot read the folder")(e)),
        };
        let path = |e: std::io::Result<fs::DirEntry>| e.map(|e| e.path());
        entries
            .map(path)
            .collect::<std::io::Result<_>>()
            .map_err(Error::io(&self.folder, "cannot read the folder"))
    }
}

/// N of a folder named `checkpoint-N`.
fn step_of(path: &Path) -> Option<u64> {
    let digits = path.file_name()?.to_str()?.strip_prefix(PREFIX)?;
    digits.parse().ok().filter(|step: &u64| step.to_string() == digits)
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(path, "cannot remove")(e)),
        _ => Ok(()),
    }
}

/// Flushes a folder, and everything in it, to the disk.
fn sync_tree(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(Error::io(folder, "cannot read the folder"))? {
        let path = entry.map_err(Error::io(folder, "cannot read the folder"))?.path();
        if path.is_dir() {
            sync_tree(&path)?;
        } else {
            sync(&path)?;
        }
    }
    sync(folder)
}

fn sync(path: &Path) -> Result<()> {
    // Folders cannot be opened as files on Windows; renames are durable there without it.
    if cfg!(windows) && path.is_dir() {
        return Ok(());
    }
    let opened = File::open(path).and_then(|file| file.sync_all());
    opened.map_err(Error::io(path, "cannot flush to the disk"))
}
