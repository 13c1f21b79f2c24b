//! Matrices of signs, a bit an element (BitDelta, arXiv 2402.10193).

use rayon::prelude::*;

use super::{DType, Tensor};
use crate::device::Device;
use crate::{Error, Result};

const OP: &str = "sign tensor";

/// Elements of a word.
const WORD: usize = 32;
const WORD_BYTES: usize = WORD / 8;

/// A matrix `[out, in]` of +1 and -1, a bit each: 1 is +1. A row is `ceil(in / 32)` words of 32 bits, little-endian; element i is bit
/// `i % 32` of word `i / 32`, counted from the lowest, and what pads the last word is zero. Cheap to clone.
#[derive(Clone)]
pub struct SignTensor {
    shape: [usize; 2],
    /// u8, `[out, 4 ceil(in / 32)]`.
    bits: Tensor,
}

impl SignTensor {
    /// From its bits: u8, `[out, 4 ceil(in / 32)]`.
    ///
    /// # Errors
    /// [`Error::Shape`] for bits of another shape or type, or, where they are in host memory, padding that is not zero.
    pub fn new(shape: [usize; 2], bits: Tensor) -> Result<SignTensor> {
        let bytes = SignTensor::row_bytes(shape[1]);
        if bits.dtype() != DType::U8 || bits.shape() != [shape[0], bytes] {
            let detail = format!(
                "bits {} {:?} for {shape:?}: u8 [{}, {bytes}] expected",
                bits.dtype(),
                bits.shape(),
                shape[0]
            );
            return Err(Error::Shape { op: OP, detail });
        }
        if bits.device() == Device::Cpu && !shape[1].is_multiple_of(WORD) {
            for (i, row) in bits.as_u8()?.chunks_exact(bytes).enumerate() {
                let last = u32::from_le_bytes(std::array::from_fn(|b| row[bytes - WORD_BYTES + b]));
                if last >> (shape[1] % WORD) != 0 {
                    let detail = format!("row {i} of {shape:?} has bits behind its last element");
                    return Err(Error::Shape { op: OP, detail });
                }
            }
        }
        Ok(SignTensor { shape, bits })
    }

    /// The signs of `fine - base`, +1 for a difference of zero, and the mean of its magnitudes (summed in f64): the 1-bit delta of a
    /// matrix, and the scale that is nearest to it.
    ///
    /// # Errors
    /// [`Error::Shape`] unless both have as many elements as `shape`, or for a difference that is not finite.
    pub fn from_difference(fine: &[f32], base: &[f32], shape: [usize; 2]) -> Result<(SignTensor, f32)> {
        let [rows, cols] = shape;
        if Some(fine.len()) != rows.checked_mul(cols) || fine.len() != base.len() {
            let detail = format!("{} and {} elements for a difference {shape:?}", fine.len(), base.len());
            return Err(Error::Shape { op: OP, detail });
        }
        let bytes = SignTensor::row_bytes(cols);
        let mut bits = vec![0u8; rows * bytes];
        let mut sums = vec![0.0f64; rows];
        if cols > 0 {
            let of_rows = fine.par_chunks_exact(cols).zip(base.par_chunks_exact(cols));
            bits.par_chunks_exact_mut(bytes).zip(&mut sums).zip(of_rows).for_each(
                |((bits, sum), (fine, base))| {
                    for ((byte, fine), base) in bits.iter_mut().zip(fine.chunks(8)).zip(base.chunks(8)) {
                        for (i, (fine, base)) in fine.iter().zip(base).enumerate() {
                            let difference = fine - base;
                            *byte |= u8::from(difference >= 0.0) << i;
                            *sum += f64::from(difference.abs());
                        }
                    }
                },
            );
        }
        // In the order of the rows.
        let sum: f64 = sums.iter().sum();
        if let Some(row) = sums.iter().position(|sum| !sum.is_finite()) {
            return Err(Error::Shape {
                op: OP,
                detail: format!("row {row} of a difference {shape:?} is not finite"),
            });
        }
        let mean = if fine.is_empty() { 0.0 } else { sum / fine.len() as f64 };
        Ok((SignTensor { shape, bits: Tensor::from_u8(bits, &[rows, bytes]) }, mean as f32))
    }

    /// Bytes of a row of `cols` elements.
    pub const fn row_bytes(cols: usize) -> usize {
        cols.div_ceil(WORD) * WORD_BYTES
    }

    /// Rows and columns.
    pub fn shape(&self) -> &[usize; 2] {
        &self.shape
    }

    /// The number of elements.
    pub fn numel(&self) -> usize {
        self.shape[0] * self.shape[1]
    }

    /// The bits, u8 `[out, 4 ceil(in / 32)]`.
    pub fn bits(&self) -> &Tensor {
        &self.bits
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> usize {
        self.bits.numel()
    }

    /// Where it is.
    pub fn device(&self) -> Device {
        self.bits.device()
    }

    /// The same matrix on a device; shares memory if it is there already.
    ///
    /// # Errors
    /// [`Error::Cuda`] when it does not fit.
    pub fn to_device(&self, device: Device) -> Result<SignTensor> {
        Ok(SignTensor { bits: self.bits.to_device(device)?, ..*self })
    }

    /// Element (row, col) of a matrix in host memory: +1 or -1.
    ///
    /// # Errors
    /// [`Error::Shape`] outside the matrix; [`Error::DType`] for one on a device.
    pub fn sign(&self, row: usize, col: usize) -> Result<f32> {
        if row >= self.shape[0] || col >= self.shape[1] {
            return Err(Error::Shape {
                op: OP,
                detail: format!("element ({row}, {col}) of {:?}", self.shape),
            });
        }
        let byte = self.bits.as_u8()?[row * SignTensor::row_bytes(self.shape[1]) + col / 8];
        Ok(if byte >> (col % 8) & 1 == 1 { 1.0 } else { -1.0 })
    }
}

impl std::fmt::Debug for SignTensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SignTensor({:?}, {})", self.shape, self.device())
    }
}

/// 1-bit deltas of one weight, one behind the other: signs with their scales. Cheap to clone.
#[derive(Clone)]
pub struct SignStack {
    shape: [usize; 2],
    /// u8, `[E out, 4 ceil(in / 32)]`.
    bits: Tensor,
    /// f32, `[E, 1]` or `[E, out]`.
    scales: Tensor,
}

impl SignStack {
    /// From signs and their scales, f32 `[1]` or, for each row, `[out]`; all of one kind and in one place. Their memory is copied.
    ///
    /// # Errors
    /// [`Error::Shape`] or [`Error::DType`] for none, or such as do not fit each other.
    pub fn new(deltas: &[(SignTensor, Tensor)]) -> Result<SignStack> {
        const OP: &str = "sign stack";
        let bad = |detail: String| Err(Error::Shape { op: OP, detail });
        let Some((signs, scale)) = deltas.first() else { return bad("no deltas".into()) };
        let shape = *signs.shape();
        let fits = scale.shape() == [1] || scale.shape() == [shape[0]];
        if !fits || deltas.iter().any(|(s, a)| *s.shape() != shape || a.shape() != scale.shape()) {
            let shapes: Vec<_> = deltas.iter().map(|(s, a)| (s.shape(), a.shape())).collect();
            return bad(format!(
                "signs and scales {shapes:?}: one shape [out, in], and [1] or [out], expected"
            ));
        }
        if let Some((_, other)) = deltas.iter().find(|(_, a)| a.dtype() != DType::F32) {
            return Err(Error::DType { op: OP, detail: format!("a {} scale, f32 expected", other.dtype()) });
        }
        let bits: Vec<&Tensor> = deltas.iter().map(|(signs, _)| signs.bits()).collect();
        let scales: Vec<&Tensor> = deltas.iter().map(|(_, scale)| scale).collect();
        let scales = Tensor::joined(&scales)?.reshape(&[deltas.len(), scale.numel()])?;
        Ok(SignStack { shape, bits: Tensor::joined(&bits)?, scales })
    }

    /// Rows and columns of each.
    pub fn shape(&self) -> &[usize; 2] {
        &self.shape
    }

    /// How many there are; at least one.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.scales.shape()[0]
    }

    /// The bits of all, u8 `[E out, 4 ceil(in / 32)]`.
    pub fn bits(&self) -> &Tensor {
        &self.bits
    }

    /// The scales, f32 `[E, 1]` or `[E, out]`.
    pub fn scales(&self) -> &Tensor {
        &self.scales
    }

    /// Signs and scale of one; they share the memory. Errors: one that is not there.
    pub fn get(&self, index: usize) -> Result<(SignTensor, Tensor)> {
        let scale = self.scales.rows(index, 1)?;
        let scale = scale.reshape(&[scale.numel()])?;
        let bits = self.bits.rows(index * self.shape[0], self.shape[0])?;
        Ok((SignTensor { shape: self.shape, bits }, scale))
    }

    /// Where they are.
    pub fn device(&self) -> Device {
        self.bits.device()
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> usize {
        self.bits.numel() + self.scales.numel() * DType::F32.size()
    }

    /// The same on a device; shares memory if they are there already.
    ///
    /// # Errors
    /// [`Error::Cuda`] when they do not fit.
    pub fn to_device(&self, device: Device) -> Result<SignStack> {
        let (bits, scales) = (self.bits.to_device(device)?, self.scales.to_device(device)?);
        Ok(SignStack { bits, scales, ..*self })
    }
}

impl std::fmt::Debug for SignStack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SignStack({} of {:?}, {})", self.len(), self.shape, self.device())
    }
}
