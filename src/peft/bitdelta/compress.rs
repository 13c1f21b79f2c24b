//! A base and a fine-tuned model to a delta, one matrix at a time.

use std::borrow::Cow;
use std::collections::HashSet;
use std::path::Path;

use serde_json::{Map, json};

use crate::formats::bitdelta::{BaseMatrix, DeltaConfig, Full, Module, Parts, digest, write_delta};
use crate::formats::{Checkpoint, RawDType, RawTensor, bitsandbytes};
use crate::models::{TensorSlot, tensor_slots};
use crate::tensor::SignTensor;
use crate::{Error, Result};

/// How a model is compressed, and what it says of where it comes from.
#[derive(Clone, Debug, Default)]
pub struct CompressOptions {
    /// A scale for each row instead of one for each matrix.
    pub per_row: bool,
    /// The base, as the user named it.
    pub base: Option<String>,
    /// The fine-tuned model, as the user named it.
    pub fine_tuned: Option<String>,
}

/// Writes the delta of `fine` from `base` to `folder`: for each linear projection, D = W_fine - W_base in f32 as signs (+1 for 0) and the
/// scale mean|D| (of the matrix, or of each row), summed in f64; whatever else differs, in full. In memory there are two matrices in f32 and
/// the signs of all of them. `progress` is told of each projection that is done, and how many there are.
///
/// # Errors
/// [`Error::Model`], naming the tensor, when the two are not models of one shape (embeddings and output projections may have more rows), are in
/// 4 bits, or a difference is not finite; [`Error::Io`].
pub fn compress(
    base: &Checkpoint,
    fine: &Checkpoint,
    options: &CompressOptions,
    folder: &Path,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<()> {
    let config = fine.config()?;
    let slots = tensor_slots(&config)?;
    check(base, fine, &slots, config.tie_word_embeddings)?;
    let linear: Vec<&TensorSlot> = slots.iter().filter(|slot| slot.linear).collect();
    let (mut modules, mut parts) = (Vec::with_capacity(linear.len()), Vec::with_capacity(linear.len()));
    for (i, slot) in linear.iter().enumerate() {
        let (module, part) = one(base, fine, slot, options.per_row)?;
        modules.push(module);
        parts.push(part);
        progress(i + 1, linear.len());
    }
    let mut full = Vec::new();
    for slot in slots.iter().filter(|slot| !slot.linear) {
        let raw = fine.get(&slot.name)?;
        if !base.contains(&slot.name) || !same(&raw, &base.get(&slot.name)?)? {
            full.push(Full {
                name: slot.name.clone(),
                dtype: plain(raw.dtype()),
                shape: raw.shape().to_vec(),
            });
        }
    }
    let mut recipe = Map::new();
    recipe.insert("scales".into(), json!("mean of the magnitudes"));
    let settings = DeltaConfig {
        base_model: options.base.clone(),
        fine_tuned_model: options.fine_tuned.clone(),
        per_row: options.per_row,
        modules,
        recipe,
    };
    write_delta(folder, &settings, &config.to_json(), &parts, &full, |name| plain_bytes(&fine.get(name)?))
}

/// Everything that can be wrong with two models is said before the work.
fn check(base: &Checkpoint, fine: &Checkpoint, slots: &[TensorSlot], tied: bool) -> Result<()> {
    let named = |checkpoint: &Checkpoint, detail: String| {
        Err(Error::model(checkpoint.path().display().to_string(), detail))
    };
    for slot in slots {
        for checkpoint in [base, fine] {
            let is_base = std::ptr::eq(checkpoint, base);
            if is_base && !slot.linear {
                continue;
            }
            let name = &slot.name;
            if !checkpoint.contains(name) {
                let hint = if is_base { ", which the fine-tuned model has: it is not its base" } else { "" };
                return named(checkpoint, format!("has no tensor '{name}'{hint}"));
            }
            if bitsandbytes::read(checkpoint, name)?.is_some() {
                let detail = format!("has '{name}' in 4 bits: give the model that it was quantized from");
                return named(checkpoint, detail);
            }
            let raw = checkpoint.get(name)?;
            match slot.check(&raw) {
                Err(_) if is_base => {
                    let detail = format!(
                        "has '{name}' of shape {:?}, the fine-tuned model {:?}: it is not its base",
                        raw.shape(),
                        fine.get(name)?.shape()
                    );
                    return named(checkpoint, detail);
                }
                result => drop(result?),
            }
        }
    }
    let known: HashSet<&str> = slots.iter().map(|slot| slot.name.as_str()).collect();
    // Some checkpoints hold the embedding a second time where it is the output projection too.
    let placed = |name: &str| known.contains(name) || (tied && name == "lm_head.weight");
    let stray = fine.names().find(|name| !placed(name));
    match stray {
        None => Ok(()),
        Some(name) => named(fine, format!("holds '{name}', which the model of its config has no place for")),
    }
}

/// One projection.
fn one(
    base: &Checkpoint,
    fine: &Checkpoint,
    slot: &TensorSlot,
    per_row: bool,
) -> Result<(Module, Parts<'static>)> {
    let Some((name, shape)) = slot.linear() else {
        return Err(Error::model(slot.name.as_str(), "is not the weight of a linear layer"));
    };
    let compressed = || -> Result<Parts<'static>> {
        let (fine, base) = (slot.values(&fine.get(&slot.name)?)?, slot.values(&base.get(&slot.name)?)?);
        let (signs, mean) = SignTensor::from_difference(&fine, &base, shape).map_err(|e| match e {
            Error::Shape { detail, .. } => Error::model(format!("tensor '{}'", slot.name), detail),
            other => other,
        })?;
        let scale = if per_row { row_means(&fine, &base, shape[1]) } else { vec![mean] };
        Ok(Parts { signs: Cow::Owned(signs.bits().as_u8()?.to_vec()), scale })
    };
    let (parts, digests) = rayon::join(compressed, || digest(base, &[name]));
    let bases: Vec<BaseMatrix> = digests?.into_iter().map(|(_, base)| base).collect();
    match <[BaseMatrix; 1]>::try_from(bases) {
        Ok([base]) => Ok((Module { name: name.to_owned(), shape, base }, parts?)),
        Err(_) => Err(Error::model(name, "has no digest")),
    }
}

/// The mean of the magnitudes of each row's differences, summed in f64.
fn row_means(fine: &[f32], base: &[f32], columns: usize) -> Vec<f32> {
    let rows = fine.chunks_exact(columns).zip(base.chunks_exact(columns));
    let mean = |(fine, base): (&[f32], &[f32])| {
        let sum: f64 = fine.iter().zip(base).map(|(f, b)| f64::from((f - b).abs())).sum();
        (sum / columns as f64) as f32
    };
    rows.map(mean).collect()
}

/// Whether two tensors hold the same values.
pub(super) fn same(a: &RawTensor<'_>, b: &RawTensor<'_>) -> Result<bool> {
    if a.shape() != b.shape() {
        return Ok(false);
    }
    if a.dtype() == b.dtype() {
        return Ok(a.bytes() == b.bytes());
    }
    Ok(a.to_f32()?.iter().zip(b.to_f32()?).all(|(a, b)| a.to_bits() == b.to_bits()))
}

/// The type in which a tensor goes into a delta: its own, or F32, which loses nothing, where GGUF holds blocks.
pub(super) fn plain(dtype: RawDType) -> RawDType {
    if dtype.is_quantized() { RawDType::F32 } else { dtype }
}

pub(super) fn plain_bytes(raw: &RawTensor<'_>) -> Result<Cow<'static, [u8]>> {
    Ok(Cow::Owned(match raw.dtype().is_quantized() {
        true => raw.to_f32()?.iter().flat_map(|x| x.to_le_bytes()).collect(),
        false => raw.bytes().to_vec(),
    }))
}
