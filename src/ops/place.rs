//! Where an op runs: where its operands are. Nothing is copied between devices in silence.

use crate::device::cuda::CudaDevice;
use crate::tensor::Tensor;
use crate::{Error, Result};

/// The CUDA device that the operands of op `op` are on; `None` if they are in host memory.
///
/// Errors: [`Error::Cuda`] if they are not all in one place.
pub(super) fn place<'a>(
    op: &'static str,
    operands: impl IntoIterator<Item = &'a Tensor>,
) -> Result<Option<&'static CudaDevice>> {
    let mut operands = operands.into_iter();
    let Some(first) = operands.next() else { return Ok(None) };
    match operands.find(|x| x.device() != first.device()) {
        None => Ok(first.cuda_device()),
        Some(other) => {
            let describe = |x: &Tensor| format!("{} {:?} on {}", x.dtype(), x.shape(), x.device());
            let detail = format!("operands in two places: {} and {}", describe(first), describe(other));
            Err(Error::Cuda { what: op.into(), detail })
        }
    }
}

/// A length as kernels take it.
///
/// Errors: [`Error::Shape`] from 2^31 on, so that an index of a pack past the end still fits 32 bits.
pub(super) fn extent(op: &'static str, len: usize) -> Result<u32> {
    match i32::try_from(len) {
        Ok(_) => Ok(len as u32),
        Err(_) => {
            Err(Error::Shape { op, detail: format!("{len} elements in a row, less than 2^31 expected") })
        }
    }
}
