//! Races in global memory: pairs of accesses of a launch to a byte, at least one a write, that nothing orders.
//!
//! `clocks` and `others` know who is ordered after whom, `records` who accessed what. The blocks of a launch share a ledger;
//! whoever accesses a page of memory holds its lock, so that what is noted is what happened.

use std::{
    ops::Range,
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
};

use super::{
    Site,
    clocks::Order,
    posts::Posts,
    records::{Clash, Kind, LINE, Me, PAGE, Page, Record, Room, Strength},
    runs::lanes_of,
};
use crate::machine::{DeviceMemory, memory::shadow, op::Scope, program::Program};

/// Pages of a folder.
const FOLDER: usize = 512;
/// Bytes that the records of a launch take at most. What comes to a page that has no room is checked and not noted.
const ROOM: usize = 256 << 20;
/// The number of a block whose accesses are not looked at: it has no number of its own.
pub(super) const NOBODY: u32 = u32::MAX;

/// Which blocks of a grid run, in the order in which they start.
#[derive(Clone, Copy, Debug)]
pub struct Blocks {
    /// The grid.
    pub grid: [u32; 3],
    /// From one to the next, round the grid.
    pub step: u64,
}

impl Blocks {
    /// Blocks of the grid.
    pub fn total(&self) -> u64 {
        self.grid.iter().map(|&n| u64::from(n)).product()
    }

    /// The index in the grid of the block that starts as number `number`.
    pub fn linear(&self, number: u64) -> u64 {
        (u128::from(number) * u128::from(self.step) % u128::from(self.total())) as u64
    }

    /// A linear index as three.
    pub fn place(&self, linear: u64) -> [u32; 3] {
        let [x, y, _] = self.grid.map(u64::from);
        [linear % x, linear / x % y, linear / (x * y)].map(|i| i as u32)
    }
}

type Folder = Box<[Mutex<Option<Box<Page>>>]>;

/// What a launch did to global memory.
pub struct Ledger {
    pub(super) blocks: Blocks,
    folders: Vec<OnceLock<Folder>>,
    room: Room,
    /// Where blocks may wait for each other.
    pub(super) posts: Option<Posts>,
}

/// An access of neighbouring lanes to bytes that lie side by side.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub site: Site,
    /// The stamp of the access.
    pub time: u32,
    /// The first lane.
    pub lane: u32,
    pub lanes: u32,
    /// Whether all lanes access the same bytes.
    pub same: bool,
    /// Offset in device memory of the first lane's bytes.
    pub offset: usize,
    /// Bytes of a lane.
    pub size: usize,
    pub strength: Strength,
    pub kind: Kind,
}

/// Two accesses that race.
#[derive(Debug)]
pub(super) struct Conflict {
    /// Where in device memory.
    pub offset: usize,
    /// Whether the later one writes.
    pub write: bool,
    pub clash: Clash,
}

/// How strong an access is.
#[inline(always)]
pub(super) fn strength(scope: Option<Scope>) -> Strength {
    match scope {
        None => Strength::Weak,
        Some(Scope::Block) => Strength::Block,
        Some(Scope::Device) => Strength::Device,
    }
}

impl Entry {
    #[inline(always)]
    fn mask(&self) -> u32 {
        (u32::MAX >> (32 - self.lanes)) << self.lane
    }

    #[inline(always)]
    pub fn len(&self) -> usize {
        if self.same { self.size } else { self.lanes as usize * self.size }
    }
}

impl Ledger {
    /// For a launch of a program.
    pub fn new(memory: &DeviceMemory, program: &Program, blocks: Blocks) -> Self {
        let folders = (memory.reach() as usize).div_ceil(FOLDER * PAGE);
        Self {
            blocks,
            folders: (0..folders).map(|_| OnceLock::new()).collect(),
            room: Room::new(ROOM),
            posts: Posts::new(program),
        }
    }

    /// Checks an access and notes it; `copy` makes it, part by part, given ranges of its bytes. `values` are what a write
    /// writes, where it is no race if that is there already.
    ///
    /// # Errors
    /// An earlier access that it races with.
    #[inline(always)]
    pub(super) fn access(
        &self,
        memory: &DeviceMemory,
        order: &Order,
        entry: &Entry,
        values: Option<&[u8]>,
        mut copy: impl FnMut(Range<usize>),
    ) -> Result<(), Box<Conflict>> {
        let len = entry.len();
        if order.block == NOBODY || memory.state(entry.offset) == shadow::CONSTANT {
            copy(0..len);
            return Ok(());
        }
        let mut from = 0;
        while from < len {
            let at = entry.offset + from;
            let to = len.min(from + PAGE - at % PAGE);
            // Memory that was not there when the launch began is not the kernel's.
            let Some(folder) = self.folders.get(at / PAGE / FOLDER) else {
                copy(from..len);
                return Ok(());
            };
            let folder = folder.get_or_init(|| (0..FOLDER).map(|_| Mutex::new(None)).collect());
            let mut page = folder[at / PAGE % FOLDER].lock().unwrap_or_else(PoisonError::into_inner);
            if page.is_none() && self.room.take(size_of::<Page>()) {
                *page = Some(Box::new(Page::new()));
            }
            if let Some(page) = &mut *page {
                self.note(page, memory, order, entry, values, from..to)?;
            }
            copy(from..to);
            from = to;
        }
        Ok(())
    }

    /// Notes what an access does to a page: a range of its bytes.
    #[inline(always)]
    fn note(
        &self,
        page: &mut Page,
        memory: &DeviceMemory,
        order: &Order,
        entry: &Entry,
        values: Option<&[u8]>,
        range: Range<usize>,
    ) -> Result<(), Box<Conflict>> {
        let all = entry.mask();
        for group in order.groups(entry.site.warp) {
            let me = Me { block: order.block, group };
            match group.lanes & all {
                0 => {}
                lanes if lanes == all => {
                    self.note_lines(page, memory, &me, entry, all, values, range.clone())?
                }
                lanes if entry.same => {
                    self.note_lines(page, memory, &me, entry, lanes, values, range.clone())?
                }
                lanes => {
                    for lane in lanes_of(lanes) {
                        let first = (lane - entry.lane as usize) * entry.size;
                        // A lane's bytes lie in one page.
                        if !range.contains(&first) {
                            continue;
                        }
                        let offset = entry.offset + first;
                        let one = Entry { lane: lane as u32, lanes: 1, offset, ..*entry };
                        let values = values.map(|values| &values[first..first + entry.size]);
                        self.note_lines(page, memory, &me, &one, 1 << lane, values, 0..entry.size)?;
                    }
                }
            }
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments)]
    #[inline(always)]
    fn note_lines(
        &self,
        page: &mut Page,
        memory: &DeviceMemory,
        me: &Me,
        entry: &Entry,
        lanes: u32,
        values: Option<&[u8]>,
        range: Range<usize>,
    ) -> Result<(), Box<Conflict>> {
        let Entry { site, time, strength, kind, size, .. } = *entry;
        let record = Record::new(me.block, time, site.warp, site.pc, strength, kind);
        let together = entry.same || entry.lanes == 1;
        let mut at = range.start;
        while at < range.end {
            let offset = entry.offset + at;
            let first = offset % LINE;
            let count = (range.end - at).min(LINE - first);
            let new = if together {
                record.at(first, first + count, lanes, 0)
            } else {
                let (from, to) = (at / size, (at + count - 1) / size);
                let lanes = (u32::MAX >> (31 - (to - from))) << (entry.lane as usize + from);
                record.at(first, first + count, lanes, size)
            };
            let same = |bytes: u64| {
                let unchanged = |byte: usize| {
                    // SAFETY: the caller has found the range to lie in live memory; all that runs beside a kernel takes its bytes
                    // as atomics.
                    let old =
                        unsafe { AtomicU8::from_ptr(memory.bytes_at(offset - first + byte)) }.load(Relaxed);
                    values.is_some_and(|values| values[at + byte - first] == old)
                };
                (0..LINE)
                    .filter(|&byte| bytes >> byte & 1 != 0 && unchanged(byte))
                    .fold(0, |all, byte| all | 1 << byte)
            };
            if let Err(clash) = page.note(offset % PAGE / LINE, &new, me, same, &self.room) {
                let offset = offset - first + clash.byte as usize;
                let write = new.writes();
                return Err(Box::new(Conflict { offset, write, clash }));
            }
            at += count;
        }
        Ok(())
    }
}
