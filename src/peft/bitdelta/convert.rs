//! A delta in the reference layout to a delta folder. (The other way needs no model: [`crate::formats::bitdelta::write_reference`].)

use std::borrow::Cow;
use std::collections::HashSet;
use std::path::Path;

use serde_json::{Map, json};

use crate::formats::bitdelta::{DeltaConfig, Full, Module, Parts, ReferenceFile, digest, write_delta};
use crate::formats::{Checkpoint, DecoderConfig};
use crate::models::tensor_slots;
use crate::{Error, Result};

use super::CompressOptions;
use super::compress::{plain, plain_bytes, same};

/// Writes the delta of a file in the reference layout to `folder`. The file says nothing of its base: `base` is taken for it. `config`: that of
/// the fine-tuned model; where it is not known, the base's, with as many words as the file's embedding has rows.
///
/// # Errors
/// [`Error::Format`], naming the tensor, when the file's tensors are not those of such a model; [`Error::Io`].
pub fn from_reference(
    file: &ReferenceFile,
    base: &Checkpoint,
    config: Option<&DecoderConfig>,
    options: &CompressOptions,
    folder: &Path,
) -> Result<()> {
    let mut model = config.cloned().map_or_else(|| base.config(), Ok)?;
    if config.is_none() {
        for name in
            file.full().filter(|name| name.ends_with("embed_tokens.weight") || name.ends_with("wte.weight"))
        {
            model.vocab_size = file.full_tensor(name)?.shape().first().copied().unwrap_or(model.vocab_size);
        }
    }
    let slots = tensor_slots(&model)?;
    let bad = |name: &str, detail: String| Err(Error::format_key(file.path(), name, detail));
    let known: HashSet<&str> =
        slots.iter().filter_map(|slot| slot.linear().map(|(module, _)| module)).collect();
    if let Some(stray) = file.modules().find(|name| !known.contains(name)) {
        return bad(stray, "is no projection of the base: is it a delta of another model?".into());
    }
    let given: HashSet<&str> = file.modules().collect();
    let linear: Vec<(&str, [usize; 2])> =
        slots.iter().filter_map(|slot| slot.linear()).filter(|(name, _)| given.contains(name)).collect();
    let names: Vec<&str> = linear.iter().map(|(name, _)| *name).collect();
    let mut modules = Vec::with_capacity(linear.len());
    let mut parts = Vec::with_capacity(linear.len());
    for ((name, shape), (_, of_base)) in linear.iter().zip(digest(base, &names)?) {
        modules.push(Module { name: (*name).to_owned(), shape: *shape, base: of_base });
        parts.push(Parts { signs: Cow::Owned(file.signs(name, *shape)?), scale: vec![file.coeff(name)?] });
    }
    let mut full = Vec::new();
    for name in file.full() {
        let raw = file.full_tensor(name)?;
        let Some(slot) = slots.iter().find(|slot| slot.name == name) else {
            if model.tie_word_embeddings && name == "lm_head.weight" {
                continue;
            }
            return bad(name, "is no tensor of the base: is it a delta of another model?".into());
        };
        slot.check(&raw)?;
        if !base.contains(name) || !same(&raw, &base.get(name)?)? {
            full.push(Full { name: name.to_owned(), dtype: plain(raw.dtype()), shape: raw.shape().to_vec() });
        }
    }
    let mut recipe = Map::new();
    recipe.insert("scales".into(), json!("of a file in the reference layout"));
    let settings = DeltaConfig {
        base_model: options.base.clone(),
        fine_tuned_model: options.fine_tuned.clone(),
        per_row: false,
        modules,
        recipe,
    };
    write_delta(folder, &settings, &model.to_json(), &parts, &full, |name| {
        plain_bytes(&file.full_tensor(name)?)
    })
}
