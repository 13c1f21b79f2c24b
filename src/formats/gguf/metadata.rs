//! The key-value section, checked in one pass and decoded only where it is asked for: arrays stay in the mapping.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The types of values, by their number in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    Str,
    Array,
    U64,
    I64,
    F64,
}

impl Kind {
    fn from_code(code: u32) -> Option<Kind> {
        use Kind::*;
        [U8, I8, U16, I16, U32, I32, F32, Bool, Str, Array, U64, I64, F64].get(code as usize).copied()
    }

    /// Bytes of a value of fixed size.
    fn size(self) -> Option<usize> {
        match self {
            Kind::U8 | Kind::I8 | Kind::Bool => Some(1),
            Kind::U16 | Kind::I16 => Some(2),
            Kind::U32 | Kind::I32 | Kind::F32 => Some(4),
            Kind::U64 | Kind::I64 | Kind::F64 => Some(8),
            Kind::Str | Kind::Array => None,
        }
    }
}

#[derive(Debug, Clone)]
struct Value {
    kind: Kind,
    /// Elements of an array; None for a single value.
    len: Option<usize>,
    /// The bytes of a number, of a string (without its length), or of all elements of an array.
    range: Range<usize>,
}

/// The metadata of a GGUF file.
#[derive(Debug)]
pub struct Metadata {
    path: PathBuf,
    values: HashMap<String, Value>,
}

impl Metadata {
    /// Reads `count` entries. Nothing is allocated by a length that has not been compared with the file's.
    pub(super) fn read(cursor: &mut Cursor<'_>, count: u64) -> Result<Metadata> {
        let mut values = HashMap::new();
        for _ in 0..count {
            let key = cursor.string("a metadata key")?.to_owned();
            let value = read_value(cursor, &key)?;
            if values.insert(key.clone(), value).is_some() {
                return Err(Error::format_key(cursor.path, key, "the metadata key appears twice"));
            }
        }
        Ok(Metadata { path: cursor.path.to_path_buf(), values })
    }

    /// The metadata with the file's bytes, to decode values from.
    pub(super) fn view<'a>(&'a self, bytes: &'a [u8]) -> View<'a> {
        View { metadata: self, bytes }
    }

    /// The keys, in no order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }
}

fn read_value(cursor: &mut Cursor<'_>, key: &str) -> Result<Value> {
    let kind = read_kind(cursor, key)?;
    match kind {
        Kind::Str => {
            let range = cursor.string_range(key)?;
            Ok(Value { kind, len: None, range })
        }
        Kind::Array => {
            let element = read_kind(cursor, key)?;
            let len = cursor.u64(key)?;
            let start = cursor.position;
            match element.size() {
                Some(size) => {
                    let bytes = usize::try_from(len).ok().and_then(|n| n.checked_mul(size));
                    let bytes = bytes.ok_or_else(|| cursor.cut_off(key))?;
                    cursor.take(bytes, key)?;
                }
                None if element == Kind::Str => {
                    for _ in 0..len {
                        cursor.string_range(key)?;
                    }
                }
                None => {
                    return Err(Error::format_key(
                        cursor.path,
                        key,
                        "is an array of arrays, which no reader takes",
                    ));
                }
            }
            // Every element took at least a byte, so `len` fits.
            Ok(Value { kind: element, len: Some(len as usize), range: start..cursor.position })
        }
        _ => {
            let start = cursor.position;
            cursor.take(kind.size().unwrap_or(0), key)?;
            Ok(Value { kind, len: None, range: start..cursor.position })
        }
    }
}

fn read_kind(cursor: &mut Cursor<'_>, key: &str) -> Result<Kind> {
    let code = cursor.u32(key)?;
    Kind::from_code(code)
        .ok_or_else(|| Error::format_key(cursor.path, key, format!("has the unknown value type {code}")))
}

/// Typed access to the metadata of an open file.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    metadata: &'a Metadata,
    bytes: &'a [u8],
}

impl<'a> View<'a> {
    /// The error for a key.
    pub(super) fn error(&self, key: &str, detail: impl Into<String>) -> Error {
        Error::format_key(&self.metadata.path, key, detail)
    }

    /// The error for a key that must be there.
    pub(super) fn missing(&self, key: &str) -> Error {
        self.error(key, "is missing from the metadata")
    }

    /// The file.
    pub(super) fn path(&self) -> &'a Path {
        &self.metadata.path
    }

    /// A whole number >= 0 of any integer type.
    pub(super) fn uint(&self, key: &str) -> Result<Option<u64>> {
        let Some(value) = self.scalar(key)? else { return Ok(None) };
        let n = integer(value.kind, &self.bytes[value.range.clone()]).and_then(|n| u64::try_from(n).ok());
        n.map(Some).ok_or_else(|| self.error(key, "must be a whole number >= 0"))
    }

    /// A token id.
    pub(super) fn token_id(&self, key: &str) -> Result<Option<u32>> {
        self.uint(key)?
            .map(|id| u32::try_from(id).map_err(|_| self.error(key, format!("{id} is no token id"))))
            .transpose()
    }

    /// A finite number of any type.
    pub(super) fn float(&self, key: &str) -> Result<Option<f64>> {
        let Some(value) = self.scalar(key)? else { return Ok(None) };
        let bytes = &self.bytes[value.range.clone()];
        let x = match value.kind {
            Kind::F32 | Kind::F64 => real(value.kind, bytes),
            kind => integer(kind, bytes).map(|n| n as f64),
        };
        x.filter(|x| x.is_finite()).map(Some).ok_or_else(|| self.error(key, "must be a finite number"))
    }

    /// true or false.
    pub(super) fn bool(&self, key: &str) -> Result<Option<bool>> {
        let Some(value) = self.scalar(key)? else { return Ok(None) };
        match (value.kind, self.bytes.get(value.range.start)) {
            (Kind::Bool, Some(0)) => Ok(Some(false)),
            (Kind::Bool, Some(1)) => Ok(Some(true)),
            _ => Err(self.error(key, "must be true or false")),
        }
    }

    /// A string.
    pub(super) fn str(&self, key: &str) -> Result<Option<&'a str>> {
        let Some(value) = self.scalar(key)? else { return Ok(None) };
        let text =
            std::str::from_utf8(&self.bytes[value.range.clone()]).ok().filter(|_| value.kind == Kind::Str);
        text.map(Some).ok_or_else(|| self.error(key, "must be a string"))
    }

    /// An array of strings.
    pub(super) fn strings(&self, key: &str) -> Result<Option<Vec<&'a str>>> {
        let Some((value, len)) = self.array(key)? else { return Ok(None) };
        if value.kind != Kind::Str {
            return Err(self.error(key, "must be an array of strings"));
        }
        let mut cursor = Cursor { path: self.path(), bytes: self.bytes, position: value.range.start };
        (0..len).map(|_| cursor.string(key)).collect::<Result<_>>().map(Some)
    }

    /// An array of finite f32.
    pub(super) fn floats(&self, key: &str) -> Result<Option<Vec<f32>>> {
        let Some((value, _)) = self.array(key)? else { return Ok(None) };
        let (numbers, _) = self.bytes[value.range.clone()].as_chunks::<4>();
        let floats: Vec<f32> = numbers.iter().map(|b| f32::from_le_bytes(*b)).collect();
        if value.kind != Kind::F32 || floats.iter().any(|x| !x.is_finite()) {
            return Err(self.error(key, "must be an array of finite f32"));
        }
        Ok(Some(floats))
    }

    /// An array of integers of any type, each within i64.
    pub(super) fn ints(&self, key: &str) -> Result<Option<Vec<i64>>> {
        let Some((value, _)) = self.array(key)? else { return Ok(None) };
        let bad = || self.error(key, "must be an array of integers");
        let size = value.kind.size().ok_or_else(bad)?;
        self.bytes[value.range.clone()]
            .chunks_exact(size)
            .map(|b| integer(value.kind, b).and_then(|n| i64::try_from(n).ok()).ok_or_else(bad))
            .collect::<Result<_>>()
            .map(Some)
    }

    /// Whether the key holds an array.
    pub(super) fn is_array(&self, key: &str) -> bool {
        self.metadata.values.get(key).is_some_and(|v| v.len.is_some())
    }

    fn scalar(&self, key: &str) -> Result<Option<&'a Value>> {
        match self.metadata.values.get(key) {
            Some(value) if value.len.is_some() => {
                Err(self.error(key, "must be a single value, not an array"))
            }
            value => Ok(value),
        }
    }

    fn array(&self, key: &str) -> Result<Option<(&'a Value, usize)>> {
        match self.metadata.values.get(key) {
            Some(value) => match value.len {
                Some(len) => Ok(Some((value, len))),
                None => Err(self.error(key, "must be an array")),
            },
            None => Ok(None),
        }
    }
}

/// An integer of any kind; None for the others.
fn integer(kind: Kind, bytes: &[u8]) -> Option<i128> {
    Some(match kind {
        Kind::U8 => u8::from_le_bytes(bytes.try_into().ok()?).into(),
        Kind::I8 => i8::from_le_bytes(bytes.try_into().ok()?).into(),
        Kind::U16 => u16::from_le_bytes(bytes.try_into().ok()?).into(),
        Kind::I16 => i16::from_le_bytes(bytes.try_into().ok()?).into(),
        Kind::U32 => u32::from_le_bytes(bytes.try_into().ok()?).into(),
        Kind::I32 => i32::from_le_bytes(bytes.try_into().ok()?).into(),
        Kind::U64 => u64::from_le_bytes(bytes.try_into().ok()?).into(),
        Kind::I64 => i64::from_le_bytes(bytes.try_into().ok()?).into(),
        Kind::F32 | Kind::F64 | Kind::Bool | Kind::Str | Kind::Array => return None,
    })
}

fn real(kind: Kind, bytes: &[u8]) -> Option<f64> {
    match kind {
        Kind::F32 => Some(f32::from_le_bytes(bytes.try_into().ok()?).into()),
        Kind::F64 => Some(f64::from_le_bytes(bytes.try_into().ok()?)),
        _ => None,
    }
}

/// A position in the file's bytes; every read is checked against their end.
pub(super) struct Cursor<'a> {
    pub(super) path: &'a Path,
    pub(super) bytes: &'a [u8],
    pub(super) position: usize,
}

impl<'a> Cursor<'a> {
    /// The next `n` bytes; `what` names them in the error.
    pub(super) fn take(&mut self, n: usize, what: &str) -> Result<&'a [u8]> {
        let end = self.position.checked_add(n).filter(|&end| end <= self.bytes.len());
        let end = end.ok_or_else(|| self.cut_off(what))?;
        let taken = &self.bytes[self.position..end];
        self.position = end;
        Ok(taken)
    }

    pub(super) fn u32(&mut self, what: &str) -> Result<u32> {
        let bytes = self.take(4, what)?;
        bytes.try_into().map(u32::from_le_bytes).map_err(|_| self.cut_off(what))
    }

    pub(super) fn u64(&mut self, what: &str) -> Result<u64> {
        let bytes = self.take(8, what)?;
        bytes.try_into().map(u64::from_le_bytes).map_err(|_| self.cut_off(what))
    }

    /// A string: its length in bytes, then UTF-8.
    pub(super) fn string(&mut self, what: &str) -> Result<&'a str> {
        let range = self.string_range(what)?;
        // string_range has checked it; a second check costs little beside what callers do with the text.
        std::str::from_utf8(&self.bytes[range])
            .map_err(|_| Error::format_key(self.path, what, "is not UTF-8"))
    }

    /// Where the string's text lies.
    fn string_range(&mut self, what: &str) -> Result<Range<usize>> {
        let len = self.u64(what)?;
        let start = self.position;
        let text = self.take(usize::try_from(len).unwrap_or(usize::MAX), what)?;
        if std::str::from_utf8(text).is_err() {
            return Err(Error::format_key(self.path, what, "holds text that is not UTF-8"));
        }
        Ok(start..self.position)
    }

    fn cut_off(&self, what: &str) -> Error {
        let at = self.position;
        Error::format_key(
            self.path,
            what,
            format!("runs past the end of the file (from byte {at}): it is cut off or broken"),
        )
    }
}
