//! File formats of the field, read and written: safetensors, GGUF, Hugging Face configs, PEFT adapters, 1-bit deltas.
//!
//! Everything here hands out raw views ([`RawTensor`]) and typed settings ([`DecoderConfig`], [`peft::LoraConfig`]);
//! nothing here knows tensors, devices or models. Whatever a file says is checked against the file's real size
//! before anything is allocated or indexed by it.

mod atomic;
pub mod bitdelta;
pub mod bitsandbytes;
mod bytes;
mod checkpoint;
pub mod gguf;
mod hf_config;
pub mod hub;
mod json;
pub mod peft;
mod raw;
pub mod safetensors;

pub use atomic::write_atomic;
pub use checkpoint::Checkpoint;
pub use hf_config::{Activation, Architecture, DecoderConfig, GenerationConfig, Rope, RopeScaling};
pub use json::{read_json, write_json};
pub use raw::{RawDType, RawTensor, SharedBytes};
