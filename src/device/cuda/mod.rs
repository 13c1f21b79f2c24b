//! CUDA devices, through the driver alone: context, stream, memory, kernels. All unsafe calls of the driver are here.

mod driver;
mod graph;
mod kernel;
mod memory;
pub mod plan;
mod staging;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};

use cudarc::driver::{result, sys};

use driver::check;
pub use graph::Graph;
pub(crate) use kernel::kernel;
pub use kernel::{Argument, Arguments, Entry, Grid, Pointer, embedded};
pub use memory::{Buffer, MemoryStats};

use crate::device::Device;
use crate::{Error, Result};

/// What a device can do.
#[derive(Clone, Debug)]
pub struct Properties {
    /// Its name.
    pub name: String,
    /// Compute capability, major and minor.
    pub capability: (i32, i32),
    /// Multiprocessors.
    pub multiprocessors: usize,
    /// Shared memory that a block can have, in bytes.
    pub shared_memory: usize,
    /// Its memory in bytes.
    pub memory: usize,
}

/// A CUDA device. It is opened once and stays for the life of the process.
pub struct CudaDevice {
    ordinal: usize,
    properties: Properties,
    context: usize,
    stream: usize,
    pool: memory::Pool,
    staging: staging::Staging,
    loaded: kernel::Loaded,
}

static OPEN: LazyLock<Mutex<HashMap<usize, &'static CudaDevice>>> = LazyLock::new(Mutex::default);

thread_local! {
    /// The context that is current on this thread, as far as this module knows.
    static CURRENT: Cell<usize> = const { Cell::new(0) };
}

/// Whether a CUDA driver library can be loaded.
pub fn driver_present() -> bool {
    // SAFETY: loading the driver's library runs its initialisers, as in any program that uses it.
    unsafe { sys::is_culib_present() }
}

/// The CUDA version that the driver is of, major and minor.
///
/// # Errors
/// [`Error::Cuda`] without a driver, or when it does not tell.
pub fn driver_version() -> Result<(i32, i32)> {
    let version = check_present().and_then(|()| driver::version())?;
    Ok((version / 1000, version % 1000 / 10))
}

/// How many devices there are.
///
/// # Errors
/// [`Error::Cuda`] without a driver, or when it does not start.
pub fn device_count() -> Result<usize> {
    check_present()?;
    check(result::init(), || "starting the driver".into())?;
    Ok(check(result::device::get_count(), || "counting devices".into())?.max(0) as usize)
}

fn check_present() -> Result<()> {
    if driver_present() {
        return Ok(());
    }
    let detail = "no CUDA driver library (libcuda.so) is installed: use the device cpu";
    Err(Error::Cuda { what: "driver".into(), detail: detail.into() })
}

impl CudaDevice {
    /// The device with a number, opened at the first call.
    ///
    /// # Errors
    /// [`Error::Cuda`] when there is no driver or no such device, or it is older than compute capability 8.0.
    pub fn get(ordinal: usize) -> Result<&'static CudaDevice> {
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(device) = open.get(&ordinal) {
            return Ok(device);
        }
        let device = &*Box::leak(Box::new(CudaDevice::open(ordinal)?));
        open.insert(ordinal, device);
        Ok(device)
    }

    fn open(ordinal: usize) -> Result<CudaDevice> {
        let count = device_count()?;
        let what = || format!("device {ordinal}");
        if ordinal >= count {
            return Err(Error::Cuda { what: what(), detail: format!("there are {count}, numbered from 0") });
        }
        let handle = check(result::device::get(ordinal as i32), what)?;
        let attribute = |attribute| {
            // SAFETY: the handle is a device's.
            check(unsafe { result::device::get_attribute(handle, attribute) }, what)
        };
        use sys::CUdevice_attribute as A;
        let properties = Properties {
            name: check(result::device::get_name(handle), what)?,
            capability: (
                attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
                attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
            ),
            multiprocessors: attribute(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?.max(1) as usize,
            shared_memory: attribute(A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?.max(0)
                as usize,
            // SAFETY: the handle is a device's.
            memory: check(unsafe { result::device::total_mem(handle) }, what)?,
        };
        if properties.capability < (8, 0) {
            let (major, minor) = properties.capability;
            let detail = format!("{} has compute capability {major}.{minor}, 8.0 is needed", properties.name);
            return Err(Error::Cuda { what: what(), detail });
        }
        // SAFETY: the handle is a device's; its primary context is kept for the life of the process.
        let context = check(unsafe { result::primary_ctx::retain(handle) }, what)?;
        // SAFETY: the context was just retained.
        check(unsafe { result::ctx::set_current(context) }, what)?;
        CURRENT.set(context as usize);
        let stream = check(result::stream::create(result::stream::StreamKind::NonBlocking), what)?;
        Ok(CudaDevice {
            ordinal,
            properties,
            context: context as usize,
            stream: stream as usize,
            pool: memory::Pool::default(),
            staging: staging::Staging::default(),
            loaded: kernel::Loaded::default(),
        })
    }

    /// Its number.
    pub fn ordinal(&self) -> usize {
        self.ordinal
    }

    /// Where its tensors say that they are.
    pub fn place(&self) -> Device {
        Device::Cuda(self.ordinal)
    }

    /// What it can do.
    pub fn properties(&self) -> &Properties {
        &self.properties
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.properties.name
    }

    /// What its memory is used for.
    pub fn memory_stats(&self) -> MemoryStats {
        self.pool.stats()
    }

    /// Limits the memory that is taken from the driver, in bytes.
    pub fn set_memory_limit(&self, bytes: usize) {
        self.pool.set_limit(bytes);
    }

    /// Whether freed memory is kept for the next tensor (it is, at first). Off, every tensor is an allocation of the
    /// driver's: slow, but a driver that checks accesses then sees each tensor's bounds.
    pub fn set_memory_caching(&'static self, on: bool) {
        self.pool.set_caching(self, on);
    }

    /// Waits until everything that was queued has run.
    ///
    /// # Errors
    /// [`Error::Cuda`] when a kernel failed.
    pub fn synchronize(&self) -> Result<()> {
        let what = || format!("waiting for {}", self.name());
        graph::refuse(self, what)?;
        self.bind()?;
        // SAFETY: the stream lives as long as the device.
        check(unsafe { result::stream::synchronize(self.stream()) }, what)
    }

    /// The grid of an elementwise kernel: see [`Grid::spans`].
    pub(crate) fn spans(&self, elements: usize, pack: usize) -> Grid {
        Grid::spans(elements, pack, self.properties.multiprocessors)
    }

    /// At least `bytes` bytes of memory, not initialised.
    pub(crate) fn allocate(&'static self, bytes: usize) -> Result<Buffer> {
        match graph::reserve(self) {
            Some(reserve) => reserve.take(bytes),
            None => self.pool.take(self, bytes),
        }
    }

    /// At least `bytes` bytes of page-locked host memory, which the device's kernels reach over the bus; not initialised.
    pub(crate) fn allocate_on_host(&'static self, bytes: usize) -> Result<Buffer> {
        self.pool.take_host(self, bytes)
    }

    /// The bytes of the device that a tensor of so many bytes takes.
    pub(crate) fn block_bytes(&self, bytes: usize) -> usize {
        self.pool.block_bytes(bytes)
    }

    /// Bytes of its memory that tensors can still take, by the limit and by what the driver has.
    ///
    /// # Errors
    /// [`Error::Cuda`] when the driver does not tell.
    pub fn memory_room(&'static self) -> Result<usize> {
        self.pool.room(self)
    }

    /// Where the calling thread's work goes.
    fn stream(&self) -> sys::CUstream {
        graph::stream(self).unwrap_or(self.stream) as sys::CUstream
    }

    /// Makes the device's context the calling thread's.
    fn bind(&self) -> Result<()> {
        if CURRENT.get() == self.context {
            return Ok(());
        }
        // SAFETY: the context is retained for the life of the process.
        let set = unsafe { result::ctx::set_current(self.context as sys::CUcontext) };
        check(set, || format!("using {}", self.name()))?;
        CURRENT.set(self.context);
        Ok(())
    }
}
