//! How fast the machine runs kernels that nvcc made: thread instructions a second on one thread, with the checks on and off.
//!
//! `cargo bench -p emulated-cuda` from the root of the repository; a filter after `--` chooses among them.

use std::{fs, path::Path, sync::Arc, time::Duration};

use criterion::{Criterion, Throughput};
use cuda::machine::{Checks, Device, LaunchConfig, Module, Options, memory::AllocationKind};

/// A kernel on inputs of its own.
struct Problem {
    name: &'static str,
    kernel: &'static str,
    /// Elements of its buffers, in the order of its parameters, and the bytes of one.
    buffers: &'static [(usize, usize)],
    /// The parameters that follow, 4 bytes each.
    scalars: &'static [u32],
    grid: [u32; 3],
    threads: u32,
}

const PROBLEMS: &[Problem] = &[
    Problem {
        name: "gemm_mma 256 x 256 x 512",
        kernel: "gemm_mma",
        buffers: &[(256 * 512, 2), (512 * 256, 2), (256 * 256, 4)],
        scalars: &[256, 256, 512, 512, 256],
        grid: [4, 4, 1],
        threads: 128,
    },
    Problem {
        name: "gemm_f32 128 x 128 x 128",
        kernel: "gemm_f32",
        buffers: &[(128 * 128, 4), (128 * 128, 4), (128 * 128, 4)],
        scalars: &[128, 128, 128],
        grid: [4, 4, 1],
        threads: 256,
    },
];

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(1500))
        .without_plots()
        .configure_from_args();
    for problem in PROBLEMS {
        for (checks, words) in [(Checks::NONE, "checks off"), (Checks::ALL, "all checks on")] {
            bench(&mut criterion, problem, checks, words);
        }
    }
    criterion.final_summary();
}

fn bench(criterion: &mut Criterion, problem: &Problem, checks: Checks, words: &str) {
    let options =
        |counters| Options { checks, counters, threads: 1, memory_bytes: 64 << 20, ..Options::default() };
    let count = Run::new(problem, options(true)).launch();
    let run = Run::new(problem, options(false));
    let mut group = criterion.benchmark_group("thread instructions");
    group.throughput(Throughput::Elements(count));
    group.bench_function(format!("{}, {words}", problem.name), |b| b.iter(|| run.launch()));
    group.finish();
}

/// A problem on a device.
struct Run {
    device: Arc<Device>,
    module: Module,
    problem: &'static str,
    config: LaunchConfig,
    params: Vec<u8>,
}

impl Run {
    fn new(problem: &Problem, options: Options) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kernels/ptx/nvcc");
        let text =
            fs::read_to_string(folder.join(problem.kernel).with_extension("ptx")).expect("the kernel's PTX");
        let device = Device::new(options);
        let module = Module::load(&device, &text).expect("a module");
        let kernel = &module.kernels[problem.kernel];
        let mut params = vec![0; kernel.parameter_bytes as usize];
        let mut set = |index: usize, bytes: &[u8]| {
            let at = kernel.parameters[index].offset as usize;
            params[at..at + bytes.len()].copy_from_slice(bytes);
        };
        for (index, &(elements, size)) in problem.buffers.iter().enumerate() {
            let address =
                device.memory.allocate((elements * size) as u64, AllocationKind::Device).expect("memory");
            // Small numbers of either type, no two neighbours alike.
            let element = |i: usize| {
                let value = 0.25 + (i * 2_654_435_761 % 1024) as f32 / 2048.0;
                value.to_le_bytes()[4 - size..].to_vec()
            };
            let bytes: Vec<u8> = (0..elements).flat_map(element).collect();
            device.memory.write(address, &bytes).expect("a copy");
            set(index, &address.to_le_bytes());
        }
        for (index, scalar) in problem.scalars.iter().enumerate() {
            set(problem.buffers.len() + index, &scalar.to_le_bytes());
        }
        let config = LaunchConfig {
            grid: problem.grid,
            block: [problem.threads, 1, 1],
            dynamic_shared: 0,
            cooperative: false,
            sample: None,
        };
        Self { device, module, problem: problem.kernel, config, params }
    }

    /// Runs it; returns its thread instructions where they are counted.
    fn launch(&self) -> u64 {
        let kernel = &self.module.kernels[self.problem];
        self.device.launch(kernel, self.config, &self.params).expect("no fault").thread_instructions
    }
}
