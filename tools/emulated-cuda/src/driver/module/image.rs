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
