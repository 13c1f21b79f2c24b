//! Data files of any kind as a sequence of records.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_json::{Map, Value};

use super::JsonLines;
use crate::{Error, Result};

/// One row of a data file.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Line of the file, or row where it has no lines, counted from 1.
    pub line: usize,
    /// Its columns.
    pub fields: Map<String, Value>,
}

/// The records of a data file: JSON lines (read as they are needed), a JSON array of objects, or, with the feature `parquet`,
/// a Parquet file. What it is shows in its first bytes, not in its name.
///
/// # Errors
/// If the file cannot be read, is empty, or is of another kind. Errors in single records come from the iterator.
pub fn open(path: impl AsRef<Path>) -> Result<Box<dyn Iterator<Item = Result<Record>>>> {
    let path = path.as_ref();
    let mut head = Vec::new();
    let file = File::open(path).map_err(Error::io(path, "cannot open"))?;
    file.take(4096).read_to_end(&mut head).map_err(Error::io(path, "cannot read"))?;
    let refuse =
        |detail: &str| Err(Error::Data { path: path.to_path_buf(), line: None, detail: detail.to_owned() });
    if head.starts_with(b"PAR1") {
        return open_parquet(path);
    }
    if head.starts_with(&[0x1F, 0x8B]) || head.starts_with(&[0x28, 0xB5, 0x2F, 0xFD]) {
        return refuse("the file is compressed: unpack it first (gunzip, zstd -d)");
    }
    let text = head.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&head);
    match text.iter().find(|b| !b.is_ascii_whitespace()) {
        None if head.len() < 4096 => refuse("the file is empty"),
        Some(b'[') => read_array(path),
        Some(b'{') | None => Ok(Box::new(JsonLines::open(path)?)),
        Some(_) => refuse(
            "neither JSON lines, a JSON array nor Parquet: it begins with something else than '{' or '['. Plain text is for `pretrain`",
        ),
    }
}

fn read_array(path: &Path) -> Result<Box<dyn Iterator<Item = Result<Record>>>> {
    let bytes = std::fs::read(path).map_err(Error::io(path, "cannot read"))?;
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&bytes);
    let items: Vec<Value> = serde_json::from_slice(bytes)
        .map_err(|e| Error::data(path, e.line(), format!("not a valid JSON array: {e}")))?;
    let path = path.to_path_buf();
    Ok(Box::new(items.into_iter().enumerate().map(move |(i, item)| match item {
        Value::Object(fields) => Ok(Record { line: i + 1, fields }),
        _ => Err(Error::data(&path, i + 1, "expected a JSON object at this place of the array")),
    })))
}

#[cfg(feature = "parquet")]
fn open_parquet(path: &Path) -> Result<Box<dyn Iterator<Item = Result<Record>>>> {
    Ok(Box::new(super::parquet::ParquetRows::open(path)?))
}

#[cfg(not(feature = "parquet"))]
fn open_parquet(path: &Path) -> Result<Box<dyn Iterator<Item = Result<Record>>>> {
    Err(Error::unsupported(
        format!("{}: Parquet", path.display()),
        "this build lacks the feature 'parquet': build with `--features parquet`, or convert the file to JSON lines",
    ))
}
