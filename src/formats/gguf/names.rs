//! llama.cpp's tensor names and layouts, mapped to those of Hugging Face checkpoints.

use std::collections::BTreeMap;

use super::read::GgufFile;
use crate::error::{Error, Result};
use crate::formats::hf_config::{Architecture, DecoderConfig};
use crate::formats::raw::{RawDType, RawTensor};

/// How a tensor of the file differs from the one that Hugging Face stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Not at all.
    Same,
    /// Rows permuted within each of `heads` heads. llama.cpp rotates neighbouring pairs of a head (2i, 2i + 1) where
    /// Hugging Face rotates (i, i + d/2), and moves the rows of q and k for that: row 2i + j of a head of the file is
    /// row j d/2 + i of the checkpoint. Quantized blocks lie within rows, so they move unchanged.
    PairedHeads {
        /// The number of heads that the rows belong to.
        heads: usize,
    },
    /// Transposed: GPT-2's checkpoints hold Conv1D weights as [in, out], and llama.cpp turns them into [out, in].
    /// Quantized blocks cannot be turned back, so such a tensor is handed out as f32.
    Transposed,
}

/// Where a tensor of a Hugging Face checkpoint lies in a GGUF file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSource {
    /// llama.cpp's name.
    pub name: String,
    /// What must be undone.
    pub layout: Layout,
}

/// Every tensor of the file by its Hugging Face name. `rope_freqs.weight`, which is a setting rather than a weight,
/// is left out.
pub(in crate::formats) fn sources(
    file: &GgufFile,
    config: &DecoderConfig,
) -> Result<BTreeMap<String, TensorSource>> {
    let mut sources = BTreeMap::new();
    for name in file.names().filter(|&n| n != "rope_freqs.weight") {
        let unknown = || {
            let what = format!("{}: tensor '{name}'", file.path().display());
            Error::unsupported(
                what,
                format!("it has no place in the architecture {}", config.architecture.model_type()),
            )
        };
        let (base, suffix) = name.rsplit_once('.').ok_or_else(unknown)?;
        let (hf, layout) = match config.architecture {
            Architecture::Gpt2 => gpt2(base, suffix),
            _ => llama_family(base, suffix, config),
        }
        .ok_or_else(unknown)?;
        sources.insert(format!("{hf}.{suffix}"), TensorSource { name: name.to_owned(), layout });
    }
    Ok(sources)
}

/// "blk.3.attn_q" is ("3", "attn_q").
fn block(base: &str) -> Option<(usize, &str)> {
    let (layer, part) = base.strip_prefix("blk.")?.split_once('.')?;
    Some((layer.parse().ok()?, part))
}

fn llama_family(base: &str, suffix: &str, config: &DecoderConfig) -> Option<(String, Layout)> {
    let whole = match base {
        "token_embd" => "model.embed_tokens",
        "output_norm" => "model.norm",
        "output" => "lm_head",
        _ => {
            let (layer, part) = block(base).filter(|(layer, _)| *layer < config.num_layers)?;
            let paired = |heads| match config.architecture {
                Architecture::Llama => Layout::PairedHeads { heads },
                _ => Layout::Same,
            };
            let (module, layout) = match part {
                "attn_norm" => ("input_layernorm", Layout::Same),
                "attn_q" => ("self_attn.q_proj", paired(config.num_heads)),
                "attn_k" => ("self_attn.k_proj", paired(config.num_kv_heads)),
                "attn_v" => ("self_attn.v_proj", Layout::Same),
                "attn_output" => ("self_attn.o_proj", Layout::Same),
                "attn_q_norm" if config.qk_norm => ("self_attn.q_norm", Layout::Same),
                "attn_k_norm" if config.qk_norm => ("self_attn.k_norm", Layout::Same),
                "ffn_norm" => ("post_attention_layernorm", Layout::Same),
                "ffn_gate" => ("mlp.gate_proj", Layout::Same),
                "ffn_up" => ("mlp.up_proj", Layout::Same),
                "ffn_down" => ("mlp.down_proj", Layout::Same),
                _ => return None,
            };
            return matches!(suffix, "weight" | "bias")
                .then(|| (format!("model.layers.{layer}.{module}"), layout));
        }
    };
    (suffix == "weight").then(|| (whole.to_owned(), Layout::Same))
}

fn gpt2(base: &str, suffix: &str) -> Option<(String, Layout)> {
    let whole = match base {
        "token_embd" => "transformer.wte",
        "position_embd" => "transformer.wpe",
        "output_norm" => "transformer.ln_f",
        "output" => "lm_head",
        _ => {
            let (layer, part) = block(base)?;
            let (module, conv1d) = match part {
                "attn_norm" => ("ln_1", false),
                "attn_qkv" => ("attn.c_attn", true),
                "attn_output" => ("attn.c_proj", true),
                "ffn_norm" => ("ln_2", false),
                "ffn_up" => ("mlp.c_fc", true),
                "ffn_down" => ("mlp.c_proj", true),
                _ => return None,
            };
            let layout = if conv1d && suffix == "weight" { Layout::Transposed } else { Layout::Same };
            return matches!(suffix, "weight" | "bias")
                .then(|| (format!("transformer.h.{layer}.{module}"), layout));
        }
    };
    matches!(suffix, "weight" | "bias").then(|| (whole.to_owned(), Layout::Same))
}

/// A tensor under its Hugging Face name, in the checkpoint's layout.
pub(in crate::formats) fn fetch<'a>(
    file: &'a GgufFile,
    hf_name: &str,
    source: &TensorSource,
) -> Result<RawTensor<'a>> {
    let stored = file.get(&source.name)?;
    match source.layout {
        Layout::Same => Ok(stored.renamed(hf_name)),
        Layout::PairedHeads { heads } => unpair(file, &stored, heads, hf_name),
        Layout::Transposed => transpose(&stored, hf_name),
    }
}

fn unpair<'a>(file: &GgufFile, stored: &RawTensor<'_>, heads: usize, hf_name: &str) -> Result<RawTensor<'a>> {
    let rows = stored.shape().first().copied().unwrap_or(0);
    let vector = stored.shape().len() == 1;
    if rows == 0 || rows % (2 * heads) != 0 || (vector && stored.dtype().is_quantized()) {
        let detail =
            format!("shape {:?} ({}) does not divide into {heads} heads", stored.shape(), stored.dtype());
        return Err(Error::format_key(file.path(), stored.name(), detail));
    }
    let (half, row_bytes) = (rows / heads / 2, stored.bytes().len() / rows);
    let mut bytes = Vec::with_capacity(stored.bytes().len());
    for row in 0..rows {
        let (head, j, i) = (row / (2 * half), row / half % 2, row % half);
        let from = head * 2 * half + 2 * i + j;
        bytes.extend_from_slice(&stored.bytes()[from * row_bytes..][..row_bytes]);
    }
    RawTensor::new(hf_name, stored.dtype(), stored.shape().to_vec(), bytes)
}

fn transpose<'a>(stored: &RawTensor<'_>, hf_name: &str) -> Result<RawTensor<'a>> {
    let &[rows, columns] = stored.shape() else {
        let detail =
            format!("'{}' has shape {:?}; a linear weight has two axes", stored.name(), stored.shape());
        return Err(Error::Shape { op: "GGUF transpose", detail });
    };
    let values = stored.to_f32()?;
    let mut bytes = Vec::with_capacity(values.len() * size_of::<f32>());
    for column in 0..columns {
        bytes.extend((0..rows).flat_map(|row| values[row * columns + column].to_le_bytes()));
    }
    RawTensor::new(hf_name, RawDType::F32, vec![columns, rows], bytes)
}
