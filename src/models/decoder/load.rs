//! A model from a checkpoint.

use std::collections::HashSet;

use super::build::{Slot, Start, Value, build};
use super::quantize;
use super::{Decoder, check_float};
use crate::formats::{Architecture, Checkpoint, DecoderConfig, RawDType, RawTensor, bitsandbytes};
use crate::nn::Linear;
use crate::ops::quantize::Quantization;
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

/// How many names an error lists before it says how many more there are.
const NAMES_LISTED: usize = 5;

impl Decoder {
    /// The model of a checkpoint, its weights of type `dtype`, as are its activations. Weights that the file holds in that
    /// type are used in place (memory-mapped), others are converted. Those that it holds in 4-bit blocks stay so.
    ///
    /// # Errors
    /// [`Error::Model`] when a tensor is missing, has another shape than `config` calls for, or is one that the model has
    /// no place for: it names them.
    pub fn load(checkpoint: &Checkpoint, config: &DecoderConfig, dtype: DType) -> Result<Decoder> {
        load(checkpoint, config, dtype, Values::Exact)
    }

    /// As [`Decoder::load`], with the weights of the linear layers, but for the output projection, quantized one after the other as they are
    /// read: no more than one is in memory in full precision. Those that are in 4-bit blocks already stay as they are.
    ///
    /// # Errors
    /// As [`Decoder::load`], and those of [`quantize`](crate::ops::quantize::quantize).
    pub fn load_quantized(
        checkpoint: &Checkpoint,
        config: &DecoderConfig,
        dtype: DType,
        how: &Quantization,
    ) -> Result<Decoder> {
        how.check()?;
        load(checkpoint, config, dtype, Values::Quantized(*how))
    }

    /// As [`Decoder::load`], with each weight first rounded to f16: the model that engines see which dequantize to half
    /// precision, to compare numbers with them.
    ///
    /// # Errors
    /// As [`Decoder::load`]; [`Error::NonFinite`] for a weight beyond f16's range.
    pub fn load_via_f16(checkpoint: &Checkpoint, config: &DecoderConfig, dtype: DType) -> Result<Decoder> {
        load(checkpoint, config, dtype, Values::ViaF16)
    }
}

impl Decoder {
    /// The weight of one of the model's linear layers as `checkpoint` holds it in full precision: f32 `[out, in]`.
    ///
    /// # Errors
    /// [`Error::Model`] when it has another shape, or is in 4-bit blocks there.
    pub fn full_precision(&self, checkpoint: &Checkpoint, linear: &Linear) -> Result<Tensor> {
        let (name, (out, input)) = (format!("{}.weight", linear.path()), linear.dims());
        if bitsandbytes::read(checkpoint, &name)?.is_some() {
            let detail = "is in 4 bits; the model is needed as it was before";
            return Err(Error::model(format!("tensor '{name}'"), detail));
        }
        let transposed = self.config.architecture == Architecture::Gpt2;
        let (name, shape) = (name.as_str(), &[out, input][..]);
        let slot = Slot { name, shape, start: Start::Zeros, transposed, linear: true };
        Ok(Tensor::from_f32(checked_values(&checkpoint.get(name)?, &slot)?, shape))
    }
}

/// Which values the weights get.
#[derive(Clone, Copy)]
enum Values {
    Exact,
    ViaF16,
    /// In 4-bit blocks where they can be, else exact.
    Quantized(Quantization),
}

fn load(checkpoint: &Checkpoint, config: &DecoderConfig, dtype: DType, values: Values) -> Result<Decoder> {
    check_float(dtype)?;
    let names: HashSet<&str> = checkpoint.names().collect();
    let mut used: HashSet<String> = HashSet::new();
    let mut missing: Vec<String> = Vec::new();
    let model = build(config, dtype, &mut |slot: &Slot<'_>| {
        if !names.contains(slot.name) {
            missing.push(slot.name.to_string());
            // Never used: the missing names are an error as soon as all are known.
            return Ok(Value::Dense(Tensor::zeros(&vec![0; slot.shape.len()], dtype)));
        }
        used.insert(slot.name.to_string());
        if let Some(value) = quantize::read(checkpoint, slot)? {
            used.extend(bitsandbytes::part_names(slot.name));
            return Ok(Value::Quantized(value));
        }
        let raw = checkpoint.get(slot.name)?;
        match &values {
            Values::Quantized(how) if slot.linear => {
                quantize::quantize_raw(&raw, slot, how).map(Value::Quantized)
            }
            _ => tensor(&raw, slot, dtype, values).map(Value::Dense),
        }
    })?;
    if !missing.is_empty() {
        let detail = format!("lacks {}; is it the checkpoint of this config?", listed(&missing));
        return Err(Error::model("checkpoint", detail));
    }
    let mut extra: Vec<&str> = names.into_iter().filter(|name| !used.contains(*name)).collect();
    // Some checkpoints hold the embedding a second time where it is the output projection too.
    extra.retain(|&name| !(config.tie_word_embeddings && name == "lm_head.weight"));
    extra.sort_unstable();
    if !extra.is_empty() {
        let detail = format!("holds {}, which the model of this config has no place for", listed(&extra));
        return Err(Error::model("checkpoint", detail));
    }
    Ok(model)
}

fn listed(names: &[impl AsRef<str>]) -> String {
    let first: Vec<String> = names.iter().take(NAMES_LISTED).map(|n| format!("'{}'", n.as_ref())).collect();
    match names.len().saturating_sub(NAMES_LISTED) {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}

/// The shape in which a checkpoint holds a slot, which must be that of `raw`.
pub(super) fn stored_shape(raw: &RawTensor<'_>, slot: &Slot<'_>) -> Result<Vec<usize>> {
    let stored: Vec<usize> = match slot.transposed {
        true => slot.shape.iter().rev().copied().collect(),
        false => slot.shape.to_vec(),
    };
    if raw.shape() != stored {
        let detail = format!("has shape {:?}; the config calls for {stored:?}", raw.shape());
        return Err(Error::model(format!("tensor '{}'", raw.name()), detail));
    }
    Ok(stored)
}

/// The exact values for a slot, in the order of its shape.
pub(super) fn checked_values(raw: &RawTensor<'_>, slot: &Slot<'_>) -> Result<Vec<f32>> {
    stored_shape(raw, slot)?;
    Ok(in_order(raw.to_f32()?, slot))
}

/// Values as they are stored in the order of the slot's shape.
fn in_order(values: Vec<f32>, slot: &Slot<'_>) -> Vec<f32> {
    match slot.shape {
        &[out, input] if slot.transposed => transpose(&values, input, out),
        _ => values,
    }
}

/// The exact value for a slot.
pub(super) fn exact(raw: &RawTensor<'_>, slot: &Slot<'_>, dtype: DType) -> Result<Tensor> {
    tensor(raw, slot, dtype, Values::Exact)
}

/// The value for a slot.
fn tensor(raw: &RawTensor<'_>, slot: &Slot<'_>, dtype: DType, values: Values) -> Result<Tensor> {
    stored_shape(raw, slot)?;
    let as_stored = matches!(
        (raw.dtype(), dtype),
        (RawDType::F32, DType::F32) | (RawDType::BF16, DType::BF16) | (RawDType::F16, DType::F16)
    );
    if as_stored
        && !slot.transposed
        && !matches!(values, Values::ViaF16)
        && let Some((file, start)) = raw.in_place()
        && let Some(tensor) = Tensor::from_shared_bytes(file, start, slot.shape, dtype)
    {
        return Ok(tensor);
    }
    let values = match (values, dtype) {
        // A weight that f16 does not hold is an error here rather than an infinity later.
        (Values::ViaF16, _) | (_, DType::F16) => raw.to_f32_via_f16()?,
        (Values::Exact | Values::Quantized(_), _) => raw.to_f32()?,
    };
    Tensor::from_f32(in_order(values, slot), slot.shape).to_dtype(dtype)
}

/// The transpose of a matrix of `rows` rows and `columns` columns.
pub(super) fn transpose<T: Copy>(values: &[T], rows: usize, columns: usize) -> Vec<T> {
    (0..columns).flat_map(|c| (0..rows).map(move |r| values[r * columns + c])).collect()
}
