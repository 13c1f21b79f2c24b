//! Settings: a TOML file, `--set key=value` over it, flags over both; every key checked, and unknown ones answered with
//! the nearest known one.

use std::path::Path;

use serde::Serialize;
use serde::de::{DeserializeOwned, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use toml::{Table, Value};

use crate::{Error, Result};

/// The settings of one command: `T`'s defaults, over them the file (if any), each `a.b=value` of `sets`, and the flags that
/// were given.
///
/// # Errors
/// [`Error::Io`] or [`Error::Format`] for the file; [`Error::Config`] naming the key for anything in it.
pub fn load<T: Default + Serialize + DeserializeOwned>(
    file: Option<&Path>,
    sets: &[String],
    flags: &[(&'static str, Option<Value>)],
) -> Result<T> {
    let mut table = Table::try_from(T::default())
        .map_err(|e| Error::config("config", format!("its defaults cannot be written as TOML: {e}")))?;
    if let Some(path) = file {
        let text = std::fs::read_to_string(path).map_err(Error::io(path, "cannot read"))?;
        let given =
            text.parse::<Table>().map_err(|e| Error::format(path, format!("is not valid TOML: {e}")))?;
        merge(&mut table, given);
    }
    for set in sets {
        let (key, text) = set.split_once('=').ok_or_else(|| {
            Error::config(set.as_str(), "--set takes KEY=VALUE, for example --set train.lr=1e-4")
        })?;
        insert(&mut table, key.trim(), parse_value(text.trim()))?;
    }
    for (key, value) in flags {
        if let Some(value) = value {
            insert(&mut table, key, value.clone())?;
        }
    }
    from_table(table)
}

/// Puts `given` over `table`, section by section.
fn merge(table: &mut Table, given: Table) {
    for (key, value) in given {
        match (table.get_mut(&key), value) {
            (Some(Value::Table(section)), Value::Table(given)) => merge(section, given),
            (_, value) => drop(table.insert(key, value)),
        }
    }
}

/// Typed settings from a table; unknown keys are errors.
fn from_table<T: DeserializeOwned>(table: Table) -> Result<T> {
    T::deserialize(At { key: String::new(), value: Value::Table(table) })
        .map_err(|problem| Error::config(problem.key, problem.detail))
}

/// Settings as TOML text, all defaults written out.
pub fn to_toml<T: Serialize>(settings: &T) -> Result<String> {
    toml::to_string_pretty(settings)
        .map_err(|e| Error::config("config", format!("cannot be written as TOML: {e}")))
}

/// A value as TOML writes it; anything else (a path, a name) is a string.
fn parse_value(text: &str) -> Value {
    let parsed = format!("value = {text}").parse::<Table>().ok().filter(|t| t.len() == 1);
    parsed.and_then(|mut t| t.remove("value")).unwrap_or_else(|| Value::String(text.to_string()))
}

fn insert(table: &mut Table, key: &str, value: Value) -> Result<()> {
    let (parents, last) = match key.rsplit_once('.') {
        Some((parents, last)) => (parents.split('.').collect(), last),
        None => (Vec::new(), key),
    };
    let mut table = table;
    for parent in parents {
        let entry = table.entry(parent).or_insert_with(|| Value::Table(Table::new()));
        table = entry.as_table_mut().ok_or_else(|| Error::config(parent, "is a value, not a section"))?;
    }
    if last.is_empty() {
        return Err(Error::config(key, "--set takes KEY=VALUE with a key such as train.lr"));
    }
    table.insert(last.to_string(), value);
    Ok(())
}

/// What is wrong with a setting, before it becomes an [`Error::Config`].
#[derive(Debug)]
struct Problem {
    key: String,
    detail: String,
}

impl Problem {
    /// The problem at `key`, unless it already says where it is.
    fn at(self, key: &str) -> Problem {
        if self.key.is_empty() { Problem { key: key.to_string(), ..self } } else { self }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.key, self.detail)
    }
}

impl std::error::Error for Problem {}

impl serde::de::Error for Problem {
    fn custom<M: std::fmt::Display>(message: M) -> Problem {
        Problem { key: String::new(), detail: message.to_string() }
    }
}

/// A value and the key under which it stands: a deserializer that checks the keys of structs and says where an error is.
struct At {
    key: String,
    value: Value,
}

impl At {
    fn child(&self, name: &str) -> String {
        if self.key.is_empty() { name.to_string() } else { format!("{}.{name}", self.key) }
    }

    fn check_keys(&self, known: &'static [&'static str]) -> std::result::Result<(), Problem> {
        let Value::Table(table) = &self.value else {
            let detail = format!("is a section with the keys {}", known.join(", "));
            return Err(Problem { key: self.key.clone(), detail });
        };
        let unknown = table.keys().find(|key| !known.contains(&key.as_str()));
        unknown.map_or(Ok(()), |name| {
            let hint = match nearest(name, known) {
                Some(near) => format!("did you mean '{}'?", self.child(near)),
                None => format!("known here: {}", known.join(", ")),
            };
            Err(Problem { key: self.child(name), detail: format!("there is no such setting; {hint}") })
        })
    }

    fn visit<'de, V: Visitor<'de>>(self, visitor: V) -> std::result::Result<V::Value, Problem> {
        let key = self.key;
        let result = match self.value {
            Value::String(s) => visitor.visit_string(s),
            Value::Integer(i) => visitor.visit_i64(i),
            Value::Float(x) => visitor.visit_f64(x),
            Value::Boolean(b) => visitor.visit_bool(b),
            Value::Datetime(d) => visitor.visit_string(d.to_string()),
            Value::Array(items) => visitor.visit_seq(Items { key: &key, items: items.into_iter() }),
            Value::Table(table) => {
                visitor.visit_map(Entries { key: &key, entries: table.into_iter(), value: None })
            }
        };
        result.map_err(|problem: Problem| problem.at(&key))
    }
}

impl<'de> Deserializer<'de> for At {
    type Error = Problem;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> std::result::Result<V::Value, Problem> {
        self.visit(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> std::result::Result<V::Value, Problem> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> std::result::Result<V::Value, Problem> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> std::result::Result<V::Value, Problem> {
        self.check_keys(fields)?;
        self.visit(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> std::result::Result<V::Value, Problem> {
        match self.value {
            Value::String(s) if variants.contains(&s.as_str()) => visitor.visit_enum(s.into_deserializer()),
            other => {
                let detail = format!("is {other}; allowed: {}", variants.join(", "));
                Err(Problem { key: self.key, detail })
            }
        }
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map identifier ignored_any
    }
}

struct Entries<'a> {
    key: &'a str,
    entries: toml::map::IntoIter<String, Value>,
    value: Option<(String, Value)>,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Problem;

    fn next_key_seed<K: serde::de::DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> std::result::Result<Option<K::Value>, Problem> {
        let Some((name, value)) = self.entries.next() else { return Ok(None) };
        let key = if self.key.is_empty() { name.clone() } else { format!("{}.{name}", self.key) };
        self.value = Some((key, value));
        seed.deserialize(IntoDeserializer::<Problem>::into_deserializer(name)).map(Some)
    }

    fn next_value_seed<V: serde::de::DeserializeSeed<'de>>(
        &mut self,
        seed: V,
    ) -> std::result::Result<V::Value, Problem> {
        match self.value.take() {
            Some((key, value)) => {
                // Untagged enums make their error after the value is read, without knowing where it stood.
                seed.deserialize(At { key: key.clone(), value }).map_err(|problem| problem.at(&key))
            }
            None => Err(serde::de::Error::custom("a value was asked for before its key")),
        }
    }
}

struct Items<'a> {
    key: &'a str,
    items: std::vec::IntoIter<Value>,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Problem;

    fn next_element_seed<T: serde::de::DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> std::result::Result<Option<T::Value>, Problem> {
        let next = self.items.next();
        next.map(|value| seed.deserialize(At { key: self.key.to_string(), value })).transpose()
    }
}

/// The known key that is nearest to `name`, unless none is near.
fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let scored = known.iter().map(|&k| (distance(name, k), k));
    scored.min().filter(|&(d, k)| d <= 1 + name.len().max(k.len()) / 3).map(|(_, k)| k)
}

/// Levenshtein distance in bytes.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
