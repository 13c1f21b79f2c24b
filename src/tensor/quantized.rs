//! Matrices in blocks of 4-bit codes, in the layout of bitsandbytes (QLoRA, arXiv 2305.14314).

use super::{DType, Tensor};
use crate::device::Device;
use crate::{Error, Result};

const OP: &str = "quantized tensor";

/// What the 16 codes of 4 bits stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum QuantKind {
    /// NormalFloat: levels that a normal distribution falls on equally often, scaled to +-1, with an exact 0.
    Nf4,
    /// One sign, two exponent and one mantissa bit, scaled to +-1.
    Fp4,
}

/// Levels of [`QuantKind::Nf4`] in the order of their codes; they rise.
const NF4: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// Levels of [`QuantKind::Fp4`] in the order of their codes: twelfths of 0, 1/16, 8, 12, 4, 6, 2, 3, and the same below 0.
const FP4: [f32; 16] = {
    let twelfths = [0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0];
    let mut levels = [0.0f32; 16];
    let mut i = 0;
    while i < 8 {
        levels[i] = twelfths[i] / 12.0;
        levels[8 + i] = 0.0 - levels[i];
        i += 1;
    }
    levels
};

impl QuantKind {
    /// The number that each code stands for, before the block's scale.
    pub const fn levels(self) -> &'static [f32; 16] {
        match self {
            QuantKind::Nf4 => &NF4,
            QuantKind::Fp4 => &FP4,
        }
    }

    /// The name that bitsandbytes gives it.
    pub const fn name(self) -> &'static str {
        match self {
            QuantKind::Nf4 => "nf4",
            QuantKind::Fp4 => "fp4",
        }
    }
}

impl std::fmt::Display for QuantKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for QuantKind {
    type Err = Error;

    fn from_str(s: &str) -> Result<QuantKind> {
        match s {
            "nf4" => Ok(QuantKind::Nf4),
            "fp4" => Ok(QuantKind::Fp4),
            other => Err(Error::config("quantize", format!("'{other}' is none of nf4, fp4"))),
        }
    }
}

/// The scales of the blocks: the largest magnitude in each.
#[derive(Clone, Debug)]
pub enum BlockScales {
    /// f32, one a block.
    Plain(Tensor),
    /// Themselves in 8 bits (double quantization).
    Nested(NestedScales),
}

/// Scales in blocks of 8-bit codes: scale i is `map[codes[i]] * absmax[i / block] + offset`, each step rounded to f32.
#[derive(Clone, Debug)]
pub struct NestedScales {
    /// u8, one for each block of elements.
    pub codes: Tensor,
    /// f32, one for each `block` scales.
    pub absmax: Tensor,
    /// What the 256 codes stand for, f32.
    pub map: Tensor,
    /// The mean of the scales, which was taken off before they were quantized.
    pub offset: f32,
    /// Scales that share an entry of `absmax`.
    pub block: usize,
}

/// A matrix whose elements, counted row by row, are in blocks that share a scale: element i is `levels[code i] * scale[i / block]`.
/// Cheap to clone.
#[derive(Clone)]
pub struct QuantizedTensor {
    kind: QuantKind,
    shape: [usize; 2],
    block: usize,
    codes: Tensor,
    scales: BlockScales,
}

impl QuantizedTensor {
    /// From its parts. `codes`: u8, two codes a byte, the first in the upper half; a block is a power of two from 32 to 4096 elements.
    ///
    /// # Errors
    /// [`Error::Shape`] or [`Error::DType`] when the parts do not fit each other.
    pub fn new(
        kind: QuantKind,
        shape: [usize; 2],
        block: usize,
        codes: Tensor,
        scales: BlockScales,
    ) -> Result<QuantizedTensor> {
        let bad = |detail: String| Err(Error::Shape { op: OP, detail });
        check_block(block)?;
        let Some(count) = shape[0].checked_mul(shape[1]) else {
            return bad(format!("shape {shape:?} overflows"));
        };
        let blocks = count.div_ceil(block);
        let expect = |what: &str, tensor: &Tensor, dtype: DType, len: usize| {
            if tensor.dtype() != dtype || tensor.numel() != len {
                let detail = format!(
                    "{what} {} {:?} for {shape:?} in blocks of {block}",
                    tensor.dtype(),
                    tensor.shape()
                );
                return Err(Error::Shape { op: OP, detail: format!("{detail}: {len} of {dtype} expected") });
            }
            Ok(())
        };
        expect("codes", &codes, DType::U8, count.div_ceil(2))?;
        match &scales {
            BlockScales::Plain(absmax) => expect("scales", absmax, DType::F32, blocks)?,
            BlockScales::Nested(nested) => {
                if nested.block == 0 {
                    return bad("nested blocks of 0 scales".into());
                }
                expect("scales", &nested.codes, DType::U8, blocks)?;
                expect("nested scales", &nested.absmax, DType::F32, blocks.div_ceil(nested.block))?;
                expect("map of scales", &nested.map, DType::F32, 256)?;
            }
        }
        Ok(QuantizedTensor { kind, shape, block, codes, scales })
    }

    /// What the codes stand for.
    pub fn kind(&self) -> QuantKind {
        self.kind
    }

    /// Rows and columns.
    pub fn shape(&self) -> &[usize; 2] {
        &self.shape
    }

    /// The number of elements.
    pub fn numel(&self) -> usize {
        self.shape[0] * self.shape[1]
    }

    /// Elements that share a scale.
    pub fn block(&self) -> usize {
        self.block
    }

    /// The codes, two a byte.
    pub fn codes(&self) -> &Tensor {
        &self.codes
    }

    /// The scales.
    pub fn scales(&self) -> &BlockScales {
        &self.scales
    }

    /// Where it is.
    pub fn device(&self) -> Device {
        self.codes.device()
    }

    /// Bytes of memory, all parts together.
    pub fn bytes(&self) -> usize {
        self.tensors().map(|part| part.numel() * part.dtype().size()).sum()
    }

    fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        let scales = match &self.scales {
            BlockScales::Plain(absmax) => vec![absmax],
            BlockScales::Nested(nested) => vec![&nested.codes, &nested.absmax, &nested.map],
        };
        std::iter::once(&self.codes).chain(scales)
    }

    /// The same matrix on a device; shares memory if it is there already.
    ///
    /// # Errors
    /// [`Error::Cuda`] when it does not fit.
    pub fn to_device(&self, device: Device) -> Result<QuantizedTensor> {
        let scales = match &self.scales {
            BlockScales::Plain(absmax) => BlockScales::Plain(absmax.to_device(device)?),
            BlockScales::Nested(nested) => BlockScales::Nested(NestedScales {
                codes: nested.codes.to_device(device)?,
                absmax: nested.absmax.to_device(device)?,
                map: nested.map.to_device(device)?,
                ..*nested
            }),
        };
        Ok(QuantizedTensor { codes: self.codes.to_device(device)?, scales, ..*self })
    }
}

impl std::fmt::Debug for QuantizedTensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let nested = if matches!(self.scales, BlockScales::Nested(_)) { ", nested scales" } else { "" };
        write!(
            f,
            "QuantizedTensor({}, {:?}, blocks of {}{nested}, {})",
            self.kind,
            self.shape,
            self.block,
            self.device()
        )
    }
}

/// An [`Error::Config`] unless `block` is a power of two from 32 to 4096.
pub(crate) fn check_block(block: usize) -> Result<()> {
    match block.is_power_of_two() && (32..=4096).contains(&block) {
        true => Ok(()),
        false => Err(Error::config(
            "quantize.block",
            format!("is {block}; a power of two from 32 to 4096 is expected"),
        )),
    }
}
