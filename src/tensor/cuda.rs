//! Tensors on CUDA devices.

use std::sync::Arc;

use half::{bf16, f16};

use super::storage::Storage;
use super::{DType, Element, Tensor, numel};
use crate::device::Device;
use crate::device::cuda::{Buffer, CudaDevice, Entry, Pointer, kernel};
use crate::{Error, Result};

impl Tensor {
    /// A tensor on a CUDA device whose elements nobody has written yet: for a kernel to fill.
    pub(crate) fn uninitialised(
        device: &'static CudaDevice,
        shape: &[usize],
        dtype: DType,
    ) -> Result<Tensor> {
        let len = numel(shape);
        let bytes = len.checked_mul(dtype.size()).ok_or_else(|| {
            let detail = format!("a tensor of shape {shape:?} is larger than any memory");
            Error::Shape { op: "tensor", detail }
        })?;
        let storage = Storage::Cuda { buffer: device.allocate(bytes)?, len };
        Ok(Tensor { storage: Arc::new(storage), offset: 0, shape: shape.into(), dtype })
    }

    /// A tensor of zeros on a device.
    ///
    /// # Errors
    /// [`Error::Cuda`] when it does not fit.
    pub fn zeros_on(device: Device, shape: &[usize], dtype: DType) -> Result<Tensor> {
        let Device::Cuda(_) = device else { return Ok(Tensor::zeros(shape, dtype)) };
        let tensor = Tensor::uninitialised(device.cuda()?, shape, dtype)?;
        if let Some(buffer) = tensor.storage.cuda() {
            buffer.zero(tensor.numel() * dtype.size())?;
        }
        Ok(tensor)
    }

    /// A tensor of a float type on a device, every element of which is `value` (rounded to the type). Nothing is copied from the host.
    ///
    /// # Errors
    /// [`Error::Cuda`] when it does not fit; [`Error::DType`] for another type.
    pub fn full_on(device: Device, shape: &[usize], dtype: DType, value: f32) -> Result<Tensor> {
        let len = numel(shape);
        let Device::Cuda(_) = device else {
            return Tensor::from_f32(vec![value; len], shape).to_dtype(dtype);
        };
        if !dtype.is_float() {
            return Err(dtype.not_a_float("full_on"));
        }
        let tensor = Tensor::uninitialised(device.cuda()?, shape, dtype)?;
        if let Some(buffer) = tensor.storage.cuda() {
            match dtype {
                DType::BF16 => buffer.fill_u16(len, <bf16 as Element>::from_f32(value).to_bits())?,
                DType::F16 => buffer.fill_u16(len, <f16 as Element>::from_f32(value).to_bits())?,
                _ => buffer.fill_u32(len, value.to_bits())?,
            }
        }
        Ok(tensor)
    }

    /// The same elements on a device; shares memory if they are there already.
    ///
    /// # Errors
    /// [`Error::Cuda`] when they do not fit, or a kernel that should have computed them failed.
    pub fn to_device(&self, device: Device) -> Result<Tensor> {
        if self.device() == device {
            return Ok(self.clone());
        }
        match device {
            Device::Cpu => self.to_host(),
            Device::Cuda(_) => {
                let host = self.to_host()?;
                let tensor = Tensor::uninitialised(device.cuda()?, &self.shape, self.dtype)?;
                if let Some(buffer) = tensor.storage.cuda() {
                    buffer.write(0, host.host_bytes()?)?;
                }
                Ok(tensor)
            }
        }
    }

    /// The elements in host memory.
    fn to_host(&self) -> Result<Tensor> {
        let Some(buffer) = self.storage.cuda() else { return Ok(self.clone()) };
        fn fetch<T: bytemuck::Pod>(tensor: &Tensor, buffer: &Buffer) -> Result<Vec<T>> {
            let mut data = bytemuck::zeroed_vec::<T>(tensor.numel());
            buffer.read(tensor.offset * size_of::<T>(), bytemuck::cast_slice_mut(&mut data))?;
            Ok(data)
        }
        Ok(match self.dtype {
            DType::F32 => Tensor::from_f32(fetch(self, buffer)?, &self.shape),
            DType::BF16 => Tensor::from_bf16(fetch(self, buffer)?, &self.shape),
            DType::F16 => Tensor::from_f16(fetch(self, buffer)?, &self.shape),
            DType::U32 => Tensor::from_u32(fetch(self, buffer)?, &self.shape),
            DType::U8 => Tensor::from_u8(fetch(self, buffer)?, &self.shape),
        })
    }

    /// The bytes of a host tensor.
    fn host_bytes(&self) -> Result<&[u8]> {
        Ok(match self.dtype {
            DType::F32 => bytemuck::cast_slice(self.as_f32()?),
            DType::BF16 => bytemuck::cast_slice(self.as_bf16()?),
            DType::F16 => bytemuck::cast_slice(self.as_f16()?),
            DType::U32 => bytemuck::cast_slice(self.as_u32()?),
            DType::U8 => self.as_u8()?,
        })
    }

    /// The device address of the first element, for a kernel of `device`.
    ///
    /// # Errors
    /// A tensor that lives elsewhere: nothing is copied between devices in silence.
    pub(crate) fn pointer(&self, op: &'static str, device: &'static CudaDevice) -> Result<Pointer> {
        match self.storage.cuda() {
            Some(buffer) if std::ptr::eq(buffer.device(), device) => {
                device.keep_operand(buffer, &self.storage);
                Ok(Pointer(buffer.address() + (self.offset * self.dtype.size()) as u64))
            }
            _ => {
                let what = format!("{op}: {} tensor {:?}", self.dtype, self.shape);
                let detail = format!("lives on {}, the op runs on cuda:{}", self.device(), device.ordinal());
                Err(Error::Cuda { what, detail })
            }
        }
    }

    /// A copy with memory of its own, where this one is.
    ///
    /// # Errors
    /// [`Error::Cuda`] or [`Error::DeviceMemory`] when it does not fit.
    pub fn copied(&self) -> Result<Tensor> {
        match self.cuda_device() {
            Some(device) => self.duplicate(device),
            None => Ok(match self.dtype {
                DType::F32 => Tensor::from_f32(self.as_f32()?.to_vec(), &self.shape),
                DType::BF16 => Tensor::from_bf16(self.as_bf16()?.to_vec(), &self.shape),
                DType::F16 => Tensor::from_f16(self.as_f16()?.to_vec(), &self.shape),
                DType::U32 => Tensor::from_u32(self.as_u32()?.to_vec(), &self.shape),
                DType::U8 => Tensor::from_u8(self.as_u8()?.to_vec(), &self.shape),
            }),
        }
    }

    /// Tensors of bytes or f32, all of one type and in one place, one behind the other: their outermost dimensions add up.
    ///
    /// # Errors
    /// [`Error::Shape`] for none, or others; [`Error::Cuda`] when the sum does not fit.
    pub(super) fn joined(parts: &[&Tensor]) -> Result<Tensor> {
        const OP: &str = "joined";
        let bad = |detail: String| Err(Error::Shape { op: OP, detail });
        let Some(first) = parts.first() else { return bad("no tensors".into()) };
        let alike = |x: &&Tensor| {
            x.shape.get(1..) == first.shape.get(1..) && x.dtype == first.dtype && x.device() == first.device()
        };
        if first.shape.is_empty() || !parts.iter().all(alike) {
            return bad(format!("{parts:?}: one type, one place and rows of one shape expected"));
        }
        let mut shape = first.shape.to_vec();
        shape[0] = parts.iter().map(|x| x.shape[0]).sum();
        let Some(device) = first.cuda_device() else {
            return match first.dtype {
                DType::U8 => {
                    let bytes: Vec<&[u8]> = parts.iter().map(|x| x.as_u8()).collect::<Result<_>>()?;
                    Ok(Tensor::from_u8(bytes.concat(), &shape))
                }
                _ => {
                    let data: Vec<&[f32]> = parts.iter().map(|x| x.as_f32()).collect::<Result<_>>()?;
                    Ok(Tensor::from_f32(data.concat(), &shape))
                }
            };
        };
        let all = Tensor::uninitialised(device, &shape, first.dtype)?;
        let (mut at, size) = (0, first.dtype.size());
        for part in parts {
            if let (Some(to), Some(from)) = (all.storage.cuda(), part.storage.cuda()) {
                device.keep_operand(from, &part.storage);
                let len = part.numel() * size;
                to.copy_from(at, from, part.offset * size, len)?;
                at += len;
            }
        }
        Ok(all)
    }

    /// A copy with memory of its own on the same CUDA device.
    fn duplicate(&self, device: &'static CudaDevice) -> Result<Tensor> {
        let copy = Tensor::uninitialised(device, &self.shape, self.dtype)?;
        if let (Some(to), Some(from)) = (copy.storage.cuda(), self.storage.cuda()) {
            device.keep_operand(from, &self.storage);
            to.copy_from(0, from, self.offset * self.dtype.size(), self.numel() * self.dtype.size())?;
        }
        Ok(copy)
    }

    /// Writes the elements of `other`, which has the same shape and type and is in host memory or on the same device, over its own:
    /// for memory that a graph reads. Tensors that share the memory see it too.
    pub(crate) fn overwrite(&mut self, other: &Tensor) -> Result<()> {
        const OP: &str = "overwrite";
        if (&self.shape, self.dtype) != (&other.shape, other.dtype) {
            let detail = format!("{} {:?} by {} {:?}", self.dtype, self.shape, other.dtype, other.shape);
            return Err(Error::Shape { op: OP, detail });
        }
        let Some(to) = self.storage.cuda() else {
            return Err(Error::Cuda { what: OP.into(), detail: "the tensor is in host memory".into() });
        };
        let at = self.offset * self.dtype.size();
        let Some(from) = other.storage.cuda() else { return to.write(at, other.host_bytes()?) };
        let device = to.device();
        other.pointer(OP, device)?;
        device.keep_operand(to, &self.storage);
        to.copy_from(at, from, other.offset * other.dtype.size(), self.numel() * self.dtype.size())
    }

    /// Gives it memory of its own, with the same elements, if it shares it: what is written there then changes no other tensor.
    pub(crate) fn make_unshared(&mut self) -> Result<()> {
        if let (true, Some(device)) = (Arc::strong_count(&self.storage) > 1, self.cuda_device()) {
            *self = self.duplicate(device)?;
        }
        Ok(())
    }
}

kernel! {
    /// y = x in another type (kernels/cast.cu).
    Cast in "cast" { x: Pointer, y: Pointer, n: u64 }
}

kernel! {
    /// sum += x (kernels/add.cu).
    AddAssign in "add" { sum: Pointer, x: Pointer, n: u64 }
}

impl Tensor {
    /// The CUDA device that the elements are on.
    pub(crate) fn cuda_device(&self) -> Option<&'static CudaDevice> {
        self.storage.cuda().map(|buffer| buffer.device())
    }

    /// [`Tensor::to_dtype`] to another type.
    pub(super) fn cast_on(&self, device: &'static CudaDevice, dtype: DType) -> Result<Tensor> {
        const OP: &str = "to_dtype";
        let entry = match (self.dtype, dtype) {
            (DType::F32, DType::BF16) => "cast_fwd_f32_bf16",
            (DType::F32, DType::F16) => "cast_fwd_f32_f16",
            (DType::BF16, DType::F32) => "cast_fwd_bf16_f32",
            (DType::BF16, DType::F16) => "cast_fwd_bf16_f16",
            (DType::F16, DType::F32) => "cast_fwd_f16_f32",
            (DType::F16, DType::BF16) => "cast_fwd_f16_bf16",
            (from, to) => {
                return Err(Error::DType { op: OP, detail: format!("{from} to {to}, float types expected") });
            }
        };
        let y = Tensor::uninitialised(device, &self.shape, dtype)?;
        let arguments =
            Cast { x: self.pointer(OP, device)?, y: y.pointer(OP, device)?, n: self.numel() as u64 };
        device.launch(entry, arguments, device.spans(self.numel(), self.dtype.pack().min(dtype.pack())))?;
        Ok(y)
    }

    /// [`Tensor::add_assign`] of a tensor of the same shape.
    pub(super) fn add_assign_on(&mut self, device: &'static CudaDevice, other: &Tensor) -> Result<()> {
        const OP: &str = "add_assign";
        let f32s = ["add_assign_f32_f32", "add_assign_f32_bf16"];
        let bf16s = ["add_assign_bf16_f32", "add_assign_bf16_bf16"];
        let entry = other.dtype.select(OP, self.dtype.select(OP, [f32s, bf16s])?)?;
        let entry = Entry::of(OP, entry, &[self.dtype, other.dtype])?;
        let x = other.pointer(OP, device)?;
        self.make_unshared()?;
        let arguments = AddAssign { sum: self.pointer(OP, device)?, x, n: self.numel() as u64 };
        device.launch(entry, arguments, device.spans(self.numel(), 4))
    }
}
