//! generation_config.json: how the model's makers sample from it.

use std::path::Path;

use crate::error::Result;
use crate::formats::json::{Fields, read_json};

/// The settings of generation_config.json that are used here; whatever is missing is None.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GenerationConfig {
    /// Token that begins a text.
    pub bos: Option<u32>,
    /// Tokens that end a text. Chat models often list more of them here than in config.json.
    pub eos: Vec<u32>,
    /// Padding token.
    pub pad: Option<u32>,
    /// Whether to sample at all, rather than take the likeliest token.
    pub do_sample: Option<bool>,
    /// Sampling temperature.
    pub temperature: Option<f64>,
    /// Tokens to sample from, by rank.
    pub top_k: Option<u64>,
    /// Tokens to sample from, by cumulated probability.
    pub top_p: Option<f64>,
    /// Factor against repetition.
    pub repetition_penalty: Option<f64>,
}

impl GenerationConfig {
    /// Reads a file.
    ///
    /// # Errors
    /// As [`read_json`], and [`crate::Error::Format`] naming a key of the wrong type.
    pub fn read(path: &Path) -> Result<GenerationConfig> {
        let map = read_json(path)?;
        let fields = Fields::new(path, &map);
        Ok(GenerationConfig {
            bos: fields.token_ids("bos_token_id")?.first().copied(),
            eos: fields.token_ids("eos_token_id")?,
            pad: fields.token_ids("pad_token_id")?.first().copied(),
            do_sample: fields.bool("do_sample")?,
            temperature: fields.float("temperature")?,
            top_k: fields.uint("top_k")?,
            top_p: fields.float("top_p")?,
            repetition_penalty: fields.float("repetition_penalty")?,
        })
    }
}
