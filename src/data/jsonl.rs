//! JSON lines, read one at a time.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::Record;
use crate::{Error, Result};

/// The longest line that is read, so that a file without line ends cannot fill the memory.
const MAX_LINE: u64 = 256 << 20;

/// The records of a JSON-lines file: one JSON object a line, in UTF-8; empty lines are passed over. After an error the
/// iterator ends.
#[derive(Debug)]
pub struct JsonLines<R> {
    reader: R,
    path: PathBuf,
    line: usize,
    buffer: Vec<u8>,
    done: bool,
}

impl JsonLines<BufReader<File>> {
    /// Opens a file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = File::open(path).map_err(Error::io(path, "cannot open"))?;
        Ok(JsonLines::new(BufReader::with_capacity(1 << 16, file), path))
    }
}

impl<R: BufRead> JsonLines<R> {
    /// Reads from `reader`; `path` names it in errors.
    pub fn new(reader: R, path: impl AsRef<Path>) -> Self {
        JsonLines { reader, path: path.as_ref().to_path_buf(), line: 0, buffer: Vec::new(), done: false }
    }

    fn read(&mut self) -> Result<Option<Record>> {
        loop {
            self.buffer.clear();
            let read = (&mut self.reader)
                .take(MAX_LINE)
                .read_until(b'\n', &mut self.buffer)
                .map_err(Error::io(&self.path, "cannot read"))?;
            if read == 0 {
                return Ok(None);
            }
            self.line += 1;
            let error = |detail: String| Err(Error::data(&self.path, self.line, detail));
            if read as u64 == MAX_LINE && !self.buffer.ends_with(b"\n") {
                return error(format!("the line is longer than {} MiB", MAX_LINE >> 20));
            }
            let mut bytes = self.buffer.as_slice();
            if self.line == 1 {
                bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
            }
            let text = match std::str::from_utf8(bytes) {
                Ok(text) => text.trim(),
                Err(e) => return error(format!("not UTF-8 at byte {}", e.valid_up_to() + 1)),
            };
            if text.is_empty() {
                continue;
            }
            return match serde_json::from_str(text) {
                Ok(Value::Object(fields)) => Ok(Some(Record { line: self.line, fields })),
                Ok(_) => error(
                    "expected a JSON object, e.g. {\"prompt\": \"...\", \"completion\": \"...\"}".to_owned(),
                ),
                Err(e) => {
                    let message = e.to_string();
                    let reason = message.split(" at line ").next().unwrap_or_default();
                    error(format!("not valid JSON: {reason} (column {})", e.column()))
                }
            };
        }
    }
}

impl<R: BufRead> Iterator for JsonLines<R> {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let next = self.read().transpose();
        self.done = !matches!(next, Some(Ok(_)));
        next
    }
}
