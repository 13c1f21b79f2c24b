//! Tokenizers in Hugging Face folders, read and written, and those of GGUF files.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value, json};
use tokenizers::Tokenizer;

use super::{SpecialTokens, TextTokenizer};
use crate::formats::gguf::GgufTokenizer;
use crate::formats::{GenerationConfig, read_json, write_atomic, write_json};
use crate::{Error, Result};

/// The file that a tokenizer is read from.
pub const TOKENIZER_FILE: &str = "tokenizer.json";
const CONFIG: &str = "tokenizer_config.json";
const SPECIAL_MAP: &str = "special_tokens_map.json";
const TEMPLATE: &str = "chat_template.jinja";
const TEMPLATE_JSON: &str = "chat_template.json";
const MORE_TEMPLATES: &str = "additional_chat_templates";
const GENERATION: &str = "generation_config.json";

impl TextTokenizer {
    /// Reads a model folder: tokenizer.json, and where they exist tokenizer_config.json, special_tokens_map.json,
    /// chat_template.jinja, chat_template.json, additional_chat_templates/ and the eos ids of generation_config.json. Where two
    /// files give the chat template, chat_template.jinja wins, as in transformers.
    ///
    /// # Errors
    /// If a file is missing or broken, with its name and key, or a special token is not in the vocabulary.
    pub fn load(folder: impl AsRef<Path>) -> Result<TextTokenizer> {
        let folder = folder.as_ref();
        let path = folder.join(TOKENIZER_FILE);
        if !path.exists() {
            let hint = if folder.join("tokenizer.model").exists() {
                "there is only a SentencePiece tokenizer.model; write a tokenizer.json with transformers (AutoTokenizer, save_pretrained), or use a GGUF file"
            } else {
                "a model folder needs its tokenizer.json"
            };
            return Err(Error::format(&path, hint));
        }
        let bytes = std::fs::read(&path).map_err(Error::io(&path, "cannot read"))?;
        let inner = Tokenizer::from_bytes(&bytes)
            .map_err(|e| Error::format(&path, format!("not a tokenizer: {e}")))?;
        let config = read_object(&folder.join(CONFIG))?.unwrap_or_default();
        let map = read_object(&folder.join(SPECIAL_MAP))?.unwrap_or_default();
        let generation = folder.join(GENERATION);
        let stop_ids =
            if generation.exists() { GenerationConfig::read(&generation)?.eos } else { Vec::new() };
        let token = |key: &str| token_text(&config, key).or_else(|| token_text(&map, key));
        let special = SpecialTokens {
            bos: token("bos_token"),
            eos: token("eos_token"),
            pad: token("pad_token"),
            unk: token("unk_token"),
            stop_ids,
            chat_templates: read_templates(folder, &config)?,
        };
        let mut tokenizer = TextTokenizer::from_parts(inner, special)?;
        tokenizer.files = Some(Arc::new(read_files(folder, bytes)?));
        Ok(tokenizer)
    }

    /// The tokenizer of a GGUF file.
    ///
    /// # Errors
    /// As [`TextTokenizer::from_parts`].
    pub fn from_gguf(gguf: GgufTokenizer) -> Result<TextTokenizer> {
        let token = |id: Option<u32>| id.and_then(|id| gguf.tokenizer.id_to_token(id));
        let special = SpecialTokens {
            bos: token(gguf.bos),
            eos: token(gguf.eos),
            pad: token(gguf.pad),
            unk: token(gguf.unk),
            stop_ids: gguf.eot.into_iter().collect(),
            chat_templates: gguf
                .chat_template
                .map(|source| ("default".to_owned(), source))
                .into_iter()
                .collect(),
        };
        TextTokenizer::from_parts(gguf.tokenizer, special)
    }

    /// Writes the tokenizer into `folder`, so that [`TextTokenizer::load`] and transformers read it: the files that it was loaded
    /// from, or new ones if it was built from parts. Each file appears whole or not at all.
    pub fn save(&self, folder: impl AsRef<Path>) -> Result<()> {
        let folder = folder.as_ref();
        let Some(files) = &self.files else { return self.write_files(folder) };
        let holds_template =
            |name: &str| [TEMPLATE, TEMPLATE_JSON].contains(&name) || name.starts_with(MORE_TEMPLATES);
        for (name, bytes) in files.iter().filter(|(name, _)| !(self.template_changed && holds_template(name)))
        {
            let path = folder.join(name);
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent).map_err(Error::io(parent, "cannot create"))?;
            }
            write_bytes(&path, bytes)?;
        }
        if self.template_changed {
            let path = folder.join(CONFIG);
            let mut config =
                files.contains_key(CONFIG).then(|| read_json(&path)).transpose()?.unwrap_or_default();
            config.insert("chat_template".to_owned(), self.template_value());
            write_json(&path, &config)?;
        }
        Ok(())
    }

    fn write_files(&self, folder: &Path) -> Result<()> {
        let text = self.inner.to_string(false).map_err(|e| super::tokenizer_error(e.to_string()))?;
        write_bytes(&folder.join(TOKENIZER_FILE), text.as_bytes())?;
        let special = self.special_tokens();
        let mut map = Map::new();
        for (key, token) in [
            ("bos_token", &special.bos),
            ("eos_token", &special.eos),
            ("unk_token", &special.unk),
            ("pad_token", &special.pad),
        ] {
            if let Some(token) = token {
                map.insert(key.to_owned(), json!(token));
            }
        }
        write_json(&folder.join(SPECIAL_MAP), &map)?;
        let mut config = map;
        config.insert("tokenizer_class".to_owned(), json!("PreTrainedTokenizerFast"));
        config.insert("clean_up_tokenization_spaces".to_owned(), json!(false));
        if !special.chat_templates.is_empty() {
            config.insert("chat_template".to_owned(), self.template_value());
        }
        write_json(&folder.join(CONFIG), &config)?;
        // The token map has room for one eos only.
        if self.eos_ids().len() > 1 {
            let generation = Map::from_iter([("eos_token_id".to_owned(), json!(self.eos_ids()))]);
            write_json(&folder.join(GENERATION), &generation)?;
        }
        Ok(())
    }

    /// The templates as tokenizer_config.json holds them: one as a string, several as a list with names.
    fn template_value(&self) -> Value {
        match self.special_tokens().chat_templates.as_slice() {
            [(name, source)] if name == "default" => json!(source),
            several => {
                several.iter().map(|(name, template)| json!({"name": name, "template": template})).collect()
            }
        }
    }
}

/// The files of a tokenizer by name, `tokenizer` being the bytes of tokenizer.json.
fn read_files(folder: &Path, tokenizer: Vec<u8>) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::from([(TOKENIZER_FILE.to_owned(), tokenizer)]);
    for name in [CONFIG, SPECIAL_MAP, TEMPLATE, TEMPLATE_JSON, GENERATION] {
        let path = folder.join(name);
        if path.exists() {
            files.insert(name.to_owned(), std::fs::read(&path).map_err(Error::io(&path, "cannot read"))?);
        }
    }
    for (name, text) in list_templates(folder)?.unwrap_or_default() {
        files.insert(format!("{MORE_TEMPLATES}/{name}.jinja"), text.into_bytes());
    }
    Ok(files)
}

fn read_object(path: &Path) -> Result<Option<Map<String, Value>>> {
    path.exists().then(|| read_json(path)).transpose()
}

/// A special token: `"<s>"` or `{"content": "<s>", ...}`.
fn token_text(object: &Map<String, Value>, key: &str) -> Option<String> {
    match object.get(key)? {
        Value::String(text) => Some(text.clone()),
        Value::Object(token) => token.get("content").and_then(Value::as_str).map(str::to_owned),
        _ => None,
    }
}

fn read_templates(folder: &Path, config: &Map<String, Value>) -> Result<Vec<(String, String)>> {
    let mut templates = templates_of(&folder.join(CONFIG), config)?;
    let json_path = folder.join(TEMPLATE_JSON);
    if let Some(object) = read_object(&json_path)? {
        merge(&mut templates, templates_of(&json_path, &object)?);
    }
    let path = folder.join(TEMPLATE);
    if path.exists() {
        let source = std::fs::read_to_string(&path).map_err(Error::io(&path, "cannot read"))?;
        merge(&mut templates, vec![("default".to_owned(), source)]);
    }
    merge(&mut templates, list_templates(folder)?.unwrap_or_default());
    Ok(templates)
}

fn merge(templates: &mut Vec<(String, String)>, stronger: Vec<(String, String)>) {
    templates.retain(|(name, _)| !stronger.iter().any(|(n, _)| n == name));
    templates.extend(stronger);
}

/// The `chat_template` key: a template, or a list of templates with names.
fn templates_of(path: &Path, object: &Map<String, Value>) -> Result<Vec<(String, String)>> {
    let bad = || {
        Error::format_key(
            path,
            "chat_template",
            "expected a template or a list of {\"name\", \"template\"} objects",
        )
    };
    match object.get("chat_template") {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::String(source)) => Ok(vec![("default".to_owned(), source.clone())]),
        Some(Value::Array(entries)) => entries
            .iter()
            .map(|entry| {
                let text =
                    |key: &str| entry.get(key).and_then(Value::as_str).map(str::to_owned).ok_or_else(bad);
                Ok((text("name")?, text("template")?))
            })
            .collect(),
        Some(_) => Err(bad()),
    }
}

/// The files of additional_chat_templates/, sorted by name; None if there is no such folder.
fn list_templates(folder: &Path) -> Result<Option<Vec<(String, String)>>> {
    let dir = folder.join(MORE_TEMPLATES);
    if !dir.is_dir() {
        return Ok(None);
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&dir).map_err(Error::io(&dir, "cannot list"))? {
        let path = entry.map_err(Error::io(&dir, "cannot list"))?.path();
        if path.extension().is_some_and(|e| e == "jinja")
            && let Some(name) = path.file_stem().and_then(|s| s.to_str())
        {
            let source = std::fs::read_to_string(&path).map_err(Error::io(&path, "cannot read"))?;
            found.push((name.to_owned(), source));
        }
    }
    found.sort();
    Ok(Some(found))
}

fn write_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    write_atomic(path, |out| out.write_all(bytes).map_err(Error::io(path, "cannot write")))
}
