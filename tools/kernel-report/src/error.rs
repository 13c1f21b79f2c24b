//! What can go wrong, in words for the user.

use std::path::PathBuf;

/// The crate's results.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A problem file says something that makes no sense.
    #[error("{}: {detail}", path.display())]
    Problem {
        /// The file.
        path: PathBuf,
        /// What, and where in the file.
        detail: String,
    },
    /// A kernel cannot be loaded or does not run.
    #[error("{kernel}: {detail}")]
    Kernel {
        /// The kernel, or its PTX file.
        kernel: String,
        /// Why.
        detail: String,
    },
    /// A tool of the CUDA toolkit fails.
    #[error("{tool}: {detail}")]
    Tool {
        /// The tool.
        tool: String,
        /// What it said.
        detail: String,
    },
}

impl Error {
    /// An [`Error::Io`] for `path`.
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.into();
        move |source| Error::Io { path, source }
    }

    /// An [`Error::Kernel`].
    pub fn kernel(kernel: impl Into<String>, detail: impl Into<String>) -> Error {
        Error::Kernel { kernel: kernel.into(), detail: detail.into() }
    }
}
