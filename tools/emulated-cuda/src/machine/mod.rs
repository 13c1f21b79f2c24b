//! The machine: memory, programs, warps, blocks and launches.

mod allocate;
mod alu;
mod barrier;
mod block;
mod class;
pub mod counters;
mod decode;
mod exec;
pub mod fault;
pub mod lanes;
mod launch;
pub mod memory;
pub mod op;
pub mod options;
mod printf;
pub mod program;
mod simd;
pub mod spaces;
pub mod undefined;
mod warp;
pub mod windows;

pub use counters::Counters;
pub use fault::{Fault, FaultKind};
pub use memory::DeviceMemory;
pub use options::{CUDA_VERSION, Checks, CountersOutput, Options, OptionsError};
pub use program::{Kernel, LoadError, Module, Parameter};

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// A device: its memory and its settings. Cheap to share.
pub struct Device {
    /// Global memory.
    pub memory: DeviceMemory,
    /// Checks, limits, seed.
    pub options: Options,
    launches: AtomicU64,
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
    /// Runs only so many blocks, scattered over the grid: for counting large problems.
    pub sample: Option<u32>,
}

impl Device {
    /// A device with its own memory.
    pub fn new(options: Options) -> Arc<Self> {
        Arc::new(Self {
            memory: DeviceMemory::new(options.memory_bytes),
            options,
            launches: AtomicU64::new(0),
        })
    }

    /// Runs a kernel to its end. `params` holds the parameters as [`Kernel::parameters`] lays them out. Returns what it
    /// did, which is all zeros where [`Options::counters`] is off.
    ///
    /// The limits of the launch (grid, block, shared memory) are the caller's to check first.
    ///
    /// # Errors
    /// The first fault that a thread ran into.
    pub fn launch(
        &self,
        kernel: &Arc<Kernel>,
        config: LaunchConfig,
        params: &[u8],
    ) -> Result<Counters, Box<Fault>> {
        launch::run(self, kernel, config, params, self.launches.fetch_add(1, Ordering::Relaxed))
    }
}
