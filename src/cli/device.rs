//! `--device`: from its name to a device.

use crate::device::Device;
use crate::{Error, Result};

/// What `--device` takes, for its help.
pub(super) const VALUES: &str = "cpu|cuda|cuda:N|emulated";

/// The device of a name: `cpu`, `cuda`, `cuda:N`, or `emulated`, for which the emulated CUDA driver becomes the driver of this
/// process.
///
/// # Errors
/// [`Error::Config`] for another name, or for `emulated` in a binary without it; [`Error::Cuda`] when the device cannot be opened.
pub(super) fn open(name: &str) -> Result<Device> {
    let device = match name {
        "emulated" => {
            install()?;
            Device::Cuda(0)
        }
        name => name.parse()?,
    };
    if device != Device::Cpu {
        device.cuda()?;
    }
    Ok(device)
}

#[cfg(feature = "emulated")]
fn install() -> Result<()> {
    let refuse = |detail: String| Error::Cuda { what: "emulated driver".into(), detail };
    let mut options = emulated_cuda::machine::Options::from_env().map_err(|e| refuse(e.to_string()))?;
    // The allocator keeps its memory for the life of the process.
    options.checks.leaks = false;
    emulated_cuda::install(options).map_err(|e| refuse(e.to_string()))
}

#[cfg(not(feature = "emulated"))]
fn install() -> Result<()> {
    let detail = "'emulated' is not in this binary: build it with --features emulated";
    Err(Error::config("device", detail))
}

#[cfg(test)]
mod tests {
    use super::open;
    use crate::device::Device;

    #[test]
    fn names_of_devices() {
        assert_eq!(open("cpu").unwrap(), Device::Cpu);
        for name in ["gpu", "cuda:x", "cuda:", "CPU", ""] {
            let text = open(name).unwrap_err().to_string();
            assert!(text.contains("'device'") && text.contains("emulated"), "{text}");
        }
    }

    #[cfg(not(feature = "emulated"))]
    #[test]
    fn a_binary_without_the_emulated_driver_says_how_to_get_it() {
        assert!(open("emulated").unwrap_err().to_string().contains("--features emulated"));
    }
}
