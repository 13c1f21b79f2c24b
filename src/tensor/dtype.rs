//! Element types.

use half::{bf16, f16};

use crate::tensor::Tensor;
use crate::{Error, Result};

/// The type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DType {
    /// IEEE 754 binary32.
    F32,
    /// bfloat16: the upper half of a binary32.
    BF16,
    /// IEEE 754 binary16: 65504 at most, and 3 more bits of precision than bf16. Larger values round to infinity.
    F16,
    /// Unsigned 32-bit integers: token ids, positions, labels.
    U32,
    /// Bytes: what quantized values are packed in.
    U8,
}

impl DType {
    /// Bytes an element.
    pub const fn size(self) -> usize {
        match self {
            DType::F32 | DType::U32 => 4,
            DType::BF16 | DType::F16 => 2,
            DType::U8 => 1,
        }
    }

    /// What op `op` has for this float type, of what it has for f32 and for bf16 and f16 (its kernels, as
    /// [`Entry`](crate::device::cuda::Entry) tells the latter two apart).
    pub(crate) fn select<T>(self, op: &'static str, [of_f32, of_half]: [T; 2]) -> Result<T> {
        match self {
            DType::F32 => Ok(of_f32),
            DType::BF16 | DType::F16 => Ok(of_half),
            other => Err(other.not_a_float(op)),
        }
    }

    /// The error of op `op` for an operand of this type, which is no float type.
    pub(crate) fn not_a_float(self, op: &'static str) -> Error {
        Error::DType { op, detail: format!("{self} operand, f32, bf16 or f16 expected") }
    }

    /// Elements in 16 bytes: what a thread of a kernel loads at once.
    pub(crate) const fn pack(self) -> usize {
        16 / self.size()
    }

    /// Whether values of this type carry gradients.
    pub const fn is_float(self) -> bool {
        matches!(self, DType::F32 | DType::BF16 | DType::F16)
    }

    /// Whether it is a float type of 16 bits, of which tensor cores multiply two of one kind.
    pub const fn is_half(self) -> bool {
        matches!(self, DType::BF16 | DType::F16)
    }

    /// Half the distance from 1 to the next larger number: the largest relative error of one rounding to a normal number. 0 for
    /// integers.
    pub const fn unit_roundoff(self) -> f64 {
        match self {
            DType::F32 => 1.0 / (1u64 << 24) as f64,
            DType::BF16 => 1.0 / 256.0,
            DType::F16 => 1.0 / 2048.0,
            DType::U32 | DType::U8 => 0.0,
        }
    }

    /// The type's name as config files write it.
    pub const fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::BF16 => "bf16",
            DType::F16 => "f16",
            DType::U32 => "u32",
            DType::U8 => "u8",
        }
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for DType {
    type Err = Error;

    /// Reads `f32`/`float32`, `bf16`/`bfloat16` or `f16`/`float16`/`half`.
    fn from_str(s: &str) -> Result<DType> {
        match s {
            "f32" | "float32" => Ok(DType::F32),
            "bf16" | "bfloat16" => Ok(DType::BF16),
            "f16" | "float16" | "half" => Ok(DType::F16),
            other => Err(Error::config("dtype", format!("'{other}' is none of f32, bf16, f16"))),
        }
    }
}

/// A float type that CPU kernels read and write; arithmetic is always f32.
pub trait Element: bytemuck::Pod + Send + Sync + 'static {
    /// The tensor type of such elements.
    const DTYPE: DType;
    /// Widens exactly.
    fn to_f32(self) -> f32;
    /// Rounds to nearest, ties to even.
    fn from_f32(x: f32) -> Self;
    /// A host tensor's elements, if it has this type.
    fn slice(tensor: &Tensor) -> Result<&[Self]>;
    /// A host tensor from elements; `shape` must hold as many.
    fn tensor(data: Vec<Self>, shape: &[usize]) -> Tensor;
}

impl Element for f32 {
    const DTYPE: DType = DType::F32;
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
    #[inline(always)]
    fn from_f32(x: f32) -> f32 {
        x
    }
    fn slice(tensor: &Tensor) -> Result<&[f32]> {
        tensor.as_f32()
    }
    fn tensor(data: Vec<f32>, shape: &[usize]) -> Tensor {
        Tensor::from_f32(data, shape)
    }
}

impl Element for bf16 {
    const DTYPE: DType = DType::BF16;
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from_bits((self.to_bits() as u32) << 16)
    }
    #[inline(always)]
    fn from_f32(x: f32) -> bf16 {
        // Round to nearest, ties to even, on the bits; a NaN keeps its sign and stays a (quiet) NaN.
        let bits = x.to_bits();
        let rounded = (bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16) as u16;
        let quiet_nan = ((bits >> 16) | 0x40) as u16;
        bf16::from_bits(if x.is_nan() { quiet_nan } else { rounded })
    }
    fn slice(tensor: &Tensor) -> Result<&[bf16]> {
        tensor.as_bf16()
    }
    fn tensor(data: Vec<bf16>, shape: &[usize]) -> Tensor {
        Tensor::from_bf16(data, shape)
    }
}

impl Element for f16 {
    const DTYPE: DType = DType::F16;
    #[inline(always)]
    fn to_f32(self) -> f32 {
        let bits = u32::from(self.to_bits());
        let (sign, magnitude) = ((bits & 0x8000) << 16, bits & 0x7fff);
        // As bits of an f32, exponents are 112 too small, subnormal numbers included: a product with 2^112 is exact.
        let finite = (f32::from_bits(magnitude << 13) * f32::from_bits(0x7780_0000)).to_bits();
        // Infinity, or a (quiet) NaN.
        let quiet = if magnitude > 0x7c00 { 0x0040_0000 } else { 0 };
        let beyond = 0x7f80_0000 | (magnitude << 13) | quiet;
        f32::from_bits(sign | if magnitude >= 0x7c00 { beyond } else { finite })
    }
    #[inline(always)]
    fn from_f32(x: f32) -> f16 {
        let bits = x.to_bits();
        let (sign, magnitude) = ((bits >> 16) & 0x8000, bits & 0x7fff_ffff);
        // Round to nearest, ties to even, on the bits; from 65520 on the carry makes it infinity.
        let odd = (magnitude >> 13) & 1;
        let normal = magnitude.wrapping_sub(112 << 23).wrapping_add(0xfff + odd) >> 13;
        // Below 2^-14 the last place is 2^-24, as it is next to 1/2 in f32: the sum rounds to it.
        let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0.5f32.to_bits());
        let quiet_nan = 0x7e00 | ((magnitude >> 13) & 0x3ff);
        let rounded = match magnitude {
            0..0x3880_0000 => subnormal,
            0x3880_0000..0x4780_0000 => normal,
            0x4780_0000..=0x7f80_0000 => 0x7c00,
            _ => quiet_nan,
        };
        f16::from_bits((sign | rounded) as u16)
    }
    fn slice(tensor: &Tensor) -> Result<&[f16]> {
        tensor.as_f16()
    }
    fn tensor(data: Vec<f16>, shape: &[usize]) -> Tensor {
        Tensor::from_f16(data, shape)
    }
}

/// Runs a block with `$T` bound to the Rust type of a float `DType`; other types are an [`Error::DType`] of op `$op`.
#[macro_export]
macro_rules! dispatch_float {
    ($op:expr, $dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            $crate::tensor::DType::F32 => {
                type $T = f32;
                $body
            }
            $crate::tensor::DType::BF16 => {
                type $T = half::bf16;
                $body
            }
            $crate::tensor::DType::F16 => {
                type $T = half::f16;
                $body
            }
            other => Err($crate::Error::DType {
                op: $op,
                detail: format!("{other} operand, f32, bf16 or f16 expected"),
            }),
        }
    };
}
