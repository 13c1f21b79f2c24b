//! Files that are there whole or not at all.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Size of the write buffer, in bytes: large enough that a system call costs nothing beside the copy.
const BUFFER_BYTES: usize = 1 << 20;

/// Writes `path` so that a reader, at any moment, finds the old content or all of the new one.
///
/// `write` fills a temporary file in the same folder, which is flushed to the disk and then renamed over `path`. When
/// anything fails (a full disk, say) the temporary file is removed and `path` is as it was. A process killed half-way
/// leaves a file named `.NAME.*.tmp` behind, which nothing reads.
///
/// # Errors
/// [`Error::Io`] naming `path`, or whatever `write` returns.
pub fn write_atomic(path: &Path, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let folder = folder_of(path);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut builder = tempfile::Builder::new();
    let prefix = format!(".{name}.");
    builder.prefix(&prefix).suffix(".tmp");
    // The default of 0600 is for secrets; what is written here is shared like any other file, within the umask.
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    let temporary =
        builder.tempfile_in(&folder).map_err(Error::io(path, "cannot create a file beside it"))?;
    let mut out = BufWriter::with_capacity(BUFFER_BYTES, temporary.as_file());
    write(&mut out)?;
    out.flush().map_err(Error::io(path, "cannot write"))?;
    drop(out);
    // A full disk may show only here, and a rename must not reach the disk before the content.
    temporary.as_file().sync_all().map_err(Error::io(path, "cannot write"))?;
    temporary.persist(path).map_err(|e| Error::io(path, "cannot put the new file in place")(e.error))?;
    sync_folder(&folder);
    Ok(())
}

fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

/// Makes the rename durable. Not every file system lets a folder be opened or synced; the rename stands either way.
fn sync_folder(folder: &Path) {
    if let Ok(handle) = File::open(folder) {
        let _ = handle.sync_all();
    }
}
