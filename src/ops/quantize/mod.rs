//! Quantization in blocks of 4-bit codes: NF4 and FP4, with scales in f32 or in 8 bits (QLoRA, arXiv 2305.14314).

mod cuda;

use rayon::prelude::*;

use crate::device::cpu::four_bit::{Packed, dynamic_map, encode, nest};
use crate::device::cpu::parallel::GRAIN;
use crate::device::cpu::slices;
use crate::tensor::{
    BlockScales, DType, Element, NestedScales, QuantKind, QuantizedTensor, Tensor, check_block,
};
use crate::{Error, Result, dispatch_float};

const OP: &str = "quantize";

/// Scales that share an f32 when scales are quantized too.
pub const NESTED_BLOCK: usize = 256;

/// How a matrix is quantized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quantization {
    /// What the codes stand for.
    pub kind: QuantKind,
    /// Elements that share a scale: a power of two from 32 to 4096.
    pub block: usize,
    /// Whether the scales are quantized too, in blocks of [`NESTED_BLOCK`]: 0.127 bits an element for them instead of 0.5, at blocks of 64.
    pub double: bool,
}

impl Quantization {
    /// Blocks of 64 of a kind, scales in 8 bits: what the QLoRA paper trains on.
    pub fn new(kind: QuantKind) -> Quantization {
        Quantization { kind, block: 64, double: true }
    }

    /// Bytes of a matrix of `numel` elements: codes, scales and, with double quantization, what codes of scales stand for.
    pub fn bytes(&self, numel: usize) -> usize {
        let blocks = numel.div_ceil(self.block);
        let scales = match self.double {
            false => 4 * blocks,
            true => blocks + 4 * blocks.div_ceil(NESTED_BLOCK) + 4 * 256,
        };
        numel.div_ceil(2) + scales
    }

    /// Checks the size of the blocks.
    ///
    /// # Errors
    /// [`Error::Config`] for one that is not a power of two from 32 to 4096.
    pub fn check(&self) -> Result<()> {
        check_block(self.block)
    }
}

/// Each block of `x`, a matrix of floats, row by row: its scale is its largest magnitude, a code the level nearest to element / scale. With
/// the bits of bitsandbytes 0.50's CPU backend, on every device (of the offset of nested scales: on one thread).
///
/// # Errors
/// [`Error::NonFinite`] for an element that is infinite or not a number, [`Error::Shape`] and [`Error::DType`] for what is not a float
/// matrix.
pub fn quantize(x: &Tensor, how: &Quantization) -> Result<QuantizedTensor> {
    how.check()?;
    let (rows, columns) = x.dims2(OP)?;
    let (codes, scales) = match x.cuda_device() {
        Some(device) => cuda::quantize(device, x, how)?,
        None => on_host(x, how)?,
    };
    QuantizedTensor::new(how.kind, [rows, columns], how.block, codes, scales)
}

fn on_host(x: &Tensor, how: &Quantization) -> Result<(Tensor, BlockScales)> {
    let n = x.numel();
    let mut codes = vec![0u8; n.div_ceil(2)];
    let mut scales = vec![0.0f32; n.div_ceil(how.block)];
    let finite = dispatch_float!(OP, x.dtype(), T => {
        Ok(encode(how.kind, how.block, T::slice(x)?, &mut codes, &mut scales))
    })?;
    if !finite {
        return Err(not_finite());
    }
    let bytes = |data: Vec<u8>| {
        let len = data.len();
        Tensor::from_u8(data, &[len])
    };
    let floats = |data: Vec<f32>| {
        let len = data.len();
        Tensor::from_f32(data, &[len])
    };
    let scales = match how.double {
        false => BlockScales::Plain(floats(scales)),
        true => {
            let (codes, absmax, offset) = nest(&scales, NESTED_BLOCK);
            let map = floats(dynamic_map().to_vec());
            let (codes, absmax) = (bytes(codes), floats(absmax));
            BlockScales::Nested(NestedScales { codes, absmax, map, offset, block: NESTED_BLOCK })
        }
    };
    Ok((bytes(codes), scales))
}

fn not_finite() -> Error {
    Error::NonFinite { what: OP.into(), place: None }
}

/// The numbers that the codes stand for, level * scale in f32, rounded once to `dtype`.
///
/// # Errors
/// [`Error::DType`] for what is not a float type.
pub fn dequantize(x: &QuantizedTensor, dtype: DType) -> Result<Tensor> {
    if let Some(device) = x.codes().cuda_device() {
        return cuda::dequantize(device, x, dtype);
    }
    let packed = Packed::of(x)?;
    dispatch_float!("dequantize", dtype, T => {
        let mut out = bytemuck::zeroed_vec::<T>(x.numel());
        out.par_chunks_mut(GRAIN).enumerate().for_each(|(i, out)| {
            let mut values = [0.0; GRAIN];
            let values = &mut values[..out.len()];
            packed.decode(i * GRAIN, values);
            slices::convert(values, out);
        });
        Ok(T::tensor(out, x.shape()))
    })
}
