//! Parquet files, row by row.

use std::fs::File;
use std::path::{Path, PathBuf};

use parquet::file::reader::SerializedFileReader;
use parquet::record::reader::RowIter;
use parquet::record::{Field, Row};
use serde_json::{Map, Value};

use super::Record;
use crate::{Error, Result};

/// The rows of a Parquet file as records. Nulls are left out: a column that a row does not use (`tool_calls` of a message
/// without any) looks as if it were not there, as in JSON lines.
pub(super) struct ParquetRows {
    rows: RowIter<'static>,
    path: PathBuf,
    row: usize,
}

impl ParquetRows {
    pub(super) fn open(path: &Path) -> Result<ParquetRows> {
        let file = File::open(path).map_err(Error::io(path, "cannot open"))?;
        let reader = SerializedFileReader::new(file)
            .map_err(|e| Error::format(path, format!("not a Parquet file: {e}")))?;
        Ok(ParquetRows { rows: reader.into_iter(), path: path.to_path_buf(), row: 0 })
    }
}

impl Iterator for ParquetRows {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        let row = self.rows.next()?;
        self.row += 1;
        Some(match row {
            Ok(row) => Ok(Record { line: self.row, fields: object(&row) }),
            Err(e) => Err(Error::data(&self.path, self.row, format!("cannot read this row: {e}"))),
        })
    }
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
