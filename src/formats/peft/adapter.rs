//! Adapter folders.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{CONFIG_FILE, LoraConfig, WEIGHTS_FILE};
use crate::error::{Error, Result};
use crate::formats::json::write_json;
use crate::formats::raw::RawTensor;
use crate::formats::safetensors::{SafetensorsFile, write_tensors};

/// What `peft` puts before the name of every module.
const PREFIX: &str = "base_model.model.";

/// The two factors on one module.
#[derive(Debug, Clone)]
pub struct LoraPair<'a> {
    /// A: [r, in].
    pub a: RawTensor<'a>,
    /// B: [out, r].
    pub b: RawTensor<'a>,
}

/// An adapter folder, open: its settings, and views of its tensors.
#[derive(Debug)]
pub struct Adapter {
    config: LoraConfig,
    file: SafetensorsFile,
    modules: Vec<String>,
}

impl Adapter {
    /// Opens and checks an adapter folder.
    ///
    /// # Errors
    /// [`Error::Model`] when the folder holds no adapter; those of [`LoraConfig::read`] and
    /// [`SafetensorsFile::open`]; [`Error::Format`], naming the tensor, when one is not a LoRA factor, lacks its
    /// partner, or has another shape than the settings say.
    pub fn open(folder: &Path) -> Result<Adapter> {
        let weights = weights_path(folder)?;
        let config = LoraConfig::read(&folder.join(CONFIG_FILE))?;
        let file = SafetensorsFile::open(&weights)?;
        let modules = check(&config, &file)?;
        Ok(Adapter { config, file, modules })
    }

    /// The settings.
    pub fn config(&self) -> &LoraConfig {
        &self.config
    }

    /// The modules that it has factors for (`model.layers.0.self_attn.q_proj`, ...), sorted.
    pub fn modules(&self) -> impl Iterator<Item = &str> {
        self.modules.iter().map(String::as_str)
    }

    /// The factors on one module.
    ///
    /// # Errors
    /// [`Error::Format`] when it has none for it.
    pub fn pair(&self, module: &str) -> Result<LoraPair<'_>> {
        Ok(LoraPair {
            a: self.file.get(&tensor_name(module, 'A'))?,
            b: self.file.get(&tensor_name(module, 'B'))?,
        })
    }
}

/// The name of a factor (`'A'` or `'B'`) in the file.
pub fn tensor_name(module: &str, factor: char) -> String {
    format!("{PREFIX}{module}.lora_{factor}.weight")
}

/// Writes an adapter folder that `peft` loads: each file whole or not at all, the tensors first.
///
/// # Errors
/// [`Error::Io`] when the folder or a file cannot be written; [`Error::Format`] when a module comes twice.
pub fn write_adapter(folder: &Path, config: &LoraConfig, modules: &[(&str, LoraPair<'_>)]) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(Error::io(folder, "cannot create the folder"))?;
    let tensors: Vec<RawTensor<'_>> = modules
        .iter()
        .flat_map(|(module, pair)| {
            [
                pair.a.clone().renamed(tensor_name(module, 'A')),
                pair.b.clone().renamed(tensor_name(module, 'B')),
            ]
        })
        .collect();
    write_tensors(&folder.join(WEIGHTS_FILE), &tensors, &[("format", "pt")])?;
    write_json(&folder.join(CONFIG_FILE), &config.to_json())
}

fn weights_path(folder: &Path) -> Result<PathBuf> {
    let weights = folder.join(WEIGHTS_FILE);
    if weights.is_file() {
        return Ok(weights);
    }
    let detail = if folder.join("adapter_model.bin").is_file() {
        "holds adapter_model.bin, a pickle; load it with peft and save it with safe_serialization=True"
            .to_owned()
    } else {
        format!("has no {WEIGHTS_FILE}; give the folder that training wrote the adapter to")
    };
    Err(Error::model(folder.display().to_string(), detail))
}

/// Checks names and shapes; returns the modules.
fn check(config: &LoraConfig, file: &SafetensorsFile) -> Result<Vec<String>> {
    let mut shapes: BTreeMap<String, [Option<[usize; 2]>; 2]> = BTreeMap::new();
    for name in file.names() {
        let bad = |detail: &str| Error::format_key(file.path(), name, detail);
        let inner =
            name.strip_prefix(PREFIX).ok_or_else(|| bad("does not begin with 'base_model.model.'"))?;
        let (module, factor) = if let Some(module) = inner.strip_suffix(".lora_A.weight") {
            (module, 0)
        } else if let Some(module) = inner.strip_suffix(".lora_B.weight") {
            (module, 1)
        } else {
            return Err(bad("is not a LoRA factor (….lora_A.weight or ….lora_B.weight) of a linear module"));
        };
        let tensor = file.get(name)?;
        let &[rows, columns] = tensor.shape() else {
            return Err(bad(&format!("has shape {:?}; a factor has two axes", tensor.shape())));
        };
        shapes.entry(module.to_owned()).or_default()[factor] = Some([rows, columns]);
    }
    if shapes.is_empty() {
        return Err(Error::format(file.path(), "holds no LoRA factors"));
    }
    for (module, factors) in &shapes {
        let r = config.rank_of(module)?;
        let (&[Some(a), Some(b)], name) = (factors, tensor_name(module, 'A')) else {
            let missing = tensor_name(module, if factors[0].is_none() { 'A' } else { 'B' });
            return Err(Error::format_key(file.path(), missing, "is missing; its partner is there"));
        };
        if a[0] != r || b[1] != r {
            let detail = format!("A is {a:?} and B is {b:?}; {CONFIG_FILE} says rank {r}");
            return Err(Error::format_key(file.path(), name, detail));
        }
    }
    Ok(shapes.into_keys().collect())
}
