//! Tests of the driver API, through cudarc's safe layer and through the exported functions themselves.
//!
//! The driver belongs to the process, the tests run in threads: every test works in a context of its own, and
//! what poisons a context poisons only that. What concerns the whole process (counters written at its end, a
//! driver that is there already) runs in a child process.

mod device;
mod errors;
mod events;
mod fatbins;
mod graphs;
mod installed;
mod launches;
mod limits;
mod memory;
mod modules;
mod options;
mod order;
mod support;
mod symbols;
