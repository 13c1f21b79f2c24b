//! Devices: where tensors live and kernels run.

mod copies;
pub mod cpu;
pub mod cuda;
pub mod philox;

pub(crate) use copies::Copies;

use crate::{Error, Result};

/// A place where tensors live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Device {
    /// Host memory; kernels run on all cores.
    Cpu,
    /// The memory of the CUDA device with this number.
    Cuda(usize),
}

impl Device {
    /// The CUDA device behind it.
    ///
    /// # Errors
    /// [`Error::Cuda`] when it is no CUDA device, or cannot be opened.
    pub fn cuda(self) -> Result<&'static cuda::CudaDevice> {
        match self {
            Device::Cuda(ordinal) => cuda::CudaDevice::get(ordinal),
            Device::Cpu => {
                Err(Error::Cuda { what: "device cpu".into(), detail: "a CUDA device is expected".into() })
            }
        }
    }
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}

impl std::str::FromStr for Device {
    type Err = Error;

    /// Reads `cpu`, `cuda` (the first device) or `cuda:1`.
    fn from_str(text: &str) -> Result<Device> {
        let bad = || Error::config("device", format!("'{text}' is none of cpu, cuda, cuda:N, emulated"));
        match text.split_once(':') {
            None if text == "cpu" => Ok(Device::Cpu),
            None if text == "cuda" => Ok(Device::Cuda(0)),
            Some(("cuda", ordinal)) => Ok(Device::Cuda(ordinal.parse().map_err(|_| bad())?)),
            _ => Err(bad()),
        }
    }
}
