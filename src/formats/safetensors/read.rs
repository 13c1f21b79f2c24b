//! Reading, memory-mapped, with every claim of the header checked against the file.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use safetensors::Dtype;
use safetensors::tensor::TensorInfo;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};

use super::MAX_HEADER_BYTES;
use crate::error::{Error, Result};
use crate::formats::bytes::FileBytes;
use crate::formats::raw::{RawDType, RawTensor};

/// The file begins with the header's length, a little-endian u64.
const LENGTH_BYTES: usize = 8;

/// An open safetensors file. Opening checks the whole header; tensors are views into the mapping.
#[derive(Debug)]
pub struct SafetensorsFile {
    path: PathBuf,
    bytes: Arc<FileBytes>,
    tensors: BTreeMap<String, Entry>,
    metadata: BTreeMap<String, String>,
}

#[derive(Debug)]
struct Entry {
    dtype: Dtype,
    shape: Vec<usize>,
    /// Where the bytes lie in the file.
    range: Range<usize>,
}

impl SafetensorsFile {
    /// Maps and checks a file.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be opened; [`Error::Format`], naming the tensor where there is one, when the header
    /// is longer than the file or than 100 MB, is not the JSON that the format asks for, names a tensor twice, gives
    /// a tensor a range that leaves the file, overlaps another, leaves a gap, or does not fit its shape and type.
    pub fn open(path: &Path) -> Result<SafetensorsFile> {
        SafetensorsFile::parse(path, FileBytes::map(path)?)
    }

    /// Checks a file that is already in memory, e.g. embedded in the binary; `label` names it in errors.
    ///
    /// # Errors
    /// As [`SafetensorsFile::open`].
    pub fn from_bytes(label: &Path, bytes: impl Into<Cow<'static, [u8]>>) -> Result<SafetensorsFile> {
        SafetensorsFile::parse(label, FileBytes::Memory(bytes.into()))
    }

    fn parse(path: &Path, bytes: FileBytes) -> Result<SafetensorsFile> {
        let bad = |detail: String| Error::format(path, detail);
        let Some((length, rest)) = bytes.split_first_chunk::<LENGTH_BYTES>() else {
            return Err(bad(format!("has {} bytes; a safetensors file has at least 8", bytes.len())));
        };
        let length = u64::from_le_bytes(*length);
        if length > MAX_HEADER_BYTES as u64 {
            return Err(bad(format!(
                "claims a header of {length} bytes; at most {MAX_HEADER_BYTES} are allowed (is it a safetensors file?)"
            )));
        }
        let Some((header, data)) = usize::try_from(length).ok().and_then(|n| rest.split_at_checked(n)) else {
            return Err(bad(format!(
                "claims a header of {length} bytes, and ends {} bytes after the length: it is cut off",
                rest.len()
            )));
        };
        let header: Header =
            serde_json::from_slice(header).map_err(|e| bad(format!("has a broken header: {e}")))?;
        let data_start = bytes.len() - data.len();
        let mut tensors = BTreeMap::new();
        for (name, info) in check_layout(path, header.tensors, data.len())? {
            let (start, end) = info.data_offsets;
            let range = data_start + start..data_start + end;
            tensors.insert(name, Entry { dtype: info.dtype, shape: info.shape, range });
        }
        Ok(SafetensorsFile {
            path: path.to_path_buf(),
            bytes: Arc::new(bytes),
            tensors,
            metadata: header.metadata,
        })
    }

    /// The path it was opened from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The names of the tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Whether there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The free-text entries of the header (`__metadata__`).
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// A tensor, as a view.
    ///
    /// # Errors
    /// [`Error::Format`] when there is none of this name; [`Error::Unsupported`] when its type is not one of
    /// [`RawDType`] (F8 and the like).
    pub fn get(&self, name: &str) -> Result<RawTensor<'_>> {
        let entry = self
            .tensors
            .get(name)
            .ok_or_else(|| Error::format_key(&self.path, name, "there is no tensor of this name"))?;
        let dtype = raw_dtype(entry.dtype).ok_or_else(|| {
            Error::unsupported(
                format!("{}: the type {} of tensor '{name}'", self.path.display(), entry.dtype),
                "weights in F32, F16, BF16 or F64 are",
            )
        })?;
        RawTensor::in_file(name, dtype, entry.shape.clone(), &self.bytes, entry.range.clone())
    }
}

/// Checks that the tensors' ranges cover the data exactly, one after the other, and fit their shapes; returns them in
/// file order.
fn check_layout(
    path: &Path,
    mut tensors: Vec<(String, TensorInfo)>,
    data_len: usize,
) -> Result<Vec<(String, TensorInfo)>> {
    tensors.sort_by_key(|(_, info)| info.data_offsets);
    let mut expected = 0;
    for (name, info) in &tensors {
        let bad = |detail: String| Err(Error::format_key(path, name, detail));
        let (start, end) = info.data_offsets;
        if start > end {
            return bad(format!("its bytes {start}..{end} end before they start"));
        }
        if end > data_len {
            return bad(format!(
                "its bytes {start}..{end} lie outside the file, which has {data_len} bytes of data: it is cut off"
            ));
        }
        if start != expected {
            let what = if start < expected {
                "overlap the tensor before"
            } else {
                "leave a gap after the one before"
            };
            return bad(format!("its bytes {start}..{end} {what}, which ends at {expected}"));
        }
        let bits = info
            .shape
            .iter()
            .try_fold(1usize, |n, &d| n.checked_mul(d))
            .and_then(|n| n.checked_mul(info.dtype.bitsize()));
        let fits = bits.is_some_and(|bits| bits % 8 == 0 && bits / 8 == end - start);
        if !fits {
            return bad(format!(
                "shape {:?} of {} does not fill its {} bytes",
                info.shape,
                info.dtype,
                end - start
            ));
        }
        expected = end;
    }
    if expected != data_len {
        return Err(Error::format(path, format!("has {} bytes after its last tensor", data_len - expected)));
    }
    Ok(tensors)
}

fn raw_dtype(dtype: Dtype) -> Option<RawDType> {
    Some(match dtype {
        Dtype::F64 => RawDType::F64,
        Dtype::F32 => RawDType::F32,
        Dtype::F16 => RawDType::F16,
        Dtype::BF16 => RawDType::BF16,
        Dtype::I64 => RawDType::I64,
        Dtype::I32 => RawDType::I32,
        Dtype::U32 => RawDType::U32,
        Dtype::I8 => RawDType::I8,
        Dtype::U8 => RawDType::U8,
        Dtype::BOOL => RawDType::Bool,
        _ => return None,
    })
}

/// The header, read by hand because JSON lets a key appear twice and a map would silently keep the last.
struct Header {
    metadata: BTreeMap<String, String>,
    tensors: Vec<(String, TensorInfo)>,
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Header, D::Error> {
        struct HeaderVisitor;
        impl<'de> Visitor<'de> for HeaderVisitor {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object from tensor names to {dtype, shape, data_offsets}")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut header = Header { metadata: BTreeMap::new(), tensors: Vec::new() };
                let mut seen = HashSet::new();
                while let Some(name) = map.next_key::<String>()? {
                    if !seen.insert(name.clone()) {
                        return Err(A::Error::custom(format!("the name '{name}' appears twice")));
                    }
                    if name == "__metadata__" {
                        header.metadata = map.next_value()?;
                    } else {
                        let info =
                            map.next_value().map_err(|e| A::Error::custom(format!("'{name}': {e}")))?;
                        header.tensors.push((name, info));
                    }
                }
                Ok(header)
            }
        }
        deserializer.deserialize_map(HeaderVisitor)
    }
}
