//! JSON settings files: small, read whole, written atomically.

use std::path::Path;

use serde_json::{Map, Value};

use super::atomic::write_atomic;
use crate::error::{Error, Result};

/// No config.json comes near this; a file that does is not one (the largest known, with label tables, has 2 MB).
const MAX_JSON_BYTES: u64 = 64 << 20;

/// Reads a JSON file whose top level is an object.
///
/// # Errors
/// [`Error::Io`] when it cannot be read; [`Error::Format`] when it is too large (over 64 MB), not JSON (with line and
/// column) or not an object.
pub fn read_json(path: &Path) -> Result<Map<String, Value>> {
    let size = std::fs::metadata(path).map_err(Error::io(path, "cannot open"))?.len();
    if size > MAX_JSON_BYTES {
        return Err(Error::format(
            path,
            format!("has {size} bytes; a settings file has at most {MAX_JSON_BYTES}"),
        ));
    }
    let text = std::fs::read(path).map_err(Error::io(path, "cannot read"))?;
    match serde_json::from_slice(&text) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(Error::format(path, "must hold a JSON object ({...}) at its top level")),
        Err(e) => Err(Error::format(path, format!("is not valid JSON: {e}"))),
    }
}

/// Writes a JSON object, indented by two spaces as the Hugging Face libraries do, atomically.
///
/// # Errors
/// [`Error::Io`] when it cannot be written.
pub fn write_json(path: &Path, map: &Map<String, Value>) -> Result<()> {
    let text = serde_json::to_string_pretty(map)
        .map_err(|e| Error::format(path, format!("cannot be put into JSON: {e}")))?;
    write_atomic(path, |out| writeln!(out, "{text}").map_err(Error::io(path, "cannot write")))
}

/// Typed access to the keys of one JSON object, with errors that name the file and the key.
///
/// A key whose value is `null` counts as absent everywhere, as in the Hugging Face libraries.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a> {
    path: &'a Path,
    prefix: &'a str,
    map: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    /// The fields of `map`, which was read from `path`.
    pub(super) fn new(path: &'a Path, map: &'a Map<String, Value>) -> Fields<'a> {
        Fields { path, prefix: "", map }
    }

    /// The error for `key`.
    pub(super) fn error(&self, key: &str, detail: impl Into<String>) -> Error {
        Error::format_key(self.path, format!("{}{key}", self.prefix), detail)
    }

    /// The keys, in the order of the file.
    pub(super) fn keys(&self) -> impl Iterator<Item = &'a str> {
        self.map.keys().map(String::as_str)
    }

    /// The value at `key`, unless it is missing or null.
    pub(super) fn value(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    /// Whether the key is there with the value null.
    pub(super) fn is_null(&self, key: &str) -> bool {
        self.map.get(key).is_some_and(Value::is_null)
    }

    /// The object at `key`; its fields are reported as `key.field`. `prefix` must be `key` and a dot.
    pub(super) fn object(&self, key: &str, prefix: &'a str) -> Result<Option<Fields<'a>>> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Fields { path: self.path, prefix, map })),
            Some(other) => Err(self.error(key, format!("must be an object, not {}", describe(other)))),
        }
    }

    /// A whole number. Python writes some of them as floats (`4096.0`): those count when they are whole.
    pub(super) fn uint(&self, key: &str) -> Result<Option<u64>> {
        self.value(key)
            .map(|v| whole(v).ok_or_else(|| self.error(key, must_be("a whole number >= 0", v))))
            .transpose()
    }

    /// A finite number.
    pub(super) fn float(&self, key: &str) -> Result<Option<f64>> {
        self.value(key)
            .map(|v| {
                v.as_f64()
                    .filter(|x| x.is_finite())
                    .ok_or_else(|| self.error(key, must_be("a finite number", v)))
            })
            .transpose()
    }

    /// true or false.
    pub(super) fn bool(&self, key: &str) -> Result<Option<bool>> {
        self.value(key)
            .map(|v| v.as_bool().ok_or_else(|| self.error(key, must_be("true or false", v))))
            .transpose()
    }

    /// A string.
    pub(super) fn str(&self, key: &str) -> Result<Option<&'a str>> {
        self.value(key).map(|v| v.as_str().ok_or_else(|| self.error(key, must_be("a string", v)))).transpose()
    }

    /// A list of strings.
    pub(super) fn strings(&self, key: &str) -> Result<Option<Vec<String>>> {
        self.value(key)
            .map(|v| {
                let items = v.as_array().ok_or_else(|| self.error(key, must_be("a list of strings", v)))?;
                items
                    .iter()
                    .map(|i| {
                        i.as_str()
                            .map(str::to_owned)
                            .ok_or_else(|| self.error(key, must_be("a list of strings", i)))
                    })
                    .collect()
            })
            .transpose()
    }

    /// Token ids: a number, or a list of them; missing or null is the empty list.
    pub(super) fn token_ids(&self, key: &str) -> Result<Vec<u32>> {
        let one = |v: &Value| {
            whole(v)
                .and_then(|id| u32::try_from(id).ok())
                .ok_or_else(|| self.error(key, must_be("a token id (or a list of them)", v)))
        };
        match self.value(key) {
            None => Ok(Vec::new()),
            Some(Value::Array(items)) => items.iter().map(one).collect(),
            Some(v) => Ok(vec![one(v)?]),
        }
    }
}

fn whole(v: &Value) -> Option<u64> {
    // 2^53 is where f64 stops holding every whole number.
    let from_float =
        || v.as_f64().filter(|x| x.fract() == 0.0 && (0.0..=9.0e15).contains(x)).map(|x| x as u64);
    v.as_u64().or_else(from_float)
}

fn must_be(wanted: &str, got: &Value) -> String {
    format!("must be {wanted}, not {}", describe(got))
}

/// A short rendering of a value for an error message.
fn describe(v: &Value) -> String {
    match v {
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        other => {
            let text = other.to_string();
            if text.chars().count() <= 60 {
                text
            } else {
                format!("{}...", text.chars().take(60).collect::<String>())
            }
        }
    }
}
