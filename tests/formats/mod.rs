//! File formats: what is read equals what other implementations read and wrote; what is broken is refused.

use std::path::PathBuf;

mod bitdelta;
mod block_oracle;
mod checkpoint;
mod config;
mod gguf;
mod gguf_blocks;
mod gguf_bytes;
mod gguf_tokenizer;
mod hostile;
#[cfg(feature = "hub")]
mod hub;
mod peft;
mod safetensors;
mod smollm2;

/// A file under tests/golden/.
fn golden(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(path)
}
