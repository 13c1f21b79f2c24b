//! Delta folders, read and written.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::base::{self, BaseMatrix};
use super::config::{DeltaConfig, Module};
use super::{CONFIG_FILE, MODEL_CONFIG_FILE, WEIGHTS_FILE};
use crate::error::{Error, Result};
use crate::formats::checkpoint::Checkpoint;
use crate::formats::hf_config::DecoderConfig;
use crate::formats::json::write_json;
use crate::formats::raw::{RawDType, RawTensor};
use crate::formats::safetensors::{SafetensorsFile, TensorSpec, write};

/// Columns whose signs share a word.
const WORD: usize = 32;

/// The name of a module's signs in the file.
pub fn signs_name(module: &str) -> String {
    format!("{module}.signs")
}

/// The name of a module's scale in the file.
pub fn scale_name(module: &str) -> String {
    format!("{module}.scale")
}

/// Rows and bytes a row of the signs of a matrix `[out, in]`; None when they overflow.
pub fn sign_bytes([out, input]: [usize; 2]) -> Option<[usize; 2]> {
    let row = input.div_ceil(WORD).checked_mul(WORD / 8)?;
    out.checked_mul(row)?.checked_mul(8)?;
    Some([out, row])
}

/// An open delta folder: its settings, and views of its tensors.
#[derive(Debug)]
pub struct Delta {
    folder: PathBuf,
    config: DeltaConfig,
    model_config: DecoderConfig,
    file: SafetensorsFile,
    full: Vec<String>,
}

impl Delta {
    /// Opens and checks a delta folder.
    ///
    /// # Errors
    /// [`Error::Model`] when the folder holds no delta; those of [`DeltaConfig::read`], [`DecoderConfig::read`] and
    /// [`SafetensorsFile::open`]; [`Error::Format`], naming the tensor, when one is missing, has another type or shape than the settings
    /// say, signs past the last column, or a scale that is not finite.
    pub fn open(folder: &Path) -> Result<Delta> {
        let weights = folder.join(WEIGHTS_FILE);
        if !weights.is_file() || !folder.join(CONFIG_FILE).is_file() {
            let detail = format!(
                "has no {WEIGHTS_FILE} with a {CONFIG_FILE}; give the folder that 'warptune bitdelta compress' wrote (for a file in the \
                 reference layout: 'warptune bitdelta convert')"
            );
            return Err(Error::model(folder.display().to_string(), detail));
        }
        let config = DeltaConfig::read(&folder.join(CONFIG_FILE))?;
        let model_config = DecoderConfig::read(&folder.join(MODEL_CONFIG_FILE))?;
        let file = SafetensorsFile::open(&weights)?;
        let full = check(&config, &file)?;
        Ok(Delta { folder: folder.to_path_buf(), config, model_config, file, full })
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The settings.
    pub fn config(&self) -> &DeltaConfig {
        &self.config
    }

    /// The config of the fine-tuned model, which is that of base + delta.
    pub fn model_config(&self) -> &DecoderConfig {
        &self.model_config
    }

    /// The signs of a module: U8, as [`super`] lays them out.
    ///
    /// # Errors
    /// [`Error::Format`] when there are none.
    pub fn signs(&self, module: &str) -> Result<RawTensor<'_>> {
        self.file.get(&signs_name(module))
    }

    /// The scale of a module: one number, or one for each row.
    ///
    /// # Errors
    /// [`Error::Format`] when there is none.
    pub fn scale(&self, module: &str) -> Result<Vec<f32>> {
        self.file.get(&scale_name(module))?.to_f32()
    }

    /// The names of the tensors that are there in full, sorted.
    pub fn full(&self) -> impl Iterator<Item = &str> {
        self.full.iter().map(String::as_str)
    }

    /// A tensor that is there in full.
    ///
    /// # Errors
    /// [`Error::Format`] when there is none of this name.
    pub fn full_tensor(&self, name: &str) -> Result<RawTensor<'_>> {
        self.file.get(name)
    }

    /// That `base` is the model that the delta was made from.
    ///
    /// # Errors
    /// [`Error::Model`], naming the first projection that differs.
    pub fn check_base(&self, base: &Checkpoint) -> Result<()> {
        let expected: Vec<(&str, &BaseMatrix)> =
            self.config.modules.iter().map(|m| (m.name.as_str(), &m.base)).collect();
        base::check(base, &self.folder.display().to_string(), self.config.base_model.as_deref(), &expected)
    }

    /// The base with the delta's full tensors in the place of its own: everything of the fine-tuned model but the differences of the
    /// projections.
    ///
    /// # Errors
    /// As [`Delta::check_base`]; [`Error::Io`] when the file has gone.
    pub fn over(&self, base: Checkpoint) -> Result<Checkpoint> {
        self.check_base(&base)?;
        Ok(base.with_overrides(SafetensorsFile::open(self.file.path())?, self.full.iter().cloned()))
    }
}

/// Checks the tensors; returns the names of those that are there in full.
fn check(config: &DeltaConfig, file: &SafetensorsFile) -> Result<Vec<String>> {
    let mut parts = HashSet::new();
    for module in &config.modules {
        let [signs, scale] = [signs_name(&module.name), scale_name(&module.name)];
        let get = |name: &str, dtype: RawDType, shape: &[usize]| -> Result<RawTensor<'_>> {
            if !file.contains(name) {
                let detail =
                    format!("is missing, and {CONFIG_FILE} names its module: the delta is incomplete");
                return Err(Error::format_key(file.path(), name, detail));
            }
            let raw = file.get(name)?;
            if raw.dtype() != dtype || raw.shape() != shape {
                let detail = format!(
                    "is {} {:?}; {dtype} {shape:?} belongs to a matrix of {:?}",
                    raw.dtype(),
                    raw.shape(),
                    module.shape
                );
                return Err(Error::format_key(file.path(), name, detail));
            }
            Ok(raw)
        };
        // That it does not overflow was checked when the settings were read.
        let packed = sign_bytes(module.shape).unwrap_or_default();
        let bits = get(&signs, RawDType::U8, &packed)?;
        if let Some(row) = bits.bytes().chunks_exact(packed[1]).position(|row| has_tail(row, module.shape[1]))
        {
            let detail = format!(
                "row {row} has bits past column {}: it was not written by this format",
                module.shape[1]
            );
            return Err(Error::format_key(file.path(), signs, detail));
        }
        let scales = if config.per_row { module.shape[0] } else { 1 };
        let values = get(&scale, RawDType::F32, &[scales])?.to_f32()?;
        if let Some(bad) = values.iter().find(|x| !x.is_finite()) {
            return Err(Error::format_key(
                file.path(),
                scale,
                format!("holds {bad}; a scale is a finite number"),
            ));
        }
        parts.extend([signs, scale]);
    }
    let rest: Vec<String> = file.names().filter(|name| !parts.contains(*name)).map(str::to_owned).collect();
    if let Some(stray) = rest.iter().find(|name| name.ends_with(".signs") || name.ends_with(".scale")) {
        return Err(Error::format_key(file.path(), stray, format!("belongs to no module of {CONFIG_FILE}")));
    }
    Ok(rest)
}

/// Whether a row of signs has bits past its `columns` columns.
fn has_tail(row: &[u8], columns: usize) -> bool {
    let (whole, left) = (columns / 8, columns % 8);
    row[whole..].iter().enumerate().any(|(i, &byte)| byte >> (if i == 0 { left } else { 0 }) != 0)
}

/// The signs and the scale of a module, to be written.
#[derive(Debug, Clone)]
pub struct Parts<'a> {
    /// As [`super`] lays them out.
    pub signs: Cow<'a, [u8]>,
    /// One number, or one for each row.
    pub scale: Vec<f32>,
}

/// A tensor that goes into a delta in full.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Full {
    /// The name.
    pub name: String,
    /// The type that it is stored in.
    pub dtype: RawDType,
    /// The shape.
    pub shape: Vec<usize>,
}

/// Writes a delta folder, made if need be: the tensors first, `delta_config.json` last, so that a folder that has one is complete. Each file
/// appears whole or not at all. `parts` are those of the settings' modules, in their order; `full_bytes` gives the bytes of a tensor that goes
/// in full, one at a time.
///
/// # Errors
/// [`Error::Model`] when parts and modules do not fit each other; [`Error::Io`]; whatever `full_bytes` returns.
pub fn write_delta<'a>(
    folder: &Path,
    config: &DeltaConfig,
    model_config: &Map<String, Value>,
    parts: &'a [Parts<'a>],
    full: &[Full],
    mut full_bytes: impl FnMut(&str) -> Result<Cow<'a, [u8]>>,
) -> Result<()> {
    check_parts(config, parts)?;
    std::fs::create_dir_all(folder).map_err(Error::io(folder, "cannot create the folder"))?;
    let mut of_parts: HashMap<String, (usize, bool)> = HashMap::new();
    let mut specs = Vec::with_capacity(2 * parts.len() + full.len());
    for (i, module) in config.modules.iter().enumerate() {
        let packed = sign_bytes(module.shape).unwrap_or_default();
        let named = [
            (signs_name(&module.name), RawDType::U8, packed.to_vec(), true),
            (scale_name(&module.name), RawDType::F32, vec![parts[i].scale.len()], false),
        ];
        for (name, dtype, shape, is_signs) in named {
            of_parts.insert(name.clone(), (i, is_signs));
            specs.push(TensorSpec { name, dtype, shape });
        }
    }
    specs.extend(full.iter().map(|Full { name, dtype, shape }| TensorSpec {
        name: name.clone(),
        dtype: *dtype,
        shape: shape.clone(),
    }));
    write(&folder.join(WEIGHTS_FILE), &specs, &[("format", "pt")], |spec| match of_parts.get(&spec.name) {
        Some(&(i, true)) => Ok(Cow::Borrowed(&*parts[i].signs)),
        Some(&(i, false)) => Ok(Cow::Owned(parts[i].scale.iter().flat_map(|x| x.to_le_bytes()).collect())),
        None => full_bytes(&spec.name),
    })?;
    write_json(&folder.join(MODEL_CONFIG_FILE), model_config)?;
    config.write(&folder.join(CONFIG_FILE))
}

fn check_parts(config: &DeltaConfig, parts: &[Parts<'_>]) -> Result<()> {
    let refuse = |what: &str, detail: String| Err(Error::model(what, detail));
    if config.modules.len() != parts.len() {
        return refuse(
            "delta",
            format!("{} modules but {} of them compressed", config.modules.len(), parts.len()),
        );
    }
    let names: BTreeSet<&str> = config.modules.iter().map(|m| m.name.as_str()).collect();
    if names.len() != config.modules.len() {
        return refuse("delta", "has a module twice".into());
    }
    for (Module { name, shape, .. }, part) in config.modules.iter().zip(parts) {
        let bytes = sign_bytes(*shape).map(|[out, row]| out * row);
        let scales = if config.per_row { shape[0] } else { 1 };
        if bytes != Some(part.signs.len()) || part.scale.len() != scales {
            let detail = format!(
                "{} bytes of signs and {} scales for a matrix of {shape:?}",
                part.signs.len(),
                part.scale.len()
            );
            return refuse(name, detail);
        }
    }
    Ok(())
}
