//! Allocations and their ends.

use std::ffi::c_void;

use super::{
    super::{
        context::Context,
        ffi::{Out, exports},
        handles::Id,
        state::{Current, Owned, Registered, current},
        status::{Outcome, Status},
    },
    status_of,
};
use crate::machine::memory::AllocationKind;

/// Flags of `cuMemHostAlloc`: portable, device map, write-combined.
const HOST_FLAGS: u32 = 7;
/// Flags of `cuMemHostRegister`: portable, device map, I/O memory, read-only.
const REGISTER_FLAGS: u32 = 0xf;
const REGISTER_DEVICE_MAP: u32 = 2;
const REGISTER_IO: u32 = 4;
/// Rows of a pitched allocation start at multiples of this, as on sm_80.
const PITCH: usize = 512;

/// Allocates memory for the current context. Where it does not fit, what waits there runs first: it may
/// free some.
pub fn allocate(
    current: Current,
    size: usize,
    kind: AllocationKind,
    owned: Owned,
) -> Outcome<(Current, u64)> {
    let Current { driver, mut state, context } = current;
    if size == 0 {
        return Err(Status::INVALID_VALUE);
    }
    let memory = &driver.device.memory;
    let mut result = memory.allocate(size as u64, kind);
    if result.is_err() && state.allocations.values().any(|owned| owned.dying && owned.context == context) {
        state = driver.drive_context(state, context);
        state.healthy(context)?;
        result = memory.allocate(size as u64, kind);
    }
    let address = result.map_err(|e| status_of(&e))?;
    state.allocations.insert(address, owned);
    Ok((Current { driver, state, context }, address))
}

/// Allocates memory in a call that may synchronise.
fn synchronous(size: usize, kind: AllocationKind, flags: u32) -> Outcome<u64> {
    let mut current = current()?;
    current.state.permit_unsafe()?;
    let owned = Owned { context: current.context, pool: None, flags, dying: false };
    Ok(allocate(current, size, kind, owned)?.1)
}

/// Frees memory after everything that waits in its context has run: it may still use it.
fn free(address: u64, host: bool) -> Outcome {
    let Current { driver, mut state, context } = current()?;
    state.permit_unsafe()?;
    let found = driver.device.memory.find(address).filter(|found| found.address == address);
    let right_kind = found.is_some_and(|found| (found.kind == AllocationKind::Host) == host);
    let owned = state.allocations.get(&address).filter(|owned| right_kind && !owned.dying);
    let owner = owned.ok_or(Status::INVALID_VALUE)?.context;
    state = driver.drive_context(state, owner);
    // Another thread may have freed it meanwhile.
    state.allocations.remove(&address).ok_or(Status::INVALID_VALUE)?;
    driver.device.memory.free(address).map_err(|e| status_of(&e))?;
    state.healthy(context)
}

exports! {
    /// Allocates device memory.
    fn cuMemAlloc_v2(out: Out<u64>, size: usize) {
        out.check()?;
        out.set(synchronous(size, AllocationKind::Device, 0)?)
    }

    /// Allocates rows of device memory that each start well aligned.
    fn cuMemAllocPitch_v2(out: Out<u64>, pitch: Out<usize>, width: usize, height: usize, element: u32) {
        out.check()?;
        pitch.check()?;
        if !matches!(element, 4 | 8 | 16) {
            return Err(Status::INVALID_VALUE);
        }
        let row = width.checked_next_multiple_of(PITCH).ok_or(Status::INVALID_VALUE)?;
        let size = row.checked_mul(height).ok_or(Status::OUT_OF_MEMORY)?;
        out.set(synchronous(size, AllocationKind::Device, 0)?)?;
        pitch.set(row)
    }

    /// Allocates managed memory.
    fn cuMemAllocManaged(out: Out<u64>, size: usize, flags: u32) {
        out.check()?;
        if !matches!(flags, 1 | 2) {
            return Err(Status::INVALID_VALUE);
        }
        out.set(synchronous(size, AllocationKind::Managed, flags)?)
    }

    /// Allocates pinned host memory.
    fn cuMemAllocHost_v2(out: Out<u64>, size: usize) {
        out.check()?;
        out.set(synchronous(size, AllocationKind::Host, 0)?)
    }

    /// Allocates pinned host memory with flags, which change nothing here.
    fn cuMemHostAlloc(out: Out<u64>, size: usize, flags: u32) {
        out.check()?;
        if flags & !HOST_FLAGS != 0 {
            return Err(Status::INVALID_VALUE);
        }
        out.set(synchronous(size, AllocationKind::Host, flags)?)
    }

    /// Frees device or managed memory. Null is nothing.
    fn cuMemFree_v2(address: u64) {
        if address == 0 {
            return current().map(drop);
        }
        free(address, false)
    }

    /// Frees pinned host memory.
    fn cuMemFreeHost(pointer: *mut c_void) {
        if pointer.is_null() {
            return current().map(drop);
        }
        free(pointer as u64, true)
    }

    /// The device pointer of pinned host memory: the same address. Registered memory has none here.
    fn cuMemHostGetDevicePointer_v2(out: Out<u64>, pointer: *mut c_void, flags: u32) {
        out.check()?;
        let current = current()?;
        let address = pointer as u64;
        if flags != 0 {
            return Err(Status::INVALID_VALUE);
        }
        match current.driver.device.memory.find(address) {
            Some(found) if found.kind == AllocationKind::Host => out.set(address),
            _ if current.state.is_registered(address as usize, 1) => Err(Status::NOT_SUPPORTED),
            _ => Err(Status::INVALID_VALUE),
        }
    }

    /// The flags that pinned host memory was made with.
    fn cuMemHostGetFlags(out: Out<u32>, pointer: *mut c_void) {
        out.check()?;
        let current = current()?;
        let found = current.driver.device.memory.find(pointer as u64);
        let start = found.filter(|found| found.kind == AllocationKind::Host).map(|found| found.address);
        if let Some(owned) = start.and_then(|start| current.state.allocations.get(&start)) {
            return out.set(owned.flags);
        }
        let registered = current.state.registered.get(&(pointer as usize));
        out.set(registered.ok_or(Status::INVALID_VALUE)?.flags)
    }

    /// Page-locks host memory for copies. Kernels cannot reach it: to ask for that is refused.
    fn cuMemHostRegister_v2(pointer: *mut c_void, size: usize, flags: u32) {
        let mut current = current()?;
        current.state.permit_unsafe()?;
        let start = pointer as usize;
        let end = start.checked_add(size).ok_or(Status::INVALID_VALUE)?;
        let ours = current.driver.device.memory.offset(start as u64, 0).is_some();
        if pointer.is_null() || size == 0 || flags & !REGISTER_FLAGS != 0 || ours {
            return Err(Status::INVALID_VALUE);
        }
        if flags & (REGISTER_DEVICE_MAP | REGISTER_IO) != 0 {
            return Err(Status::NOT_SUPPORTED);
        }
        let below = current.state.registered.range(..end).next_back();
        if below.is_some_and(|(&other, range)| other + range.len > start) {
            return Err(Status::HOST_MEMORY_ALREADY_REGISTERED);
        }
        let context = current.context;
        current.state.registered.insert(start, Registered { context, len: size, flags });
        Ok(())
    }

    /// Ends a registration, after every copy that may use it.
    fn cuMemHostUnregister(pointer: *mut c_void) {
        let Current { driver, mut state, context } = current()?;
        state.permit_unsafe()?;
        let range = state.registered.get(&(pointer as usize));
        let owner = range.ok_or(Status::HOST_MEMORY_NOT_REGISTERED)?.context;
        state = driver.drive_context(state, owner);
        state.registered.remove(&(pointer as usize));
        state.healthy(context)
    }

    /// Free and total bytes of device memory.
    fn cuMemGetInfo_v2(free: Out<usize>, total: Out<usize>) {
        free.check()?;
        total.check()?;
        let current = current()?;
        let memory = &current.driver.device.memory;
        free.set((memory.total() - memory.used()) as usize)?;
        total.set(memory.total() as usize)
    }

    /// Start and size of the allocation that an address lies in.
    fn cuMemGetAddressRange_v2(start: Out<u64>, size: Out<usize>, address: u64) {
        let current = current()?;
        let found = current.driver.device.memory.find(address).ok_or(Status::NOT_FOUND)?;
        start.offer(found.address);
        size.offer(found.size as usize);
        Ok(())
    }
}

/// Who owns memory that a context allocates now.
pub fn owned_by(context: Id<Context>) -> Owned {
    Owned { context, pool: None, flags: 0, dying: false }
}
