//! From PTX text to programs: what is refused and why, where operands lie, calls, registers.

mod accepted;
mod calls;
mod interpreter;
mod limits;
mod operands;
mod refused;
mod registers;
mod tracked;

use std::sync::Arc;

use cuda::machine::{Device, Kernel, LoadError, Module, Options};

/// A device with little memory.
fn device() -> Arc<Device> {
    Device::new(Options { memory_bytes: 1 << 20, ..Options::default() })
}

/// Loads a module.
fn load(text: &str) -> Result<Module, LoadError> {
    Module::load(&device(), text)
}

/// A module with one kernel `k`, for a target, around some instructions. The first of them is on line [`FIRST`].
fn module(target: &str, body: &str) -> String {
    format!(
        ".version 9.0\n.target {target}\n.address_size 64\n\
         .global .align 16 .b8 g[64];\n.const .align 16 .b8 c[64];\n.shared .align 16 .b8 s[64];\n\
         .visible .entry k(.param .u64 p0, .param .u32 p1)\n{{\n\
         .reg .pred %p<9>;\n.reg .b16 %rs<9>;\n.reg .b32 %r<20>;\n.reg .f32 %f<20>;\n.reg .b64 %rd<9>;\n\
         .reg .f64 %fd<9>;\n{body}\nret;\n}}\n"
    )
}

/// The line of the first instruction in [`module`].
const FIRST: u32 = 15;

/// The kernel `k` around some instructions.
fn kernel(body: &str) -> Arc<Kernel> {
    named(&module("sm_80", body), "k")
}

/// A kernel of a module.
fn named(text: &str, name: &str) -> Arc<Kernel> {
    load(text).unwrap_or_else(|e| panic!("{e}\n{text}")).kernels[name].clone()
}
