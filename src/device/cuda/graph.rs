//! Graphs: work that is recorded once and then launched as one piece, without the host's part of each kernel.
//!
//! While a thread captures, what it puts on the device's stream goes to a stream of the capture's own and does not run; other threads
//! go on as before. A launch runs the same kernels on the same addresses again, so everything that they touch has to stay where it
//! is: memory that is allocated meanwhile comes from a reserve that nobody else uses, and tensors from before are kept alive.

use std::any::Any;
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use cudarc::driver::{result, sys};

use super::driver::check;
use super::memory::Reserve;
use super::{Buffer, CudaDevice};
use crate::{Error, Result};

/// What keeps an operand of a graph alive.
type Keeper = Arc<dyn Any + Send + Sync>;

/// A capture in progress.
struct Capture {
    device: &'static CudaDevice,
    stream: usize,
    reserve: Arc<Reserve>,
    /// Operands from before, by address.
    operands: HashMap<u64, Keeper>,
}

thread_local! {
    /// What this thread is capturing.
    static CAPTURE: RefCell<Option<Capture>> = const { RefCell::new(None) };
}

/// Calls `f` with this thread's capture, if there is one on the device.
fn with_capture<R>(device: &CudaDevice, f: impl FnOnce(&mut Capture) -> R) -> Option<R> {
    CAPTURE.with_borrow_mut(|capture| {
        capture.as_mut().filter(|capture| std::ptr::eq(capture.device, device)).map(f)
    })
}

/// The stream that this thread's work goes to while it captures.
pub(super) fn stream(device: &CudaDevice) -> Option<usize> {
    with_capture(device, |capture| capture.stream)
}

/// Where this thread's memory comes from while it captures.
pub(super) fn reserve(device: &CudaDevice) -> Option<Arc<Reserve>> {
    with_capture(device, |capture| Arc::clone(&capture.reserve))
}

/// An error if this thread captures: for what cannot be done again by a launch.
pub(super) fn refuse(device: &CudaDevice, what: impl FnOnce() -> String) -> Result<()> {
    match with_capture(device, |_| ()) {
        None => Ok(()),
        Some(()) => {
            let detail = "it cannot be part of a graph: do it before the capture or after the launch";
            Err(Error::Cuda { what: what(), detail: detail.into() })
        }
    }
}

impl CudaDevice {
    /// To be called for every operand of device work: a capture keeps it alive for its graph, unless it is the graph's own.
    pub(crate) fn keep_operand<T: Any + Send + Sync>(&self, buffer: &Buffer, keeper: &Arc<T>) {
        with_capture(self, |capture| {
            if !buffer.is_of(&capture.reserve) {
                let keeper = || Arc::clone(keeper) as Keeper;
                capture.operands.entry(buffer.address()).or_insert_with(keeper);
            }
        });
    }

    /// Records the device work that `record` queues, instead of running it: a [`Graph`], and what `record` returned. Tensors that it
    /// returns are written by every launch, and hold nothing before the first.
    ///
    /// Work that changes from launch to launch has to read what changes from device memory. Kernels should have been loaded and run
    /// before (a first time without a graph): then the capture calls nothing of the driver that might wait.
    ///
    /// # Errors
    /// Those of `record`, after which nothing is left of the capture; [`Error::Cuda`] for what cannot be part of a graph: a copy from
    /// or to the host, a wait, a launch of another graph or a capture within this one.
    pub fn capture<T>(&'static self, record: impl FnOnce() -> Result<T>) -> Result<(Graph, T)> {
        let recording = Recording::begin(self)?;
        let outcome = record();
        let graph = recording.end();
        // An error of the recorded work says more than what the driver makes of it.
        let outcome = outcome?;
        Ok((graph?, outcome))
    }
}

/// A capture of the calling thread. Dropped, it leaves no trace.
struct Recording {
    device: &'static CudaDevice,
    stream: usize,
}

impl Recording {
    fn begin(device: &'static CudaDevice) -> Result<Recording> {
        let what = || format!("a capture on {}", device.name());
        if CAPTURE.with_borrow(Option::is_some) {
            return Err(Error::Cuda { what: what(), detail: "this thread is capturing already".into() });
        }
        device.bind()?;
        let stream = check(result::stream::create(result::stream::StreamKind::NonBlocking), what)?;
        let recording = Recording { device, stream: stream as usize };
        // Relaxed: allocations and the loading of kernels are calls that a stricter capture forbids its thread.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        // SAFETY: the stream is alive, until `recording` is dropped.
        check(unsafe { result::stream::begin_capture(stream, mode) }, what)?;
        let capture = Capture {
            device,
            stream: stream as usize,
            reserve: Arc::new(Reserve::new(device)),
            operands: HashMap::new(),
        };
        CAPTURE.set(Some(capture));
        Ok(recording)
    }

    /// The graph of what was recorded.
    fn end(self) -> Result<Graph> {
        let what = || format!("the graph of a capture on {}", self.device.name());
        let Some((graph, capture)) = self.finish() else {
            return Err(Error::Cuda { what: what(), detail: "the capture has ended".into() });
        };
        let graph = check(graph, what)?;
        let flags = sys::CUgraphInstantiate_flags(0);
        // SAFETY: the graph was just captured; it is not used again after it has been destroyed.
        let exec = unsafe {
            let exec = result::graph::instantiate(graph, flags);
            // Its memory is the host's; a failure would leak it and change nothing.
            let _ = result::graph::destroy(graph);
            exec
        };
        Ok(Graph {
            device: self.device,
            exec: check(exec, what)? as usize,
            _reserve: capture.reserve,
            _operands: capture.operands.into_values().collect(),
        })
    }

    /// Ends the capture, if it has not ended: what the driver made of it.
    fn finish(&self) -> Option<(Result<sys::CUgraph, result::DriverError>, Capture)> {
        let capture = CAPTURE.take()?;
        // SAFETY: the stream is alive, and its capture began on this thread.
        Some((unsafe { result::stream::end_capture(self.stream as sys::CUstream) }, capture))
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        if let Some((Ok(graph), _)) = self.finish()
            && !graph.is_null()
        {
            // SAFETY: nobody else has the graph.
            let _ = unsafe { result::graph::destroy(graph) };
        }
        // SAFETY: the stream captures no more, ran nothing, and is not used again.
        let _ = unsafe { result::stream::destroy(self.stream as sys::CUstream) };
    }
}

/// Recorded work of a device; it keeps alive all memory that the work touches.
pub struct Graph {
    device: &'static CudaDevice,
    exec: usize,
    _reserve: Arc<Reserve>,
    _operands: Vec<Keeper>,
}

impl Graph {
    /// Queues the recorded work on the device's stream, once more.
    ///
    /// # Errors
    /// [`Error::Cuda`] as the driver says; within a capture.
    pub fn launch(&mut self) -> Result<()> {
        let what = || format!("a graph on {}", self.device.name());
        refuse(self.device, what)?;
        self.device.bind()?;
        let exec = self.exec as sys::CUgraphExec;
        // SAFETY: the executable graph is alive, nobody launches it at the same time (`&mut`), and all memory that it touches is kept:
        // its own by the reserve, that from before by the operands.
        check(unsafe { result::graph::launch(exec, self.device.stream()) }, what)
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        if self.device.bind().is_ok() {
            // SAFETY: nobody else has it; launches that were queued still run, and the memory goes back after them, in stream
            // order. A failure is that of an earlier kernel, which the next call reports.
            let _ = unsafe { result::graph::exec_destroy(self.exec as sys::CUgraphExec) };
        }
    }
}
