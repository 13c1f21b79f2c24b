//! Global memory: one reserved range of device addresses, a shadow byte for each of its bytes.
//!
//! The bytes live in an anonymous file that is mapped where only this crate knows; device addresses lie in a second
//! reserved range which the host cannot touch, so that a program that dereferences a device pointer faults here as it
//! does on hardware. Memory that the host shares (pinned, managed) is mapped at its device address too.

use std::{
    collections::BTreeMap,
    ptr::NonNull,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, AtomicU64, Ordering::Relaxed},
    },
};

/// Alignment of every allocation, and the least distance between two.
const ALIGNMENT: u64 = 512;
/// The gap behind a large allocation.
const LARGEST_GAP: u64 = 64 << 10;
/// Host-visible memory comes in pages.
const PAGE: u64 = 4096;
/// Addresses reserved for each byte of memory, so that freed ranges stay untouched for as long as possible.
const ADDRESS_FACTOR: u64 = 4;
/// Up to this size an allocation's bytes are poisoned; a larger one starts as zeros that the checks call uninitialised.
const POISON_LIMIT: u64 = 256 << 20;
const POISON: u8 = 0xff;

/// What the shadow says of a byte.
pub mod shadow {
    /// Never allocated: a gap.
    pub const GAP: u8 = 0;
    /// Allocated, nothing wrote it yet, or what was written is undefined.
    pub const UNINITIALISED: u8 = 1;
    /// Allocated and written.
    pub const WRITTEN: u8 = 2;
    /// Written by the host; a kernel may only read it.
    pub const CONSTANT: u8 = 3;
    /// Freed.
    pub const FREED: u8 = 4;
}

/// The addresses that an allocation takes: its own, and a gap behind them about as large as itself, so that an index which is
/// off by a row does not land in the next one.
fn with_gap(size: u64, alignment: u64) -> Option<u64> {
    size.checked_add(size.clamp(alignment, LARGEST_GAP))?.checked_add(1)?.checked_next_multiple_of(alignment)
}

/// What an allocation is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AllocationKind {
    /// Device memory: the host cannot touch it.
    Device,
    /// Pinned host memory: the host reads and writes it at the same address.
    Host,
    /// Managed memory: as pinned, but it counts as device memory.
    Managed,
    /// A module's `.global` variable.
    Global,
    /// A module's `.const` variable: kernels only read it.
    Constant,
}

/// An allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allocation {
    /// Device address.
    pub address: u64,
    /// Bytes asked for.
    pub size: u64,
    /// What for.
    pub kind: AllocationKind,
}

/// Memory could not be allocated, freed or touched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// The device's memory is used up.
    #[error("out of memory: {asked} bytes asked for, {free} of {total} free")]
    OutOfMemory {
        /// Bytes asked for.
        asked: u64,
        /// Bytes not allocated.
        free: u64,
        /// All bytes.
        total: u64,
    },
    /// Not the start of a live allocation.
    #[error("{0:#x} is not the start of a live allocation")]
    NotAllocated(u64),
    /// A range that does not lie inside one live allocation.
    #[error("{size} bytes at {address:#x}: {why}")]
    OutOfBounds {
        /// Start of the range.
        address: u64,
        /// Its bytes.
        size: u64,
        /// The nearest allocation, in words.
        why: String,
    },
}

/// A mapping that goes when it is dropped.
struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: a mapping is a range of addresses that no thread owns; what is read and written through it is the caller's to order.
unsafe impl Send for Mapping {}
// SAFETY: as above; the fields never change.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: start and len are those of a mapping that this value made and that nobody else unmaps.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

impl Mapping {
    fn new(len: u64, protection: i32, flags: i32, file: i32) -> Self {
        // SAFETY: a mapping without a fixed address touches no memory that is in use.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), len as usize, protection, flags, file, 0) };
        assert!(
            start != libc::MAP_FAILED,
            "cannot reserve {len} bytes of addresses: {}",
            std::io::Error::last_os_error()
        );
        Self { start: NonNull::new(start.cast()).expect("a mapping is never at 0"), len: len as usize }
    }
}

/// The device's memory.
pub struct DeviceMemory {
    /// The bytes, where this crate reads and writes them.
    bytes: Mapping,
    /// One byte of state for each.
    states: Mapping,
    /// The device addresses.
    addresses: Mapping,
    file: libc::c_int,
    limit: u64,
    book: Mutex<Book>,
}

/// Who has what.
#[derive(Default)]
struct Book {
    live: BTreeMap<u64, Allocation>,
    /// Freed ranges by address, joined with their neighbours; all lie below `next`.
    free: BTreeMap<u64, u64>,
    /// Offset of the first byte that was never handed out.
    next: u64,
    used: u64,
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        // SAFETY: the descriptor is this value's own; the mappings keep the file's pages until they go too.
        unsafe { libc::close(self.file) };
    }
}

impl DeviceMemory {
    /// Memory of `limit` bytes; pages are taken from the system when they are first touched.
    pub fn new(limit: u64) -> Self {
        let reserved = limit.next_multiple_of(PAGE) * ADDRESS_FACTOR;
        // SAFETY: the name is a C string; the result is checked.
        let file = unsafe { libc::memfd_create(c"emulated-cuda".as_ptr(), libc::MFD_CLOEXEC) };
        assert!(file >= 0, "cannot create device memory: {}", std::io::Error::last_os_error());
        // SAFETY: the descriptor was just opened.
        let sized = unsafe { libc::ftruncate(file, reserved as i64) };
        assert!(sized == 0, "cannot size device memory: {}", std::io::Error::last_os_error());
        let read_write = libc::PROT_READ | libc::PROT_WRITE;
        let private = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        Self {
            bytes: Mapping::new(reserved, read_write, libc::MAP_SHARED | libc::MAP_NORESERVE, file),
            states: Mapping::new(reserved, read_write, private, -1),
            addresses: Mapping::new(reserved, libc::PROT_NONE, private, -1),
            file,
            limit,
            book: Mutex::new(Book { next: ALIGNMENT, ..Book::default() }),
        }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// First device address.
    pub fn base(&self) -> u64 {
        self.addresses.start.as_ptr() as u64
    }

    /// Number of device addresses.
    pub fn span(&self) -> u64 {
        self.addresses.len as u64
    }

    /// No allocation reaches beyond so many bytes from the first device address.
    pub fn reach(&self) -> u64 {
        self.book().next
    }

    /// The device's memory in bytes.
    pub fn total(&self) -> u64 {
        self.limit
    }

    /// Bytes of it that are allocated; pinned host memory does not count.
    pub fn used(&self) -> u64 {
        self.book().used
    }

    /// Every live allocation.
    pub fn live(&self) -> Vec<Allocation> {
        self.book().live.values().copied().collect()
    }

    /// The live allocation that holds an address.
    pub fn find(&self, address: u64) -> Option<Allocation> {
        let book = self.book();
        let (_, found) = book.live.range(..=address).next_back()?;
        (address - found.address < found.size.max(1)).then_some(*found)
    }

    /// Allocates `size` bytes, aligned to 512.
    ///
    /// # Errors
    /// When they do not fit.
    pub fn allocate(&self, size: u64, kind: AllocationKind) -> Result<u64, MemoryError> {
        let host = matches!(kind, AllocationKind::Host | AllocationKind::Managed);
        let alignment = if host { PAGE } else { ALIGNMENT };
        let mut book = self.book();
        let (free, total) = (self.limit - book.used, self.limit);
        let counted = if kind == AllocationKind::Host { 0 } else { size };
        let no_room = MemoryError::OutOfMemory { asked: size, free, total };
        if counted > free {
            return Err(no_room);
        }
        let room = with_gap(size, alignment).ok_or(no_room.clone())?;
        let offset = book.take(room, alignment, self.span()).ok_or(no_room)?;
        let address = self.base() + offset;
        book.live.insert(address, Allocation { address, size, kind });
        book.used += counted;
        drop(book);
        if host {
            self.share(offset, size.next_multiple_of(PAGE), true);
        }
        let state = match kind {
            AllocationKind::Device => shadow::UNINITIALISED,
            AllocationKind::Constant => shadow::CONSTANT,
            _ => shadow::WRITTEN,
        };
        // SAFETY: [offset, offset + room) lies in both mappings, and the book has just given it to this call alone.
        unsafe {
            let bytes = self.bytes.start.as_ptr().add(offset as usize);
            if size <= POISON_LIMIT {
                let fill = if kind == AllocationKind::Device { POISON } else { 0 };
                bytes.write_bytes(fill, size as usize);
            }
            let states = self.states.start.as_ptr().add(offset as usize);
            states.write_bytes(state, size as usize);
            states.add(size as usize).write_bytes(shadow::GAP, (room - size) as usize);
        }
        Ok(address)
    }

    /// Maps pages where the host sees them, or takes them away again.
    fn share(&self, offset: u64, len: u64, visible: bool) {
        let private = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
        // SAFETY: the range lies inside the reserved device addresses, which only this value maps; the caller holds its
        // allocation.
        let mapped = unsafe {
            let at = self.addresses.start.as_ptr().add(offset as usize).cast();
            let len = len as usize;
            if visible {
                let protection = libc::PROT_READ | libc::PROT_WRITE;
                libc::mmap(at, len, protection, libc::MAP_SHARED | libc::MAP_FIXED, self.file, offset as i64)
            } else {
                libc::mmap(at, len, libc::PROT_NONE, private, -1, 0)
            }
        };
        assert!(mapped != libc::MAP_FAILED, "cannot map host memory: {}", std::io::Error::last_os_error());
    }

    /// Frees an allocation.
    ///
    /// # Errors
    /// When `address` is not the start of one.
    pub fn free(&self, address: u64) -> Result<Allocation, MemoryError> {
        let mut book = self.book();
        let found = book.live.remove(&address).ok_or(MemoryError::NotAllocated(address))?;
        let offset = address - self.base();
        let host = matches!(found.kind, AllocationKind::Host | AllocationKind::Managed);
        let alignment = if host { PAGE } else { ALIGNMENT };
        if found.kind != AllocationKind::Host {
            book.used -= found.size;
        }
        if host {
            self.share(offset, found.size.next_multiple_of(PAGE), false);
        }
        // SAFETY: the range was this allocation's; it is still out of everybody's reach until `give` below.
        unsafe {
            self.states.start.as_ptr().add(offset as usize).write_bytes(shadow::FREED, found.size as usize);
            // Whole pages go back to the system.
            let start = offset.next_multiple_of(PAGE);
            let end = (offset + found.size) / PAGE * PAGE;
            if end > start {
                let at = self.bytes.start.as_ptr().add(start as usize).cast();
                libc::madvise(at, (end - start) as usize, libc::MADV_REMOVE);
            }
        }
        // It had room when it was allocated.
        book.give(offset, with_gap(found.size, alignment).unwrap_or(found.size));
        Ok(found)
    }

    /// Offset of `[address, address + size)` if all of it lies in the reserved range (allocated or not).
    #[inline(always)]
    pub fn offset(&self, address: u64, size: u64) -> Option<usize> {
        let offset = address.wrapping_sub(self.base());
        let span = self.span();
        (offset < span && size <= span - offset).then_some(offset as usize)
    }

    /// The bytes at an offset that [`Self::offset`] returned.
    #[inline(always)]
    pub fn bytes_at(&self, offset: usize) -> *mut u8 {
        self.bytes.start.as_ptr().wrapping_add(offset)
    }

    /// The states at an offset that [`Self::offset`] returned.
    #[inline(always)]
    pub fn states_at(&self, offset: usize) -> *mut u8 {
        self.states.start.as_ptr().wrapping_add(offset)
    }

    /// The state of the byte at an offset; kernels may change it meanwhile.
    #[inline(always)]
    pub fn state(&self, offset: usize) -> u8 {
        // SAFETY: offsets lie in the mapping, as `offset` checked; all that runs beside a kernel takes states as atomics.
        unsafe { AtomicU8::from_ptr(self.states_at(offset)) }.load(Relaxed)
    }

    /// Whether `state & mask == wanted` holds for each byte of a range; kernels may change states meanwhile.
    #[inline(always)]
    pub fn every_state(&self, offset: usize, len: usize, mask: u8, wanted: u8) -> bool {
        let (mask, wanted) = (u64::from_ne_bytes([mask; 8]), u64::from_ne_bytes([wanted; 8]));
        let (first, last) = (offset & !7, (offset + len - 1) & !7);
        let wrong = |at: usize| {
            // SAFETY: as in `state`; the mapping consists of whole words and starts with a page.
            let word = unsafe { AtomicU64::from_ptr(self.states_at(at).cast()) }.load(Relaxed);
            u64::from_le(word & mask ^ wanted)
        };
        // Bytes of the first and last word that belong to the range.
        let from = u64::MAX << (8 * (offset - first));
        let to = u64::MAX >> (8 * (last + 8 - (offset + len)));
        if first == last {
            return wrong(first) & from & to == 0;
        }
        let inner = (first + 8..last).step_by(8).fold(0, |any, at| any | wrong(at));
        wrong(first) & from | wrong(last) & to | inner == 0
    }

    /// Marks live bytes as written, beside other threads that do the same.
    #[inline(always)]
    pub fn mark_shared(&self, offset: usize, len: usize) {
        // Most are marked already: look first, so that threads do not fight for the line.
        if self.every_state(offset, len, !0, shadow::WRITTEN) {
            return;
        }
        for at in offset..offset + len {
            // SAFETY: as in `state`.
            unsafe { AtomicU8::from_ptr(self.states_at(at)) }.store(shadow::WRITTEN, Relaxed);
        }
    }

    /// Marks a live byte of a device address as not written, beside other threads that mark bytes.
    pub fn unmark(&self, address: u64) {
        if let Some(offset) = self.offset(address, 1) {
            // SAFETY: as in `state`.
            let state = unsafe { AtomicU8::from_ptr(self.states_at(offset)) };
            let _ = state.compare_exchange(shadow::WRITTEN, shadow::UNINITIALISED, Relaxed, Relaxed);
        }
    }

    /// Where a range that is no part of one allocation lies, in words.
    pub fn explain(&self, address: u64, size: u64) -> String {
        if let Some(offset) = self.offset(address, size.max(1)) {
            // SAFETY: `offset` checked the range.
            let states = unsafe { std::slice::from_raw_parts(self.states_at(offset), size.max(1) as usize) };
            if states.contains(&shadow::FREED) {
                return "inside memory that was freed".into();
            }
        }
        let book = self.book();
        let below = book.live.range(..=address).next_back().map(|(_, a)| *a);
        let above = book.live.range(address..).next().map(|(_, a)| *a);
        match (below, above) {
            (Some(a), _) if address < a.address + a.size => {
                let over = (address + size).saturating_sub(a.address + a.size);
                format!("{over} bytes past the end of the {} bytes at {:#x}", a.size, a.address)
            }
            (Some(a), Some(b)) if b.address - address < address - (a.address + a.size) => {
                format!("{} bytes before the {} bytes at {:#x}", b.address - address, b.size, b.address)
            }
            (Some(a), _) => {
                let past = address - (a.address + a.size);
                format!("{past} bytes past the end of the {} bytes at {:#x}", a.size, a.address)
            }
            (None, Some(b)) => {
                format!("{} bytes before the {} bytes at {:#x}", b.address - address, b.size, b.address)
            }
            (None, None) => "nothing is allocated".into(),
        }
    }

    /// Checks that a range lies inside one live allocation; its offset.
    fn inside(&self, address: u64, size: u64) -> Result<usize, MemoryError> {
        let inside = self.find(address).is_some_and(|a| size <= a.size - (address - a.address));
        match self.offset(address, size) {
            Some(offset) if inside => Ok(offset),
            _ => Err(MemoryError::OutOfBounds { address, size, why: self.explain(address, size) }),
        }
    }

    /// Reads bytes for the host.
    ///
    /// # Errors
    /// When they do not lie inside one live allocation.
    pub fn read(&self, address: u64, into: &mut [u8]) -> Result<(), MemoryError> {
        if into.is_empty() {
            return Ok(());
        }
        let offset = self.inside(address, into.len() as u64)?;
        // SAFETY: the range lies in one allocation. It may be the host's own pinned memory, so it may overlap `into`: copy.
        unsafe { std::ptr::copy(self.bytes_at(offset), into.as_mut_ptr(), into.len()) };
        Ok(())
    }

    /// Writes the host's bytes.
    ///
    /// # Errors
    /// When they do not lie inside one live allocation.
    pub fn write(&self, address: u64, from: &[u8]) -> Result<(), MemoryError> {
        if from.is_empty() {
            return Ok(());
        }
        let offset = self.inside(address, from.len() as u64)?;
        // SAFETY: as in `read`.
        unsafe { std::ptr::copy(from.as_ptr(), self.bytes_at(offset), from.len()) };
        self.mark_written(offset, from.len());
        Ok(())
    }

    /// Copies inside the device. What was uninitialised stays so at its new place.
    ///
    /// # Errors
    /// When a range does not lie inside one live allocation.
    pub fn copy(&self, to: u64, from: u64, size: u64) -> Result<(), MemoryError> {
        if size == 0 {
            return Ok(());
        }
        let (source, target) = (self.inside(from, size)?, self.inside(to, size)?);
        let constant = self.find(to).is_some_and(|a| a.kind == AllocationKind::Constant);
        // SAFETY: both ranges lie in live allocations; they may overlap.
        unsafe {
            std::ptr::copy(self.bytes_at(source), self.bytes_at(target), size as usize);
            if !constant {
                std::ptr::copy(self.states_at(source), self.states_at(target), size as usize);
                let states = std::slice::from_raw_parts_mut(self.states_at(target), size as usize);
                states.iter_mut().filter(|s| **s == shadow::CONSTANT).for_each(|s| *s = shadow::WRITTEN);
            }
        }
        Ok(())
    }

    /// Repeats a pattern of 1, 2 or 4 bytes `count` times.
    ///
    /// # Errors
    /// When the range does not lie inside one live allocation.
    pub fn fill(&self, address: u64, pattern: &[u8], count: u64) -> Result<(), MemoryError> {
        let size = count.saturating_mul(pattern.len() as u64);
        if size == 0 {
            return Ok(());
        }
        let offset = self.inside(address, size)?;
        // SAFETY: the range lies in one allocation, and host and kernels do not touch it while the stream's turn is here.
        let bytes = unsafe { std::slice::from_raw_parts_mut(self.bytes_at(offset), size as usize) };
        bytes.chunks_exact_mut(pattern.len()).for_each(|c| c.copy_from_slice(pattern));
        self.mark_written(offset, size as usize);
        Ok(())
    }

    fn mark_written(&self, offset: usize, len: usize) {
        // SAFETY: the caller has checked the range; states are bytes of this value's own.
        unsafe {
            if *self.states_at(offset) != shadow::CONSTANT {
                self.states_at(offset).write_bytes(shadow::WRITTEN, len);
            }
        }
    }
}

impl Book {
    /// Takes `room` bytes: from what was never used while that lasts, then the first freed range that is large enough.
    fn take(&mut self, room: u64, alignment: u64, span: u64) -> Option<u64> {
        let start = self.next.next_multiple_of(alignment);
        if start.checked_add(room)? <= span {
            if start > self.next {
                self.give(self.next, start - self.next);
            }
            self.next = start + room;
            return Some(start);
        }
        let (at, len, start) = self.free.iter().find_map(|(&at, &len)| {
            let start = at.next_multiple_of(alignment);
            (start + room <= at + len).then_some((at, len, start))
        })?;
        self.free.remove(&at);
        if start > at {
            self.free.insert(at, start - at);
        }
        if start + room < at + len {
            self.free.insert(start + room, at + len - start - room);
        }
        Some(start)
    }

    /// Gives a range back and joins it with its neighbours.
    fn give(&mut self, mut at: u64, mut len: u64) {
        if let Some((&before, &size)) = self.free.range(..at).next_back()
            && before + size == at
        {
            self.free.remove(&before);
            (at, len) = (before, size + len);
        }
        if let Some(size) = self.free.remove(&(at + len)) {
            len += size;
        }
        self.free.insert(at, len);
    }
}
