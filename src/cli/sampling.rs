//! The flags that say how tokens are chosen.

use crate::Result;
use crate::generate::{GenerateOptions, Sampling, StopStrings};
use crate::text::TextTokenizer;

/// How tokens are chosen, and when an answer ends.
#[derive(clap::Args)]
pub(super) struct SamplingArgs {
    /// Tokens of an answer at most
    #[arg(long, value_name = "N", default_value_t = 256)]
    max_new_tokens: usize,
    /// Randomness; 0 always takes the most likely token
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    temperature: f32,
    /// Choose among the K most likely tokens (0: all)
    #[arg(long, value_name = "K", default_value_t = 0)]
    top_k: usize,
    /// Choose among the most likely tokens that together have this probability
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    top_p: f32,
    /// Choose among tokens at least this times as likely as the likeliest
    #[arg(long, value_name = "P", default_value_t = 0.0)]
    min_p: f32,
    /// Factor against tokens that occurred before (1: none)
    #[arg(long, value_name = "F", default_value_t = 1.0)]
    repetition_penalty: f32,
    /// Text that ends an answer (repeatable)
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Seed of the random choices
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

impl SamplingArgs {
    /// The generator's options; `decode` is the tokenizer's.
    pub fn options<'a>(
        &self,
        tokenizer: &TextTokenizer,
        decode: &'a dyn Fn(&[u32]) -> Result<String>,
    ) -> Result<GenerateOptions<'a>> {
        let stop_strings = match self.stop.is_empty() {
            true => None,
            false => Some(StopStrings::new(self.stop.clone(), decode)?),
        };
        Ok(GenerateOptions {
            max_new_tokens: self.max_new_tokens,
            sampling: Sampling {
                temperature: self.temperature,
                top_k: self.top_k,
                top_p: self.top_p,
                min_p: self.min_p,
                repetition_penalty: self.repetition_penalty,
            },
            seed: self.seed,
            stop_ids: tokenizer.eos_ids().to_vec(),
            stop_strings,
        })
    }

    /// The stop strings.
    pub fn stop(&self) -> &[String] {
        &self.stop
    }
}
