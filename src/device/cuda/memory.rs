//! Device memory: a caching allocator with statistics and a limit.
//!
//! All work of a device runs on one stream, in order, so a freed block can be given out again at once: whatever used it runs
//! before whatever will use it. The driver's own allocation calls, which wait for the device, happen only when the cache has
//! no block that fits. Blocks that a graph's kernels use are set apart for it: see [`Reserve`].
//!
//! Where a device has no room, a buffer can be in page-locked host memory that is mapped into the device's addresses: kernels then read
//! and write it over the bus, each byte once, when they touch it. The alternative is managed memory, whose pages the driver moves
//! (bitsandbytes' paged optimizers). What is touched once a step and in order gains nothing from a page that has moved, evicts other pages for
//! it, and is brought by faults unless it is prefetched; mapped memory costs the same bytes on the bus, in both directions at once, on
//! every platform, and never moves what others need.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::{result, sys};

use super::CudaDevice;
use super::driver::{check, explain};
use super::graph::refuse;
use crate::{Error, Result};

/// Blocks are multiples of this, and so aligned for every access.
const ALIGNMENT: usize = 512;

/// What a device's memory is used for, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryStats {
    /// In tensors that are alive, or set apart for graphs.
    pub in_use: usize,
    /// The most that ever was.
    pub peak: usize,
    /// Taken from the driver: in use, or cached.
    pub reserved: usize,
    /// In page-locked host memory that kernels read and write in place; not among the others.
    pub host: usize,
}

/// Addresses of blocks that nobody uses, by size.
type Free = BTreeMap<usize, Vec<u64>>;

/// The allocator of a device.
#[derive(Default)]
pub(super) struct Pool {
    state: Mutex<State>,
}

struct State {
    free: Free,
    stats: MemoryStats,
    limit: usize,
    caching: bool,
}

impl Default for State {
    fn default() -> State {
        State { free: Free::new(), stats: MemoryStats::default(), limit: usize::MAX, caching: true }
    }
}

/// A block of memory that a device's kernels reach; it goes back to where it came from when dropped.
pub struct Buffer {
    device: &'static CudaDevice,
    address: u64,
    block: usize,
    home: Home,
}

/// Where a block came from.
enum Home {
    /// The device's allocator.
    Pool,
    /// A graph's memory.
    Reserve(Arc<Reserve>),
    /// The host's memory, page-locked, at this address.
    Host(usize),
}

impl Buffer {
    /// The device.
    pub fn device(&self) -> &'static CudaDevice {
        self.device
    }

    /// Its device address.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Whether it is in host memory.
    pub(crate) fn is_on_host(&self) -> bool {
        matches!(self.home, Home::Host(_))
    }

    /// Whether it was allocated from this reserve.
    pub(super) fn is_of(&self, reserve: &Arc<Reserve>) -> bool {
        matches!(&self.home, Home::Reserve(own) if Arc::ptr_eq(own, reserve))
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        match &self.home {
            Home::Pool => self.device.pool.give(self.device, self.address, self.block),
            Home::Reserve(reserve) => reserve.free().entry(self.block).or_default().push(self.address),
            Home::Host(pointer) => self.device.pool.give_host(self.device, *pointer, self.block),
        }
    }
}

/// Memory of one graph: what was allocated while it was captured. A block that was freed meanwhile is given out again within the
/// same capture, since a launch runs everything in the same order; nobody else gets one before the graph and the tensors that it
/// writes are gone.
pub(super) struct Reserve {
    device: &'static CudaDevice,
    free: Mutex<Free>,
}

impl Reserve {
    pub(super) fn new(device: &'static CudaDevice) -> Reserve {
        Reserve { device, free: Mutex::default() }
    }

    fn free(&self) -> MutexGuard<'_, Free> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// At least `bytes` bytes, not initialised.
    pub(super) fn take(self: Arc<Self>, bytes: usize) -> Result<Buffer> {
        let device = self.device;
        let reused = device.pool.cached_block(bytes).and_then(|block| {
            let address = self.free().get_mut(&block).and_then(Vec::pop)?;
            Some((address, block))
        });
        let (address, block) = match reused {
            Some(found) => found,
            None => device.pool.take_block(device, bytes)?,
        };
        Ok(Buffer { device, address, block, home: Home::Reserve(self) })
    }
}

impl Drop for Reserve {
    fn drop(&mut self) {
        for (block, addresses) in std::mem::take(&mut *self.free()) {
            for address in addresses {
                self.device.pool.give(self.device, address, block);
            }
        }
    }
}

/// The size of the block for so many bytes: the next of eight steps between powers of two, so that at most an eighth is wasted.
fn block_size(bytes: usize) -> Option<usize> {
    let step = (bytes.max(1).checked_next_power_of_two()? / 16).max(ALIGNMENT);
    bytes.max(1).checked_next_multiple_of(step)
}

impl Pool {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn stats(&self) -> MemoryStats {
        self.state().stats
    }

    pub(super) fn set_limit(&self, bytes: usize) {
        self.state().limit = bytes;
    }

    /// Without caching every buffer is the driver's own allocation: for finding accesses outside it, and reads of what
    /// nobody wrote, with a driver that looks for them.
    pub(super) fn set_caching(&self, device: &'static CudaDevice, on: bool) {
        let mut state = self.state();
        state.caching = on;
        if !on {
            state.release(device);
        }
    }

    /// The size of the block for so many bytes, if blocks are kept for others.
    fn cached_block(&self, bytes: usize) -> Option<usize> {
        if self.state().caching { block_size(bytes) } else { None }
    }

    /// At least `bytes` bytes, not initialised.
    pub(super) fn take(&self, device: &'static CudaDevice, bytes: usize) -> Result<Buffer> {
        let (address, block) = self.take_block(device, bytes)?;
        Ok(Buffer { device, address, block, home: Home::Pool })
    }

    /// The bytes that a buffer of so many takes.
    pub(super) fn block_bytes(&self, bytes: usize) -> usize {
        self.cached_block(bytes).unwrap_or(bytes.max(1))
    }

    /// How much more can be in use: what is cached, and what the driver has and the limit allows.
    pub(super) fn room(&self, device: &'static CudaDevice) -> Result<usize> {
        let state = self.state();
        device.bind()?;
        let (free, _) = check(result::mem_get_info(), || format!("memory of {}", device.name()))?;
        let cached = state.stats.reserved - state.stats.in_use;
        Ok(free.saturating_add(cached).min(state.limit.saturating_sub(state.stats.in_use)))
    }

    /// At least `bytes` bytes of the host's memory, page-locked and mapped into the addresses of the device. Nothing is cached.
    pub(super) fn take_host(&self, device: &'static CudaDevice, bytes: usize) -> Result<Buffer> {
        let block = bytes.max(1);
        let what =
            || format!("{} MiB of page-locked host memory for {}", block.div_ceil(1 << 20), device.name());
        refuse(device, what)?;
        device.bind()?;
        let flags = sys::CU_MEMHOSTALLOC_DEVICEMAP | sys::CU_MEMHOSTALLOC_PORTABLE;
        // SAFETY: the device's context is current.
        let pointer = check(unsafe { result::malloc_host(block, flags) }, what)?;
        let mut address = 0;
        // SAFETY: the memory was just allocated for this, and `address` is valid for the call.
        let mapped = unsafe { sys::cuMemHostGetDevicePointer_v2(&mut address, pointer, 0) }.result();
        if let Err(error) = check(mapped, what) {
            // SAFETY: nobody else has the pointer.
            let _ = unsafe { result::free_host(pointer) };
            return Err(error);
        }
        self.state().stats.host += block;
        Ok(Buffer { device, address, block, home: Home::Host(pointer as usize) })
    }

    fn give_host(&self, device: &'static CudaDevice, pointer: usize, block: usize) {
        self.state().stats.host -= block;
        if device.bind().is_err() {
            return;
        }
        // A failure here is that of an earlier kernel, which the next call reports; the memory then stays.
        // SAFETY: the stream lives as long as the device.
        if unsafe { result::stream::synchronize(device.stream as sys::CUstream) }.is_ok() {
            // SAFETY: the memory came from the driver, no buffer has it, and what used it has ended.
            let _ = unsafe { result::free_host(pointer as *mut std::ffi::c_void) };
        }
    }

    /// The address and the size of a block of at least `bytes` bytes.
    fn take_block(&self, device: &'static CudaDevice, bytes: usize) -> Result<(u64, usize)> {
        let mut state = self.state();
        let block = if state.caching { block_size(bytes) } else { Some(bytes.max(1)) };
        let too_large =
            || Error::Cuda { what: format!("{bytes} bytes"), detail: "no device has so many".into() };
        let block = block.ok_or_else(too_large)?;
        let cached = state.free.get_mut(&block).and_then(Vec::pop);
        let address = match cached {
            Some(address) => address,
            None => state.allocate(device, block)?,
        };
        state.stats.in_use += block;
        state.stats.peak = state.stats.peak.max(state.stats.in_use);
        Ok((address, block))
    }

    fn give(&self, device: &'static CudaDevice, address: u64, block: usize) {
        let mut state = self.state();
        state.stats.in_use -= block;
        state.free.entry(block).or_default().push(address);
        if !state.caching {
            state.release(device);
        }
    }
}

impl State {
    /// A block from the driver; what is cached is given back first if it has to be.
    fn allocate(&mut self, device: &'static CudaDevice, block: usize) -> Result<u64> {
        let fits = |state: &State| state.stats.reserved.saturating_add(block) <= state.limit;
        if !fits(self) {
            self.release(device);
        }
        if !fits(self) {
            return Err(self.exhausted(device, block, format!("the limit is {} MiB", self.limit >> 20)));
        }
        device.bind()?;
        // SAFETY: the device's context is current.
        let first = unsafe { result::malloc_sync(block) };
        let address = first.or_else(|_| {
            self.release(device);
            // SAFETY: as above.
            unsafe { result::malloc_sync(block) }
        });
        let address = address.map_err(|error| self.exhausted(device, block, explain(error)))?;
        self.stats.reserved += block;
        Ok(address)
    }

    /// Gives every cached block back to the driver.
    fn release(&mut self, device: &'static CudaDevice) {
        if device.bind().is_err() {
            return;
        }
        for (block, addresses) in std::mem::take(&mut self.free) {
            for address in addresses {
                // SAFETY: the block came from the driver, and no buffer has it. The driver waits for what still uses it.
                // A failure here is that of an earlier kernel, which the next call reports.
                let _ = unsafe { result::free_sync(address) };
                self.stats.reserved -= block;
            }
        }
    }

    fn exhausted(&self, device: &CudaDevice, block: usize, why: String) -> Error {
        let mib = |bytes: usize| bytes.div_ceil(1 << 20);
        Error::DeviceMemory {
            device: device.name().to_string(),
            needed: mib(block),
            in_use: mib(self.stats.in_use),
            peak: mib(self.stats.peak),
            why,
            plan: None,
        }
    }
}

/// Copies to and from the device, in stream order.
impl Buffer {
    /// Queues a copy of host bytes to an offset of the buffer; does not wait for the device.
    pub(crate) fn write(&self, offset: usize, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        assert!(offset + bytes.len() <= self.block, "a copy past the end of its buffer");
        let what = || format!("copying {} bytes to {}", bytes.len(), self.device.name());
        refuse(self.device, what)?;
        self.device.bind()?;
        let to = self.address + offset as u64;
        if self.device.pool.state().caching {
            return self.device.staging.write(self.device, to, bytes);
        }
        // Nothing is kept, page-locked memory neither.
        // SAFETY: the range lies in this buffer; pageable host memory has been read when the call returns, as the driver
        // documents for asynchronous copies from it.
        let copied = unsafe { result::memcpy_htod_async(to, bytes, self.device.stream()) };
        check(copied, what)
    }

    /// Copies bytes from an offset of the buffer to the host, after all that was queued before.
    pub(crate) fn read(&self, offset: usize, bytes: &mut [u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        assert!(offset + bytes.len() <= self.block, "a copy past the end of its buffer");
        let len = bytes.len();
        let what = || format!("copying {len} bytes from {}", self.device.name());
        refuse(self.device, what)?;
        self.device.bind()?;
        // SAFETY: the range lies in this buffer, and `bytes` stays borrowed until the copy has ended below.
        let copied =
            unsafe { result::memcpy_dtoh_async(bytes, self.address + offset as u64, self.device.stream()) };
        check(copied, what)?;
        self.device.synchronize()
    }

    /// Fills bytes with zeros.
    pub(crate) fn zero(&self, bytes: usize) -> Result<()> {
        self.fill(bytes, 1, |address, stream| {
            // SAFETY: `fill` has checked that the range lies in this buffer.
            unsafe { sys::cuMemsetD8Async(address, 0, bytes, stream) }
        })
    }

    /// Fills `count` words of 16 bits with a value.
    pub(crate) fn fill_u16(&self, count: usize, value: u16) -> Result<()> {
        self.fill(count, size_of::<u16>(), |address, stream| {
            // SAFETY: `fill` has checked that the range lies in this buffer.
            unsafe { sys::cuMemsetD16Async(address, value, count, stream) }
        })
    }

    /// Fills `count` words of 32 bits with a value.
    pub(crate) fn fill_u32(&self, count: usize, value: u32) -> Result<()> {
        self.fill(count, size_of::<u32>(), |address, stream| {
            // SAFETY: `fill` has checked that the range lies in this buffer.
            unsafe { sys::cuMemsetD32Async(address, value, count, stream) }
        })
    }

    fn fill(
        &self,
        count: usize,
        size: usize,
        set: impl FnOnce(sys::CUdeviceptr, sys::CUstream) -> sys::CUresult,
    ) -> Result<()> {
        if count == 0 {
            return Ok(());
        }
        assert!(count * size <= self.block, "a fill past the end of its buffer");
        self.device.bind()?;
        check(set(self.address, self.device.stream()).result(), || {
            format!("filling {} bytes on {}", count * size, self.device.name())
        })
    }

    /// Copies `bytes` bytes from an offset of another buffer of the same device to an offset of this one.
    pub(crate) fn copy_from(&self, at: usize, from: &Buffer, offset: usize, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        assert!(at + bytes <= self.block && offset + bytes <= from.block, "a copy past the end of a buffer");
        assert!(std::ptr::eq(self.device, from.device), "a copy between devices");
        self.device.bind()?;
        let (target, source) = (self.address + at as u64, from.address + offset as u64);
        // SAFETY: both ranges lie in buffers of this device, whose memory goes back in stream order at the earliest.
        let copied = unsafe { result::memcpy_dtod_async(target, source, bytes, self.device.stream()) };
        check(copied, || format!("copying {bytes} bytes on {}", self.device.name()))
    }
}

#[cfg(test)]
mod tests {
    use super::{ALIGNMENT, block_size};

    #[test]
    fn blocks_waste_at_most_an_eighth() {
        for bytes in [1, 511, 512, 513, 4096, 10_000, 65_537, 1 << 20, (1 << 20) + 1, 123_456_789] {
            let block = block_size(bytes).unwrap();
            assert!(block >= bytes && block.is_multiple_of(ALIGNMENT));
            assert!(block - bytes < (bytes / 8).max(ALIGNMENT), "{bytes} bytes in a block of {block}");
        }
        assert_eq!(block_size(usize::MAX), None);
    }
}
