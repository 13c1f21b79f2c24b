//! GGUF files (llama.cpp's format): metadata, tensors in quantized blocks, and the tokenizer, in one file.
//!
//! Layout, version 2 and 3, little-endian: "GGUF", version u32, number of tensors u64, number of metadata entries u64;
//! the entries (key, type, value); the tensors' descriptions (name, axes, type, offset); padding; the data.

pub(super) mod blocks;
mod config;
mod metadata;
mod names;
mod pretokenizer;
mod read;
mod tokenizer;

pub use metadata::Metadata;
pub use names::{Layout, TensorSource};
pub(super) use names::{fetch, sources};
pub use read::GgufFile;
pub use tokenizer::GgufTokenizer;
