//! A module as the machine runs it.

use std::{collections::HashMap, sync::Arc};

use super::Device;
use crate::ptx::ParseError;

/// A module could not be loaded.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The text is not PTX.
    #[error("PTX {0}")]
    Parse(#[from] ParseError),
    /// An instruction or directive that this machine does not know.
    #[error("PTX line {line}: {message}\n  {text}")]
    Unsupported {
        /// Line, from 1.
        line: u32,
        /// What is not known.
        message: String,
        /// The line's text.
        text: String,
    },
    /// No memory for its variables.
    #[error("{0}")]
    Memory(String),
}

/// Offset and size of a kernel parameter in the parameter block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Bytes from the start.
    pub offset: u32,
    /// Bytes.
    pub size: u32,
}

/// A kernel that can be launched.
#[derive(Debug)]
pub struct Kernel {
    /// Its name.
    pub name: String,
    /// Its parameters.
    pub parameters: Vec<Parameter>,
    /// Bytes of all parameters.
    pub parameter_bytes: u32,
    /// Static shared memory in bytes.
    pub static_shared: u32,
    /// Local memory of a thread in bytes.
    pub local_bytes: u32,
    /// Bytes of constant variables that it can reach.
    pub const_bytes: u32,
    /// Registers that a thread needs, as this machine allocates them (ptxas may differ).
    pub registers: u32,
    /// `.maxntid` as a product, else 1024.
    pub max_threads: u32,
    /// `.reqntid`
    pub required_threads: Option<[u32; 3]>,
    /// `.version` as ten times major plus minor, and the number of `.target`.
    pub ptx_version: u32,
    /// The number of `.target`: 80 for sm_80.
    pub target: u32,
}

/// A loaded module.
#[derive(Debug)]
pub struct Module {
    /// Kernels by name.
    pub kernels: HashMap<String, Arc<Kernel>>,
    /// Global and constant variables by name: device address and size.
    pub globals: HashMap<String, (u64, u64)>,
}

impl Module {
    /// Parses and decodes PTX text and places its variables in the device's memory.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn load(device: &Device, text: &str) -> Result<Self, LoadError> {
        let _ = (device, crate::ptx::parse(text)?);
        unimplemented!("the decoder is being written")
    }

    /// Frees its variables.
    pub fn unload(self, device: &Device) {
        let _ = device;
    }
}
