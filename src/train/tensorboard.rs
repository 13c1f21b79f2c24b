//! TensorBoard event files: TFRecord frames of `Event` messages (tensorflow/core/util/event.proto), as far as scalars need
//! them.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use prost::Message;

use crate::formats::write_atomic;
use crate::{Error, Result};

/// `tensorflow.Event`.
#[derive(Clone, PartialEq, Message)]
pub struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    pub wall_time: f64,
    /// The step that the values belong to.
    #[prost(int64, tag = "2")]
    pub step: i64,
    /// "brain.Event:2" in a file's first event.
    #[prost(string, optional, tag = "3")]
    pub file_version: Option<String>,
    /// The values.
    #[prost(message, optional, tag = "5")]
    pub summary: Option<Summary>,
}

/// `tensorflow.Summary`.
#[derive(Clone, PartialEq, Message)]
pub struct Summary {
    /// One for each curve.
    #[prost(message, repeated, tag = "1")]
    pub value: Vec<Scalar>,
}

/// `tensorflow.Summary.Value` that holds one number.
#[derive(Clone, PartialEq, Message)]
pub struct Scalar {
    /// The curve's name; TensorBoard groups by what is before the slash.
    #[prost(string, tag = "1")]
    pub tag: String,
    /// The number.
    #[prost(float, tag = "2")]
    pub simple_value: f32,
}

/// TFRecord's checksum: CRC-32C, rotated and shifted so that a checksum of checksums does not degenerate.
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// A record: length (u64), its checksum, the bytes, their checksum; all little-endian.
fn frame(bytes: &[u8]) -> Vec<u8> {
    let length = (bytes.len() as u64).to_le_bytes();
    let mut out = Vec::with_capacity(bytes.len() + 16);
    out.extend_from_slice(&length);
    out.extend_from_slice(&masked_crc(&length).to_le_bytes());
    out.extend_from_slice(bytes);
    out.extend_from_slice(&masked_crc(bytes).to_le_bytes());
    out
}

/// The next event and the bytes after it; `None` at the end, or where a frame is torn or wrong.
fn next_event(bytes: &[u8]) -> Option<(Event, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<8>()?;
    let (crc, rest) = rest.split_first_chunk::<4>()?;
    if masked_crc(length) != u32::from_le_bytes(*crc) {
        return None;
    }
    let (body, rest) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    let (crc, rest) = rest.split_first_chunk::<4>()?;
    if masked_crc(body) != u32::from_le_bytes(*crc) {
        return None;
    }
    Some((Event::decode(body).ok()?, rest))
}

/// The events of a file, up to the first torn one.
pub fn read(path: &Path) -> Result<Vec<Event>> {
    let bytes = std::fs::read(path).map_err(Error::io(path, "cannot read"))?;
    let mut rest = bytes.as_slice();
    let mut events = Vec::new();
    while let Some((event, tail)) = next_event(rest) {
        events.push(event);
        rest = tail;
    }
    Ok(events)
}

/// The name of the event file in a run folder. It is fixed, so that a resumed run goes on in the same file.
pub const FILE_NAME: &str = "events.out.tfevents.0000000000.warptune";

/// The open event file of a run.
pub struct EventFile {
    path: PathBuf,
    file: File,
}

impl EventFile {
    /// Opens the event file in `folder` for a run that stands at `step` (later events are removed), or for a new run.
    pub fn open(folder: &Path, step: Option<u64>) -> Result<EventFile> {
        let path = folder.join(FILE_NAME);
        let mut events = match step {
            Some(step) if path.exists() => {
                read(&path)?.into_iter().filter(|e| u64::try_from(e.step).is_ok_and(|s| s <= step)).collect()
            }
            _ => Vec::new(),
        };
        if events.is_empty() {
            let file_version = Some("brain.Event:2".to_string());
            events.push(Event { wall_time: now(), file_version, ..Event::default() });
        }
        write_atomic(&path, |out| {
            events.iter().try_for_each(|event| {
                out.write_all(&frame(&event.encode_to_vec())).map_err(Error::io(&path, "cannot write"))
            })
        })?;
        let file = OpenOptions::new().append(true).open(&path).map_err(Error::io(&path, "cannot open"))?;
        Ok(EventFile { path, file })
    }

    /// Adds the numbers of one step.
    pub fn append(&mut self, step: u64, scalars: &[(&str, f64)]) -> Result<()> {
        let scalar =
            |&(tag, value): &(&str, f64)| Scalar { tag: tag.to_string(), simple_value: value as f32 };
        let summary = Some(Summary { value: scalars.iter().map(scalar).collect() });
        let event = Event { wall_time: now(), step: step as i64, file_version: None, summary };
        self.file.write_all(&frame(&event.encode_to_vec())).map_err(Error::io(&self.path, "cannot write"))
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}
