//! Parquet files, row by row.
//!
//! The `parquet` crate's row reader asserts what a damaged file can violate. Column ranges are checked against the file before
//! it sees them; a panic on anything else (an impossible schema, say) ends in an error here, as for every other format.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use parquet::file::metadata::ParquetMetaData;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::reader::RowIter;
use parquet::record::{Field, Row};
use serde_json::{Map, Value};

use super::Record;
use crate::{Error, Result};

/// The rows of a Parquet file as records. Nulls are left out: a column that a row does not use (`tool_calls` of a message
/// without any) looks as if it were not there, as in JSON lines. After an error the iterator ends.
pub(super) struct ParquetRows {
    rows: RowIter<'static>,
    path: PathBuf,
    row: usize,
    done: bool,
}

impl ParquetRows {
    pub(super) fn open(path: &Path) -> Result<ParquetRows> {
        let file = File::open(path).map_err(Error::io(path, "cannot open"))?;
        let size = file.metadata().map_err(Error::io(path, "cannot read"))?.len();
        let bad = |detail: String| Error::format(path, format!("not a sound Parquet file: {detail}"));
        let reader =
            guarded(|| SerializedFileReader::new(file)).map_err(bad)?.map_err(|e| bad(e.to_string()))?;
        check_ranges(reader.metadata(), size).map_err(bad)?;
        let rows = guarded(|| reader.into_iter()).map_err(bad)?;
        Ok(ParquetRows { rows, path: path.to_path_buf(), row: 0, done: false })
    }
}

impl Iterator for ParquetRows {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        self.row += 1;
        let row = match guarded(|| self.rows.next()) {
            Ok(Some(Ok(row))) => Ok(Record { line: self.row, fields: object(&row) }),
            Ok(None) => {
                self.done = true;
                return None;
            }
            Ok(Some(Err(e))) => Err(e.to_string()),
            Err(detail) => Err(detail),
        };
        self.done = row.is_err();
        Some(row.map_err(|e| Error::data(&self.path, self.row, format!("cannot read this row: {e}"))))
    }
}

/// Runs `read`; a panic becomes its message. What `read` was working on must not be used again after that.
fn guarded<T>(read: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(read)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("its reader gave up").to_owned()
    })
}

/// Every column chunk must lie inside the file.
fn check_ranges(metadata: &ParquetMetaData, size: u64) -> Result<(), String> {
    for column in metadata.row_groups().iter().flat_map(|group| group.columns()) {
        let start = column.dictionary_page_offset().unwrap_or(column.data_page_offset());
        let end = u64::try_from(start).ok().zip(u64::try_from(column.compressed_size()).ok());
        if end.and_then(|(start, length)| start.checked_add(length)).is_none_or(|end| end > size) {
            return Err(format!(
                "column '{}' claims {} bytes from {start} on, the file has {size}",
                column.column_path(),
                column.compressed_size()
            ));
        }
    }
    Ok(())
}

fn object(row: &Row) -> Map<String, Value> {
    row.get_column_iter()
        .filter(|(_, field)| !matches!(field, Field::Null))
        .map(|(name, field)| (name.clone(), value(field)))
        .collect()
}

fn value(field: &Field) -> Value {
    match field {
        Field::Null => Value::Null,
        Field::Bool(x) => (*x).into(),
        Field::Byte(x) => (*x).into(),
        Field::Short(x) => (*x).into(),
        Field::Int(x) => (*x).into(),
        Field::Long(x) => (*x).into(),
        Field::UByte(x) => (*x).into(),
        Field::UShort(x) => (*x).into(),
        Field::UInt(x) => (*x).into(),
        Field::ULong(x) => (*x).into(),
        Field::Float16(x) => x.to_f64().into(),
        Field::Float(x) => (*x).into(),
        Field::Double(x) => (*x).into(),
        Field::Str(x) => x.as_str().into(),
        Field::Bytes(x) => String::from_utf8_lossy(x.data()).into(),
        Field::Group(row) => object(row).into(),
        Field::ListInternal(list) => list.elements().iter().map(value).collect(),
        Field::MapInternal(map) => {
            let key = |field: &Field| match value(field) {
                Value::String(text) => text,
                other => other.to_string(),
            };
            map.entries().iter().map(|(k, v)| (key(k), value(v))).collect()
        }
        // Dates, times and decimals: no data format has a meaning for them.
        other => other.to_string().into(),
    }
}
