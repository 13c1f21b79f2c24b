//! Writing, streamed and atomic.

use std::borrow::Cow;
use std::collections::HashSet;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::MAX_HEADER_BYTES;
use crate::error::{Error, Result};
use crate::formats::atomic::write_atomic;
use crate::formats::raw::{RawDType, RawTensor};

/// What the header says of one tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// The name.
    pub name: String,
    /// The element type; quantized blocks have no place in safetensors.
    pub dtype: RawDType,
    /// The shape, row-major, outermost axis first.
    pub shape: Vec<usize>,
}

/// Writes a safetensors file, asking for one tensor's bytes at a time, so that no more than one of them need exist.
///
/// `data` is called once for each of `specs`, in the order of the file: larger element types first (so that every
/// tensor is aligned), then by name. `metadata` is the header's free text; the Hugging Face libraries ask for
/// `("format", "pt")`. The file appears at `path` whole or not at all.
///
/// # Errors
/// [`Error::Format`] for a name given twice, a quantized type, or bytes that do not fill the declared shape;
/// [`Error::Io`] when it cannot be written (a full disk); whatever `data` returns.
pub fn write<'a>(
    path: &Path,
    specs: &[TensorSpec],
    metadata: &[(&str, &str)],
    mut data: impl FnMut(&TensorSpec) -> Result<Cow<'a, [u8]>>,
) -> Result<()> {
    let mut order: Vec<&TensorSpec> = specs.iter().collect();
    order.sort_by(|a, b| b.dtype.block_bytes().cmp(&a.dtype.block_bytes()).then_with(|| a.name.cmp(&b.name)));
    let header = header(path, &order, metadata)?;
    write_atomic(path, |out| {
        let io = || Error::io(path, "cannot write");
        out.write_all(&(header.len() as u64).to_le_bytes()).map_err(io())?;
        out.write_all(&header).map_err(io())?;
        for spec in &order {
            let bytes = data(spec)?;
            if spec.dtype.bytes_of(&spec.shape) != Some(bytes.len()) {
                let detail =
                    format!("{} bytes do not make {} of shape {:?}", bytes.len(), spec.dtype, spec.shape);
                return Err(Error::format_key(path, &spec.name, detail));
            }
            out.write_all(&bytes).map_err(io())?;
        }
        Ok(())
    })
}

/// Writes tensors that are all at hand; see [`write()`].
///
/// # Errors
/// As [`write()`].
pub fn write_tensors(path: &Path, tensors: &[RawTensor<'_>], metadata: &[(&str, &str)]) -> Result<()> {
    let by_name: std::collections::HashMap<&str, &RawTensor<'_>> =
        tensors.iter().map(|t| (t.name(), t)).collect();
    let specs: Vec<TensorSpec> = tensors
        .iter()
        .map(|t| TensorSpec { name: t.name().to_owned(), dtype: t.dtype(), shape: t.shape().to_vec() })
        .collect();
    write(path, &specs, metadata, |spec| Ok(Cow::Borrowed(by_name[spec.name.as_str()].bytes())))
}

/// The JSON header, padded with spaces to a multiple of 8 bytes as the format recommends.
fn header(path: &Path, order: &[&TensorSpec], metadata: &[(&str, &str)]) -> Result<Vec<u8>> {
    let mut map = Map::new();
    if !metadata.is_empty() {
        let text = metadata.iter().map(|&(k, v)| (k.to_owned(), Value::from(v))).collect::<Map<_, _>>();
        map.insert("__metadata__".into(), text.into());
    }
    let mut names = HashSet::new();
    let mut offset = 0usize;
    for spec in order {
        let bad = |detail: String| Error::format_key(path, &spec.name, detail);
        if !names.insert(&spec.name) || spec.name == "__metadata__" {
            return Err(bad("cannot be written: the name is taken".into()));
        }
        let dtype = dtype_name(spec.dtype).ok_or_else(|| {
            bad(format!("cannot be written: safetensors has no {}; dequantize it first", spec.dtype))
        })?;
        let end = spec
            .dtype
            .bytes_of(&spec.shape)
            .and_then(|n| offset.checked_add(n))
            .ok_or_else(|| bad(format!("cannot be written: shape {:?} overflows", spec.shape)))?;
        map.insert(
            spec.name.clone(),
            json!({"dtype": dtype, "shape": spec.shape, "data_offsets": [offset, end]}),
        );
        offset = end;
    }
    let mut text = Value::Object(map).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    if text.len() > MAX_HEADER_BYTES {
        return Err(Error::format(
            path,
            format!("cannot be written: its header would have {} bytes", text.len()),
        ));
    }
    Ok(text)
}

fn dtype_name(dtype: RawDType) -> Option<String> {
    // Display writes the names of the safetensors format.
    (!dtype.is_quantized()).then(|| dtype.to_string())
}
