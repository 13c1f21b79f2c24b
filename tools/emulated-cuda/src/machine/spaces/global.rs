//! Global memory: checked against the shadow of the device's memory, shared with the blocks on other CPU threads.

use std::{
    ops::Range,
    sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed},
};

use super::{
    Need, Site, Spaces, Trouble, atomics,
    ledger::{Entry, strength},
    posts::Posts,
    records::{Kind, Strength},
    runs::{Run, Runs, lanes_of, repeat},
    traffic, trouble,
};
use crate::machine::{
    FaultKind,
    memory::shadow,
    op::{AtomicKind, AtomicType, Scope, Shape},
};

/// No two allocations lie closer to each other than this: see `DeviceMemory::allocate`.
const GAP: usize = 512;

/// Reads elements of `bytes` bytes, each at once.
///
/// # Safety
/// `from` points to as many bytes of device memory as `into` has, aligned to `bytes`.
#[inline(always)]
unsafe fn read_elements(from: *mut u8, into: &mut [u8], bytes: usize) {
    macro_rules! elements {
        ($atomic:ty, $size:literal) => {
            for (index, to) in into.chunks_exact_mut($size).enumerate() {
                // SAFETY: the caller's promise.
                let value = unsafe { <$atomic>::from_ptr(from.add(index * $size).cast()) }.load(Relaxed);
                to.copy_from_slice(&value.to_le_bytes());
            }
        };
    }
    match bytes {
        1 => elements!(AtomicU8, 1),
        2 => elements!(AtomicU16, 2),
        4 => elements!(AtomicU32, 4),
        _ => elements!(AtomicU64, 8),
    }
}

/// Writes elements of `bytes` bytes, each at once.
///
/// # Safety
/// `to` points to as many bytes of device memory as `from` has, aligned to `bytes`.
#[inline(always)]
unsafe fn write_elements(to: *mut u8, from: &[u8], bytes: usize) {
    macro_rules! elements {
        ($atomic:ty, $integer:ty, $size:literal) => {
            for (index, from) in from.chunks_exact($size).enumerate() {
                let mut value = [0; $size];
                value.copy_from_slice(from);
                // SAFETY: the caller's promise.
                unsafe { <$atomic>::from_ptr(to.add(index * $size).cast()) }
                    .store(<$integer>::from_le_bytes(value), Relaxed);
            }
        };
    }
    match bytes {
        1 => elements!(AtomicU8, u8, 1),
        2 => elements!(AtomicU16, u16, 2),
        4 => elements!(AtomicU32, u32, 4),
        _ => elements!(AtomicU64, u64, 8),
    }
}

impl Spaces<'_> {
    /// Checks a run of accesses; the offset of its first byte in device memory.
    #[inline(always)]
    pub(super) fn global_offset(&self, run: &Run, size: usize, need: Need) -> Result<usize, Box<Trouble>> {
        let len = run.len(size);
        if run.address & (size as u64 - 1) == 0
            && let Some(offset) = self.device.memory.offset(run.address, len as u64)
            && self.allows(offset, len, need)
        {
            return Ok(offset);
        }
        Err(self.global_trouble(run, size, need))
    }

    /// Whether the states of a range let it be accessed.
    #[inline(always)]
    fn allows(&self, offset: usize, len: usize, need: Need) -> bool {
        let memory = &self.device.memory;
        let check = self.strict;
        match need {
            // Written or constant: 2 or 3.
            Need::Read if check => memory.every_state(offset, len, !1, shadow::WRITTEN),
            Need::Update if check => memory.every_state(offset, len, !0, shadow::WRITTEN),
            // All of a range lies in one allocation if its ends, and bytes less than a gap apart, lie in any.
            _ => {
                let constant = if need == Need::Read { shadow::CONSTANT } else { shadow::WRITTEN };
                let fits = |at: usize| (shadow::UNINITIALISED..=constant).contains(&memory.state(at));
                (0..len).step_by(GAP).all(|at| fits(offset + at)) && fits(offset + len - 1)
            }
        }
    }

    /// What is wrong with a run of accesses.
    #[cold]
    fn global_trouble(&self, run: &Run, size: usize, need: Need) -> Box<Trouble> {
        let memory = &self.device.memory;
        let (verb, bytes) = (need.verb(), size as u64);
        let wrong = |one: &Run| {
            let address = one.address;
            let fault = |kind, why: String| {
                let message = format!("{verb} {size} bytes of global memory at {address:#x}: {why}");
                Some(trouble(kind, one.lane as usize, message))
            };
            let state = |index: u64| memory.offset(address.wrapping_add(index), 1).map(|at| memory.state(at));
            let live = |s: &Option<u8>| s.is_some_and(|s| s != shadow::GAP && s != shadow::FREED);
            if !(0..bytes).all(|i| live(&state(i))) {
                return fault(FaultKind::IllegalAddress, memory.explain(address, bytes));
            }
            if address & (bytes - 1) != 0 {
                return fault(FaultKind::Misaligned, format!("the address is no multiple of {size}"));
            }
            if need != Need::Read && (0..bytes).any(|i| state(i) == Some(shadow::CONSTANT)) {
                return fault(FaultKind::IllegalAddress, "constant memory cannot be written".into());
            }
            let unwritten = (0..bytes).find(|&i| state(i) == Some(shadow::UNINITIALISED));
            if let (true, Some(index), true) = (self.strict, unwritten, need != Need::Write) {
                let place = memory.find(address).map_or_else(String::new, |a| {
                    let inside = address + index - a.address;
                    format!(": byte {inside} of the {} bytes at {:#x}", a.size, a.address)
                });
                return fault(
                    FaultKind::Uninitialised,
                    format!("nothing has written them, or with undefined bits{place}"),
                );
            }
            None
        };
        // Another CPU thread may have freed or written the memory meanwhile.
        let unknown =
            || trouble(FaultKind::IllegalAddress, run.lane as usize, "global memory that changes".into());
        run.split(size).find_map(|one| wrong(&one)).unwrap_or_else(unknown)
    }

    /// The stamp of a warp's accesses, where they are looked at.
    #[inline(always)]
    pub(super) fn global_time(&mut self, warp: u32) -> Option<u32> {
        self.ledger?;
        self.races.as_mut().map(|(races, _)| races.order.touch_global(warp))
    }

    /// Makes an access, once it is known to race with none before: `copy` moves ranges of its bytes.
    #[inline(always)]
    pub(super) fn in_order(
        &self,
        time: Option<u32>,
        entry: Entry,
        values: Option<&[u8]>,
        mut copy: impl FnMut(Range<usize>),
    ) -> Result<(), Box<Trouble>> {
        let (Some(time), Some(ledger), Some((races, _))) = (time, self.ledger, &self.races) else {
            copy(0..entry.len());
            return Ok(());
        };
        let entry = Entry { time, ..entry };
        match ledger.access(&self.device.memory, &races.order, &entry, values, copy) {
            Ok(()) => Ok(()),
            Err(conflict) => Err(self.global_race(entry.site, &conflict)),
        }
    }

    /// The posts that strong accesses of lanes go by, one lane at a time.
    #[inline(always)]
    fn posts(&self, strength: Strength) -> Option<&'_ Posts> {
        let posts = self.ledger.and_then(|ledger| ledger.posts.as_ref());
        posts.filter(|_| strength > Strength::Weak)
    }

    #[inline(always)]
    pub(super) fn load_global(
        &mut self,
        site: Site,
        addresses: &[u64; 32],
        mask: u32,
        shape: Shape,
        into: &mut [u8; 1024],
    ) -> Result<(), Box<Trouble>> {
        let size = shape.count as usize * shape.bytes as usize;
        let time = self.global_time(site.warp);
        if self.posts(strength(shape.strong)).is_some() {
            for lane in lanes_of(mask) {
                let run = Run { lane: lane as u32, lanes: 1, address: addresses[lane], same: false };
                self.load_posted(site, time, &run, shape, &mut into[lane * size..][..size])?;
            }
        } else {
            for run in Runs::new(addresses, mask, size, true) {
                let offset = self.global_offset(&run, size, Need::Read)?;
                let first = run.lane as usize * size;
                let to = &mut into[first..][..run.len(size)];
                self.load_run(site, time, &run, offset, shape, to)?;
                if run.same {
                    repeat(into, first, size, run.lanes as usize);
                }
            }
        }
        if self.counting {
            traffic::count_global(&mut self.counters.global_load, addresses, mask, |_| size as u32);
        }
        Ok(())
    }

    #[inline(always)]
    fn load_run(
        &self,
        site: Site,
        time: Option<u32>,
        run: &Run,
        offset: usize,
        shape: Shape,
        to: &mut [u8],
    ) -> Result<(), Box<Trouble>> {
        let from = self.device.memory.bytes_at(offset);
        let entry = run.entry(site, offset, shape, Kind::Read);
        let (alone, bytes) = (run.lanes == 1 || shape.strong.is_some(), shape.bytes as usize);
        // SAFETY: the range was found to lie in live memory, aligned to the access and so to its elements. A weak access of
        // many lanes is copied as a whole: a program whose blocks write there meanwhile gets bytes of either, as it does on
        // hardware, and this thread looks at none of them.
        self.in_order(time, entry, None, |part| unsafe {
            let (from, to) = (from.add(part.start), &mut to[part]);
            if alone {
                read_elements(from, to, bytes);
            } else {
                std::ptr::copy_nonoverlapping(from, to.as_mut_ptr(), to.len());
            }
        })?;
        if let Some(footprint) = self.footprint {
            footprint.read(offset, to.len());
        }
        Ok(())
    }

    /// A strong load of one lane, and what it may lead to.
    fn load_posted(
        &mut self,
        site: Site,
        time: Option<u32>,
        run: &Run,
        shape: Shape,
        to: &mut [u8],
    ) -> Result<(), Box<Trouble>> {
        let offset = self.global_offset(run, to.len(), Need::Read)?;
        let Some(posts) = self.ledger.and_then(|ledger| ledger.posts.as_ref()) else { return Ok(()) };
        let shard = posts.shard(run.address);
        self.load_run(site, time, run, offset, shape, to)?;
        if let Some((races, flags)) = &mut self.races {
            let thread = (site.warp, run.lane as usize);
            flags.look(&races.order, &shard, thread, (run.address, to.len()), false);
        }
        Ok(())
    }

    #[inline(always)]
    pub(super) fn store_global(
        &mut self,
        site: Site,
        addresses: &[u64; 32],
        mask: u32,
        shape: Shape,
        from: &[u8; 1024],
    ) -> Result<(), Box<Trouble>> {
        let size = shape.count as usize * shape.bytes as usize;
        let time = self.global_time(site.warp);
        let posts = self.posts(strength(shape.strong));
        if let (Some(posts), Some((races, flags))) = (posts, &self.races) {
            for lane in lanes_of(mask) {
                let run = Run { lane: lane as u32, lanes: 1, address: addresses[lane], same: false };
                let mut shard = posts.shard(run.address);
                self.store_run(site, time, &run, shape, &from[lane * size..][..size])?;
                let place = (run.address, size);
                flags.post(&races.order, posts, &mut shard, (site.warp, lane), place, false);
            }
        } else {
            for run in Runs::new(addresses, mask, size, false) {
                let from = &from[run.lane as usize * size..][..run.len(size)];
                self.store_run(site, time, &run, shape, from)?;
            }
        }
        if self.counting {
            traffic::count_global(&mut self.counters.global_store, addresses, mask, |_| size as u32);
        }
        Ok(())
    }

    #[inline(always)]
    fn store_run(
        &self,
        site: Site,
        time: Option<u32>,
        run: &Run,
        shape: Shape,
        from: &[u8],
    ) -> Result<(), Box<Trouble>> {
        let offset = self.global_offset(run, shape.count as usize * shape.bytes as usize, Need::Write)?;
        let to = self.device.memory.bytes_at(offset);
        let entry = run.entry(site, offset, shape, Kind::Write);
        let (alone, bytes) = (run.lanes == 1 || shape.strong.is_some(), shape.bytes as usize);
        // SAFETY: as in `load_run`.
        self.in_order(time, entry, Some(from), |part| unsafe {
            let (to, from) = (to.add(part.start), &from[part]);
            if alone {
                write_elements(to, from, bytes);
            } else {
                std::ptr::copy_nonoverlapping(from.as_ptr(), to, from.len());
            }
        })?;
        if self.strict {
            self.device.memory.mark_shared(offset, from.len());
        }
        if let Some(footprint) = self.footprint {
            footprint.write(offset, from.len());
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments)]
    pub(super) fn atomic_global(
        &mut self,
        site: Site,
        addresses: &[u64; 32],
        mask: u32,
        kind: AtomicKind,
        ty: AtomicType,
        scope: Scope,
        a: &[u64; 32],
        b: &[u64; 32],
        old: &mut [u64; 32],
    ) -> Result<(), Box<Trouble>> {
        let size = atomics::size(ty);
        let time = self.global_time(site.warp);
        let posts = self.ledger.and_then(|ledger| ledger.posts.as_ref());
        for lane in lanes_of(mask) {
            let run = Run { lane: lane as u32, lanes: 1, address: addresses[lane], same: false };
            let offset = self.global_offset(&run, size, Need::Update)?;
            let mut shard = posts.map(|posts| posts.shard(run.address));
            let at = self.device.memory.bytes_at(offset);
            let shape =
                Shape { count: 1, bytes: size as u8, signed: false, wide: false, strong: Some(scope) };
            // SAFETY: live memory, aligned to the access.
            self.in_order(time, run.entry(site, offset, shape, Kind::Update), None, |_| unsafe {
                old[lane] = atomics::update(at, kind, ty, a[lane], b[lane]);
            })?;
            if let Some(footprint) = self.footprint {
                footprint.read(offset, size);
                footprint.write(offset, size);
            }
            if let (Some((races, flags)), Some(posts), Some(shard)) = (&mut self.races, posts, &mut shard) {
                let (thread, place) = ((site.warp, lane), (addresses[lane], size));
                flags.look(&races.order, shard, thread, place, true);
                flags.post(&races.order, posts, shard, thread, place, true);
            }
        }
        self.counters.global_atomics += if self.counting { u64::from(mask.count_ones()) } else { 0 };
        Ok(())
    }
}

impl Run {
    /// This run as an access to global memory.
    #[inline(always)]
    pub(super) fn entry(&self, site: Site, offset: usize, shape: Shape, kind: Kind) -> Entry {
        let Run { lane, lanes, same, .. } = *self;
        let size = shape.count as usize * shape.bytes as usize;
        Entry { site, time: 0, lane, lanes, same, offset, size, strength: strength(shape.strong), kind }
    }
}
