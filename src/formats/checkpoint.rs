//! A model's weights, wherever they are: a Hugging Face folder, one safetensors file, one GGUF file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::gguf::{self, GgufFile, TensorSource};
use super::hf_config::DecoderConfig;
use super::json::{Fields, read_json};
use super::raw::RawTensor;
use super::safetensors::SafetensorsFile;
use crate::error::{Error, Result};

/// The weights in one file.
const SINGLE: &str = "model.safetensors";
/// The list of shards.
const INDEX: &str = "model.safetensors.index.json";

/// An open checkpoint. Tensors have Hugging Face's names, shapes and row orders, whatever the file's format.
///
/// Two liberties of old checkpoints are evened out: a base model's file leaves out the leading `model.` or
/// `transformer.`, which is put back; and buffers that are not weights (GPT-2's causal mask `attn.bias` and
/// `attn.masked_bias`, `rotary_emb.inv_freq`) are left out.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    weights: Weights,
    overrides: Option<Overrides>,
}

/// Tensors of another file that take the place of the checkpoint's own, or are added to them.
#[derive(Debug)]
struct Overrides {
    file: SafetensorsFile,
    names: BTreeSet<String>,
}

#[derive(Debug)]
enum Weights {
    /// Files, and for each tensor which of them has it under which name.
    Safetensors { files: Vec<SafetensorsFile>, names: BTreeMap<String, (usize, String)> },
    /// One file, and for each tensor where it is and how it lies there.
    Gguf { file: Box<GgufFile>, names: BTreeMap<String, TensorSource>, config: Box<DecoderConfig> },
}

impl Checkpoint {
    /// Opens a folder (with `model.safetensors`, `model.safetensors.index.json` and its shards, or a single `.gguf`), a
    /// `.safetensors` file or a `.gguf` file, and checks all headers.
    ///
    /// # Errors
    /// [`Error::Model`] when there are no weights at `path`; [`Error::Format`] when a shard lacks a tensor that the
    /// index promises, or two have the same; those of [`SafetensorsFile::open`] and [`GgufFile::open`].
    pub fn open(path: &Path) -> Result<Checkpoint> {
        if path.is_dir() {
            return Checkpoint::open_folder(path);
        }
        match path.extension().and_then(|e| e.to_str()) {
            Some("gguf") => Checkpoint::from_gguf(GgufFile::open(path)?),
            Some("safetensors") => Checkpoint::from_safetensors(vec![SafetensorsFile::open(path)?]),
            _ if path.exists() => {
                Err(no_weights(path, "is neither a folder nor a .safetensors or .gguf file"))
            }
            _ => Err(no_weights(path, "there is no such file or folder")),
        }
    }

    fn open_folder(folder: &Path) -> Result<Checkpoint> {
        if folder.join(SINGLE).is_file() {
            return Checkpoint::from_safetensors(vec![SafetensorsFile::open(&folder.join(SINGLE))?]);
        }
        if folder.join(INDEX).is_file() {
            return Checkpoint::open_shards(&folder.join(INDEX));
        }
        let listing = std::fs::read_dir(folder).map_err(Error::io(folder, "cannot list"))?;
        let files: Vec<PathBuf> = listing.filter_map(|entry| entry.ok().map(|e| e.path())).collect();
        let with = |extension: &str| {
            files.iter().filter(|f| f.extension().is_some_and(|e| e == extension)).collect()
        };
        let ggufs: Vec<&PathBuf> = with("gguf");
        match ggufs.as_slice() {
            [one] => Checkpoint::from_gguf(GgufFile::open(one)?),
            [] if !Vec::is_empty(&with("bin")) => {
                let detail = "has only PyTorch pickles (.bin); save the model with safe_serialization=True";
                Err(no_weights(folder, detail))
            }
            [] => Err(no_weights(folder, &format!("has no {SINGLE}, no {INDEX} and no .gguf file"))),
            _ => Err(no_weights(folder, "has several .gguf files; give the path of one of them")),
        }
    }

    fn open_shards(index: &Path) -> Result<Checkpoint> {
        let map = read_json(index)?;
        let fields = Fields::new(index, &map);
        let promised = fields
            .object("weight_map", "weight_map.")?
            .ok_or_else(|| fields.error("weight_map", "is missing"))?;
        let mut shards = BTreeMap::new();
        for name in promised.keys() {
            let shard = promised.str(name)?.ok_or_else(|| promised.error(name, "must name a file"))?;
            // A name with a path in it could lead anywhere.
            if Path::new(shard).file_name().is_none_or(|f| f != shard) {
                return Err(promised.error(name, format!("'{shard}' must be a file name without a folder")));
            }
            shards.entry(shard).or_insert_with(Vec::new).push(name);
        }
        let mut files = Vec::new();
        for (shard, names) in shards {
            let file = SafetensorsFile::open(&index.with_file_name(shard))?;
            if let Some(missing) = names.iter().find(|name| !file.contains(name)) {
                return Err(Error::format_key(
                    file.path(),
                    *missing,
                    format!("is not there, and {INDEX} says so"),
                ));
            }
            files.push(file);
        }
        Checkpoint::from_safetensors(files)
    }

    /// A checkpoint of open safetensors files.
    ///
    /// # Errors
    /// [`Error::Format`] when two of them have a tensor of the same name.
    pub fn from_safetensors(files: Vec<SafetensorsFile>) -> Result<Checkpoint> {
        let path = files.first().map(|f| f.path().to_path_buf()).unwrap_or_default();
        let stored: BTreeSet<&str> = files.iter().flat_map(|f| f.names()).collect();
        let prefix = missing_prefix(&stored);
        let mut names = BTreeMap::new();
        for (i, file) in files.iter().enumerate() {
            for name in file.names().filter(|name| !is_buffer(name)) {
                let full =
                    if name.starts_with("lm_head.") { name.to_owned() } else { format!("{prefix}{name}") };
                if names.insert(full, (i, name.to_owned())).is_some() {
                    return Err(Error::format_key(
                        file.path(),
                        name,
                        "another shard has a tensor of this name too",
                    ));
                }
            }
        }
        Ok(Checkpoint { path, weights: Weights::Safetensors { files, names }, overrides: None })
    }

    /// A checkpoint of an open GGUF file.
    ///
    /// # Errors
    /// Those of [`GgufFile::config`], and [`Error::Unsupported`] for a tensor that the architecture does not have.
    pub fn from_gguf(file: GgufFile) -> Result<Checkpoint> {
        let config = Box::new(file.config()?);
        let names = gguf::sources(&file, &config)?;
        let path = file.path().to_path_buf();
        Ok(Checkpoint {
            path,
            weights: Weights::Gguf { file: Box::new(file), names, config },
            overrides: None,
        })
    }

    /// The file (of several shards the first) that the weights come from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The GGUF file, if it is one: the tokenizer and the chat template are in it.
    pub fn gguf(&self) -> Option<&GgufFile> {
        match &self.weights {
            Weights::Gguf { file, .. } => Some(file),
            Weights::Safetensors { .. } => None,
        }
    }

    /// The model's shape: from the GGUF metadata, or from the config.json beside the weights.
    ///
    /// # Errors
    /// Those of [`DecoderConfig::read`].
    pub fn config(&self) -> Result<DecoderConfig> {
        match &self.weights {
            Weights::Gguf { config, .. } => Ok((**config).clone()),
            Weights::Safetensors { .. } => DecoderConfig::read(&self.path.with_file_name("config.json")),
        }
    }

    /// The checkpoint with the tensors `names` of `file`, under the same names, in the place of its own or added to them.
    pub fn with_overrides(
        self,
        file: SafetensorsFile,
        names: impl IntoIterator<Item = String>,
    ) -> Checkpoint {
        Checkpoint { overrides: Some(Overrides { file, names: names.into_iter().collect() }), ..self }
    }

    /// The names of all tensors, sorted.
    pub fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        let own: Box<dyn Iterator<Item = &str> + '_> = match &self.weights {
            Weights::Safetensors { names, .. } => Box::new(names.keys().map(String::as_str)),
            Weights::Gguf { names, .. } => Box::new(names.keys().map(String::as_str)),
        };
        match &self.overrides {
            None => own,
            Some(overrides) => {
                let all: BTreeSet<&str> = own.chain(overrides.names.iter().map(String::as_str)).collect();
                Box::new(all.into_iter())
            }
        }
    }

    /// Whether there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        if self.overrides.as_ref().is_some_and(|overrides| overrides.names.contains(name)) {
            return true;
        }
        match &self.weights {
            Weights::Safetensors { names, .. } => names.contains_key(name),
            Weights::Gguf { names, .. } => names.contains_key(name),
        }
    }

    /// A tensor, as a view where the file's layout is the checkpoint's.
    ///
    /// # Errors
    /// [`Error::Model`] when there is none of this name; those of [`SafetensorsFile::get`] and [`GgufFile::get`].
    pub fn get(&self, name: &str) -> Result<RawTensor<'_>> {
        if let Some(overrides) = &self.overrides
            && overrides.names.contains(name)
        {
            return overrides.file.get(name);
        }
        let missing = || Error::model(self.path.display().to_string(), format!("has no tensor '{name}'"));
        match &self.weights {
            Weights::Safetensors { files, names } => {
                let (file, stored) = names.get(name).ok_or_else(missing)?;
                Ok(files[*file].get(stored)?.renamed(name))
            }
            Weights::Gguf { file, names, .. } => {
                gguf::fetch(file, name, names.get(name).ok_or_else(missing)?)
            }
        }
    }
}

fn no_weights(path: &Path, detail: &str) -> Error {
    Error::model(path.display().to_string(), detail)
}

/// What a base model's checkpoint leaves out before its names.
fn missing_prefix(names: &BTreeSet<&str>) -> &'static str {
    if names.contains("embed_tokens.weight") {
        "model."
    } else if names.contains("wte.weight") {
        "transformer."
    } else {
        ""
    }
}

/// Whether a tensor is a constant that old versions of transformers saved along.
fn is_buffer(name: &str) -> bool {
    // GPT-2's mask; its real biases are attn.c_attn.bias and attn.c_proj.bias.
    name.ends_with(".attn.bias")
        || name.ends_with(".attn.masked_bias")
        || name.ends_with(".rotary_emb.inv_freq")
}
