//! A GPU that is the machine alone, without the driver API: a device of its own, with its own options, for each run.

use std::{collections::BTreeSet, sync::Arc};

use cuda::machine::{Device, LaunchConfig, Module, Options, memory::AllocationKind};

use super::gpu::{Arg, Buffer, Failure, Gpu, Shape};

/// Enough for every case.
const MEMORY: u64 = 64 << 20;

/// A device with one module.
pub struct Machine {
    device: Arc<Device>,
    module: Module,
    buffers: Vec<(u64, usize)>,
    /// Warp instructions of the largest launch so far; zero where the options ask for no counters.
    pub largest_launch: u64,
    /// Names of the kernels that were launched.
    pub launched: BTreeSet<String>,
}

impl Machine {
    /// Loads a module's text.
    pub fn new(ptx: &str, options: Options) -> Result<Self, Failure> {
        let device = Device::new(Options { memory_bytes: MEMORY, ..options });
        let module = Module::load(&device, ptx).map_err(|e| Failure::Load(e.to_string()))?;
        Ok(Self { device, module, buffers: Vec::new(), largest_launch: 0, launched: BTreeSet::new() })
    }
}

impl Gpu for Machine {
    fn allocate(&mut self, bytes: usize) -> Buffer {
        let address = self.device.memory.allocate(bytes as u64, AllocationKind::Device).expect("it fits");
        self.buffers.push((address, bytes));
        Buffer(self.buffers.len() - 1)
    }

    fn write(&mut self, buffer: Buffer, offset: usize, bytes: &[u8]) {
        self.device.memory.write(self.buffers[buffer.0].0 + offset as u64, bytes).expect("inside the buffer");
    }

    fn read(&mut self, buffer: Buffer) -> Vec<u8> {
        let (address, len) = self.buffers[buffer.0];
        let mut bytes = vec![0; len];
        self.device.memory.read(address, &mut bytes).expect("inside the buffer");
        bytes
    }

    fn launch(&mut self, kernel: &str, shape: Shape, args: &[Arg]) -> Result<(), Failure> {
        let kernel = self.module.kernels.get(kernel).expect("the module has the kernel");
        assert_eq!(kernel.parameters.len(), args.len(), "arguments of {}", kernel.name);
        self.launched.insert(kernel.name.clone());
        let mut params = vec![0; kernel.parameter_bytes as usize];
        for (parameter, arg) in kernel.parameters.iter().zip(args) {
            let address;
            let bytes: &[u8] = match arg {
                Arg::Buffer(b) => {
                    address = self.buffers[b.0].0;
                    bytemuck::bytes_of(&address)
                }
                Arg::I32(x) => bytemuck::bytes_of(x),
                Arg::I64(x) => bytemuck::bytes_of(x),
                Arg::F32(x) => bytemuck::bytes_of(x),
                Arg::F32x7(x) => bytemuck::bytes_of(x),
            };
            assert_eq!(parameter.size as usize, bytes.len(), "an argument of {}", kernel.name);
            params[parameter.offset as usize..][..bytes.len()].copy_from_slice(bytes);
        }
        let config = LaunchConfig {
            grid: shape.grid,
            block: shape.block,
            dynamic_shared: 0,
            cooperative: shape.cooperative,
            sample: None,
        };
        let counters = self
            .device
            .launch(kernel, config, &params)
            .map_err(|fault| Failure::Report(format!("{:?}", fault.kind), fault.to_string()))?;
        self.largest_launch = self.largest_launch.max(counters.warp_instructions());
        Ok(())
    }
}
