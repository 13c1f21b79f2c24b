//! Any text, loaded as a module: an error, or kernels that run to their end or to a fault. What it took of the device's
//! memory comes back.
#![no_main]

use emulated_cuda::machine::{Checks, Device, Kernel, LaunchConfig, Module, Options, memory::AllocationKind};
use libfuzzer_sys::fuzz_target;

/// Threads of a block: a warp, and a part of one.
const THREADS: u32 = 40;
/// Shared memory of a block at most, as the driver would have it.
const SHARED: u32 = 163 << 10;
/// Local memory of a thread at most: less than the driver allows, so that poisoning it takes no time.
const LOCAL: u32 = 16 << 10;
/// Bytes of the buffer that pointers among the parameters point to.
const BUFFER: u64 = 16 << 10;

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let device = Device::new(Options {
        checks: Checks::ALL,
        counters: true,
        seed: data.len() as u64,
        threads: 1,
        instruction_limit: 20_000,
        memory_bytes: 1 << 20,
        ..Options::default()
    });
    let module = match Module::load(&device, &text) {
        Ok(module) => module,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            assert_eq!(device.memory.used(), 0, "a module that was not loaded holds memory");
            return;
        }
    };
    let buffer = device.memory.allocate(BUFFER, AllocationKind::Device).ok();
    if let Some(buffer) = buffer {
        device.memory.fill(buffer, &[0], BUFFER).expect("it was just allocated");
    }
    let mut kernels: Vec<_> = module.kernels.values().collect();
    kernels.sort_by(|a, b| a.name.cmp(&b.name));
    for kernel in kernels {
        if let Some(config) = config(kernel) {
            for params in [vec![0; kernel.parameter_bytes as usize], arguments(kernel, buffer.unwrap_or(0))] {
                if let Err(fault) = device.launch(kernel, config, &params) {
                    assert!(!fault.message.is_empty());
                }
            }
        }
    }
    module.unload(&device);
    if let Some(buffer) = buffer {
        device.memory.free(buffer).expect("it is still there");
    }
    assert_eq!(device.memory.used(), 0, "an unloaded module holds memory");
});

/// A launch that the driver would let through.
fn config(kernel: &Kernel) -> Option<LaunchConfig> {
    let block = kernel.required_threads.unwrap_or([THREADS.min(kernel.max_threads), 1, 1]);
    let threads = block.iter().try_fold(1u32, |all, &n| all.checked_mul(n))?;
    let dynamic_shared = 64;
    let fits = (1..=kernel.max_threads).contains(&threads)
        && kernel.static_shared + dynamic_shared <= SHARED
        && kernel.local_bytes <= LOCAL;
    fits.then_some(LaunchConfig { grid: [2, 1, 1], block, dynamic_shared, cooperative: false, sample: None })
}

/// The buffer for what may be a pointer, and a small number for everything else.
fn arguments(kernel: &Kernel, buffer: u64) -> Vec<u8> {
    let mut params = vec![0; kernel.parameter_bytes as usize];
    for parameter in &kernel.parameters {
        let (at, size) = (parameter.offset as usize, parameter.size as usize);
        let value = if size == 8 { buffer } else { 33 };
        for (byte, value) in params[at..at + size].iter_mut().zip(value.to_le_bytes()) {
            *byte = value;
        }
    }
    params
}
