//! The content of a weight file: memory-mapped, or already in memory.

use std::borrow::Cow;
use std::fs::File;
use std::ops::Deref;
use std::path::Path;

use memmap2::Mmap;

use crate::error::{Error, Result};

/// Read-only bytes of a whole file.
#[derive(Debug)]
pub(super) enum FileBytes {
    /// A mapping of the file.
    Mapped(Mmap),
    /// Bytes in memory: embedded in the binary, or read.
    Memory(Cow<'static, [u8]>),
}

impl FileBytes {
    /// Maps the file at `path`.
    pub(super) fn map(path: &Path) -> Result<FileBytes> {
        let file = File::open(path).map_err(Error::io(path, "cannot open"))?;
        let info = file.metadata().map_err(Error::io(path, "cannot read"))?;
        if !info.is_file() {
            return Err(Error::format(path, "is not a file"));
        }
        if info.len() == 0 {
            // Mapping nothing is an error on most systems; the reader then says what an empty file lacks.
            return Ok(FileBytes::Memory(Cow::Borrowed(&[])));
        }
        // SAFETY: the mapping is private to this value, read-only, and lives as long as every slice borrowed from it.
        // Rust cannot rule out that another process truncates or rewrites the file meanwhile: our own writers never
        // do (they rename a new file into place, the mapping keeps the old one), as is the rule for weight files.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io(path, "cannot map into memory"))?;
        Ok(FileBytes::Mapped(map))
    }
}

impl Deref for FileBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            FileBytes::Mapped(map) => map,
            FileBytes::Memory(bytes) => bytes,
        }
    }
}

impl AsRef<[u8]> for FileBytes {
    fn as_ref(&self) -> &[u8] {
        self
    }
}
