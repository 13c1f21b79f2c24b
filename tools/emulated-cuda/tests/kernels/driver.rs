//! A GPU behind the driver API, as cudarc's safe layer reaches it.

use std::sync::Arc;

use cuda::machine::Options;
use cudarc::{
    driver::{CudaContext, CudaModule, CudaSlice, CudaStream, LaunchConfig, PushKernelArg},
    nvrtc::Ptx,
};

use super::gpu::{Arg, Buffer, Failure, Gpu, Shape};

/// A context with one module.
pub struct Driver {
    stream: Arc<CudaStream>,
    module: Arc<CudaModule>,
    buffers: Vec<CudaSlice<u8>>,
}

impl Driver {
    /// Loads a module's text on device 0.
    pub fn new(ptx: &str) -> Result<Self, Failure> {
        cuda::install(Options::default()).expect("no other driver is loaded");
        let context = CudaContext::new(0).expect("a device");
        let module = context.load_module(Ptx::from_src(ptx)).map_err(|e| Failure::Load(e.to_string()))?;
        Ok(Self { stream: context.default_stream(), module, buffers: Vec::new() })
    }
}

impl Gpu for Driver {
    fn allocate(&mut self, bytes: usize) -> Buffer {
        // SAFETY: a kernel that read what nobody wrote would be reported; that is part of what the cases test.
        self.buffers.push(unsafe { self.stream.alloc(bytes) }.expect("memory"));
        Buffer(self.buffers.len() - 1)
    }

    fn write(&mut self, buffer: Buffer, offset: usize, bytes: &[u8]) {
        let mut target = self.buffers[buffer.0].slice_mut(offset..offset + bytes.len());
        self.stream.memcpy_htod(bytes, &mut target).expect("a copy to the device");
    }

    fn read(&mut self, buffer: Buffer) -> Vec<u8> {
        self.stream.clone_dtoh(&self.buffers[buffer.0]).expect("a copy from the device")
    }

    fn launch(&mut self, kernel: &str, shape: Shape, args: &[Arg]) -> Result<(), Failure> {
        let function = self.module.load_function(kernel).expect("the module has the kernel");
        let mut builder = self.stream.launch_builder(&function);
        for arg in args {
            match arg {
                Arg::Buffer(b) => builder.arg(&self.buffers[b.0]),
                Arg::I32(x) => builder.arg(x),
                Arg::I64(x) => builder.arg(x),
                Arg::F32(x) => builder.arg(x),
                Arg::F32x7(x) => builder.arg(x),
            };
        }
        let [grid_dim, block_dim] = [shape.grid, shape.block].map(|[x, y, z]| (x, y, z));
        let config = LaunchConfig { grid_dim, block_dim, shared_mem_bytes: 0 };
        // SAFETY: the emulator checks every access of the kernel.
        let launched = unsafe {
            match shape.cooperative {
                false => builder.launch(config).map(|_| ()),
                true => builder.launch_cooperative(config).map(|_| ()),
            }
        };
        launched
            .and_then(|()| self.stream.synchronize())
            .map_err(|e| Failure::Report("driver error".into(), e.to_string()))
    }
}
