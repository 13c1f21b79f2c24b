//! Opening a GGUF file: header, metadata, tensor descriptions, all checked against the file's size.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::metadata::{Cursor, Metadata, View};
use crate::error::{Error, Result};
use crate::formats::bytes::FileBytes;
use crate::formats::raw::{RawDType, RawTensor};

/// ggml tensors have at most four axes.
const MAX_AXES: u32 = 4;
/// Where the file does not say otherwise, tensors begin at multiples of this.
const DEFAULT_ALIGNMENT: u64 = 32;

/// An open GGUF file. Opening checks everything but the numbers in the tensors, which are views into the mapping.
#[derive(Debug)]
pub struct GgufFile {
    path: PathBuf,
    bytes: Arc<FileBytes>,
    metadata: Metadata,
    tensors: BTreeMap<String, Entry>,
}

#[derive(Debug)]
struct Entry {
    dtype: RawDType,
    /// Row-major, outermost axis first (the file has them the other way round).
    shape: Vec<usize>,
    range: Range<usize>,
}

impl GgufFile {
    /// Maps and checks a file.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be opened; [`Error::Format`], naming the key or tensor, when it is cut off, names
    /// something twice, or describes a tensor that is misaligned, overlaps another or leaves the file;
    /// [`Error::Unsupported`] for other versions, byte orders and quantizations, and for files split into several.
    pub fn open(path: &Path) -> Result<GgufFile> {
        GgufFile::parse(path, FileBytes::map(path)?)
    }

    /// Checks a file that is already in memory; `label` names it in errors.
    ///
    /// # Errors
    /// As [`GgufFile::open`].
    pub fn from_bytes(label: &Path, bytes: impl Into<Cow<'static, [u8]>>) -> Result<GgufFile> {
        GgufFile::parse(label, FileBytes::Memory(bytes.into()))
    }

    fn parse(path: &Path, bytes: FileBytes) -> Result<GgufFile> {
        let mut cursor = Cursor { path, bytes: &bytes, position: 0 };
        if cursor.take(4, "the magic number")? != b"GGUF" {
            return Err(Error::format(path, "does not begin with 'GGUF'; it is not a GGUF file"));
        }
        let version = cursor.u32("the version")?;
        if version.swap_bytes() == 2 || version.swap_bytes() == 3 {
            return Err(Error::unsupported(
                format!("{}: big-endian GGUF", path.display()),
                "little-endian is",
            ));
        }
        if version != 2 && version != 3 {
            let what = format!("{}: GGUF version {version}", path.display());
            return Err(Error::unsupported(
                what,
                "versions 2 and 3 are; convert the file again with a present llama.cpp",
            ));
        }
        let tensor_count = cursor.u64("the number of tensors")?;
        let metadata_count = cursor.u64("the number of metadata entries")?;
        let metadata = Metadata::read(&mut cursor, metadata_count)?;
        let view = metadata.view(&bytes);
        if view.uint("split.count")?.unwrap_or(1) > 1 {
            let what = format!("{}: a GGUF model split into several files", path.display());
            return Err(Error::unsupported(what, "join them with llama.cpp's llama-gguf-split --merge"));
        }
        let tensors = read_tensors(&mut cursor, tensor_count, alignment(&view)?)?;
        Ok(GgufFile { path: path.to_path_buf(), metadata, tensors, bytes: Arc::new(bytes) })
    }

    /// The path it was opened from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The metadata keys.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Typed access to the metadata.
    pub(super) fn view(&self) -> View<'_> {
        self.metadata.view(&self.bytes)
    }

    /// A metadata string such as "general.name" or "tokenizer.chat_template", if it is there.
    ///
    /// # Errors
    /// [`Error::Format`] when the key holds something else than a string.
    pub fn text(&self, key: &str) -> Result<Option<&str>> {
        self.view().str(key)
    }

    /// The names of the tensors as llama.cpp writes them, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Whether there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The type and shape (row-major, outermost axis first) of a tensor.
    pub fn info(&self, name: &str) -> Option<(RawDType, &[usize])> {
        self.tensors.get(name).map(|e| (e.dtype, e.shape.as_slice()))
    }

    /// A tensor under llama.cpp's name, in llama.cpp's row order, as a view.
    ///
    /// # Errors
    /// [`Error::Format`] when there is none of this name.
    pub fn get(&self, name: &str) -> Result<RawTensor<'_>> {
        let entry = self
            .tensors
            .get(name)
            .ok_or_else(|| Error::format_key(&self.path, name, "there is no tensor of this name"))?;
        RawTensor::in_file(name, entry.dtype, entry.shape.clone(), &self.bytes, entry.range.clone())
    }
}

fn alignment(view: &View<'_>) -> Result<usize> {
    let alignment = view.uint("general.alignment")?.unwrap_or(DEFAULT_ALIGNMENT);
    match usize::try_from(alignment) {
        Ok(n) if n.is_power_of_two() && n <= 1 << 20 => Ok(n),
        _ => {
            Err(view
                .error("general.alignment", format!("must be a power of two up to 2^20, not {alignment}")))
        }
    }
}

fn read_tensors(cursor: &mut Cursor<'_>, count: u64, alignment: usize) -> Result<BTreeMap<String, Entry>> {
    let mut described = Vec::new();
    for _ in 0..count {
        described.push(read_description(cursor)?);
    }
    let data_start = cursor.position.next_multiple_of(alignment);
    let data_len = cursor.bytes.len().saturating_sub(data_start);
    described.sort_by_key(|d| d.offset);
    let mut tensors = BTreeMap::new();
    let mut taken_to = 0;
    for Description { name, dtype, shape, offset } in described {
        let bad = |detail: String| Error::format_key(cursor.path, &name, detail);
        let size = dtype.bytes_of(&shape).ok_or_else(|| {
            bad(format!(
                "shape {shape:?} does not divide into blocks of {} ({dtype}), or overflows",
                dtype.block_elems()
            ))
        })?;
        let end = usize::try_from(offset)
            .ok()
            .and_then(|start| start.checked_add(size))
            .filter(|&end| end <= data_len);
        let Some(end) = end else {
            return Err(bad(format!(
                "{size} bytes at offset {offset} leave the file, which has {data_len} bytes of data: it is cut off"
            )));
        };
        let start = end - size;
        if start % alignment != 0 {
            return Err(bad(format!("offset {offset} is not a multiple of the alignment, {alignment}")));
        }
        if start < taken_to && size > 0 {
            return Err(bad(format!(
                "its bytes {start}..{end} overlap the tensor before, which ends at {taken_to}"
            )));
        }
        taken_to = end;
        // An empty tensor may stand after the last byte of a file that ends without padding.
        let range = if size == 0 { 0..0 } else { data_start + start..data_start + end };
        if tensors.insert(name.clone(), Entry { dtype, shape, range }).is_some() {
            return Err(Error::format_key(cursor.path, name, "the tensor's name appears twice"));
        }
    }
    Ok(tensors)
}

struct Description {
    name: String,
    dtype: RawDType,
    shape: Vec<usize>,
    offset: u64,
}

fn read_description(cursor: &mut Cursor<'_>) -> Result<Description> {
    let name = cursor.string("a tensor's name")?.to_owned();
    let axes = cursor.u32(&name)?;
    if axes > MAX_AXES {
        return Err(Error::format_key(
            cursor.path,
            name,
            format!("has {axes} axes; at most {MAX_AXES} are allowed"),
        ));
    }
    let mut shape = Vec::new();
    for _ in 0..axes {
        let length = cursor.u64(&name)?;
        let length = usize::try_from(length).map_err(|_| {
            Error::format_key(cursor.path, &name, format!("an axis of {length} does not fit memory"))
        })?;
        shape.push(length);
    }
    shape.reverse();
    let code = cursor.u32(&name)?;
    let dtype = dtype(code).ok_or_else(|| {
        let what =
            format!("{}: the quantization {} of tensor '{name}'", cursor.path.display(), type_name(code));
        Error::unsupported(what, "F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K and Q6_K are")
    })?;
    Ok(Description { name, dtype, shape, offset: cursor.u64("a tensor's offset")? })
}

/// ggml's type numbers.
fn dtype(code: u32) -> Option<RawDType> {
    Some(match code {
        0 => RawDType::F32,
        1 => RawDType::F16,
        2 => RawDType::Q4_0,
        3 => RawDType::Q4_1,
        6 => RawDType::Q5_0,
        7 => RawDType::Q5_1,
        8 => RawDType::Q8_0,
        12 => RawDType::Q4K,
        13 => RawDType::Q5K,
        14 => RawDType::Q6K,
        24 => RawDType::I8,
        26 => RawDType::I32,
        27 => RawDType::I64,
        28 => RawDType::F64,
        30 => RawDType::BF16,
        _ => return None,
    })
}

/// The name of a type that is known and not supported.
fn type_name(code: u32) -> String {
    let name = match code {
        9 => "Q8_1",
        10 => "Q2_K",
        11 => "Q3_K",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        25 => "I16",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        _ => return format!("number {code}"),
    };
    name.to_owned()
}
