//! Tensors as files hold them: a type, a shape and bytes.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use half::{bf16, f16};
use rayon::prelude::*;

use super::bytes::FileBytes;
use super::gguf::blocks;
use crate::error::{Error, Result};

/// Elements that one rayon task converts: a multiple of every block size, large enough to pay for the hand-over.
const CHUNK_ELEMS: usize = 16 * 1024;

/// The element (or block) types that can be read. Numbers are little-endian in every format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RawDType {
    /// IEEE double precision.
    F64,
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// bfloat16.
    BF16,
    /// 64-bit signed.
    I64,
    /// 32-bit signed.
    I32,
    /// 32-bit unsigned.
    U32,
    /// 8-bit signed.
    I8,
    /// 8-bit unsigned.
    U8,
    /// One byte, 0 or 1.
    Bool,
    /// GGUF, 32 elements in 34 bytes: x = d q, q in -128..=127.
    Q8_0,
    /// GGUF, 32 elements in 18 bytes: x = d (q - 8), q in 0..16.
    Q4_0,
    /// GGUF, 32 elements in 20 bytes: x = d q + m, q in 0..16.
    Q4_1,
    /// GGUF, 32 elements in 22 bytes: x = d (q - 16), q in 0..32.
    Q5_0,
    /// GGUF, 32 elements in 24 bytes: x = d q + m, q in 0..32.
    Q5_1,
    /// GGUF, 256 elements in 144 bytes: 8 sub-blocks of x = (d s) q - (dmin m), q in 0..16.
    Q4K,
    /// GGUF, 256 elements in 176 bytes: as Q4_K with q in 0..32.
    Q5K,
    /// GGUF, 256 elements in 210 bytes: 16 sub-blocks of x = (d s) (q - 32), q in 0..64.
    Q6K,
}

impl RawDType {
    /// Elements in one block; 1 for plain types.
    pub fn block_elems(self) -> usize {
        match self {
            RawDType::Q8_0 | RawDType::Q4_0 | RawDType::Q4_1 | RawDType::Q5_0 | RawDType::Q5_1 => 32,
            RawDType::Q4K | RawDType::Q5K | RawDType::Q6K => 256,
            _ => 1,
        }
    }

    /// Bytes of one block (of one element, for plain types).
    pub fn block_bytes(self) -> usize {
        match self {
            RawDType::F64 | RawDType::I64 => 8,
            RawDType::F32 | RawDType::I32 | RawDType::U32 => 4,
            RawDType::F16 | RawDType::BF16 => 2,
            RawDType::I8 | RawDType::U8 | RawDType::Bool => 1,
            RawDType::Q8_0 => 34,
            RawDType::Q4_0 => 18,
            RawDType::Q4_1 => 20,
            RawDType::Q5_0 => 22,
            RawDType::Q5_1 => 24,
            RawDType::Q4K => 144,
            RawDType::Q5K => 176,
            RawDType::Q6K => 210,
        }
    }

    /// Whether elements are stored as quantized blocks.
    pub fn is_quantized(self) -> bool {
        self.block_elems() > 1
    }

    /// Bytes of a tensor of this shape, row-major. None when the size overflows, or when the last axis is not a whole
    /// number of blocks (a block never crosses a row).
    pub fn bytes_of(self, shape: &[usize]) -> Option<usize> {
        let row = shape.last().copied().unwrap_or(1);
        if row % self.block_elems() != 0 {
            return None;
        }
        let elems = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))?;
        (elems / self.block_elems()).checked_mul(self.block_bytes())
    }
}

impl fmt::Display for RawDType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RawDType::F64 => "F64",
            RawDType::F32 => "F32",
            RawDType::F16 => "F16",
            RawDType::BF16 => "BF16",
            RawDType::I64 => "I64",
            RawDType::I32 => "I32",
            RawDType::U32 => "U32",
            RawDType::I8 => "I8",
            RawDType::U8 => "U8",
            RawDType::Bool => "BOOL",
            RawDType::Q8_0 => "Q8_0",
            RawDType::Q4_0 => "Q4_0",
            RawDType::Q4_1 => "Q4_1",
            RawDType::Q5_0 => "Q5_0",
            RawDType::Q5_1 => "Q5_1",
            RawDType::Q4K => "Q4_K",
            RawDType::Q5K => "Q5_K",
            RawDType::Q6K => "Q6_K",
        })
    }
}

/// Bytes that several owners keep alive: a mapped file.
pub type SharedBytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// A tensor as a file holds it. The bytes are a view into the (mapped) file, or owned where a row order or a layout
/// had to be undone; their number always fits type and shape.
#[derive(Debug, Clone)]
pub struct RawTensor<'a> {
    name: String,
    dtype: RawDType,
    shape: Vec<usize>,
    bytes: Cow<'a, [u8]>,
    /// The file that `bytes` is a part of, and where it begins there.
    file: Option<(Arc<FileBytes>, usize)>,
}

impl<'a> RawTensor<'a> {
    /// A tensor from its bytes; `shape` is row-major, outermost axis first.
    ///
    /// # Errors
    /// [`Error::Shape`] when the number of bytes is not the one that type and shape call for.
    pub fn new(
        name: impl Into<String>,
        dtype: RawDType,
        shape: Vec<usize>,
        bytes: impl Into<Cow<'a, [u8]>>,
    ) -> Result<RawTensor<'a>> {
        let (name, bytes) = (name.into(), bytes.into());
        if dtype.bytes_of(&shape) != Some(bytes.len()) {
            return Err(Error::Shape {
                op: "raw tensor",
                detail: format!(
                    "'{name}': {} bytes do not make a {dtype} tensor of shape {shape:?}",
                    bytes.len()
                ),
            });
        }
        Ok(RawTensor { name, dtype, shape, bytes, file: None })
    }

    /// A tensor that is a part of an open file.
    ///
    /// # Errors
    /// As [`RawTensor::new`]. `range` must lie in the file.
    pub(super) fn in_file(
        name: &str,
        dtype: RawDType,
        shape: Vec<usize>,
        file: &'a Arc<FileBytes>,
        range: Range<usize>,
    ) -> Result<RawTensor<'a>> {
        let raw = RawTensor::new(name, dtype, shape, &file[range.clone()])?;
        Ok(RawTensor { file: Some((Arc::clone(file), range.start)), ..raw })
    }

    /// A view of f32 values (little-endian hosts; copied and swapped elsewhere).
    ///
    /// # Errors
    /// [`Error::Shape`] when the number of values is not the product of `shape`.
    pub fn from_f32(name: impl Into<String>, shape: Vec<usize>, values: &'a [f32]) -> Result<RawTensor<'a>> {
        let bytes: Cow<'a, [u8]> = if cfg!(target_endian = "little") {
            Cow::Borrowed(bytemuck::cast_slice(values))
        } else {
            Cow::Owned(values.iter().flat_map(|v| v.to_le_bytes()).collect())
        };
        RawTensor::new(name, RawDType::F32, shape, bytes)
    }

    /// The name, as Hugging Face checkpoints write it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The element or block type.
    pub fn dtype(&self) -> RawDType {
        self.dtype
    }

    /// The shape, row-major, outermost axis first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The stored bytes, little-endian, not necessarily aligned.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The whole file that the bytes are a part of and where they begin in it, so that they can be used in place for as
    /// long as needed. None where they are not a part of a file as they are.
    pub fn in_place(&self) -> Option<(SharedBytes, usize)> {
        let (file, start) = self.file.as_ref()?;
        Some((Arc::clone(file) as SharedBytes, *start))
    }

    /// The number of elements.
    pub fn elems(&self) -> usize {
        self.shape.iter().product()
    }

    /// The number of rows: the product of all axes but the last.
    pub fn rows(&self) -> usize {
        match self.shape.split_last() {
            Some((_, outer)) => outer.iter().product(),
            None => 1,
        }
    }

    /// The same bytes under another name.
    pub fn renamed(self, name: impl Into<String>) -> RawTensor<'a> {
        RawTensor { name: name.into(), ..self }
    }

    /// All elements as f32, dequantized, on all threads. F64 is rounded to nearest.
    ///
    /// # Errors
    /// [`Error::DType`] for integer and bool tensors: a weight is never one of those.
    pub fn to_f32(&self) -> Result<Vec<f32>> {
        self.convert(0..self.bytes.len())
    }

    /// As [`RawTensor::to_f32`], with every value then rounded to the nearest f16: what an engine that dequantizes to
    /// half precision computes with.
    ///
    /// # Errors
    /// As [`RawTensor::to_f32`], and [`Error::NonFinite`] when a finite value does not fit f16 (65504 at most).
    pub fn to_f32_via_f16(&self) -> Result<Vec<f32>> {
        let mut values = self.to_f32()?;
        let fits = values
            .par_chunks_mut(CHUNK_ELEMS)
            .map(|chunk| {
                let mut fits = true;
                for v in chunk {
                    let rounded = f16::from_f32(*v).to_f32();
                    fits &= rounded.is_finite() || !v.is_finite();
                    *v = rounded;
                }
                fits
            })
            .reduce(|| true, |a, b| a && b);
        if !fits {
            return Err(Error::NonFinite {
                what: format!("'{}' rounded to f16", self.name),
                place: Some("a value is larger than 65504".into()),
            });
        }
        Ok(values)
    }

    /// Some of the rows as f32; see [`RawTensor::rows`].
    ///
    /// # Errors
    /// [`Error::Shape`] when the range leaves the tensor, [`Error::DType`] as [`RawTensor::to_f32`].
    pub fn dequantize_rows(&self, rows: Range<usize>) -> Result<Vec<f32>> {
        if rows.start > rows.end || rows.end > self.rows() {
            return Err(Error::Shape {
                op: "dequantize_rows",
                detail: format!("rows {rows:?} of '{}', which has {}", self.name, self.rows()),
            });
        }
        let row_bytes = self.bytes.len().checked_div(self.rows()).unwrap_or(0);
        self.convert(rows.start * row_bytes..rows.end * row_bytes)
    }

    /// Converts a range of bytes that starts and ends on block boundaries.
    fn convert(&self, range: Range<usize>) -> Result<Vec<f32>> {
        let convert = converter(self.dtype).ok_or_else(|| Error::DType {
            op: "to_f32",
            detail: format!("'{}' is {}; weights are floating point or quantized", self.name, self.dtype),
        })?;
        let bytes = &self.bytes[range];
        let (block_elems, block_bytes) = (self.dtype.block_elems(), self.dtype.block_bytes());
        let mut out = vec![0f32; bytes.len() / block_bytes * block_elems];
        out.par_chunks_mut(CHUNK_ELEMS)
            .zip(bytes.par_chunks(CHUNK_ELEMS / block_elems * block_bytes))
            .for_each(|(out, bytes)| convert(bytes, out));
        Ok(out)
    }
}

/// Turns whole blocks into f32.
type Convert = fn(&[u8], &mut [f32]);

/// The conversion of a type, if it holds weights.
fn converter(dtype: RawDType) -> Option<Convert> {
    Some(match dtype {
        RawDType::F64 => |bytes, out| plain(bytes, out, |b| f64::from_le_bytes(b) as f32),
        RawDType::F32 => |bytes, out| plain(bytes, out, f32::from_le_bytes),
        RawDType::F16 => |bytes, out| plain(bytes, out, |b| f16::from_le_bytes(b).to_f32()),
        RawDType::BF16 => |bytes, out| plain(bytes, out, |b| bf16::from_le_bytes(b).to_f32()),
        RawDType::Q8_0 => blocks::q8_0,
        RawDType::Q4_0 => blocks::q4_0,
        RawDType::Q4_1 => blocks::q4_1,
        RawDType::Q5_0 => blocks::q5_0,
        RawDType::Q5_1 => blocks::q5_1,
        RawDType::Q4K => blocks::q4_k,
        RawDType::Q5K => blocks::q5_k,
        RawDType::Q6K => blocks::q6_k,
        RawDType::I64 | RawDType::I32 | RawDType::U32 | RawDType::I8 | RawDType::U8 | RawDType::Bool => {
            return None;
        }
    })
}

fn plain<const N: usize>(bytes: &[u8], out: &mut [f32], read: impl Fn([u8; N]) -> f32) {
    let (elems, _) = bytes.as_chunks::<N>();
    for (o, b) in out.iter_mut().zip(elems) {
        *o = read(*b);
    }
}
