//! A base and a delta to a plain model folder, one tensor at a time.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::path::Path;

use half::{bf16, f16};
use rayon::prelude::*;

use crate::formats::bitdelta::{Delta, Module};
use crate::formats::safetensors::{TensorSpec, write};
use crate::formats::{Checkpoint, RawDType, RawTensor, bitsandbytes, write_json};
use crate::models::{TensorSlot, tensor_slots};
use crate::tensor::DType;
use crate::{Error, Result};

/// Writes config.json and model.safetensors of base + delta to `folder`, made if need be: W + scale * sign for each projection, in f32 and then
/// rounded once to `dtype` (else to the type that the base stores the weight in; bf16 for blocks of GGUF), the delta's full tensors, and
/// the base's for the rest. One matrix is in memory at a time; the file appears whole or not at all.
///
/// # Errors
/// Those of [`Delta::check_base`]; [`Error::Model`] when the delta's modules are not those of its config; [`Error::NonFinite`] for a weight beyond
/// the range of `dtype`; [`Error::Io`].
pub fn apply(base: Checkpoint, delta: &Delta, dtype: Option<DType>, folder: &Path) -> Result<()> {
    let checkpoint = delta.over(base)?;
    let slots = tensor_slots(delta.model_config())?;
    let modules = modules_of(delta, &slots)?;
    let wanted = |raw: &RawTensor<'_>| match dtype {
        Some(dtype) => stored_type(dtype),
        None if raw.dtype().is_quantized() => RawDType::BF16,
        None => raw.dtype(),
    };
    let mut specs = Vec::with_capacity(slots.len());
    let mut by_name = HashMap::with_capacity(slots.len());
    for slot in &slots {
        if bitsandbytes::read(&checkpoint, &slot.name)?.is_some() {
            return Err(Error::model(
                format!("tensor '{}'", slot.name),
                "is in 4 bits: give the model in full precision",
            ));
        }
        let raw = checkpoint.get(&slot.name)?;
        specs.push(TensorSpec { name: slot.name.clone(), dtype: wanted(&raw), shape: slot.check(&raw)? });
        by_name.insert(slot.name.as_str(), slot);
    }
    std::fs::create_dir_all(folder).map_err(Error::io(folder, "cannot create the folder"))?;
    write(&folder.join("model.safetensors"), &specs, &[("format", "pt")], |spec| {
        let lost = || Error::model(spec.name.as_str(), "is no part of the model");
        let slot = by_name.get(spec.name.as_str()).ok_or_else(lost)?;
        let raw = checkpoint.get(&spec.name)?;
        let module = slot.linear().and_then(|(name, _)| modules.get(name));
        match module {
            None if raw.dtype() == spec.dtype => Ok(Cow::Owned(raw.bytes().to_vec())),
            None => encode(&spec.name, &raw.to_f32()?, spec.dtype),
            Some(module) => {
                let mut values = slot.values(&raw)?;
                add(
                    &mut values,
                    delta.signs(&module.name)?.bytes(),
                    &delta.scale(&module.name)?,
                    module.shape[1],
                );
                encode(&spec.name, &slot.stored(values), spec.dtype)
            }
        }
    })?;
    let mut config = delta.model_config().clone();
    config.dtype =
        Some(torch_name(specs.iter().map(|spec| spec.dtype).next().unwrap_or(RawDType::F32)).to_owned());
    config.raw.shift_remove("quantization_config");
    write_json(&folder.join("config.json"), &config.to_json())
}

/// The delta's modules by name; all of them must be projections of its model.
pub(super) fn modules_of<'d>(delta: &'d Delta, slots: &[TensorSlot]) -> Result<HashMap<&'d str, &'d Module>> {
    let known: HashSet<(&str, [usize; 2])> = slots.iter().filter_map(TensorSlot::linear).collect();
    let foreign = |m: &&Module| !known.contains(&(m.name.as_str(), m.shape));
    if let Some(module) = delta.config().modules.iter().find(foreign) {
        let detail =
            format!("the model of its config.json has no projection '{}' of {:?}", module.name, module.shape);
        return Err(Error::model(delta.folder().display().to_string(), detail));
    }
    Ok(delta.config().modules.iter().map(|m| (m.name.as_str(), m)).collect())
}

/// Adds scale * sign to a matrix: one scale, or one for each row.
pub(super) fn add(values: &mut [f32], signs: &[u8], scale: &[f32], columns: usize) {
    let row_bytes = signs.len() / (values.len() / columns.max(1)).max(1);
    let rows = values.par_chunks_exact_mut(columns).zip(signs.par_chunks_exact(row_bytes.max(1))).enumerate();
    rows.for_each(|(r, (row, bits))| {
        let a = scale[if scale.len() == 1 { 0 } else { r }];
        for (values, byte) in row.chunks_mut(8).zip(bits) {
            values.iter_mut().enumerate().for_each(|(i, w)| *w += if byte >> i & 1 == 1 { a } else { -a });
        }
    });
}

fn stored_type(dtype: DType) -> RawDType {
    match dtype {
        DType::BF16 => RawDType::BF16,
        DType::F16 => RawDType::F16,
        _ => RawDType::F32,
    }
}

fn torch_name(dtype: RawDType) -> &'static str {
    match dtype {
        RawDType::BF16 => "bfloat16",
        RawDType::F16 => "float16",
        RawDType::F64 => "float64",
        _ => "float32",
    }
}

/// Values as bytes of a float type.
fn encode(name: &str, values: &[f32], dtype: RawDType) -> Result<Cow<'static, [u8]>> {
    let mut overflow = false;
    let bytes = match dtype {
        RawDType::F64 => values.iter().flat_map(|&x| f64::from(x).to_le_bytes()).collect(),
        RawDType::F32 => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        RawDType::BF16 => values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect(),
        RawDType::F16 => {
            let convert = |&x: &f32| {
                let half = f16::from_f32(x);
                overflow |= x.is_finite() && !half.is_finite();
                half.to_le_bytes()
            };
            values.iter().flat_map(convert).collect()
        }
        other => {
            return Err(Error::DType {
                op: "bitdelta",
                detail: format!("'{name}' is {other}; weights are floating point"),
            });
        }
    };
    match overflow {
        true => Err(Error::NonFinite {
            what: format!("'{name}' rounded to f16"),
            place: Some("a value is larger than 65504: use bf16".into()),
        }),
        false => Ok(Cow::Owned(bytes)),
    }
}
