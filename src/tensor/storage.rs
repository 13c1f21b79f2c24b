//! The memory behind a tensor.

use std::sync::Arc;

use half::bf16;

use crate::tensor::DType;

/// Bytes that somebody else keeps alive, e.g. a memory-mapped file.
pub type SharedBytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// Host memory of one element type.
pub(crate) enum CpuStorage {
    F32(Vec<f32>),
    BF16(Vec<bf16>),
    U32(Vec<u32>),
    /// Elements used in place from a file; `start..end` was checked for bounds and alignment when it was made.
    Mapped {
        bytes: SharedBytes,
        start: usize,
        end: usize,
        dtype: DType,
    },
}

impl CpuStorage {
    pub(crate) fn len(&self) -> usize {
        match self {
            CpuStorage::F32(v) => v.len(),
            CpuStorage::BF16(v) => v.len(),
            CpuStorage::U32(v) => v.len(),
            CpuStorage::Mapped { start, end, dtype, .. } => (end - start) / dtype.size(),
        }
    }

    /// The elements, if they are of type `T`.
    pub(crate) fn slice<T: bytemuck::Pod>(&self, dtype: DType) -> Option<&[T]> {
        match self {
            CpuStorage::F32(v) if dtype == DType::F32 => bytemuck::try_cast_slice(v).ok(),
            CpuStorage::BF16(v) if dtype == DType::BF16 => bytemuck::try_cast_slice(v).ok(),
            CpuStorage::U32(v) if dtype == DType::U32 => bytemuck::try_cast_slice(v).ok(),
            CpuStorage::Mapped { bytes, start, end, dtype: own } if dtype == *own => {
                bytemuck::try_cast_slice((**bytes).as_ref().get(*start..*end)?).ok()
            }
            _ => None,
        }
    }
}
