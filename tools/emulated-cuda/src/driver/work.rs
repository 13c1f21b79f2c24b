//! What an operation on a stream does.

use std::{ffi::c_void, sync::Arc, time::Instant};

use super::{
    event::Event,
    handles::Id,
    launch::Launch,
    memory::{copy::Copy, set::Fill},
    queue::timed,
    report,
    state::{Driver, IN_CALLBACK},
    status::{Outcome, Status},
    stream::Stream,
};
use crate::machine::{Fault, FaultKind, memory::MemoryError};

/// `CUhostFn`
pub type HostFunction = unsafe extern "C" fn(user: *mut c_void);
/// `CUstreamCallback`
pub type StreamCallback = unsafe extern "C" fn(stream: Id<Stream>, status: Status, user: *mut c_void);

/// A host function and what it is called with.
#[derive(Clone, Copy, Debug)]
pub struct HostCall {
    /// The function.
    pub function: HostFunction,
    /// Its argument.
    pub user: usize,
}

/// What an operation does.
#[derive(Clone)]
pub enum Work {
    /// Nothing: it only waits, or is waited for.
    Nothing,
    /// Runs a kernel.
    Kernel(Launch),
    /// Copies memory.
    Copy(Copy),
    /// Sets memory.
    Fill(Fill),
    /// Calls a host function, unless the context is poisoned.
    Host(HostCall),
    /// Calls a host function with the status of the context.
    Callback(Id<Stream>, StreamCallback, usize),
    /// Frees memory.
    Free(u64),
    /// Notes the time in an event.
    Record(Id<Event>),
    /// Runs the nodes of a graph in this order.
    Graph(Arc<Vec<Work>>),
}

impl Work {
    /// Bytes of host memory that it holds a copy of.
    pub fn staged(&self) -> usize {
        match self {
            Work::Copy(copy) => copy.staged(),
            _ => 0,
        }
    }

    /// Whether it calls a function of the program.
    pub fn calls_host(&self) -> bool {
        match self {
            Work::Host(_) | Work::Callback(..) => true,
            Work::Graph(nodes) => nodes.iter().any(Work::calls_host),
            _ => false,
        }
    }

    /// Does it, and moves the clock of its stream from its start to its end. In a poisoned context only
    /// callbacks run. The status of a failure, which poisons the context.
    pub fn run(&self, driver: &'static Driver, sticky: Option<Status>, clock: &mut Instant) -> Outcome {
        if let Work::Callback(stream, callback, user) = *self {
            let status = sticky.unwrap_or(Status::SUCCESS);
            // SAFETY: the program passed the function to be called with this argument, from any thread.
            timed(clock, || host(|| unsafe { callback(stream, status, user as *mut c_void) }));
            return Ok(());
        }
        if sticky.is_some() {
            return Ok(());
        }
        match self {
            Work::Nothing | Work::Callback(..) => Ok(()),
            Work::Kernel(launch) => driver.engine(clock, || launch.run(driver)),
            Work::Copy(copy) => {
                let copied = driver.engine(clock, || copy.run(&driver.device.memory));
                copied.or_else(|e| fail(driver, "copy", &e))
            }
            Work::Fill(fill) => {
                let filled = driver.engine(clock, || fill.run(&driver.device.memory));
                filled.or_else(|e| fail(driver, "set", &e))
            }
            Work::Host(call) => {
                // SAFETY: the program passed the function to be called with this argument, from any thread.
                timed(clock, || host(|| unsafe { (call.function)(call.user as *mut c_void) }));
                Ok(())
            }
            Work::Free(address) => {
                driver.lock().allocations.remove(address);
                let freed = driver.engine(clock, || driver.device.memory.free(*address));
                freed.map(drop).or_else(|e| fail(driver, "free", &e))
            }
            Work::Record(event) => {
                if let Ok(event) = driver.lock().events.get_mut(*event) {
                    event.time = Some(*clock);
                }
                Ok(())
            }
            Work::Graph(nodes) => nodes.iter().try_for_each(|node| node.run(driver, None, clock)),
        }
    }
}

/// Calls a function of the program, which may not call the driver meanwhile.
fn host(call: impl FnOnce()) {
    IN_CALLBACK.set(true);
    call();
    IN_CALLBACK.set(false);
}

/// Reports memory that was gone when a stream came to use it.
fn fail(driver: &Driver, operation: &str, error: &MemoryError) -> Outcome {
    let fault = Fault {
        kind: FaultKind::IllegalAddress,
        message: format!("a memory {operation} of a stream found its memory gone: {error}"),
        kernel: String::new(),
        block: [0; 3],
        thread: [0; 3],
        line: 0,
        text: String::new(),
        source: None,
    };
    Err(report::fault(driver, fault))
}
