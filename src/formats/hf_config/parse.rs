//! JSON to [`DecoderConfig`]: defaults as transformers has them, then one validation for every source.

use std::path::Path;

use serde_json::{Map, Value};

use super::{Activation, Architecture, DecoderConfig, Rope};
use crate::error::{Error, Result};
use crate::formats::bitsandbytes;
use crate::formats::json::{Fields, read_json};

// Far beyond any model that one machine could hold; a number above is a broken file, not a big model.
const MAX_LAYERS: u64 = 10_000;
const MAX_HEADS: u64 = 1 << 16;
const MAX_HEAD_DIM: u64 = 1 << 14;
const MAX_WIDTH: u64 = 1 << 24;
const MAX_VOCAB: u64 = 1 << 26;
const MAX_POSITIONS: u64 = 1 << 40;

impl DecoderConfig {
    /// Reads a config.json.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Format`] as [`read_json`]; otherwise as [`DecoderConfig::from_json`].
    pub fn read(path: &Path) -> Result<DecoderConfig> {
        DecoderConfig::from_json(path, &read_json(path)?)
    }

    /// Reads the object of a config.json; `path` names it in errors.
    ///
    /// # Errors
    /// [`Error::Format`], naming the key, when one is missing that has no default, has the wrong type or an absurd
    /// value, or contradicts another; [`Error::Unsupported`] for another architecture, a quantized checkpoint, or a
    /// variation that would change the computation in silence.
    pub fn from_json(path: &Path, map: &Map<String, Value>) -> Result<DecoderConfig> {
        let fields = Fields::new(path, map);
        bitsandbytes::check_config(&fields)?;
        let architecture = architecture(&fields)?;
        let mut config = match architecture {
            Architecture::Gpt2 => gpt2(&fields)?,
            _ => llama_family(&fields, architecture)?,
        };
        config.raw = map.clone();
        config.check(path)?;
        Ok(config)
    }

    /// Whether the numbers fit each other; both config.json and GGUF metadata end here.
    pub(in crate::formats) fn check(&self, path: &Path) -> Result<()> {
        let bad = |key: &str, detail: String| Err(Error::format_key(path, key, detail));
        if !self.num_heads.is_multiple_of(self.num_kv_heads) {
            return bad(
                "num_key_value_heads",
                format!("is {}, which does not divide the {} heads", self.num_kv_heads, self.num_heads),
            );
        }
        if self.rope.is_some() && !self.head_dim.is_multiple_of(2) {
            return bad("head_dim", format!("is {}; rotary positions need an even one", self.head_dim));
        }
        if self.windowed_layers.len() != self.num_layers {
            return bad(
                "layer_types",
                format!("has {} entries for {} layers", self.windowed_layers.len(), self.num_layers),
            );
        }
        if self.sliding_window.is_none() && self.windowed_layers.contains(&true) {
            return bad("sliding_window", "is missing, and layer_types has sliding_attention layers".into());
        }
        if self.architecture != Architecture::Qwen2
            && self.architecture != Architecture::Gpt2
            && self.qkv_bias != self.o_bias
        {
            return bad(
                "attention_bias",
                "is one switch for all four projections in this architecture".into(),
            );
        }
        Ok(())
    }
}

fn architecture(fields: &Fields<'_>) -> Result<Architecture> {
    let supported = || Architecture::ALL.map(Architecture::model_type).join(", ");
    if let Some(model_type) = fields.str("model_type")? {
        return Architecture::ALL.into_iter().find(|a| a.model_type() == model_type).ok_or_else(|| {
            Error::unsupported(format!("the architecture '{model_type}'"), format!("{} are", supported()))
        });
    }
    let classes = fields.strings("architectures")?.unwrap_or_default();
    Architecture::ALL
        .into_iter()
        .find(|a| classes.iter().any(|c| c == a.class_name()))
        .ok_or_else(|| fields.error("model_type", format!("is missing; it must be one of {}", supported())))
}

/// A size that must be there, between 1 and `max`.
fn size(fields: &Fields<'_>, key: &str, max: u64) -> Result<usize> {
    size_or(fields, key, max, None)
}

/// A size between 1 and `max`, with a default.
fn size_or(fields: &Fields<'_>, key: &str, max: u64, default: Option<usize>) -> Result<usize> {
    match (fields.uint(key)?, default) {
        (Some(n), _) if (1..=max).contains(&n) => {
            usize::try_from(n).map_err(|_| fields.error(key, format!("{n} is too large for this machine")))
        }
        (Some(n), _) => Err(fields.error(key, format!("must be between 1 and {max}, not {n}"))),
        (None, Some(default)) => Ok(default),
        (None, None) => {
            Err(fields.error(key, "is missing; this does not look like the config.json of a model"))
        }
    }
}

fn epsilon(fields: &Fields<'_>, key: &str, default: f64) -> Result<f64> {
    let eps = fields.float(key)?.unwrap_or(default);
    if eps > 0.0 && eps < 1.0 {
        Ok(eps)
    } else {
        Err(fields.error(key, format!("must be in (0, 1), not {eps}")))
    }
}

fn activation(fields: &Fields<'_>, key: &str, default: Activation) -> Result<Activation> {
    match fields.str(key)? {
        None => Ok(default),
        Some("silu" | "swish") => Ok(Activation::Silu),
        Some("gelu_new" | "gelu_pytorch_tanh" | "gelu_fast") => Ok(Activation::GeluTanh),
        Some("gelu") => Ok(Activation::GeluErf),
        Some(other) => Err(Error::unsupported(
            format!("the activation '{other}' ({key})"),
            "silu, gelu and gelu_new are",
        )),
    }
}

fn dtype(fields: &Fields<'_>) -> Result<Option<String>> {
    let name = match fields.str("dtype")? {
        Some(name) => Some(name),
        None => fields.str("torch_dtype")?,
    };
    Ok(name.map(|n| n.trim_start_matches("torch.").to_owned()))
}

fn llama_family(fields: &Fields<'_>, architecture: Architecture) -> Result<DecoderConfig> {
    let qwen = matches!(architecture, Architecture::Qwen2 | Architecture::Qwen3);
    let hidden_size = size(fields, "hidden_size", MAX_WIDTH)?;
    let num_heads = size(fields, "num_attention_heads", MAX_HEADS)?;
    let num_layers = size(fields, "num_hidden_layers", MAX_LAYERS)?;
    let default_kv_heads = match architecture {
        Architecture::Mistral if !fields.is_null("num_key_value_heads") => 8,
        _ => num_heads,
    };
    let num_kv_heads = size_or(fields, "num_key_value_heads", MAX_HEADS, Some(default_kv_heads))?;
    let head_dim = match (size_or(fields, "head_dim", MAX_HEAD_DIM, Some(0))?, architecture) {
        (0, Architecture::Qwen3) => 128,
        (0, _) if hidden_size % num_heads != 0 => {
            let detail = format!("is {num_heads}, which does not divide hidden_size ({hidden_size})");
            return Err(fields.error("num_attention_heads", detail));
        }
        (0, _) => hidden_size / num_heads,
        (given, _) => given,
    };
    let default_positions = match architecture {
        Architecture::Llama => 2048,
        Architecture::Mistral => 131_072,
        _ => 32_768,
    };
    let max_positions = size_or(fields, "max_position_embeddings", MAX_POSITIONS, Some(default_positions))?;
    let attention_bias = match architecture {
        Architecture::Llama | Architecture::Qwen3 => fields.bool("attention_bias")?.unwrap_or(false),
        _ => false,
    };
    let (sliding_window, windowed_layers) = windows(fields, architecture, num_layers)?;
    Ok(DecoderConfig {
        architecture,
        vocab_size: size(fields, "vocab_size", MAX_VOCAB)?,
        hidden_size,
        intermediate_size: size(fields, "intermediate_size", MAX_WIDTH)?,
        num_layers,
        num_heads,
        num_kv_heads,
        head_dim,
        max_positions,
        norm_eps: epsilon(fields, "rms_norm_eps", 1e-6)?,
        rope: Some(Rope::from_fields(fields, max_positions)?),
        tie_word_embeddings: fields.bool("tie_word_embeddings")?.unwrap_or(false),
        qkv_bias: attention_bias || architecture == Architecture::Qwen2,
        o_bias: attention_bias,
        mlp_bias: architecture == Architecture::Llama && fields.bool("mlp_bias")?.unwrap_or(false),
        qk_norm: architecture == Architecture::Qwen3,
        sliding_window,
        windowed_layers,
        activation: activation(fields, "hidden_act", Activation::Silu)?,
        bos: bos(fields, if qwen { None } else { Some(1) })?,
        eos: eos(fields, if qwen { None } else { Some(2) })?,
        pad: pad(fields),
        dtype: dtype(fields)?,
        raw: Map::new(),
    })
}

fn gpt2(fields: &Fields<'_>) -> Result<DecoderConfig> {
    let hidden_size = size(fields, "n_embd", MAX_WIDTH)?;
    let num_heads = size(fields, "n_head", MAX_HEADS)?;
    let num_layers = size(fields, "n_layer", MAX_LAYERS)?;
    if hidden_size % num_heads != 0 {
        return Err(
            fields.error("n_head", format!("is {num_heads}, which does not divide n_embd ({hidden_size})"))
        );
    }
    for (key, normal) in [
        ("scale_attn_weights", true),
        ("scale_attn_by_inverse_layer_idx", false),
        ("reorder_and_upcast_attn", false),
        ("add_cross_attention", false),
    ] {
        if fields.bool(key)?.unwrap_or(normal) != normal {
            return Err(Error::unsupported(
                format!("GPT-2 with {key} = {}", !normal),
                format!("{normal} is"),
            ));
        }
    }
    Ok(DecoderConfig {
        architecture: Architecture::Gpt2,
        vocab_size: size(fields, "vocab_size", MAX_VOCAB)?,
        hidden_size,
        intermediate_size: size_or(fields, "n_inner", MAX_WIDTH, Some(4 * hidden_size))?,
        num_layers,
        num_heads,
        num_kv_heads: num_heads,
        head_dim: hidden_size / num_heads,
        max_positions: size_or(fields, "n_positions", MAX_POSITIONS, Some(1024))?,
        norm_eps: epsilon(fields, "layer_norm_epsilon", 1e-5)?,
        rope: None,
        tie_word_embeddings: fields.bool("tie_word_embeddings")?.unwrap_or(true),
        qkv_bias: true,
        o_bias: true,
        mlp_bias: true,
        qk_norm: false,
        sliding_window: None,
        windowed_layers: vec![false; num_layers],
        activation: activation(fields, "activation_function", Activation::GeluTanh)?,
        bos: bos(fields, Some(50_256))?,
        eos: eos(fields, Some(50_256))?,
        pad: pad(fields),
        dtype: dtype(fields)?,
        raw: Map::new(),
    })
}

/// The window and the layers that have it.
fn windows(
    fields: &Fields<'_>,
    architecture: Architecture,
    num_layers: usize,
) -> Result<(Option<usize>, Vec<bool>)> {
    let none = (None, vec![false; num_layers]);
    let qwen = matches!(architecture, Architecture::Qwen2 | Architecture::Qwen3);
    if !qwen && architecture != Architecture::Mistral {
        return Ok(none);
    }
    let enabled = !qwen || fields.bool("use_sliding_window")?.unwrap_or(false);
    let window = if !enabled || fields.is_null("sliding_window") {
        None
    } else {
        Some(size_or(fields, "sliding_window", MAX_POSITIONS, Some(4096))?)
    };
    if !qwen {
        return Ok((window, vec![window.is_some(); num_layers]));
    }
    let Some(types) = fields.strings("layer_types")? else {
        let Some(window) = window else { return Ok(none) };
        let first = size_or_zero(fields, "max_window_layers", 28)?;
        return Ok((Some(window), (0..num_layers).map(|layer| layer >= first).collect()));
    };
    let windowed = types
        .iter()
        .map(|kind| match kind.as_str() {
            "full_attention" => Ok(false),
            "sliding_attention" => Ok(true),
            other => Err(Error::unsupported(
                format!("the layer type '{other}'"),
                "full_attention and sliding_attention are",
            )),
        })
        .collect::<Result<Vec<bool>>>()?;
    Ok((window, windowed))
}

/// A number of layers that may be zero.
fn size_or_zero(fields: &Fields<'_>, key: &str, default: usize) -> Result<usize> {
    match fields.uint(key)? {
        Some(0) => Ok(0),
        _ => size_or(fields, key, MAX_LAYERS, Some(default)),
    }
}

/// The first of the ids at `bos_token_id`; `default` when the key is missing (not when it is null).
fn bos(fields: &Fields<'_>, default: Option<u32>) -> Result<Option<u32>> {
    let ids = fields.token_ids("bos_token_id")?;
    Ok(ids.first().copied().or(default.filter(|_| !fields.is_null("bos_token_id"))))
}

/// The ids at `eos_token_id`; `default` when the key is missing (not when it is null).
fn eos(fields: &Fields<'_>, default: Option<u32>) -> Result<Vec<u32>> {
    let ids = fields.token_ids("eos_token_id")?;
    let default = default.filter(|_| ids.is_empty() && !fields.is_null("eos_token_id"));
    Ok(if let Some(id) = default { vec![id] } else { ids })
}

/// The padding token. Files of the first Llama say -1 for "none", so anything that is not an id counts as none.
fn pad(fields: &Fields<'_>) -> Option<u32> {
    fields.value("pad_token_id").and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok())
}
