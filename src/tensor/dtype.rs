//! Element types.

use half::bf16;

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
            DType::BF16 => 2,
            DType::U8 => 1,
        }
    }

    /// What op `op` has for this float type, of what it has for f32 and for bf16 (the names of its kernels).
    pub(crate) fn select<T>(self, op: &'static str, [of_f32, of_bf16]: [T; 2]) -> Result<T> {
        match self {
            DType::F32 => Ok(of_f32),
            DType::BF16 => Ok(of_bf16),
            other => Err(Error::DType { op, detail: format!("{other} operand, f32 or bf16 expected") }),
        }
    }

    /// Elements in 16 bytes: what a thread of a kernel loads at once.
    pub(crate) const fn pack(self) -> usize {
        16 / self.size()
    }

    /// Whether values of this type carry gradients.
    pub const fn is_float(self) -> bool {
        matches!(self, DType::F32 | DType::BF16)
    }

    /// Half the distance from 1 to the next larger number: the largest relative error of one rounding. 0 for integers.
    pub const fn unit_roundoff(self) -> f64 {
        match self {
            DType::F32 => 1.0 / (1u64 << 24) as f64,
            DType::BF16 => 1.0 / 256.0,
            DType::U32 | DType::U8 => 0.0,
        }
    }

    /// The type's name as config files write it.
    pub const fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::BF16 => "bf16",
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

    /// Reads `f32`/`float32` or `bf16`/`bfloat16`.
    fn from_str(s: &str) -> Result<DType> {
        match s {
            "f32" | "float32" => Ok(DType::F32),
            "bf16" | "bfloat16" => Ok(DType::BF16),
            other => Err(Error::config("dtype", format!("'{other}' is none of f32, bf16"))),
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
            other => Err($crate::Error::DType {
                op: $op,
                detail: format!("{other} operand, f32 or bf16 expected"),
            }),
        }
    };
}
