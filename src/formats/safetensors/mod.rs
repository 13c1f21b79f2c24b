//! safetensors files: a JSON header, then the tensors' bytes back to back.

mod read;
mod write;

pub use read::SafetensorsFile;
pub use write::{TensorSpec, write, write_tensors};

/// The format's own limit on the header.
const MAX_HEADER_BYTES: usize = 100_000_000;
