//! 1-bit deltas (BitDelta, arXiv 2402.10193) on disk: what a fine-tuned model differs in from its base.
//!
//! A folder with
//!
//! - `delta.safetensors`: for each linear projection `<module>.signs`, U8 `[out, 4 ceil(in / 32)]` (the sign of each difference, a bit:
//!   1 is +, 0 is -; the lowest bit of a byte first along `in`, bits past `in` zero), and `<module>.scale`, F32 `[1]` or `[out]`; and in
//!   full, under their own names, the other tensors that differ (embeddings, norms, output projection, biases);
//! - `delta_config.json`: [`DeltaConfig`];
//! - `config.json`: the fine-tuned model's;
//! - the fine-tuned model's tokenizer.
//!
//! The model is then: the base's tensors, each that is in full in the delta replaced, and each projection W + scale * signs.

mod base;
mod config;
mod delta;
mod reference;

pub use base::{BaseMatrix, ModuleShape, digest, fingerprint};
pub use config::{DeltaConfig, FORMAT_VERSION, Module};
pub use delta::{Delta, Full, Parts, scale_name, sign_bytes, signs_name, write_delta};
pub use reference::{ReferenceFile, coeff_name, mask_name, write_reference};

/// The settings of a delta.
pub const CONFIG_FILE: &str = "delta_config.json";
/// The tensors of a delta.
pub const WEIGHTS_FILE: &str = "delta.safetensors";
/// The fine-tuned model's config.
pub const MODEL_CONFIG_FILE: &str = "config.json";
