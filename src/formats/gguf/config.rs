//! GGUF metadata to the same [`DecoderConfig`] as config.json.

use serde_json::Map;

use super::metadata::View;
use super::read::GgufFile;
use crate::error::{Error, Result};
use crate::formats::hf_config::{Activation, Architecture, DecoderConfig, Rope, RopeScaling};

// As for config.json: beyond these it is a broken file.
const MAX_LAYERS: u64 = 10_000;
const MAX_WIDTH: u64 = 1 << 24;
const MAX_VOCAB: u64 = 1 << 26;
const MAX_POSITIONS: u64 = 1 << 40;

impl GgufFile {
    /// The model's shape.
    ///
    /// # Errors
    /// [`Error::Format`], naming the metadata key or tensor, when one is missing, absurd or contradicts another;
    /// [`Error::Unsupported`] for other architectures and variations.
    pub fn config(&self) -> Result<DecoderConfig> {
        let view = self.view();
        let name = view.str("general.architecture")?.ok_or_else(|| view.missing("general.architecture"))?;
        let architecture = match name {
            // Mistral models are converted as llama, with their window left out.
            "llama" => Architecture::Llama,
            "qwen2" => Architecture::Qwen2,
            "qwen3" => Architecture::Qwen3,
            "gpt2" => Architecture::Gpt2,
            other => {
                let what = format!("{}: the GGUF architecture '{other}'", self.path().display());
                return Err(Error::unsupported(
                    what,
                    "llama (with Mistral and SmolLM), qwen2, qwen3 and gpt2 are",
                ));
            }
        };
        let config = Reader { file: self, view, name }.read(architecture)?;
        config.check(self.path())?;
        Ok(config)
    }
}

struct Reader<'a> {
    file: &'a GgufFile,
    view: View<'a>,
    /// The prefix of the architecture's keys.
    name: &'a str,
}

impl Reader<'_> {
    fn read(&self, architecture: Architecture) -> Result<DecoderConfig> {
        let gpt2 = architecture == Architecture::Gpt2;
        if self.view.uint(&self.key("expert_count"))?.unwrap_or(0) > 0 {
            return Err(Error::unsupported(
                format!("{}: a mixture of experts", self.file.path().display()),
                "dense models are",
            ));
        }
        let hidden_size = self.size("embedding_length", MAX_WIDTH)?;
        let num_heads = self.size("attention.head_count", 1 << 16)?;
        let num_layers = self.size("block_count", MAX_LAYERS)?;
        let head_dim = match self.optional_size("attention.key_length", 1 << 14)? {
            Some(given) => given,
            None if hidden_size % num_heads == 0 => hidden_size / num_heads,
            None => {
                let detail =
                    format!("is {num_heads}, which does not divide the embedding length {hidden_size}");
                return Err(self.view.error(&self.key("attention.head_count"), detail));
            }
        };
        let max_positions = self.size("context_length", MAX_POSITIONS)?;
        let vocab_size = self.vocab_size()?;
        let qkv_bias = gpt2 || self.file.contains("blk.0.attn_q.bias");
        Ok(DecoderConfig {
            architecture,
            vocab_size,
            hidden_size,
            intermediate_size: self.size("feed_forward_length", MAX_WIDTH)?,
            num_layers,
            num_heads,
            num_kv_heads: self.optional_size("attention.head_count_kv", 1 << 16)?.unwrap_or(num_heads),
            head_dim,
            max_positions,
            norm_eps: self.epsilon(if gpt2 {
                "attention.layer_norm_epsilon"
            } else {
                "attention.layer_norm_rms_epsilon"
            })?,
            rope: if gpt2 { None } else { Some(self.rope(head_dim)?) },
            tie_word_embeddings: !self.file.contains("output.weight"),
            qkv_bias,
            o_bias: gpt2 || self.file.contains("blk.0.attn_output.bias"),
            mlp_bias: gpt2 || self.file.contains("blk.0.ffn_up.bias"),
            qk_norm: architecture == Architecture::Qwen3,
            sliding_window: None,
            windowed_layers: vec![false; num_layers],
            activation: if gpt2 { Activation::GeluTanh } else { Activation::Silu },
            bos: self.view.token_id("tokenizer.ggml.bos_token_id")?,
            eos: self.view.token_id("tokenizer.ggml.eos_token_id")?.into_iter().collect(),
            pad: self.view.token_id("tokenizer.ggml.padding_token_id")?,
            dtype: None,
            raw: Map::new(),
        })
    }

    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.name)
    }

    fn optional_size(&self, key: &str, max: u64) -> Result<Option<usize>> {
        let key = self.key(key);
        if self.view.is_array(&key) {
            return Err(Error::unsupported(
                format!("{}: a value per layer in '{key}'", self.file.path().display()),
                "one value for all layers is",
            ));
        }
        match self.view.uint(&key)? {
            None => Ok(None),
            Some(n) => match usize::try_from(n) {
                Ok(size) if (1..=max).contains(&n) => Ok(Some(size)),
                _ => Err(self.view.error(&key, format!("must be between 1 and {max}, not {n}"))),
            },
        }
    }

    fn size(&self, key: &str, max: u64) -> Result<usize> {
        self.optional_size(key, max)?.ok_or_else(|| self.view.missing(&self.key(key)))
    }

    /// The rows of the embedding; the metadata's own figure, where there is one, may count tokens without a row.
    fn vocab_size(&self) -> Result<usize> {
        match self.file.info("token_embd.weight") {
            Some((_, &[rows, _])) if rows > 0 && rows as u64 <= MAX_VOCAB => Ok(rows),
            Some((_, shape)) => Err(self
                .view
                .error("token_embd.weight", format!("has shape {shape:?}; an embedding has two axes"))),
            None => Err(self.view.error("token_embd.weight", "there is no such tensor")),
        }
    }

    fn epsilon(&self, key: &str) -> Result<f64> {
        let key = self.key(key);
        let eps = self.view.float(&key)?.ok_or_else(|| self.view.missing(&key))?;
        // Stored as f32: 1e-5 reads back as 9.999999747378752e-6. The shortest decimal of the f32 is what was meant.
        let eps: f64 = (eps as f32).to_string().parse().unwrap_or(eps);
        if eps > 0.0 && eps < 1.0 {
            Ok(eps)
        } else {
            Err(self.view.error(&key, format!("must be in (0, 1), not {eps}")))
        }
    }

    fn rope(&self, head_dim: usize) -> Result<Rope> {
        if let Some(rotated) = self.optional_size("rope.dimension_count", 1 << 14)?
            && rotated != head_dim
        {
            return Err(Error::unsupported(
                format!("rotation of {rotated} of a head's {head_dim} dimensions"),
                "rotation of whole heads is",
            ));
        }
        let theta_key = self.key("rope.freq_base");
        let theta = self.view.float(&theta_key)?.unwrap_or(10_000.0);
        if !(theta > 0.0 && theta < 1e15) {
            return Err(self.view.error(&theta_key, format!("must be positive, not {theta}")));
        }
        let factor_key = self.key("rope.scaling.factor");
        let scaling = match self.view.str(&self.key("rope.scaling.type"))? {
            None | Some("none") => RopeScaling::None,
            Some("linear") => match self.view.float(&factor_key)? {
                Some(factor) if factor >= 1.0 => RopeScaling::Linear { factor },
                _ => return Err(self.view.error(&factor_key, "must be a number >= 1")),
            },
            Some(other) => {
                return Err(Error::unsupported(
                    format!("{}: rope scaling '{other}'", self.file.path().display()),
                    "none, linear and Llama 3's are",
                ));
            }
        };
        match (self.file.contains("rope_freqs.weight"), scaling) {
            (false, scaling) => Ok(Rope { theta, scaling }),
            (true, RopeScaling::None) => Ok(Rope { theta, scaling: self.llama3(theta, head_dim)? }),
            (true, _) => {
                Err(self.view.error("rope_freqs.weight", "comes with another rope scaling in the metadata"))
            }
        }
    }

    /// llama.cpp keeps Llama 3's scaling as the tensor of the divisors that it amounts to. Every released model has low
    /// factor 1, high factor 4 and original length 8192; the largest divisor is the factor. What these give must be
    /// what the file holds.
    fn llama3(&self, theta: f64, head_dim: usize) -> Result<RopeScaling> {
        let name = "rope_freqs.weight";
        let divisors = self.file.get(name)?.to_f32()?;
        let factor = divisors.iter().copied().fold(1.0, f32::max);
        let (low, high, original) = (1.0, 4.0, 8192);
        let scaling = RopeScaling::Llama3 {
            factor: f64::from(factor),
            low_freq_factor: low,
            high_freq_factor: high,
            original_max_positions: original,
        };
        let expected = |i: usize| {
            let frequency = theta.powf(-2.0 * i as f64 / head_dim as f64);
            let turns = original as f64 * frequency / std::f64::consts::TAU;
            let smooth = ((turns - low) / (high - low)).clamp(0.0, 1.0);
            1.0 / ((1.0 - smooth) / f64::from(factor) + smooth)
        };
        let close = |(i, &d): (usize, &f32)| (f64::from(d) - expected(i)).abs() <= 1e-4 * expected(i);
        if divisors.len() != head_dim / 2 || !divisors.iter().enumerate().all(close) {
            return Err(Error::unsupported(
                format!("{}: the rope scaling in '{name}'", self.file.path().display()),
                "Llama 3's is",
            ));
        }
        Ok(scaling)
    }
}
