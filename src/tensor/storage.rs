//! The memory behind a tensor.

use std::sync::Arc;

use half::{bf16, f16};

use crate::device::Device;
use crate::device::cuda::Buffer;
use crate::tensor::DType;

/// Bytes that somebody else keeps alive, e.g. a memory-mapped file.
pub type SharedBytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// Memory of one element type.
pub(crate) enum Storage {
    F32(Vec<f32>),
    BF16(Vec<bf16>),
    F16(Vec<f16>),
    U32(Vec<u32>),
    U8(Vec<u8>),
    /// Elements used in place from a file; `start..end` was checked for bounds and alignment when it was made.
    Mapped {
        bytes: SharedBytes,
        start: usize,
        end: usize,
        dtype: DType,
    },
    /// Memory of a CUDA device, for so many elements.
    Cuda {
        buffer: Buffer,
        len: usize,
    },
}

impl Storage {
    pub(crate) fn len(&self) -> usize {
        match self {
            Storage::F32(v) => v.len(),
            Storage::BF16(v) => v.len(),
            Storage::F16(v) => v.len(),
            Storage::U32(v) => v.len(),
            Storage::U8(v) => v.len(),
            Storage::Mapped { start, end, dtype, .. } => (end - start) / dtype.size(),
            Storage::Cuda { len, .. } => *len,
        }
    }

    /// The memory on a CUDA device.
    pub(crate) fn cuda(&self) -> Option<&Buffer> {
        match self {
            Storage::Cuda { buffer, .. } => Some(buffer),
            _ => None,
        }
    }

    pub(crate) fn device(&self) -> Device {
        match self {
            Storage::Cuda { buffer, .. } => Device::Cuda(buffer.device().ordinal()),
            _ => Device::Cpu,
        }
    }

    /// The elements, if they are of type `T` and in host memory.
    pub(crate) fn slice<T: bytemuck::Pod>(&self, dtype: DType) -> Option<&[T]> {
        match self {
            Storage::F32(v) if dtype == DType::F32 => bytemuck::try_cast_slice(v).ok(),
            Storage::BF16(v) if dtype == DType::BF16 => bytemuck::try_cast_slice(v).ok(),
            Storage::F16(v) if dtype == DType::F16 => bytemuck::try_cast_slice(v).ok(),
            Storage::U32(v) if dtype == DType::U32 => bytemuck::try_cast_slice(v).ok(),
            Storage::U8(v) if dtype == DType::U8 => bytemuck::try_cast_slice(v).ok(),
            Storage::Mapped { bytes, start, end, dtype: own } if dtype == *own => {
                bytemuck::try_cast_slice((**bytes).as_ref().get(*start..*end)?).ok()
            }
            _ => None,
        }
    }
}
