//! Launches: arguments, limits, the run itself.

pub mod limits;
pub mod occupancy;

use std::{sync::Arc, time::Instant};

use super::{
    ffi::{DefaultStream, Export, In, exports},
    handles::Id,
    module::Function,
    report::{self, LaunchRecord},
    state::{Current, Driver},
    status::{Outcome, Status},
    stream::{Stream, on_stream},
    work::Work,
};
use crate::machine::{Kernel, LaunchConfig};

/// The functions that these files export.
pub const ALL_EXPORTS: [&[Export]; 2] = [EXPORTS, occupancy::EXPORTS];

/// Marks in the array `extra` of a launch.
const EXTRA_END: usize = 0;
const EXTRA_BUFFER: usize = 1;
const EXTRA_BUFFER_SIZE: usize = 2;
/// Entries of that array at most: two marks with their values and the end.
const EXTRA_LENGTH: usize = 5;

/// A kernel with everything that it takes to run it.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The function that was launched.
    pub function: Id<Function>,
    /// Its kernel.
    pub kernel: Arc<Kernel>,
    /// What was asked for.
    pub config: LaunchConfig,
    /// The parameters.
    pub params: Arc<[u8]>,
}

impl Launch {
    /// Reads the arguments of a launch of a function, and checks every limit.
    pub fn prepare(
        current: &mut Current,
        function: Id<Function>,
        config: LaunchConfig,
        arguments: Arguments,
    ) -> Outcome<Self> {
        let function = current.function(function)?;
        let found = current.state.functions.get(function)?;
        limits::check(found, &config, &current.driver.device.options)?;
        let kernel = found.kernel.clone();
        let params = arguments.read(&kernel)?.into();
        Ok(Self { function, kernel, config, params })
    }

    /// Runs it. The status of its fault.
    pub fn run(&self, driver: &Driver) -> Outcome {
        let start = Instant::now();
        let counters = driver.device.launch(&self.kernel, self.config, &self.params);
        let nanoseconds = start.elapsed().as_nanos() as u64;
        let counters = counters.map_err(|fault| report::fault(driver, *fault))?;
        if driver.device.options.counters {
            let kernel = self.kernel.name.clone();
            driver.log().launches.push(LaunchRecord { kernel, config: self.config, counters, nanoseconds });
        }
        Ok(())
    }
}

/// Where the arguments of a launch are: an array of pointers to them, or a buffer that holds them as the
/// kernel sees them.
#[derive(Clone, Copy)]
pub struct Arguments {
    /// `kernelParams`
    pub pointers: In<usize>,
    /// `extra`
    pub extra: In<usize>,
}

impl Arguments {
    fn read(self, kernel: &Kernel) -> Outcome<Vec<u8>> {
        let size = kernel.parameter_bytes as usize;
        if !self.pointers.is_null() && !self.extra.is_null() {
            return Err(Status::INVALID_VALUE);
        }
        if !self.extra.is_null() {
            return self.read_buffer(size);
        }
        let mut params = vec![0; size];
        for (index, parameter) in kernel.parameters.iter().enumerate() {
            let argument = In::<u8>::from_address(self.pointers.at(index)?);
            let (offset, len) = (parameter.offset as usize, parameter.size as usize);
            let into = params.get_mut(offset..offset + len).ok_or(Status::INVALID_VALUE)?;
            into.copy_from_slice(&argument.all(len)?);
        }
        Ok(params)
    }

    fn read_buffer(self, size: usize) -> Outcome<Vec<u8>> {
        let (mut buffer, mut len) = (In::<u8>::from_address(0), In::<usize>::from_address(0));
        for index in (0..EXTRA_LENGTH).step_by(2) {
            match self.extra.at(index)? {
                EXTRA_END => break,
                EXTRA_BUFFER => buffer = In::from_address(self.extra.at(index + 1)?),
                EXTRA_BUFFER_SIZE => len = In::from_address(self.extra.at(index + 1)?),
                _ => return Err(Status::INVALID_VALUE),
            }
        }
        if len.get()? < size {
            return Err(Status::INVALID_VALUE);
        }
        buffer.all(size)
    }
}

/// Submits a launch. The function and the stream belong to one context.
fn submit(
    function: Id<Function>,
    config: LaunchConfig,
    stream: Id<Stream>,
    default: DefaultStream,
    arguments: Arguments,
) -> Outcome {
    let (mut current, stream) = on_stream(stream, default)?;
    let launch = Launch::prepare(&mut current, function, config, arguments)?;
    let Current { driver, state, .. } = current;
    if state.functions.get(launch.function)?.context != state.streams.get(stream)?.context {
        return Err(Status::INVALID_HANDLE);
    }
    let (_state, point) = driver.submit(state, stream, Work::Kernel(launch));
    point.map(drop)
}

/// `CUlaunchConfig`
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ExtendedConfig {
    grid: [u32; 3],
    block: [u32; 3],
    dynamic_shared: u32,
    stream: Id<Stream>,
    attributes: usize,
    count: u32,
}

/// `CUlaunchAttribute`: the number and the first words of the value.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct LaunchAttribute {
    which: u32,
    pad: u32,
    value: [u32; 16],
}

impl ExtendedConfig {
    /// What the machine is asked for. Clusters and what belongs to them are refused, hints are taken as such.
    fn read(&self) -> Outcome<LaunchConfig> {
        let mut cooperative = false;
        for attribute in In::<LaunchAttribute>::from_address(self.attributes).all(self.count as usize)? {
            match (attribute.which, attribute.value) {
                // Nothing, the L2 window, how to synchronise, a priority, memory domains, the carveout,
                // NVLink.
                (0 | 1 | 3 | 8 | 9 | 10 | 14 | 16, _) => {}
                (2, value) => cooperative = value[0] != 0,
                // Clusters of one block, and no overlap with the launch before: what happens anyhow.
                (4 | 11, [1, 1, 1, ..]) | (5 | 6 | 13, [0, ..]) => {}
                (4..=7 | 11..=13, _) => return Err(Status::NOT_SUPPORTED),
                _ => return Err(Status::INVALID_VALUE),
            }
        }
        let Self { grid, block, dynamic_shared, .. } = *self;
        Ok(LaunchConfig { grid, block, dynamic_shared, cooperative, sample: None })
    }
}

exports! {
    /// Launches a kernel.
    per_thread(cuLaunchKernel_ptsz, default)
    fn cuLaunchKernel(
        function: Id<Function>,
        grid_x: u32,
        grid_y: u32,
        grid_z: u32,
        block_x: u32,
        block_y: u32,
        block_z: u32,
        dynamic_shared: u32,
        stream: Id<Stream>,
        pointers: In<usize>,
        extra: In<usize>,
    ) {
        let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
        let config = LaunchConfig { grid, block, dynamic_shared, cooperative: false, sample: None };
        submit(function, config, stream, default, Arguments { pointers, extra })
    }

    /// Launches a kernel whose blocks are all resident at once.
    per_thread(cuLaunchCooperativeKernel_ptsz, default)
    fn cuLaunchCooperativeKernel(
        function: Id<Function>,
        grid_x: u32,
        grid_y: u32,
        grid_z: u32,
        block_x: u32,
        block_y: u32,
        block_z: u32,
        dynamic_shared: u32,
        stream: Id<Stream>,
        pointers: In<usize>,
    ) {
        let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
        let config = LaunchConfig { grid, block, dynamic_shared, cooperative: true, sample: None };
        submit(function, config, stream, default, Arguments { pointers, extra: In::from_address(0) })
    }

    /// Launches a kernel with attributes.
    per_thread(cuLaunchKernelEx_ptsz, default)
    fn cuLaunchKernelEx(
        config: In<ExtendedConfig>,
        function: Id<Function>,
        pointers: In<usize>,
        extra: In<usize>,
    ) {
        let config = config.get()?;
        submit(function, config.read()?, config.stream, default, Arguments { pointers, extra })
    }
}
