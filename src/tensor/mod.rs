//! Tensors: values and where they live. A tensor is immutable, contiguous (row-major) and cheap to clone; a reshaped
//! or row-narrowed one shares its memory. Layout changes are ops, so that every copy is visible as one.

mod cuda;
mod dtype;
mod quantized;
mod signs;
mod storage;

use std::sync::Arc;

use half::{bf16, f16};

pub use dtype::{DType, Element};
pub(crate) use quantized::check_block;
pub use quantized::{BlockScales, NestedScales, QuantKind, QuantizedTensor};
pub use signs::{SignStack, SignTensor};
pub use storage::SharedBytes;
use storage::Storage;

use crate::device::Device;
use crate::{Error, Result};

/// An immutable, contiguous, row-major array of numbers on one device. Clones share memory.
#[derive(Clone)]
pub struct Tensor {
    storage: Arc<Storage>,
    offset: usize,
    shape: Arc<[usize]>,
    dtype: DType,
}

fn numel(shape: &[usize]) -> usize {
    shape.iter().product()
}

impl Tensor {
    fn from_storage(storage: Storage, shape: &[usize], dtype: DType) -> Tensor {
        assert_eq!(
            storage.len(),
            numel(shape),
            "{dtype} tensor of shape {shape:?}: wrong number of elements"
        );
        Tensor { storage: Arc::new(storage), offset: 0, shape: shape.into(), dtype }
    }

    /// A host tensor from its elements in row-major order. Panics if `data` does not hold as many as `shape` says:
    /// that is a bug of the caller, never of an input.
    pub fn from_f32(data: Vec<f32>, shape: &[usize]) -> Tensor {
        Tensor::from_storage(Storage::F32(data), shape, DType::F32)
    }

    /// As [`Tensor::from_f32`], of bf16 elements.
    pub fn from_bf16(data: Vec<bf16>, shape: &[usize]) -> Tensor {
        Tensor::from_storage(Storage::BF16(data), shape, DType::BF16)
    }

    /// As [`Tensor::from_f32`], of f16 elements.
    pub fn from_f16(data: Vec<f16>, shape: &[usize]) -> Tensor {
        Tensor::from_storage(Storage::F16(data), shape, DType::F16)
    }

    /// As [`Tensor::from_f32`], of u32 elements.
    pub fn from_u32(data: Vec<u32>, shape: &[usize]) -> Tensor {
        Tensor::from_storage(Storage::U32(data), shape, DType::U32)
    }

    /// As [`Tensor::from_f32`], of bytes.
    pub fn from_u8(data: Vec<u8>, shape: &[usize]) -> Tensor {
        Tensor::from_storage(Storage::U8(data), shape, DType::U8)
    }

    /// A tensor that uses `bytes[start..]` in place. `None` if the range is not inside, or not aligned for `dtype`:
    /// the caller then copies.
    pub fn from_shared_bytes(
        bytes: SharedBytes,
        start: usize,
        shape: &[usize],
        dtype: DType,
    ) -> Option<Tensor> {
        let count = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))?;
        let end = start.checked_add(count.checked_mul(dtype.size())?)?;
        let range = (*bytes).as_ref().get(start..end)?;
        if cfg!(target_endian = "big") || range.as_ptr().align_offset(dtype.size()) != 0 {
            return None;
        }
        Some(Tensor::from_storage(Storage::Mapped { bytes, start, end, dtype }, shape, dtype))
    }

    /// A host tensor of zeros.
    pub fn zeros(shape: &[usize], dtype: DType) -> Tensor {
        let n = numel(shape);
        match dtype {
            DType::F32 => Tensor::from_f32(vec![0.0; n], shape),
            DType::BF16 => Tensor::from_bf16(vec![bf16::ZERO; n], shape),
            DType::F16 => Tensor::from_f16(vec![f16::ZERO; n], shape),
            DType::U32 => Tensor::from_u32(vec![0; n], shape),
            DType::U8 => Tensor::from_u8(vec![0; n], shape),
        }
    }

    /// A host tensor with no dimensions.
    pub fn scalar(x: f32) -> Tensor {
        Tensor::from_f32(vec![x], &[])
    }

    /// The lengths of the dimensions, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The number of elements.
    pub fn numel(&self) -> usize {
        numel(&self.shape)
    }

    /// The type of the elements.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Where the elements are.
    pub fn device(&self) -> Device {
        self.storage.device()
    }

    /// Rows and columns of a matrix; an error of op `op` for any other number of dimensions.
    pub fn dims2(&self, op: &'static str) -> Result<(usize, usize)> {
        match *self.shape {
            [rows, cols] => Ok((rows, cols)),
            _ => {
                Err(Error::Shape { op, detail: format!("a matrix is expected, got shape {:?}", self.shape) })
            }
        }
    }

    /// The length of a vector; an error of op `op` for any other number of dimensions.
    pub fn dims1(&self, op: &'static str) -> Result<usize> {
        match *self.shape {
            [n] => Ok(n),
            _ => {
                Err(Error::Shape { op, detail: format!("a vector is expected, got shape {:?}", self.shape) })
            }
        }
    }

    /// The same elements in another shape of as many.
    pub fn reshape(&self, shape: &[usize]) -> Result<Tensor> {
        if numel(shape) != self.numel() {
            return Err(Error::Shape { op: "reshape", detail: format!("{:?} into {shape:?}", self.shape) });
        }
        Ok(Tensor { shape: shape.into(), ..self.clone() })
    }

    /// `len` rows (entries of the outermost dimension) from row `start`; shares memory.
    pub fn rows(&self, start: usize, len: usize) -> Result<Tensor> {
        let end = start.checked_add(len);
        match (self.shape.split_first(), end) {
            (Some((&n, rest)), Some(end)) if end <= n => {
                let mut shape = vec![len];
                shape.extend_from_slice(rest);
                Ok(Tensor {
                    storage: self.storage.clone(),
                    offset: self.offset + start * numel(rest),
                    shape: shape.into(),
                    dtype: self.dtype,
                })
            }
            _ => Err(Error::Shape {
                op: "rows",
                detail: format!("rows {start}..+{len} of a tensor of shape {:?}", self.shape),
            }),
        }
    }

    fn slice<T: bytemuck::Pod>(&self, dtype: DType) -> Result<&[T]> {
        let all = self.storage.slice(dtype).ok_or_else(|| {
            let place = self.device();
            Error::DType {
                op: "tensor",
                detail: format!("{} on {place} read as {dtype} on the host", self.dtype),
            }
        })?;
        Ok(&all[self.offset..self.offset + self.numel()])
    }

    /// The elements of a host f32 tensor.
    pub fn as_f32(&self) -> Result<&[f32]> {
        self.slice(DType::F32)
    }

    /// The elements of a host bf16 tensor.
    pub fn as_bf16(&self) -> Result<&[bf16]> {
        self.slice(DType::BF16)
    }

    /// The elements of a host f16 tensor.
    pub fn as_f16(&self) -> Result<&[f16]> {
        self.slice(DType::F16)
    }

    /// The elements of a host u32 tensor.
    pub fn as_u32(&self) -> Result<&[u32]> {
        self.slice(DType::U32)
    }

    /// The elements of a host tensor of bytes.
    pub fn as_u8(&self) -> Result<&[u8]> {
        self.slice(DType::U8)
    }

    /// A copy of the elements of a host tensor as f32 (floats only).
    pub fn to_vec_f32(&self) -> Result<Vec<f32>> {
        crate::dispatch_float!("to_vec_f32", self.dtype, T => {
            Ok(crate::device::cpu::slices::converted::<T, f32>(T::slice(self)?))
        })
    }

    /// As [`Tensor::to_vec_f32`], fetched from whatever device the elements are on: it waits for the device.
    pub fn fetch_f32(&self) -> Result<Vec<f32>> {
        self.to_device(Device::Cpu)?.to_vec_f32()
    }

    /// The elements as f32: without a copy if this is an f32 tensor that shares its memory with no other.
    pub fn into_vec_f32(self) -> Result<Vec<f32>> {
        let len = self.numel();
        if self.dtype == DType::F32 && self.offset == 0 && self.storage.len() == len {
            match Arc::try_unwrap(self.storage) {
                Ok(Storage::F32(v)) => return Ok(v),
                Ok(other) => {
                    return Tensor::from_storage(other, &self.shape, self.dtype).to_vec_f32();
                }
                Err(shared) => return Tensor { storage: shared, ..self }.to_vec_f32(),
            }
        }
        self.to_vec_f32()
    }

    /// The elements of an f32 tensor for writing; they are copied first if the memory is shared. Other types are an error.
    pub fn make_mut_f32(&mut self) -> Result<&mut [f32]> {
        let unique = Arc::get_mut(&mut self.storage).is_some_and(|s| matches!(s, Storage::F32(_)));
        if !unique || self.offset != 0 || self.storage.len() != self.numel() {
            *self = Tensor::from_f32(self.as_f32()?.to_vec(), &self.shape);
        }
        match Arc::get_mut(&mut self.storage) {
            Some(Storage::F32(v)) => Ok(v),
            _ => Err(Error::DType { op: "tensor", detail: format!("{} written as f32", self.dtype) }),
        }
    }

    /// The same values in another float type, rounded to nearest; shares memory if the type is the same.
    pub fn to_dtype(&self, dtype: DType) -> Result<Tensor> {
        if dtype == self.dtype {
            return Ok(self.clone());
        }
        if let Some(device) = self.cuda_device() {
            return self.cast_on(device, dtype);
        }
        crate::dispatch_float!("to_dtype", self.dtype, T => {
            let source = T::slice(self)?;
            crate::dispatch_float!("to_dtype", dtype, U => {
                Ok(U::tensor(crate::device::cpu::slices::converted::<T, U>(source), &self.shape))
            })
        })
    }

    /// The value of a tensor with one element, fetched from whatever device it is on.
    pub fn item(&self) -> Result<f32> {
        match self.fetch_f32()?[..] {
            [x] => Ok(x),
            _ => Err(Error::Shape {
                op: "item",
                detail: format!("one element expected, got {:?}", self.shape),
            }),
        }
    }

    /// The index of the first element that is infinite or not a number (floats only; integers are always finite). A
    /// device's tensor is fetched for it: this is for finding out why a step failed.
    pub fn first_non_finite(&self) -> Result<Option<usize>> {
        let host = self.to_device(Device::Cpu)?;
        Ok(match self.dtype {
            DType::F32 => host.as_f32()?.iter().position(|x| !x.is_finite()),
            DType::BF16 => host.as_bf16()?.iter().position(|x| !x.is_finite()),
            DType::F16 => host.as_f16()?.iter().position(|x| !x.is_finite()),
            DType::U32 | DType::U8 => None,
        })
    }

    /// Adds a float tensor of the same shape, on the same device, in place (in this tensor's type, which must be a float type).
    pub fn add_assign(&mut self, other: &Tensor) -> Result<()> {
        if self.shape != other.shape {
            let detail = format!("{:?} += {:?}", self.shape, other.shape);
            return Err(Error::Shape { op: "add_assign", detail });
        }
        if let Some(device) = self.cuda_device() {
            return self.add_assign_on(device, other);
        }
        if self.dtype == DType::F32 {
            let sum = self.make_mut_f32()?;
            return crate::dispatch_float!("add_assign", other.dtype, T => {
                crate::device::cpu::parallel::zip_mut(sum, T::slice(other)?, |s, x| *s += x.to_f32());
                Ok(())
            });
        }
        let mut sum = self.to_dtype(DType::F32)?;
        sum.add_assign(other)?;
        *self = sum.to_dtype(self.dtype)?;
        Ok(())
    }
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tensor({}, {:?}, {})", self.dtype, self.shape, self.device())
    }
}
