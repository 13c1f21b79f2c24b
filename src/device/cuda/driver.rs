//! The driver's answers as errors of ours.

use cudarc::driver::result::DriverError;
use cudarc::driver::sys::{self, CUresult};

use crate::{Error, Result};

/// Turns a driver's refusal into an [`Error::Cuda`] that says what was being done.
pub(super) fn check<T>(result: Result<T, DriverError>, what: impl FnOnce() -> String) -> Result<T> {
    result.map_err(|error| Error::Cuda { what: what(), detail: explain(error) })
}

/// The CUDA version that the driver is of: 12040 is 12.4. It need not have started.
pub(super) fn version() -> Result<i32> {
    let mut version = 0;
    // SAFETY: the pointer is valid for the call.
    check(unsafe { sys::cuDriverGetVersion(&mut version) }.result(), || "the driver's version".into())?;
    Ok(version)
}

/// The driver's words, and what to do where that is known.
pub(super) fn explain(DriverError(code): DriverError) -> String {
    let error = DriverError(code);
    let text = error
        .error_string()
        .map(|s| s.to_string_lossy().into_owned())
        .unwrap_or_else(|_| format!("{code:?}"));
    let hint = match code {
        CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION => {
            "; the driver is older than the kernels' PTX: update it, or build with its toolkit's nvcc (CUDA_HOME)"
        }
        CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU => {
            "; the kernels need a GPU of compute capability 8.0 or above"
        }
        CUresult::CUDA_ERROR_NO_DEVICE => "; no GPU is visible: see nvidia-smi and CUDA_VISIBLE_DEVICES",
        CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED | CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED => {
            "; part of the work cannot be in a graph: it waits for the device"
        }
        CUresult::CUDA_ERROR_ILLEGAL_ADDRESS
        | CUresult::CUDA_ERROR_MISALIGNED_ADDRESS
        | CUresult::CUDA_ERROR_LAUNCH_FAILED => "; a kernel failed: this process cannot use the GPU any more",
        _ => "",
    };
    format!("{text}{hint}")
}
