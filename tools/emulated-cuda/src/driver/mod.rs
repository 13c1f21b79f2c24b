//! The CUDA driver API, version 13.0, of one device of compute capability 8.0.
//!
//! - `ffi`, `status`, `handles`: the border to C.
//! - `state`, `context`, `device`, `attributes`: what there is.
//! - `queue`, `work`, `stream`, `event`, `graph`: when things run.
//! - `memory`, `module`, `launch`: what runs.
//! - `report`: what went wrong, and the counters.
//! - `proc_address`, `unsupported`: the rest of the symbols.
//!
//! Exported functions are named as in `cuda.h` and documented there; comments here say what is special.

// Names and long argument lists are the API's own, and its functions are called from C, whose callers keep to
// its documentation.
#![allow(non_snake_case, clippy::too_many_arguments)]

mod attributes;
mod context;
mod device;
mod event;
mod ffi;
mod graph;
mod handles;
mod launch;
mod memory;
mod module;
mod proc_address;
mod queue;
mod report;
mod state;
mod status;
mod stream;
mod unsupported;
mod work;

use std::sync::Arc;

pub use report::{LaunchRecord, Leak};

use crate::machine::{Device, Fault, Options};
pub(crate) use ffi::Export;

/// Every exported function.
pub(crate) fn exports() -> impl Iterator<Item = &'static Export> {
    let rooms = [context::EXPORTS, device::EXPORTS, event::EXPORTS, proc_address::EXPORTS, stream::EXPORTS];
    let rooms = rooms.into_iter().chain(graph::ALL_EXPORTS).chain(launch::ALL_EXPORTS);
    let rooms = rooms.chain(memory::ALL_EXPORTS).chain(module::ALL_EXPORTS).chain([unsupported::EXPORTS]);
    rooms.flatten()
}

/// Makes the driver of this process with these options. The options that it has, if it was there already.
pub(crate) fn start(options: Options) -> &'static Options {
    &state::start(|| options).device.options
}

/// The device that the driver runs on, once it was installed or a program has called `cuInit`.
pub fn device() -> Option<Arc<Device>> {
    state::started().map(|driver| driver.device.clone())
}

/// Every launch so far, where [`Options::counters`] is on.
pub fn launches() -> Vec<LaunchRecord> {
    state::started().map(|driver| driver.log().launches.clone()).unwrap_or_default()
}

/// As [`launches`], and forgets them.
pub fn take_launches() -> Vec<LaunchRecord> {
    state::started().map(|driver| std::mem::take(&mut driver.log().launches)).unwrap_or_default()
}

/// Every fault so far, at most 1024.
pub fn reports() -> Vec<Fault> {
    state::started().map(|driver| driver.log().faults.clone()).unwrap_or_default()
}

/// As [`reports`], and forgets them.
pub fn take_reports() -> Vec<Fault> {
    state::started().map(|driver| std::mem::take(&mut driver.log().faults)).unwrap_or_default()
}

/// Memory that contexts left allocated when they went, at most 1024 allocations.
pub fn leaks() -> Vec<Leak> {
    state::started().map(|driver| driver.log().leaks.clone()).unwrap_or_default()
}
