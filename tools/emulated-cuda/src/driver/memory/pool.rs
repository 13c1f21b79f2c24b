//! Stream-ordered allocation: memory pools.
//!
//! An allocation is there at once; its free takes its turn in the stream. Memory goes back to the device with
//! the free: a pool holds nothing in reserve, so its attributes that say how to reuse memory are kept and
//! change nothing.

use super::{
    super::{
        device::{Ordinal, check_device},
        ffi::{DefaultStream, In, Out, exports},
        handles::Id,
        state::{Owned, State, driver},
        status::{Outcome, Status},
        stream::{Stream, on_stream},
        work::Work,
    },
    alloc,
};
use crate::machine::{DeviceMemory, memory::AllocationKind};

/// Kinds of locations and allocations, as far as they exist here.
const DEVICE_LOCATION: i32 = 1;
const PINNED: i32 = 1;
const READ_WRITE: u32 = 3;

/// A memory pool.
pub struct Pool {
    /// The reuse switches, by attribute from 1 to 3.
    reuse: [i32; 3],
    release_threshold: u64,
    /// Most bytes that were in use at once.
    high: u64,
}

impl Default for Pool {
    fn default() -> Self {
        Self { reuse: [1; 3], release_threshold: 0, high: 0 }
    }
}

/// `CUmemLocation`
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Location {
    pub kind: i32,
    pub id: i32,
}

/// `CUmemAccessDesc`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Access {
    location: Location,
    flags: u32,
}

/// `CUmemPoolProps`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Properties {
    kind: i32,
    handles: i32,
    location: Location,
    security: usize,
    max_size: usize,
    usage: u16,
    reserved: [u8; 54],
}

/// Bytes that a pool's allocations take.
fn used(state: &State, memory: &DeviceMemory, pool: Id<Pool>) -> u64 {
    let of_pool = state.allocations.iter().filter(|(_, owned)| owned.pool == Some(pool));
    of_pool.filter_map(|(&address, _)| memory.find(address)).map(|found| found.size).sum()
}

fn allocate(
    out: Out<u64>,
    size: usize,
    pool: Option<Id<Pool>>,
    stream: Id<Stream>,
    default: DefaultStream,
) -> Outcome {
    out.check()?;
    let (current, stream) = on_stream(stream, default)?;
    if current.state.streams.get(stream)?.capture.is_some() {
        return Err(Status::NOT_SUPPORTED);
    }
    let pool = pool.unwrap_or(current.state.current_pool);
    current.state.pools.get(pool)?;
    // Unlike `cuMemAlloc`, these document no error for no bytes, and succeed on hardware (candle's `zero_dim`).
    if size == 0 {
        return out.set(0);
    }
    let context = current.state.streams.get(stream)?.context;
    let owned = Owned { pool: Some(pool), ..alloc::owned_by(context) };
    let (mut current, address) = alloc::allocate(current, size, AllocationKind::Device, owned)?;
    let now = used(&current.state, &current.driver.device.memory, pool);
    if let Ok(pool) = current.state.pools.get_mut(pool) {
        pool.high = pool.high.max(now);
    }
    out.set(address)
}

fn free(address: u64, stream: Id<Stream>, default: DefaultStream) -> Outcome {
    let (mut current, stream) = on_stream(stream, default)?;
    if address == 0 {
        return Ok(());
    }
    if current.state.streams.get(stream)?.capture.is_some() {
        return Err(Status::NOT_SUPPORTED);
    }
    let found = current.driver.device.memory.find(address).filter(|found| found.address == address);
    let right_kind = found.is_some_and(|found| found.kind == AllocationKind::Device);
    let owned = current.state.allocations.get_mut(&address).filter(|owned| right_kind && !owned.dying);
    owned.ok_or(Status::INVALID_VALUE)?.dying = true;
    let (_state, point) = current.driver.submit(current.state, stream, Work::Free(address));
    point.map(drop)
}

fn destroy(pool: Id<Pool>) -> Outcome {
    let mut state = driver()?.lock();
    state.pools.get(pool)?;
    if pool == state.default_pool {
        return Err(Status::INVALID_VALUE);
    }
    if state.current_pool == pool {
        state.current_pool = state.default_pool;
    }
    // Its allocations outlive it, as documented.
    state.pools.remove(pool).map(drop)
}

fn here(location: Location) -> Outcome {
    match location.kind {
        DEVICE_LOCATION => check_device(location.id),
        _ => Err(Status::NOT_SUPPORTED),
    }
}

exports! {
    /// Allocates device memory in stream order.
    per_thread(cuMemAllocAsync_ptsz, default)
    fn cuMemAllocAsync(out: Out<u64>, size: usize, stream: Id<Stream>) {
        allocate(out, size, None, stream, default)
    }

    /// Allocates device memory of a pool in stream order.
    per_thread(cuMemAllocFromPoolAsync_ptsz, default)
    fn cuMemAllocFromPoolAsync(out: Out<u64>, size: usize, pool: Id<Pool>, stream: Id<Stream>) {
        allocate(out, size, Some(pool), stream, default)
    }

    /// Frees device memory in stream order.
    per_thread(cuMemFreeAsync_ptsz, default)
    fn cuMemFreeAsync(address: u64, stream: Id<Stream>) {
        free(address, stream, default)
    }

    /// Makes a pool of device memory.
    fn cuMemPoolCreate(out: Out<Id<Pool>>, properties: In<Properties>) {
        out.check()?;
        let properties = properties.get()?;
        if properties.kind != PINNED {
            return Err(Status::INVALID_VALUE);
        }
        if properties.handles != 0 {
            return Err(Status::NOT_SUPPORTED);
        }
        here(properties.location)?;
        out.set(driver()?.lock().pools.insert(Pool::default()))
    }

    /// Ends a pool.
    fn cuMemPoolDestroy(pool: Id<Pool>) {
        destroy(pool)
    }

    /// Gives reserves back. There are none.
    fn cuMemPoolTrimTo(pool: Id<Pool>, _keep: usize) {
        driver()?.lock().pools.get(pool).map(drop)
    }

    /// An attribute of a pool.
    fn cuMemPoolGetAttribute(pool: Id<Pool>, attribute: u32, value: Out<u64>) {
        value.check()?;
        let driver = driver()?;
        let state = driver.lock();
        let found = state.pools.get(pool)?;
        match attribute {
            1..=3 => value.cast::<i32>().set(found.reuse[attribute as usize - 1]),
            4 => value.set(found.release_threshold),
            5 | 7 => value.set(used(&state, &driver.device.memory, pool)),
            6 | 8 => value.set(found.high),
            _ => Err(Status::INVALID_VALUE),
        }
    }

    /// Sets an attribute of a pool. High-water marks can be reset only.
    fn cuMemPoolSetAttribute(pool: Id<Pool>, attribute: u32, value: Out<u64>) {
        value.check()?;
        let driver = driver()?;
        let mut state = driver.lock();
        let now = used(&state, &driver.device.memory, pool);
        let found = state.pools.get_mut(pool)?;
        match attribute {
            1..=3 => found.reuse[attribute as usize - 1] = value.cast::<i32>().get()?,
            4 => found.release_threshold = value.get()?,
            6 | 8 if value.get()? == 0 => found.high = now,
            _ => return Err(Status::INVALID_VALUE),
        }
        Ok(())
    }

    /// Who can reach a pool: the one device.
    fn cuMemPoolGetAccess(flags: Out<u32>, pool: Id<Pool>, location: In<Location>) {
        here(location.get()?)?;
        driver()?.lock().pools.get(pool)?;
        flags.set(READ_WRITE)
    }

    /// Sets who can reach a pool. The one device always can.
    fn cuMemPoolSetAccess(pool: Id<Pool>, accesses: In<Access>, count: usize) {
        driver()?.lock().pools.get(pool)?;
        for access in accesses.all(count)? {
            here(access.location)?;
            if access.flags != READ_WRITE {
                return Err(Status::INVALID_VALUE);
            }
        }
        Ok(())
    }

    /// The pool that a device started with.
    fn cuDeviceGetDefaultMemPool(out: Out<Id<Pool>>, device: Ordinal) {
        check_device(device)?;
        out.set(driver()?.lock().default_pool)
    }

    /// The pool that `cuMemAllocAsync` takes from.
    fn cuDeviceGetMemPool(out: Out<Id<Pool>>, device: Ordinal) {
        check_device(device)?;
        out.set(driver()?.lock().current_pool)
    }

    /// Sets the pool that `cuMemAllocAsync` takes from.
    fn cuDeviceSetMemPool(device: Ordinal, pool: Id<Pool>) {
        check_device(device)?;
        let mut state = driver()?.lock();
        state.pools.get(pool)?;
        state.current_pool = pool;
        Ok(())
    }

    /// The pool that a location started with.
    fn cuMemGetDefaultMemPool(out: Out<Id<Pool>>, location: In<Location>, kind: i32) {
        here(location.get()?)?;
        if kind != PINNED {
            return Err(Status::NOT_SUPPORTED);
        }
        out.set(driver()?.lock().default_pool)
    }

    /// The pool that a location's allocations come from.
    fn cuMemGetMemPool(out: Out<Id<Pool>>, location: In<Location>, kind: i32) {
        here(location.get()?)?;
        if kind != PINNED {
            return Err(Status::NOT_SUPPORTED);
        }
        out.set(driver()?.lock().current_pool)
    }

    /// Sets the pool that a location's allocations come from.
    fn cuMemSetMemPool(location: In<Location>, kind: i32, pool: Id<Pool>) {
        here(location.get()?)?;
        if kind != PINNED {
            return Err(Status::NOT_SUPPORTED);
        }
        let mut state = driver()?.lock();
        state.pools.get(pool)?;
        state.current_pool = pool;
        Ok(())
    }
}
