//! Which modules an adapter attaches to.

use regex::Regex;
use serde_json::{Value, json};

use crate::error::{Error, Result};

/// The `target_modules` of an adapter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Targets {
    /// Modules whose name is one of these, or ends in a dot and one of these.
    Names(Vec<String>),
    /// Modules whose whole name matches.
    Regex(String),
    /// Every linear module but the output projection.
    AllLinear,
}

impl Targets {
    /// From the JSON of `target_modules`: a list of names, "all-linear", or a regular expression.
    pub(super) fn from_json(value: &Value) -> Option<Targets> {
        match value {
            Value::String(s) if s.eq_ignore_ascii_case("all-linear") => Some(Targets::AllLinear),
            Value::String(s) => Some(Targets::Regex(s.clone())),
            Value::Array(items) => {
                items.iter().map(|i| i.as_str().map(str::to_owned)).collect::<Option<_>>().map(Targets::Names)
            }
            _ => None,
        }
    }

    /// The JSON of `target_modules`.
    pub(super) fn to_json(&self) -> Value {
        match self {
            Targets::Names(names) => json!(names),
            Targets::Regex(pattern) => json!(pattern),
            Targets::AllLinear => json!("all-linear"),
        }
    }

    /// The modules among `linear` (full names of the model's linear modules) that the adapter attaches to, in their order.
    ///
    /// # Errors
    /// [`Error::Config`] for `target_modules` when the pattern is not a regular expression, or when a name or the
    /// pattern matches nothing; it lists what there is to choose from.
    pub fn select<'m>(&self, linear: &[&'m str]) -> Result<Vec<&'m str>> {
        let selected: Vec<&str> = match self {
            Targets::AllLinear => linear.iter().copied().filter(|m| last_part(m) != "lm_head").collect(),
            Targets::Names(names) => {
                if let Some(idle) = names.iter().find(|name| !linear.iter().any(|m| has_suffix(m, name))) {
                    return Err(nothing(&format!("'{idle}'"), linear));
                }
                linear.iter().copied().filter(|m| names.iter().any(|name| has_suffix(m, name))).collect()
            }
            Targets::Regex(pattern) => {
                let regex = whole_match(pattern).map_err(|e| {
                    Error::config("target_modules", format!("is not a regular expression: {e}"))
                })?;
                linear.iter().copied().filter(|m| regex.is_match(m)).collect()
            }
        };
        if selected.is_empty() {
            return Err(nothing(&self.to_json().to_string(), linear));
        }
        Ok(selected)
    }
}

/// `pattern` as Python's re.fullmatch would take it.
fn whole_match(pattern: &str) -> Result<Regex, regex::Error> {
    Regex::new(&format!("^(?:{pattern})$"))
}

/// The first of `keys` that names `module` as peft's rank and alpha patterns do: a regular expression for its end,
/// beginning at a dot or at the start.
pub(super) fn find_pattern<'p, T>(patterns: &'p [(String, T)], module: &str) -> Result<Option<&'p T>> {
    for (key, value) in patterns {
        let regex = Regex::new(&format!(r"^(?:.*\.)?(?:{key})$"))
            .map_err(|e| Error::config(key, format!("is not a regular expression: {e}")))?;
        if regex.is_match(module) {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

fn has_suffix(module: &str, name: &str) -> bool {
    module.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

fn last_part(module: &str) -> &str {
    module.rsplit('.').next().unwrap_or(module)
}

fn nothing(what: &str, linear: &[&str]) -> Error {
    let mut known: Vec<&str> = linear.iter().map(|m| last_part(m)).collect();
    known.sort_unstable();
    known.dedup();
    Error::config(
        "target_modules",
        format!("{what} matches no module of the model; it has {}", known.join(", ")),
    )
}
