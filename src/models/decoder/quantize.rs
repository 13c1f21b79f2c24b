//! Models whose linear layers are in 4-bit blocks: from a checkpoint, to a folder that transformers and bitsandbytes load.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use super::Decoder;
use super::build::{Slot, Value, build};
use super::load::{checked_values, stored_shape};
use crate::autograd::Param;
use crate::formats::bitsandbytes::{self, Layout, Part};
use crate::formats::safetensors::{TensorSpec, write};
use crate::formats::{Checkpoint, DecoderConfig, RawDType, RawTensor, write_json};
use crate::nn::{QuantizedWeight, Weight};
use crate::ops::quantize::{NESTED_BLOCK, Quantization, dequantize, quantize};
use crate::tensor::{BlockScales, DType, NestedScales, QuantKind, QuantizedTensor, Tensor};
use crate::{Error, Result};

/// How far a file's levels may be from the format's: what old versions of bitsandbytes rounded.
const LEVEL_TOLERANCE: f32 = 1e-4;

impl Decoder {
    /// The weights in 4-bit blocks.
    pub fn quantized_weights(&self) -> impl Iterator<Item = &QuantizedWeight> {
        self.linears().filter_map(|(_, linear)| linear.weight().quantized())
    }

    /// Quantizes the weights of the linear layers, but for the output projection, that are not in 4-bit blocks yet.
    ///
    /// # Errors
    /// Those of [`quantize`], naming the weight.
    pub fn quantize(&mut self, how: &Quantization) -> Result<()> {
        for (_, linear) in self.linears_mut() {
            if let Weight::Dense(weight) = linear.weight() {
                let name = weight.name().to_string();
                let value = quantize(&weight.value(), how).map_err(|e| at(e, &name))?;
                linear.set_weight(Weight::Quantized(QuantizedWeight::new(name, value)))?;
            }
        }
        Ok(())
    }

    /// Turns every weight in 4-bit blocks into numbers of type `dtype`.
    ///
    /// # Errors
    /// [`Error::Cuda`] when they do not fit the device that they are on.
    pub fn dequantize(&mut self, dtype: DType) -> Result<()> {
        for (_, linear) in self.linears_mut() {
            if let Weight::Quantized(weight) = linear.weight() {
                let param = Param::new(weight.name(), dequantize(&weight.value(), dtype)?);
                param.set_trainable(false);
                linear.set_weight(Weight::Dense(param))?;
            }
        }
        Ok(())
    }
}

/// The value of a slot that the checkpoint holds in 4-bit blocks, if it does.
pub(super) fn read(checkpoint: &Checkpoint, slot: &Slot<'_>) -> Result<Option<QuantizedTensor>> {
    let Some(raw) = bitsandbytes::read(checkpoint, slot.name)? else { return Ok(None) };
    let named = |detail: String| Error::model(format!("tensor '{}'", slot.name), detail);
    if !slot.linear {
        return Err(named("is in 4 bits; only linear layers can be".into()));
    }
    // Quantized weights are [out, in] in every architecture.
    if raw.shape != slot.shape {
        return Err(named(format!("has shape {:?}; the config calls for {:?}", raw.shape, slot.shape)));
    }
    let kind: QuantKind = raw.kind.parse()?;
    let levels = raw.map.to_f32()?;
    if !levels.iter().zip(kind.levels()).all(|(a, b)| (a - b).abs() <= LEVEL_TOLERANCE) {
        return Err(named(format!("has other levels than {kind}: {levels:?}")));
    }
    let scales = match &raw.nested {
        None => BlockScales::Plain(in_place(&raw.absmax, DType::F32)?),
        Some(nested) => BlockScales::Nested(NestedScales {
            codes: in_place(&raw.absmax, DType::U8)?,
            absmax: in_place(&nested.absmax, DType::F32)?,
            map: in_place(&nested.map, DType::F32)?,
            offset: nested.offset,
            block: nested.block,
        }),
    };
    let codes = in_place(&raw.codes, DType::U8)?;
    let value = QuantizedTensor::new(kind, raw.shape, raw.block, codes, scales);
    value.map(Some).map_err(|e| named(format!("cannot be used: {e}")))
}

/// The bytes of a raw tensor as a vector: of the mapped file, or copied where they are not aligned.
fn in_place(raw: &RawTensor<'_>, dtype: DType) -> Result<Tensor> {
    let len = raw.bytes().len() / dtype.size();
    let mapped =
        raw.in_place().and_then(|(file, start)| Tensor::from_shared_bytes(file, start, &[len], dtype));
    Ok(match (mapped, dtype) {
        (Some(tensor), _) => tensor,
        (None, DType::U8) => Tensor::from_u8(raw.bytes().to_vec(), &[len]),
        (None, _) => Tensor::from_f32(raw.to_f32()?, &[len]),
    })
}

/// A weight of a checkpoint in 4-bit blocks; in memory there is no more than this one in full precision.
pub(super) fn quantize_raw(
    raw: &RawTensor<'_>,
    slot: &Slot<'_>,
    how: &Quantization,
) -> Result<QuantizedTensor> {
    let values = Tensor::from_f32(checked_values(raw, slot)?, slot.shape);
    quantize(&values, how).map_err(|e| at(e, slot.name))
}

/// An error of quantizing the weight `name`.
fn at(error: Error, name: &str) -> Error {
    match error {
        Error::NonFinite { what, .. } => Error::NonFinite { what, place: Some(name.into()) },
        other => other,
    }
}

/// What a file holds of a slot.
enum Entry {
    Plain { stored: Vec<usize> },
    Quantized { layout: Layout, slot: OwnedSlot },
}

/// A linear layer's slot, kept.
struct OwnedSlot {
    name: String,
    shape: [usize; 2],
    transposed: bool,
}

impl OwnedSlot {
    fn quantized(&self, checkpoint: &Checkpoint, how: &Quantization) -> Result<QuantizedTensor> {
        let start = super::build::Start::Zeros;
        let (name, shape, transposed) = (self.name.as_str(), &self.shape[..], self.transposed);
        quantize_raw(&checkpoint.get(name)?, &Slot { name, shape, start, transposed, linear: true }, how)
    }
}

/// Writes config.json and model.safetensors of a checkpoint whose linear layers, but for the output projection, are quantized, to `folder`, which
/// is made if need be. Everything else stays as it is stored. One tensor is in memory at a time; the file appears whole or not at all.
///
/// # Errors
/// [`Error::Model`] when the checkpoint does not fit the config, or is quantized already; those of [`quantize`]; [`Error::Io`].
pub fn quantize_checkpoint(
    checkpoint: &Checkpoint,
    config: &DecoderConfig,
    how: &Quantization,
    folder: &Path,
) -> Result<()> {
    how.check()?;
    // What goes into the file, and what of which slot each tensor is.
    let (mut entries, mut specs, mut parts) = (Vec::new(), Vec::new(), BTreeMap::new());
    let empty = |slot: &Slot<'_>| Value::Dense(Tensor::zeros(&vec![0; slot.shape.len()], DType::F32));
    build(config, DType::F32, &mut |slot: &Slot<'_>| {
        let raw = checkpoint.get(slot.name)?;
        if bitsandbytes::read(checkpoint, slot.name)?.is_some() {
            return Err(Error::model(format!("tensor '{}'", slot.name), "is quantized already"));
        }
        let stored = stored_shape(&raw, slot)?;
        let entry = match *slot.shape {
            [rows, columns] if slot.linear => {
                let layout = Layout {
                    kind: how.kind.name(),
                    shape: [rows, columns],
                    block: how.block,
                    nested_block: how.double.then_some(NESTED_BLOCK),
                    dtype: torch_name(raw.dtype()),
                };
                for (part, spec) in layout.specs(slot.name) {
                    parts.insert(spec.name.clone(), (entries.len(), Some(part)));
                    specs.push(spec);
                }
                let (name, transposed) = (slot.name.to_string(), slot.transposed);
                Entry::Quantized { layout, slot: OwnedSlot { name, shape: [rows, columns], transposed } }
            }
            _ => {
                parts.insert(slot.name.to_string(), (entries.len(), None));
                specs.push(TensorSpec {
                    name: slot.name.into(),
                    dtype: plain(raw.dtype()),
                    shape: stored.clone(),
                });
                Entry::Plain { stored }
            }
        };
        entries.push(entry);
        Ok(empty(slot))
    })?;
    std::fs::create_dir_all(folder).map_err(Error::io(folder, "cannot create the folder"))?;
    // The file's order is f32 first, bytes last: a weight comes up twice, each time with all of its parts of a type in a row.
    let mut last: Option<(usize, QuantizedTensor)> = None;
    write(&folder.join("model.safetensors"), &specs, &[("format", "pt")], |spec| {
        let lost = || Error::model(spec.name.as_str(), "is no part of the model");
        let &(index, part) = parts.get(&spec.name).ok_or_else(lost)?;
        let (layout, slot) = match (&entries[index], part) {
            (Entry::Quantized { layout, slot }, Some(_)) => (layout, slot),
            (Entry::Plain { stored }, _) => {
                return plain_bytes(&checkpoint.get(&spec.name)?, spec.dtype, stored);
            }
            _ => return Err(lost()),
        };
        if !matches!(&last, Some((at, _)) if *at == index) {
            // The one before goes first.
            last = None;
        }
        let (_, value) = match last.take() {
            Some(same) => last.insert(same),
            None => last.insert((index, slot.quantized(checkpoint, how)?)),
        };
        part_bytes(value, layout, part.unwrap_or(Part::State)).map(Cow::Owned)
    })?;
    write_json(&folder.join("config.json"), &quantized_config(checkpoint, config, how))
}

/// The config with what transformers is to know of the quantization.
fn quantized_config(
    checkpoint: &Checkpoint,
    config: &DecoderConfig,
    how: &Quantization,
) -> serde_json::Map<String, serde_json::Value> {
    let mut config = config.clone();
    let stored =
        checkpoint.names().find_map(|name| checkpoint.get(name).ok()).map(|raw| torch_name(raw.dtype()));
    let dtype = config.dtype.get_or_insert_with(|| stored.unwrap_or("bfloat16").to_string()).clone();
    let mut json = config.to_json();
    json.insert(bitsandbytes::CONFIG_KEY.into(), bitsandbytes::config(how.kind.name(), how.double, &dtype));
    json
}

/// The bytes of a part of a quantized weight.
pub(super) fn part_bytes(value: &QuantizedTensor, layout: &Layout, part: Part) -> Result<Vec<u8>> {
    let floats = |values: &[f32]| values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    let offset = match value.scales() {
        BlockScales::Nested(nested) => nested.offset,
        BlockScales::Plain(_) => 0.0,
    };
    Ok(match (part, value.scales()) {
        (Part::Codes, _) => value.codes().as_u8()?.to_vec(),
        (Part::Map, _) => floats(value.kind().levels()),
        (Part::State, _) => layout.state(offset),
        (Part::Absmax, BlockScales::Plain(absmax)) => floats(absmax.as_f32()?),
        (Part::Absmax, BlockScales::Nested(nested)) => nested.codes.as_u8()?.to_vec(),
        (Part::NestedAbsmax, BlockScales::Nested(nested)) => floats(nested.absmax.as_f32()?),
        (Part::NestedMap, BlockScales::Nested(nested)) => floats(nested.map.as_f32()?),
        (Part::NestedAbsmax | Part::NestedMap, BlockScales::Plain(_)) => Vec::new(),
    })
}

/// The type in which a tensor that stays as it is goes to safetensors: its own, or bf16 where GGUF holds blocks.
fn plain(dtype: RawDType) -> RawDType {
    if dtype.is_quantized() { RawDType::BF16 } else { dtype }
}

fn plain_bytes<'a>(raw: &RawTensor<'a>, dtype: RawDType, stored: &[usize]) -> Result<Cow<'a, [u8]>> {
    if raw.dtype() == dtype {
        return Ok(Cow::Owned(raw.bytes().to_vec()));
    }
    let values = Tensor::from_f32(raw.to_f32()?, stored).to_dtype(DType::BF16)?;
    Ok(Cow::Owned(bytemuck::cast_slice(values.as_bf16()?).to_vec()))
}

/// torch's name of a type; that of bf16 for what torch has not.
pub(super) fn torch_name(dtype: RawDType) -> &'static str {
    match dtype {
        RawDType::F32 => "float32",
        RawDType::F16 => "float16",
        _ => "bfloat16",
    }
}
