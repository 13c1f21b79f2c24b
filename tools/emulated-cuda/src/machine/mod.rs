//! The machine: memory, programs, warps, blocks and launches.

mod allocate;
pub mod counters;
mod decode;
pub mod fault;
pub mod lanes;
pub mod memory;
pub mod op;
pub mod options;
pub mod program;
mod windows;

pub use counters::Counters;
pub use fault::{Fault, FaultKind};
pub use memory::DeviceMemory;
pub use options::{Checks, CountersOutput, Options, OptionsError};
pub use program::{Kernel, LoadError, Module, Parameter};

use std::sync::Arc;

/// A device: its memory and its settings. Cheap to share.
pub struct Device {
    /// Global memory.
    pub memory: DeviceMemory,
    /// Checks, limits, seed.
    pub options: Options,
}

/// What a launch asks for.
#[derive(Clone, Copy, Debug)]
pub struct LaunchConfig {
    /// Blocks in x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block in x, y, z.
    pub block: [u32; 3],
    /// Dynamic shared memory in bytes.
    pub dynamic_shared: u32,
    /// Whether all blocks must be resident at once (a cooperative launch).
    pub cooperative: bool,
    /// Runs only so many blocks, spread evenly over the grid: for counting large problems.
    pub sample: Option<u32>,
}

impl Device {
    /// A device with its own memory.
    pub fn new(options: Options) -> Arc<Self> {
        Arc::new(Self { memory: DeviceMemory::new(options.memory_bytes), options })
    }

    /// Runs a kernel to its end. `params` holds the parameters as [`Kernel::parameters`] lays them out. Returns what it
    /// did, which is all zeros where [`Options::counters`] is off.
    ///
    /// The limits of the launch (grid, block, shared memory) are the caller's to check first.
    ///
    /// # Errors
    /// The first fault that a thread ran into.
    pub fn launch(&self, kernel: &Arc<Kernel>, config: LaunchConfig, params: &[u8]) -> Result<Counters, Box<Fault>> {
        let _ = (kernel, config, params);
        unimplemented!("the machine is being written")
    }
}
