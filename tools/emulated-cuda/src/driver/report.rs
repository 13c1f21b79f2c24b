//! What went wrong and what launches did: reports on stderr and for the program to read.

use std::{io::Write, sync::OnceLock};

use serde::Serialize;

use super::{
    context::Context,
    handles::Id,
    state::{Driver, State, started},
    status::Status,
};
use crate::machine::{Counters, CountersOutput, Fault, FaultKind, LaunchConfig, memory::AllocationKind};

/// Reports kept for the program at most; a context stops at its first, but a process may have many contexts.
const KEPT: usize = 1024;

/// A launch that was counted.
#[derive(Clone, Debug)]
pub struct LaunchRecord {
    /// The kernel's name.
    pub kernel: String,
    /// What was launched.
    pub config: LaunchConfig,
    /// What it did.
    pub counters: Counters,
    /// How long the emulation took, which says nothing of hardware.
    pub nanoseconds: u64,
}

/// Memory that was still allocated when its context went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leak {
    /// Its device address.
    pub address: u64,
    /// Its bytes.
    pub size: u64,
    /// What it was allocated as.
    pub kind: AllocationKind,
}

/// What happened so far.
#[derive(Default)]
pub struct Log {
    /// Launches, where they are counted.
    pub launches: Vec<LaunchRecord>,
    /// Faults.
    pub faults: Vec<Fault>,
    /// Leaks.
    pub leaks: Vec<Leak>,
}

/// Writes a report, every line marked as a tool's.
fn print(text: &str) {
    let lines: String = text.lines().map(|line| format!("========= {line}\n")).collect();
    // A report that nobody can read is no reason to stop.
    let _ = std::io::stderr().lock().write_all(lines.as_bytes());
}

/// Reports a fault; the status that it poisons its context with.
pub fn fault(driver: &Driver, fault: Fault) -> Status {
    let status = status_of(fault.kind);
    if fault.kernel.is_empty() {
        print(&format!("{:?}: {}", fault.kind, fault.message));
    } else {
        print(&fault.to_string());
    }
    let mut log = driver.log();
    if log.faults.len() < KEPT {
        log.faults.push(fault);
    }
    status
}

fn status_of(kind: FaultKind) -> Status {
    match kind {
        FaultKind::IllegalAddress => Status::ILLEGAL_ADDRESS,
        FaultKind::Misaligned => Status::MISALIGNED_ADDRESS,
        FaultKind::Assert => Status::ASSERT,
        // On hardware both hang until a watchdog ends them.
        FaultKind::Limit | FaultKind::Deadlock => Status::LAUNCH_TIMEOUT,
        FaultKind::Uninitialised
        | FaultKind::Race
        | FaultKind::AsyncCopy
        | FaultKind::Barrier
        | FaultKind::Trap
        | FaultKind::Undefined => Status::LAUNCH_FAILED,
    }
}

impl Driver {
    /// Reports the memory that a context leaves behind, or that all of them do.
    pub fn report_leaks(&self, state: &State, context: Option<Id<Context>>) {
        let owned =
            state.allocations.iter().filter(|(_, a)| context.is_none_or(|c| a.context == c) && !a.dying);
        let leaks: Vec<Leak> = owned
            .filter_map(|(&address, _)| self.device.memory.find(address))
            .map(|found| Leak { address: found.address, size: found.size, kind: found.kind })
            .collect();
        if leaks.is_empty() {
            return;
        }
        let total: u64 = leaks.iter().map(|leak| leak.size).sum();
        let mut text = format!("Leaked {total} bytes in {} allocations", leaks.len());
        for Leak { address, size, kind } in leaks.iter().take(KEPT) {
            text += &format!("\n  {size} bytes of {kind:?} memory at {address:#x}");
        }
        print(&text);
        let mut log = self.log();
        let room = KEPT.saturating_sub(log.leaks.len());
        log.leaks.extend(leaks.into_iter().take(room));
    }

    /// Writes the counters of every launch so far to where the options say: the table only when the process
    /// ends.
    pub fn write_counters(&self, last: bool) {
        let Some(output) = &self.device.options.counters_output else { return };
        let log = self.log();
        let result = match output {
            CountersOutput::Stderr if !last => Ok(()),
            CountersOutput::Stderr => std::io::stderr().lock().write_all(table(&log.launches).as_bytes()),
            CountersOutput::File(path) => {
                let rows: Vec<_> = log.launches.iter().map(Row::from).collect();
                serde_json::to_vec_pretty(&rows)
                    .map_err(Into::into)
                    .and_then(|json| std::fs::write(path, json))
            }
        };
        if let Err(error) = result {
            eprintln!("emulated-cuda: cannot write the counters to {output:?}: {error}");
        }
    }
}

/// A launch in the JSON file.
#[derive(Serialize)]
struct Row<'a> {
    kernel: &'a str,
    grid: [u32; 3],
    block: [u32; 3],
    dynamic_shared: u32,
    nanoseconds: u64,
    counters: &'a Counters,
}

impl<'a> From<&'a LaunchRecord> for Row<'a> {
    fn from(record: &'a LaunchRecord) -> Self {
        let LaunchRecord { kernel, config, counters, nanoseconds } = record;
        let LaunchConfig { grid, block, dynamic_shared, .. } = *config;
        Self { kernel, grid, block, dynamic_shared, nanoseconds: *nanoseconds, counters }
    }
}

/// A line for each kernel, its launches added up.
fn table(launches: &[LaunchRecord]) -> String {
    let mut kernels: Vec<(&str, u64, Counters)> = Vec::new();
    for launch in launches {
        match kernels.iter_mut().find(|(name, ..)| *name == launch.kernel) {
            Some((_, count, sum)) => {
                *count += 1;
                sum.add(&launch.counters);
            }
            None => kernels.push((&launch.kernel, 1, launch.counters.clone())),
        }
    }
    let mut text = format!(
        "{:>8} {:>14} {:>12} {:>12} {:>12} {:>12} {:>10} {:>10}  kernel\n",
        "launches", "warp insts", "load sect", "ideal", "store sect", "ideal", "shared", "ideal"
    );
    for (name, count, sum) in kernels {
        text += &format!(
            "{count:>8} {:>14} {:>12} {:>12} {:>12} {:>12} {:>10} {:>10}  {name}\n",
            sum.warp_instructions(),
            sum.global_load.sectors,
            sum.global_load.ideal_sectors,
            sum.global_store.sectors,
            sum.global_store.ideal_sectors,
            sum.shared_load.wavefronts + sum.shared_store.wavefronts,
            sum.shared_load.ideal + sum.shared_store.ideal,
        );
    }
    text
}

/// Sees to it that leaks and counters are reported when the process ends.
pub fn register_exit() {
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| {
        // SAFETY: the function has the signature that `atexit` calls; where this library is unloaded before
        // the process ends, the C library calls it then.
        unsafe { libc::atexit(at_exit) };
    });
}

extern "C" fn at_exit() {
    let Some(driver) = started() else { return };
    // A thread that the end of the process stopped inside a call may hold the lock.
    let Some(state) = driver.try_lock() else { return };
    if driver.device.options.checks.leaks {
        driver.report_leaks(&state, None);
    }
    drop(state);
    driver.write_counters(true);
}
