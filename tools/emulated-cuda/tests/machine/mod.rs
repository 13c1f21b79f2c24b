//! What the machine does with small kernels written by hand: how lanes part and meet, barriers, undefined registers, the
//! order of things, launches; and that no text makes it panic.

mod arithmetic;
mod barriers;
mod bits;
mod control;
mod divergence;
mod hostile;
mod launches;
mod meetings;
mod memory;
mod mutations;
mod registers;

use std::sync::Arc;

use cuda::machine::{
    Checks, Counters, Device, Fault, FaultKind, LaunchConfig, Module, Options, memory::AllocationKind,
};

/// A kernel around some instructions.
///
/// They find the address of the output in `%out`, of the input in `%in`, of the thread's own word of the output in
/// `%mine`; its index in the block in `%t`, in the grid in `%gid`, in the warp in `%lane`.
#[derive(Clone)]
struct Setup {
    options: Options,
    grid: [u32; 3],
    block: [u32; 3],
    dynamic_shared: u32,
    cooperative: bool,
    sample: Option<u32>,
    /// Variables of the module.
    variables: &'static str,
    /// Words of the output, which start as zeros.
    words: usize,
    /// The input.
    input: Vec<u32>,
}

/// What a launch left.
#[derive(Debug, PartialEq)]
struct Ran {
    out: Vec<u32>,
    counters: Counters,
}

impl Setup {
    /// One block of so many threads, with all checks and counters, and a word of output for each.
    fn block(threads: u32) -> Self {
        Self {
            options: Options {
                checks: Checks::ALL,
                counters: true,
                threads: 1,
                instruction_limit: 1_000_000,
                memory_bytes: 1 << 20,
                ..Options::default()
            },
            grid: [1; 3],
            block: [threads, 1, 1],
            dynamic_shared: 0,
            cooperative: false,
            sample: None,
            variables: "",
            words: threads as usize,
            input: vec![0],
        }
    }

    fn text(&self, body: &str) -> String {
        let variables = self.variables;
        format!(
            ".version 8.0\n.target sm_90\n.address_size 64\n{variables}\n\
             .visible .entry k(.param .u64 out, .param .u64 in)\n{{\n\
             .reg .pred %p<16>;\n.reg .b16 %h<8>;\n.reg .b32 %r<64>;\n.reg .b64 %rd<32>;\n\
             .reg .f32 %f<16>;\n.reg .b32 %t, %n, %gid, %lane;\n.reg .b64 %out, %in, %mine;\n\
             ld.param.u64 %out, [out];\nld.param.u64 %in, [in];\nmov.u32 %t, %tid.x;\nmov.u32 %lane, %laneid;\n\
             mov.u32 %gid, %ctaid.x;\nmov.u32 %n, %ntid.x;\nmad.lo.u32 %gid, %gid, %n, %t;\nmad.wide.u32 %mine, %gid, 4, %out;\n\
             {body}\nret;\n}}\n"
        )
    }

    fn run(&self, body: &str) -> Result<Ran, Box<Fault>> {
        self.run_text(&self.text(body))
    }

    /// Runs the kernel `k` of a whole module.
    fn run_text(&self, text: &str) -> Result<Ran, Box<Fault>> {
        let device = Device::new(self.options.clone());
        let module = Module::load(&device, text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        let upload = |words: &[u32]| {
            let bytes: &[u8] = bytemuck::cast_slice(words);
            let address =
                device.memory.allocate(bytes.len() as u64, AllocationKind::Device).expect("it fits");
            device.memory.write(address, bytes).expect("inside");
            address
        };
        let (out, input) = (upload(&vec![0; self.words]), upload(&self.input));
        let Self { grid, block, dynamic_shared, cooperative, sample, .. } = *self;
        let config = LaunchConfig { grid, block, dynamic_shared, cooperative, sample };
        let params: [u8; 16] = bytemuck::cast([out, input]);
        let kernel: &Arc<_> = &module.kernels["k"];
        let bytes = (kernel.parameter_bytes as usize).min(params.len());
        let counters = device.launch(kernel, config, &params[..bytes])?;
        let mut words = vec![0u32; self.words];
        device.memory.read(out, bytemuck::cast_slice_mut(&mut words)).expect("inside");
        Ok(Ran { out: words, counters })
    }

    /// The output of a kernel that does nothing wrong.
    fn out(&self, body: &str) -> Vec<u32> {
        self.run(body).unwrap_or_else(|fault| panic!("{fault}")).out
    }

    /// What a kernel does wrong: its kind, and that what is said holds these words.
    #[track_caller]
    fn fails(&self, body: &str, kind: FaultKind, words: &[&str]) -> Box<Fault> {
        let fault = self.run(body).expect_err("it is wrong");
        let text = fault.to_string();
        assert_eq!(fault.kind, kind, "{text}");
        words.iter().for_each(|word| assert!(text.contains(word), "{word:?} is not in: {text}"));
        fault
    }
}

/// For each thread, what a formula says.
fn each(threads: u32, formula: impl Fn(u32) -> u32) -> Vec<u32> {
    (0..threads).map(formula).collect()
}
