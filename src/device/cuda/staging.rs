//! Page-locked memory between the host's own and the device's: a copy of the host's bytes is queued and the host goes on,
//! where the driver would make it wait for a copy from memory that can be paged out.

use std::ffi::c_void;
use std::sync::{Mutex, PoisonError};

use cudarc::driver::{result, sys};

use super::CudaDevice;
use super::driver::check;
use crate::Result;

/// Slots of the ring, and the bytes of one: so many small copies, or one large copy's pieces, can be under way at once.
const SLOTS: usize = 16;
const SLOT_BYTES: usize = 1 << 20;

/// The staging memory of a device, allocated at the first copy.
#[derive(Default)]
pub(super) struct Staging {
    ring: Mutex<Option<Ring>>,
}

struct Ring {
    /// Address of the page-locked memory.
    memory: usize,
    /// For each slot the event after the copy that reads it.
    events: [usize; SLOTS],
    next: usize,
}

impl Staging {
    /// Queues a copy of `bytes` to the device address `to`; `bytes` are free again when it returns. The range is the caller's to check.
    pub(super) fn write(&self, device: &CudaDevice, to: u64, bytes: &[u8]) -> Result<()> {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let ring = match &mut *ring {
            Some(ring) => ring,
            none => none.insert(Ring::new()?),
        };
        let what = || format!("copying {} bytes to {}", bytes.len(), device.name());
        for (piece, at) in bytes.chunks(SLOT_BYTES).zip((to..).step_by(SLOT_BYTES)) {
            let slot = ring.next;
            ring.next = (slot + 1) % SLOTS;
            let event = ring.events[slot] as sys::CUevent;
            // SAFETY: the event is alive as long as the ring. One that was never recorded is over at once.
            check(unsafe { result::event::synchronize(event) }, what)?;
            // SAFETY: the slot lies in the ring's memory, which lives as long as the device, that is, for the life of the
            // process; the copy that last read it has ended, and the lock keeps others away.
            let staged = unsafe {
                let start = (ring.memory as *mut u8).add(slot * SLOT_BYTES);
                std::ptr::copy_nonoverlapping(piece.as_ptr(), start, piece.len());
                std::slice::from_raw_parts(start, piece.len())
            };
            // SAFETY: the caller checked the device's range; the slot is not written before the event below has passed.
            unsafe {
                check(result::memcpy_htod_async(at, staged, device.stream()), what)?;
                check(result::event::record(event, device.stream()), what)?;
            }
        }
        Ok(())
    }
}

impl Ring {
    fn new() -> Result<Ring> {
        let what = || format!("{} MiB of page-locked memory", (SLOTS * SLOT_BYTES) >> 20);
        // SAFETY: the context is current (the caller bound it); the memory is never freed.
        let memory: *mut c_void = check(unsafe { result::malloc_host(SLOTS * SLOT_BYTES, 0) }, what)?;
        let mut events = [0; SLOTS];
        for event in &mut events {
            let flags = sys::CUevent_flags::CU_EVENT_DISABLE_TIMING;
            *event = check(result::event::create(flags), what)? as usize;
        }
        Ok(Ring { memory: memory as usize, events, next: 0 })
    }
}
