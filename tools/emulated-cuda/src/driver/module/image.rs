//! From what a program hands over to PTX text.

use super::{
    super::{
        ffi::{In, Text},
        status::{Outcome, Status},
    },
    fatbin,
};
use crate::machine::LoadError;

const ELF: [u8; 4] = *b"\x7fELF";

/// An image that cannot be loaded, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The status of the call.
    pub status: Status,
    /// What the log says.
    pub message: String,
}

impl From<LoadError> for Failure {
    fn from(error: LoadError) -> Self {
        let status = match error {
            LoadError::Parse(_) | LoadError::Unsupported { .. } => Status::INVALID_PTX,
            LoadError::Memory(_) => Status::OUT_OF_MEMORY,
        };
        Self { status, message: error.to_string() }
    }
}

/// Refuses PTX that is newer than drivers of a CUDA version know (PTX ISA, release notes).
pub fn check_version(text: &str, cuda: (u32, u32)) -> Result<(), Failure> {
    let newest = match cuda {
        (11, minor) => (7, minor),
        (12, minor @ 0..=5) => (8, minor),
        (12, minor) => (8, minor - 1),
        // What this driver really is of takes all that it can read.
        _ => return Ok(()),
    };
    let numbers = text.lines().find_map(|line| line.trim_start().strip_prefix(".version"));
    let version = numbers.and_then(|numbers| {
        let (major, minor) = numbers.trim().split_once('.')?;
        let digits = minor.find(|c: char| !c.is_ascii_digit()).unwrap_or(minor.len());
        Some((major.parse::<u32>().ok()?, minor[..digits].parse::<u32>().ok()?))
    });
    match version {
        Some((major, minor)) if (major, minor) > newest => {
            let message = format!(
                "PTX {major}.{minor} is newer than a driver of CUDA {}.{} knows: {}.{}",
                cuda.0, cuda.1, newest.0, newest.1
            );
            Err(Failure { status: Status::UNSUPPORTED_PTX_VERSION, message })
        }
        _ => Ok(()),
    }
}

/// The PTX text of an image of unknown length, as its own headers or its NUL end it.
pub fn from_memory(image: In<u8>) -> Outcome<Result<String, Failure>> {
    image.get()?;
    let start = image.address();
    let first: Vec<u8> = (0..4).map_while(|i| image.at(i).ok().filter(|&byte| byte != 0)).collect();
    match <[u8; 4]>::try_from(first.as_slice()) {
        Ok(magic) if magic == fatbin::WRAPPER => Ok(from_bytes(&fatbin::read_wrapped(start)?)),
        Ok(magic) if magic == fatbin::MAGIC => Ok(from_bytes(&fatbin::read(start)?)),
        Ok(ELF) => Ok(from_bytes(&ELF)),
        _ => Ok(from_bytes(&Text::from_address(start).bytes()?)),
    }
}

/// The PTX text of an image.
pub fn from_bytes(bytes: &[u8]) -> Result<String, Failure> {
    if bytes.starts_with(&fatbin::MAGIC) {
        return fatbin::ptx(bytes);
    }
    if bytes.starts_with(&ELF) {
        let message = "a cubin holds machine code for a GPU; this device runs PTX only".into();
        return Err(Failure { status: Status::NO_BINARY_FOR_GPU, message });
    }
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    Ok(String::from_utf8_lossy(&bytes[..end]).into_owned())
}
