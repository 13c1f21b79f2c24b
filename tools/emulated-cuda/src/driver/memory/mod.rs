//! Memory: allocations, copies, sets, pools, what is known of a pointer.

pub mod alloc;
pub mod copy;
pub mod pointer;
pub mod pool;
pub mod set;
pub mod shaped;

use super::{
    state::State,
    status::{Outcome, Status},
};
use crate::machine::{
    DeviceMemory,
    memory::{AllocationKind, MemoryError},
};

/// The functions that these files export.
pub const ALL_EXPORTS: [&[super::ffi::Export]; 6] =
    [alloc::EXPORTS, copy::EXPORTS, pointer::EXPORTS, pool::EXPORTS, set::EXPORTS, shaped::EXPORTS];

/// What an argument is documented to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A device pointer; pinned and managed memory has those too.
    Device,
    /// A host pointer.
    Host,
    /// Either: the address tells.
    Any,
}

/// Where a range of memory lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a live allocation, at this device address.
    Device(u64),
    /// In host memory that the program got elsewhere.
    Host(usize),
}

/// Finds out where `[address, address + size)` lies.
pub fn place(memory: &DeviceMemory, address: u64, size: u64, role: Role) -> Outcome<Place> {
    if memory.offset(address, 0).is_none() {
        return match role {
            Role::Device => Err(Status::INVALID_VALUE),
            _ if address == 0 => Err(Status::INVALID_VALUE),
            _ => Ok(Place::Host(address as usize)),
        };
    }
    let found = memory.find(address).ok_or(Status::INVALID_VALUE)?;
    let fits = size <= found.size - (address - found.address).min(found.size);
    if fits && (role != Role::Host || host_sees(memory, address)) {
        Ok(Place::Device(address))
    } else {
        Err(Status::INVALID_VALUE)
    }
}

/// Whether an address lies in pinned or managed memory, which the host reads and writes at the same address.
pub fn host_sees(memory: &DeviceMemory, address: u64) -> bool {
    memory.find(address).is_some_and(|a| matches!(a.kind, AllocationKind::Host | AllocationKind::Managed))
}

impl State {
    /// Whether host memory is page-locked by registration, so that copies of it may run later.
    pub fn is_registered(&self, address: usize, size: usize) -> bool {
        let below = self.registered.range(..=address).next_back();
        below.is_some_and(|(&start, range)| address - start + size <= range.len)
    }
}

/// The status of a failed allocation or free.
pub fn status_of(error: &MemoryError) -> Status {
    match error {
        MemoryError::OutOfMemory { .. } => Status::OUT_OF_MEMORY,
        MemoryError::NotAllocated(_) | MemoryError::OutOfBounds { .. } => Status::INVALID_VALUE,
    }
}
