//! Shared memory: the block's own.

use super::{
    Need, POISON, Site, Spaces, Trouble,
    races::{Touch, Values},
    runs::{Run, Runs, lanes_of, repeat},
    sweep, traffic, trouble,
};
use crate::machine::{FaultKind, windows};

/// What the shadow says of a byte, a bit each.
pub(super) mod state {
    /// Nothing wrote it yet, or what was written is undefined.
    pub const UNWRITTEN: u8 = 1;
    /// An asynchronous copy to it is under way.
    pub const PENDING: u8 = 2;
    /// It is part of a live mbarrier.
    pub const MBARRIER: u8 = 4;
}

/// The shared memory of a block.
pub(super) struct Shared {
    pub bytes: Vec<u8>,
    pub states: Vec<u8>,
    /// How many bytes are [`state::PENDING`] or [`state::MBARRIER`].
    pub special: usize,
}

impl Shared {
    pub fn new(size: u32) -> Self {
        Self { bytes: vec![0; size as usize], states: vec![0; size as usize], special: 0 }
    }

    /// Poisons all of it. Where reads of it are not checked, it counts as written.
    pub fn reset(&mut self, checked: bool) {
        self.bytes.fill(POISON);
        self.states.fill(if checked { state::UNWRITTEN } else { 0 });
        self.special = 0;
    }
}

impl Run {
    /// This run as an access to shared memory.
    #[inline(always)]
    pub(super) fn touch(&self, site: Site, size: usize, strong: bool) -> Touch {
        let Run { lane, lanes, address, same } = *self;
        Touch { site, lane, lanes, same, address: address as usize, size, strong }
    }
}

impl Spaces<'_> {
    /// Checks a run of accesses; where it lies.
    #[inline(always)]
    pub(super) fn shared_range(
        &self,
        run: &Run,
        size: usize,
        need: Need,
    ) -> Result<std::ops::Range<usize>, Box<Trouble>> {
        let len = run.len(size);
        let left = (self.shared.bytes.len() as u64).checked_sub(run.address);
        if left.is_some_and(|left| len as u64 <= left) && run.address & (size as u64 - 1) == 0 {
            let range = run.address as usize..run.address as usize + len;
            // With no check of what was written and nothing special about, there is nothing to look at.
            if self.shared.special == 0 && (need == Need::Write || !self.strict) {
                return Ok(range);
            }
            let mut bits = sweep::any_bits(&self.shared.states[range.clone()]);
            if need == Need::Write {
                bits &= !state::UNWRITTEN;
            }
            if bits == 0 {
                return Ok(range);
            }
        }
        Err(self.shared_trouble(run, size, need))
    }

    /// What is wrong with a run of accesses.
    #[cold]
    fn shared_trouble(&self, run: &Run, size: usize, need: Need) -> Box<Trouble> {
        let verb = need.verb();
        let total = self.shared.bytes.len();
        for one in run.split(size) {
            let address = one.address;
            let fault = |kind, why: String| {
                let message = format!("{verb} {size} bytes of shared memory at {address:#x}: {why}");
                trouble(kind, one.lane as usize, message)
            };
            if address.checked_add(size as u64).is_none_or(|end| end > total as u64) {
                return fault(FaultKind::IllegalAddress, format!("the block has {total} bytes of it"));
            }
            if address & (size as u64 - 1) != 0 {
                return fault(FaultKind::Misaligned, format!("the address is no multiple of {size}"));
            }
            let states = &self.shared.states[address as usize..][..size];
            if let Some(at) = states.iter().position(|s| s & state::PENDING != 0) {
                let copy = self.pending_copy(address as usize + at);
                let why = format!("an asynchronous copy to there has not been waited for{copy}");
                return fault(FaultKind::AsyncCopy, why);
            }
            if states.iter().any(|s| s & state::MBARRIER != 0) {
                return fault(
                    FaultKind::Undefined,
                    "an mbarrier that has not been invalidated lies there".into(),
                );
            }
            if need != Need::Write
                && let Some(at) = states.iter().position(|s| s & state::UNWRITTEN != 0)
            {
                let why = format!("no thread has written byte {at} of them, or with undefined bits");
                return fault(FaultKind::Uninitialised, why);
            }
        }
        trouble(FaultKind::IllegalAddress, run.lane as usize, format!("{verb} {size} bytes of shared memory"))
    }

    /// Reads `size` bytes a lane.
    #[inline(always)]
    pub(super) fn read_shared(
        &mut self,
        site: Site,
        addresses: &[u64; 32],
        mask: u32,
        size: usize,
        strong: bool,
        into: &mut [u8],
    ) -> Result<(), Box<Trouble>> {
        for run in Runs::new(addresses, mask, size, true) {
            let range = self.shared_range(&run, size, Need::Read)?;
            if let Some((races, _)) = &mut self.races
                && let Err(conflict) = races.read(run.touch(site, size, strong))
            {
                return Err(self.race(site, &conflict));
            }
            let first = run.lane as usize * size;
            copy(&self.shared.bytes[range], &mut into[first..], run.len(size));
            if run.same {
                repeat(into, first, size, run.lanes as usize);
            }
        }
        if strong && let Some((races, flags)) = &mut self.races {
            let place = |lane: usize| windows::SHARED + addresses[lane];
            lanes_of(mask).for_each(|lane| flags.read(&races.order, site.warp, lane, place(lane)));
        }
        if self.counting {
            traffic::count_shared(&mut self.counters.shared_load, addresses, mask, size);
        }
        Ok(())
    }

    /// Writes `size` bytes a lane.
    #[inline(always)]
    pub(super) fn write_shared(
        &mut self,
        site: Site,
        addresses: &[u64; 32],
        mask: u32,
        size: usize,
        strong: bool,
        from: &[u8],
    ) -> Result<(), Box<Trouble>> {
        for run in Runs::new(addresses, mask, size, false) {
            let from = &from[run.lane as usize * size..][..run.len(size)];
            self.write_run(site, &run, size, strong, from)?;
        }
        if strong && let Some((races, flags)) = &mut self.races {
            let place = |lane: usize| windows::SHARED + addresses[lane];
            lanes_of(mask).for_each(|lane| flags.write(&races.order, site.warp, lane, place(lane), false));
        }
        if self.counting {
            traffic::count_shared(&mut self.counters.shared_store, addresses, mask, size);
        }
        Ok(())
    }

    #[inline(always)]
    fn write_run(
        &mut self,
        site: Site,
        run: &Run,
        size: usize,
        strong: bool,
        from: &[u8],
    ) -> Result<(), Box<Trouble>> {
        let range = self.shared_range(run, size, Need::Write)?;
        let values: Values = Some((&self.shared.bytes[range.clone()], from));
        if let Some((races, _)) = &mut self.races
            && let Err(conflict) = races.write(run.touch(site, size, strong), values)
        {
            return Err(self.race(site, &conflict));
        }
        if self.strict {
            self.shared.states[range.clone()].fill(0);
        }
        copy(from, &mut self.shared.bytes[range], from.len());
        Ok(())
    }

    /// Runs an atomic; the caller says what it does to a value.
    pub(super) fn atomic_shared(
        &mut self,
        site: Site,
        addresses: &[u64; 32],
        mask: u32,
        size: usize,
        combine: impl Fn(usize, u64) -> u64,
        old: &mut [u64; 32],
    ) -> Result<(), Box<Trouble>> {
        for lane in lanes_of(mask) {
            let run = Run { lane: lane as u32, lanes: 1, address: addresses[lane], same: false };
            let range = self.shared_range(&run, size, Need::Update)?;
            let mut value = [0; 8];
            value[..size].copy_from_slice(&self.shared.bytes[range]);
            let before = u64::from_le_bytes(value);
            let after = combine(lane, before).to_le_bytes();
            self.write_run(site, &run, size, true, &after[..size])?;
            old[lane] = before;
            if let Some((races, flags)) = &mut self.races {
                let place = windows::SHARED + addresses[lane];
                flags.read(&races.order, site.warp, lane, place);
                flags.write(&races.order, site.warp, lane, place, true);
            }
        }
        self.counters.shared_atomics += if self.counting { u64::from(mask.count_ones()) } else { 0 };
        Ok(())
    }
}

/// Copies `len` bytes; the usual sizes of one lane without a call.
#[inline(always)]
fn copy(from: &[u8], to: &mut [u8], len: usize) {
    match len {
        4 => to[..4].copy_from_slice(&from[..4]),
        8 => to[..8].copy_from_slice(&from[..8]),
        16 => to[..16].copy_from_slice(&from[..16]),
        _ => to[..len].copy_from_slice(&from[..len]),
    }
}
