//! The one error type of the crate: what was wrong, where, and what to do about it.

use std::path::{Path, PathBuf};

/// The crate's result type.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong, with the place where it did.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Operands whose shapes do not fit the op.
    #[error("{op}: {detail}")]
    Shape {
        /// The op that refused.
        op: &'static str,
        /// The shapes that were given and the ones that were expected.
        detail: String,
    },
    /// An operand of a type that the op does not take.
    #[error("{op}: {detail}")]
    DType {
        /// The op that refused.
        op: &'static str,
        /// The types that were given and the ones that are taken.
        detail: String,
    },
    /// An op that has no backward was asked to take part in a recorded computation.
    #[error(
        "op '{op}' has no backward, so it cannot be recorded: gradients through it would be missing in silence"
    )]
    NoBackward {
        /// The op.
        op: &'static str,
    },
    /// A value that became infinite or not a number.
    #[error("non-finite value in {what}{}", .place.as_deref().map(|p| format!(" (at {p})")).unwrap_or_default())]
    NonFinite {
        /// The op, gradient or loss that went non-finite first.
        what: String,
        /// The module or parameter where it happened, if known.
        place: Option<String>,
    },
    /// The file system refused.
    #[error("{}: {action}: {source}", .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was being done, e.g. "cannot open".
        action: &'static str,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// A file (safetensors, GGUF, JSON, ...) that does not say what its format promises.
    #[error("{}{}: {detail}", .path.display(), .key.as_deref().map(|k| format!(": '{k}'")).unwrap_or_default())]
    Format {
        /// The file.
        path: PathBuf,
        /// The tensor, key or field inside it.
        key: Option<String>,
        /// What was wrong and what was expected.
        detail: String,
    },
    /// A line of a data set that cannot be used.
    #[error("{}{}: {detail}", .path.display(), .line.map(|l| format!(":{l}")).unwrap_or_default())]
    Data {
        /// The data file.
        path: PathBuf,
        /// The line (or row), counted from 1.
        line: Option<usize>,
        /// What was wrong and what to do.
        detail: String,
    },
    /// A setting that is missing, unknown or out of range.
    #[error("setting '{key}': {detail}")]
    Config {
        /// The setting, as written in the config file or after --set.
        key: String,
        /// What was wrong and what is allowed.
        detail: String,
    },
    /// A tokenizer or a chat template that does not work, or does not fit the model.
    #[error("{what}: {detail}")]
    Text {
        /// "tokenizer", "chat template", ...
        what: &'static str,
        /// What was wrong and what to do.
        detail: String,
    },
    /// A model, adapter or checkpoint that does not fit what is asked of it.
    #[error("{what}: {detail}")]
    Model {
        /// The model part or file.
        what: String,
        /// What was wrong and what to do.
        detail: String,
    },
    /// Something that is known but not supported.
    #[error("{what} is not supported: {detail}")]
    Unsupported {
        /// The thing.
        what: String,
        /// What is supported instead.
        detail: String,
    },
    /// A CUDA device or its driver refused.
    #[error("cuda: {what}: {detail}")]
    Cuda {
        /// The kernel, allocation or call.
        what: String,
        /// What the driver said, and what to do.
        detail: String,
    },
    /// An allocation that does not fit a CUDA device.
    #[error(
        "cuda: {needed} MiB more do not fit {device}: {why}; {in_use} MiB are in use, {peak} MiB at the peak{}. Use a smaller \
         --batch-size (with more --grad-accumulation), shorter sequences, --gradient-checkpointing, or --dtype bf16",
        .plan.as_deref().map(|p| format!(", planned {p}")).unwrap_or_default()
    )]
    DeviceMemory {
        /// The device's name.
        device: String,
        /// MiB that were asked for.
        needed: usize,
        /// MiB in tensors at that moment.
        in_use: usize,
        /// The most MiB that ever were.
        peak: usize,
        /// What the driver said, or the limit.
        why: String,
        /// The run's memory plan, if there is one.
        plan: Option<String>,
    },
    /// The Hugging Face Hub could not deliver.
    #[error("hub: {repo}: {detail}")]
    Hub {
        /// The repository id.
        repo: String,
        /// What happened and what to do.
        detail: String,
    },
    /// The user stopped the run; the text says how to go on.
    #[error("{0}")]
    Interrupted(String),
}

impl Error {
    /// An [`Error::Io`] from the operating system's error; for `map_err(Error::io(path, "cannot open"))`.
    pub fn io(path: impl AsRef<Path>, action: &'static str) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.as_ref().to_path_buf();
        move |source| Error::Io { path, action, source }
    }

    /// An [`Error::Format`] for a whole file.
    pub fn format(path: impl AsRef<Path>, detail: impl Into<String>) -> Error {
        Error::Format { path: path.as_ref().to_path_buf(), key: None, detail: detail.into() }
    }

    /// An [`Error::Format`] for one key or tensor of a file.
    pub fn format_key(path: impl AsRef<Path>, key: impl Into<String>, detail: impl Into<String>) -> Error {
        Error::Format { path: path.as_ref().to_path_buf(), key: Some(key.into()), detail: detail.into() }
    }

    /// An [`Error::Data`] for one line of a data file, counted from 1.
    pub fn data(path: impl AsRef<Path>, line: usize, detail: impl Into<String>) -> Error {
        Error::Data { path: path.as_ref().to_path_buf(), line: Some(line), detail: detail.into() }
    }

    /// An [`Error::Config`].
    pub fn config(key: impl Into<String>, detail: impl Into<String>) -> Error {
        Error::Config { key: key.into(), detail: detail.into() }
    }

    /// An [`Error::Model`].
    pub fn model(what: impl Into<String>, detail: impl Into<String>) -> Error {
        Error::Model { what: what.into(), detail: detail.into() }
    }

    /// Adds a run's memory plan to an [`Error::DeviceMemory`]; others stay as they are.
    pub fn with_memory_plan(self, planned: &impl std::fmt::Display) -> Error {
        match self {
            Error::DeviceMemory { device, needed, in_use, peak, why, plan: None } => {
                Error::DeviceMemory { device, needed, in_use, peak, why, plan: Some(planned.to_string()) }
            }
            other => other,
        }
    }

    /// An [`Error::Unsupported`].
    pub fn unsupported(what: impl Into<String>, detail: impl Into<String>) -> Error {
        Error::Unsupported { what: what.into(), detail: detail.into() }
    }
}
