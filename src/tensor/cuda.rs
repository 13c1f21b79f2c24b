//! Tensors on CUDA devices.

use std::sync::Arc;

use super::storage::Storage;
use super::{DType, Tensor, numel};
use crate::device::Device;
use crate::device::cuda::{CudaDevice, Pointer};
use crate::{Error, Result};

impl Tensor {
    /// A tensor on a CUDA device whose elements nobody has written yet: for a kernel to fill.
    pub(crate) fn uninitialised(device: &'static CudaDevice, shape: &[usize], dtype: DType) -> Result<Tensor> {
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
        if let Storage::Cuda { buffer, .. } = &*tensor.storage {
            buffer.zero(tensor.numel() * dtype.size())?;
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
                if let Storage::Cuda { buffer, .. } = &*tensor.storage {
                    buffer.write(0, host.host_bytes()?)?;
                }
                Ok(tensor)
            }
        }
    }

    /// The elements in host memory.
    fn to_host(&self) -> Result<Tensor> {
        let Storage::Cuda { buffer, .. } = &*self.storage else { return Ok(self.clone()) };
        fn fetch<T: bytemuck::Pod>(tensor: &Tensor, buffer: &crate::device::cuda::Buffer) -> Result<Vec<T>> {
            let mut data = bytemuck::zeroed_vec::<T>(tensor.numel());
            buffer.read(tensor.offset * size_of::<T>(), bytemuck::cast_slice_mut(&mut data))?;
            Ok(data)
        }
        Ok(match self.dtype {
            DType::F32 => Tensor::from_f32(fetch(self, buffer)?, &self.shape),
            DType::BF16 => Tensor::from_bf16(fetch(self, buffer)?, &self.shape),
            DType::U32 => Tensor::from_u32(fetch(self, buffer)?, &self.shape),
        })
    }

    /// The bytes of a host tensor.
    fn host_bytes(&self) -> Result<&[u8]> {
        Ok(match self.dtype {
            DType::F32 => bytemuck::cast_slice(self.as_f32()?),
            DType::BF16 => bytemuck::cast_slice(self.as_bf16()?),
            DType::U32 => bytemuck::cast_slice(self.as_u32()?),
        })
    }

    /// The device address of the first element, for a kernel of `device`.
    ///
    /// # Errors
    /// A tensor that lives elsewhere: nothing is copied between devices in silence.
    pub(crate) fn pointer(&self, op: &'static str, device: &'static CudaDevice) -> Result<Pointer> {
        match &*self.storage {
            Storage::Cuda { buffer, .. } if std::ptr::eq(buffer.device(), device) => {
                Ok(Pointer(buffer.address() + (self.offset * self.dtype.size()) as u64))
            }
            _ => {
                let what = format!("{op}: {} tensor {:?}", self.dtype, self.shape);
                let detail = format!("lives on {}, the op runs on cuda:{}", self.device(), device.ordinal());
                Err(Error::Cuda { what, detail })
            }
        }
    }

    /// A copy with memory of its own on the same CUDA device.
    pub(crate) fn duplicate(&self, device: &'static CudaDevice) -> Result<Tensor> {
        let copy = Tensor::uninitialised(device, &self.shape, self.dtype)?;
        let Pointer(from) = self.pointer("copy", device)?;
        if let Storage::Cuda { buffer, .. } = &*copy.storage {
            buffer.copy_from(from, self.numel() * self.dtype.size())?;
        }
        Ok(copy)
    }

    /// Whether no other tensor shares this one's memory.
    pub(crate) fn is_unshared(&self) -> bool {
        Arc::strong_count(&self.storage) == 1
    }
}
