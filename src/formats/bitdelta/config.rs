//! `delta_config.json`.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::base::{BaseMatrix, fingerprint};
use super::delta::sign_bytes;
use crate::error::{Error, Result};
use crate::formats::json::{Fields, read_json, write_json};

/// What the file calls itself.
const FORMAT: &str = "warptune-bitdelta";
/// Version of the layout that is written and read.
pub const FORMAT_VERSION: u64 = 1;

/// A compressed projection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// The module's name, e.g. `model.layers.0.self_attn.q_proj`.
    pub name: String,
    /// Rows and columns of its weight, `[out, in]`.
    pub shape: [usize; 2],
    /// The base's weight.
    pub base: BaseMatrix,
}

/// The settings of a delta.
#[derive(Debug, Clone, PartialEq)]
pub struct DeltaConfig {
    /// The base: a path or a Hub id.
    pub base_model: Option<String>,
    /// What was compressed: a path or a Hub id.
    pub fine_tuned_model: Option<String>,
    /// Whether each row of a matrix has a scale of its own.
    pub per_row: bool,
    /// The compressed projections, in the model's order.
    pub modules: Vec<Module>,
    /// How the scales were found.
    pub recipe: Map<String, Value>,
}

impl DeltaConfig {
    /// Identifies the base: see [`fingerprint`].
    pub fn base_sha256(&self) -> String {
        fingerprint(self.modules.iter().map(|m| (m.name.as_str(), m.shape, &m.base)))
    }

    /// Reads and checks a delta_config.json.
    ///
    /// # Errors
    /// As [`read_json`]; [`Error::Format`], naming the key, for one that is missing, mistyped or absurd; [`Error::Unsupported`] for a
    /// newer version.
    pub fn read(path: &Path) -> Result<DeltaConfig> {
        DeltaConfig::from_json(path, &read_json(path)?)
    }

    /// Reads the object of a delta_config.json; `path` names it in errors.
    ///
    /// # Errors
    /// As [`DeltaConfig::read`].
    pub fn from_json(path: &Path, map: &Map<String, Value>) -> Result<DeltaConfig> {
        let fields = Fields::new(path, map);
        if fields.str("format")? != Some(FORMAT) {
            return Err(
                fields.error("format", format!("must be \"{FORMAT}\"; is this the config of a delta?"))
            );
        }
        match fields.uint("format_version")? {
            Some(FORMAT_VERSION) => {}
            Some(other) => {
                return Err(Error::unsupported(
                    format!("{}: version {other} of the delta format", path.display()),
                    format!("version {FORMAT_VERSION} is; use the warptune that wrote it"),
                ));
            }
            None => return Err(fields.error("format_version", "is missing")),
        }
        let Some(entries) = fields.object("modules", "modules.")? else {
            return Err(fields.error("modules", "is missing"));
        };
        let modules = entries.keys().map(|name| module(&entries, name)).collect::<Result<Vec<_>>>()?;
        if modules.is_empty() {
            return Err(fields.error("modules", "names no projection"));
        }
        let config = DeltaConfig {
            base_model: fields.str("base_model_name_or_path")?.map(str::to_owned),
            fine_tuned_model: fields.str("fine_tuned_model_name_or_path")?.map(str::to_owned),
            per_row: fields.bool("per_row")?.ok_or_else(|| fields.error("per_row", "is missing"))?,
            modules,
            recipe: match fields.value("recipe") {
                None => Map::new(),
                Some(Value::Object(recipe)) => recipe.clone(),
                Some(_) => return Err(fields.error("recipe", "must be an object")),
            },
        };
        match fields.str("base_sha256")? {
            Some(hash) if hash == config.base_sha256() => Ok(config),
            Some(_) => {
                Err(fields.error("base_sha256", "is not that of the modules: the file was changed by hand"))
            }
            None => Err(fields.error("base_sha256", "is missing")),
        }
    }

    /// The object of a delta_config.json.
    pub fn to_json(&self) -> Map<String, Value> {
        let module = |m: &Module| {
            let entry = json!({"shape": m.shape, "base_dtype": m.base.dtype, "base_sha256": m.base.sha256});
            (m.name.clone(), entry)
        };
        let mut map = Map::new();
        for (key, value) in [
            ("format", json!(FORMAT)),
            ("format_version", json!(FORMAT_VERSION)),
            ("base_model_name_or_path", json!(self.base_model)),
            ("fine_tuned_model_name_or_path", json!(self.fine_tuned_model)),
            ("base_sha256", json!(self.base_sha256())),
            ("per_row", json!(self.per_row)),
            ("recipe", Value::Object(self.recipe.clone())),
            ("modules", self.modules.iter().map(module).collect()),
        ] {
            map.insert(key.to_owned(), value);
        }
        map
    }

    /// Writes it, whole or not at all.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, path: &Path) -> Result<()> {
        write_json(path, &self.to_json())
    }
}

fn module(entries: &Fields<'_>, name: &str) -> Result<Module> {
    let bad = |key: &str, detail: &str| entries.error(name, format!("{key} {detail}"));
    let Some(Value::Object(entry)) = entries.value(name) else {
        return Err(entries.error(name, "must be an object"));
    };
    let text = |key: &str| {
        let value = entry.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
        value.map(str::to_owned).ok_or_else(|| bad(key, "must be a string"))
    };
    let dims = entry.get("shape").and_then(Value::as_array).map(Vec::as_slice);
    let dim = |v: &Value| v.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|&n| n > 0);
    let shape = match dims {
        Some([out, input]) => dim(out).zip(dim(input)).map(|(out, input)| [out, input]),
        _ => None,
    };
    // What signs of this shape take must be a number.
    let shape = shape.filter(|&shape| sign_bytes(shape).is_some());
    let shape = shape.ok_or_else(|| bad("shape", "must be [out, in], two numbers above 0"))?;
    let base = BaseMatrix { dtype: text("base_dtype")?, sha256: text("base_sha256")? };
    Ok(Module { name: name.to_owned(), shape, base })
}
