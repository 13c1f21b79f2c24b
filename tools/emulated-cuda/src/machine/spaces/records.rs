//! Who accessed the bytes of global memory: records of accesses, by lines of 64 bytes.
//!
//! A record stands for the neighbouring lanes of one instruction, or for one lane of several. What a later access is ordered
//! after is taken off it, so that a line holds few: its last writers, and some of those who have read it since.
//!
//! Strong accesses need no fence to be ordered among themselves: whoever comes after a strong read of a value comes after the
//! strong write that put it there (causality order begins with observation order in the PTX memory model).

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::{clocks::Group, runs::lanes_of};

/// Bytes of a line.
pub(super) const LINE: usize = 64;
/// Bytes of a page.
pub(super) const PAGE: usize = 4096;
/// Reads of a byte that are kept at most: the first and the last of those that nothing orders.
const READS: usize = 3;
/// Writes of a byte that are kept at most, where they race with none of each other.
const WRITES: usize = 4;
/// The end of a list.
const END: u16 = u16::MAX;
/// Records of a page at most.
const MOST: usize = 1 << 14;

/// How strong an access is: accesses of two threads do not race where both are strong enough for these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Strength {
    /// Not at all.
    Weak,
    /// Among the threads of a block.
    Block,
    /// Among all.
    Device,
}

/// What an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    Write,
    /// Both at once.
    Update,
}

/// Accesses by lanes of a warp to bytes of a line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record {
    /// Which bytes, a bit each.
    pub bytes: u64,
    pub block: u32,
    pub time: u32,
    /// Its lanes.
    pub lanes: u32,
    pub pc: u32,
    pub warp: u8,
    pub strength: Strength,
    pub kind: Kind,
    /// Whether each lane has accessed bytes of its own, instead of all of them.
    pub each: bool,
    /// If so, the byte at which its first lane starts, and how many a lane has, as a power of two.
    pub start: u8,
    pub shift: u8,
    /// The next one in its line.
    next: u16,
}

// Most of a ledger is records.
const _: () = assert!(size_of::<Record>() <= 32);

/// The lanes that make an access.
pub(super) struct Me<'a> {
    pub block: u32,
    /// What they know.
    pub group: &'a Group,
}

/// Two accesses that race.
#[derive(Debug)]
pub(super) struct Clash {
    /// The earlier one.
    pub before: Record,
    /// Its lane.
    pub other: u32,
    /// The lane of the later one.
    pub lane: u32,
    /// The byte of the line.
    pub byte: u32,
}

impl Record {
    pub fn new(block: u32, time: u32, warp: u32, pc: u32, strength: Strength, kind: Kind) -> Self {
        Self {
            bytes: 0,
            block,
            time,
            lanes: 0,
            pc,
            warp: warp as u8,
            strength,
            kind,
            each: false,
            start: 0,
            shift: 0,
            next: END,
        }
    }

    /// The same accesses to the bytes `from..to` of a line: those of the lane at `from` and, `size` bytes each, of the lanes
    /// behind it; or where `size` is 0, all of them by all of `lanes`.
    #[inline(always)]
    pub fn at(self, from: usize, to: usize, lanes: u32, size: usize) -> Self {
        let bytes = (u64::MAX >> (LINE - (to - from))) << from;
        match size {
            0 => Self { bytes, lanes, ..self },
            _ => Self {
                bytes,
                lanes,
                each: true,
                start: from as u8,
                shift: size.trailing_zeros() as u8,
                ..self
            },
        }
    }

    /// The lanes that accessed a byte.
    #[inline(always)]
    fn lanes_at(&self, byte: u32) -> u32 {
        if self.each {
            1 << (self.lanes.trailing_zeros() + ((byte - u32::from(self.start)) >> self.shift))
        } else {
            self.lanes
        }
    }

    /// Whether each byte of both was accessed by the same thread.
    #[inline(always)]
    fn same_threads(&self, other: &Self) -> bool {
        let alike = match (self.each, other.each) {
            (true, true) => {
                // The byte at which lane 0 would start.
                let origin = |r: &Self| i32::from(r.start) - ((r.lanes.trailing_zeros() as i32) << r.shift);
                self.shift == other.shift && origin(self) == origin(other)
            }
            (false, false) => self.lanes == other.lanes && self.lanes.is_power_of_two(),
            _ => false,
        };
        alike && self.block == other.block && self.warp == other.warp
    }

    /// Whether it is of the same kind, of the same warp and from the same time.
    #[inline(always)]
    fn alike(&self, other: &Self) -> bool {
        (self.block, self.time, self.warp) == (other.block, other.time, other.warp)
            && (self.kind, self.strength, self.each) == (other.kind, other.strength, other.each)
    }

    /// Takes another one in, if both can be one record.
    #[inline(always)]
    fn merge(&mut self, other: &Self) -> bool {
        // Of strong accesses it counts which came first.
        if !self.alike(other) || self.strength > Strength::Weak && self.bytes != other.bytes {
            return false;
        }
        if self.each && self.same_threads(other) {
            if other.lanes.trailing_zeros() < self.lanes.trailing_zeros() {
                self.start = other.start;
            }
            (self.bytes, self.lanes) = (self.bytes | other.bytes, self.lanes | other.lanes);
        } else if !self.each && self.lanes == other.lanes {
            self.bytes |= other.bytes;
        } else if !self.each && self.bytes == other.bytes {
            self.lanes |= other.lanes;
        } else {
            return false;
        }
        self.pc = other.pc;
        true
    }

    pub fn writes(&self) -> bool {
        self.kind != Kind::Read
    }

    /// Whether it is a strong write.
    fn published(&self) -> bool {
        self.writes() && self.strength > Strength::Weak
    }

    /// Whether it has found what a strong write put there.
    fn observes(&self) -> bool {
        self.kind != Kind::Write && self.strength > Strength::Weak
    }

    /// Whether two accesses, not both reads, are no race however they come.
    #[inline(always)]
    fn strong_with(&self, other: &Self) -> bool {
        let least = self.strength.min(other.strength);
        least == Strength::Device || least == Strength::Block && self.block == other.block
    }
}

impl Me<'_> {
    /// Lanes of an earlier access, and of one that these make, to a byte of `common`, with nothing that orders the two.
    #[inline(always)]
    fn unordered(&self, new: &Record, old: &Record, common: u64) -> Option<Clash> {
        let warp = u32::from(old.warp);
        if old.block == self.block {
            if self.group.clock.own.warp(warp) >= old.time || new.same_threads(old) {
                return None;
            }
        } else if self.group.clock.others.is_empty() {
            let byte = common.trailing_zeros();
            let lane = |r: &Record| r.lanes_at(byte).trailing_zeros();
            return Some(Clash { before: *old, other: lane(old), lane: lane(new), byte });
        }
        self.unordered_lanes(new, old, common)
    }

    /// Whether nothing of the above is there.
    #[inline(always)]
    fn comes_after(&self, new: &Record, old: &Record, common: u64) -> bool {
        if old.block != self.block && self.group.clock.others.is_empty() {
            return false;
        }
        self.unordered(new, old, common).is_none()
    }

    /// Whether an earlier access stays beside one of the same kind.
    fn beside(&self, new: &Record, old: &Record) -> bool {
        let alike = old.writes() == new.writes() && !old.alike(new);
        alike && !self.comes_after(new, old, old.bytes & new.bytes)
    }

    #[inline(never)]
    fn unordered_lanes(&self, new: &Record, old: &Record, common: u64) -> Option<Clash> {
        let warp = u32::from(old.warp);
        let mine = old.block == self.block;
        let times = if mine { Some(&self.group.clock.own) } else { self.group.clock.others.get(old.block) };
        if times.is_some_and(|t| t.warp(warp) >= old.time) {
            return None;
        }
        let mut left = common;
        while left != 0 {
            let byte = left.trailing_zeros();
            for other in lanes_of(old.lanes_at(byte)).map(|l| l as u32) {
                if times.is_some_and(|t| t.lane(warp, other) >= old.time) {
                    continue;
                }
                for lane in lanes_of(new.lanes_at(byte)).map(|l| l as u32) {
                    if !(mine && new.warp == old.warp && lane == other) {
                        return Some(Clash { before: *old, other, lane, byte });
                    }
                }
            }
            // On to where a lane may be another one.
            left = match (old.each, new.each) {
                (false, false) => 0,
                _ => left & (left - 1),
            };
        }
        None
    }
}

impl Me<'_> {
    /// The bytes of `common` of which every lane of an access comes after some lane of an earlier one.
    #[inline(never)]
    fn found(&self, new: &Record, old: &Record, common: u64) -> u64 {
        let mine = old.block == self.block;
        let times = if mine { Some(&self.group.clock.own) } else { self.group.clock.others.get(old.block) };
        let found = |byte: &usize| {
            let (lanes, others) = (new.lanes_at(*byte as u32), old.lanes_at(*byte as u32));
            let known =
                |lane: usize| times.is_some_and(|t| t.lane(u32::from(old.warp), lane as u32) >= old.time);
            mine && old.warp == new.warp && lanes & !others == 0 || lanes_of(others).any(known)
        };
        (0..LINE).filter(|byte| common >> byte & 1 != 0).filter(found).fold(0, |all, byte| all | 1 << byte)
    }
}

/// The records of a page.
#[derive(Debug)]
pub(super) struct Page {
    /// The first record of each line.
    heads: [u16; PAGE / LINE],
    pool: Vec<Record>,
    /// The first that is free.
    free: u16,
}

impl Page {
    pub fn new() -> Self {
        Self { heads: [END; PAGE / LINE], pool: Vec::new(), free: END }
    }

    /// Checks an access to a line and notes it. `same` says which of some bytes a write leaves as they are.
    ///
    /// # Errors
    /// An earlier access that it races with.
    #[inline(always)]
    pub fn note(
        &mut self,
        line: usize,
        new: &Record,
        me: &Me,
        same: impl Fn(u64) -> u64,
        room: &Room,
    ) -> Result<(), Clash> {
        if let Some(head) = self.pool.get(self.heads[line] as usize)
            && head.alike(new)
            && new.bytes & !head.bytes == 0
            && (head.same_threads(new) && (!new.writes() || head.next == END)
                || !new.writes() && !new.each && new.lanes & !head.lanes == 0)
        {
            // Nothing has come since. A write may have been tolerated for its value alone.
            return Ok(());
        }
        self.note_all(line, new, me, same, room)
    }

    fn note_all(
        &mut self,
        line: usize,
        new: &Record,
        me: &Me,
        same: impl Fn(u64) -> u64,
        room: &Room,
    ) -> Result<(), Clash> {
        let (mut at, mut before) = (self.heads[line], END);
        // Bytes of which so many accesses stay beside this one: one or more, two or more, and so on.
        let mut crowd = [0; WRITES];
        let mut merges = None;
        // Bytes of which strong reads that this access comes after have found what was there; and those where nobody is left who
        // would know of such a read.
        let (mut observed, mut alone) = (0, 0);
        while at != END {
            let old = self.pool[at as usize];
            let common = old.bytes & new.bytes;
            if common != 0 {
                // Whoever has read it since, and strongly, comes after it or is no race with it.
                let known = if old.published() { observed } else { 0 };
                let reads = !old.writes() && !new.writes();
                let (ordered, stays) = match if reads { None } else { me.unordered(new, &old, common) } {
                    None if reads => (me.comes_after(new, &old, common), true),
                    None => (true, true),
                    Some(_) if common & !known == 0 => (true, true),
                    Some(clash) => {
                        let race = (old.writes() || new.writes()) && !old.strong_with(new);
                        // Writing what is there already is tolerated.
                        let fine =
                            if race && old.writes() && new.writes() { known | same(common) } else { known };
                        match common & !fine {
                            _ if !race => {}
                            all if all == common => return Err(clash),
                            0 => {}
                            rest => me.unordered(new, &old, rest).map_or(Ok(()), Err)?,
                        }
                        // An atomic speaks for those before it: who is not ordered after it races with it, too.
                        let speaks = new.kind == Kind::Update && new.observes() && old.published();
                        (false, !(speaks && new.strength <= old.strength))
                    }
                };
                if old.observes() {
                    observed |= if ordered { common } else { me.found(new, &old, common) };
                }
                // Whoever is ordered after this access is ordered after that one too; but a strong one does not speak for a weak
                // one, nor a read for a write, nor a weak read for what a strong one has found.
                let speaks = (new.writes() || !old.writes() && (new.observes() || !old.observes()))
                    && new.strength <= old.strength;
                let gone = match !stays || ordered && speaks {
                    true => common,
                    false if old.published() => common & alone,
                    false => 0,
                };
                if gone == common && old.observes() && !old.writes() {
                    alone |= common;
                }
                self.pool[at as usize].bytes &= !gone;
                if self.pool[at as usize].bytes == 0 {
                    at = self.unlink(line, at, before);
                    continue;
                }
                if gone != common && !ordered && old.writes() == new.writes() && !old.alike(new) {
                    for more in (1..WRITES).rev() {
                        crowd[more] |= crowd[more - 1] & common;
                    }
                    crowd[0] |= common;
                }
            }
            if merges.is_none() && old.alike(new) {
                merges = Some(at);
            }
            (before, at) = (at, old.next);
        }
        let too_many = crowd[if new.writes() { WRITES } else { READS } - 1];
        if too_many != 0 {
            let head = &mut self.pool[self.heads[line] as usize];
            if head.bytes == new.bytes && head.bytes == too_many && me.beside(new, head) && !head.observes() {
                // Many read the same: the last one takes the place of the one before it.
                *head = Record { next: head.next, ..*new };
                return Ok(());
            }
            self.thin_out(line, new, me, too_many);
        }
        // Where one of its own has room for it, that becomes the latest.
        if let Some(at) = merges
            && self.pool[at as usize].bytes != 0
        {
            let mut both = self.pool[at as usize];
            if both.merge(new) {
                self.unlink_from(line, at);
                self.push(line, &both, room);
                return Ok(());
            }
        }
        self.push(line, new, room);
        Ok(())
    }

    /// Forgets, of each of these bytes, the latest access that stays beside a new one.
    fn thin_out(&mut self, line: usize, new: &Record, me: &Me, mut bytes: u64) {
        let mut at = self.heads[line];
        while at != END && bytes != 0 {
            let old = self.pool[at as usize];
            let common = old.bytes & bytes;
            if common != 0 && me.beside(new, &old) {
                bytes &= !common;
                self.forget(line, at, common);
            }
            at = old.next;
        }
    }

    /// Takes a record out of its line, behind `before`; the one that followed it.
    fn unlink(&mut self, line: usize, at: u16, before: u16) -> u16 {
        let next = self.pool[at as usize].next;
        match before {
            END => self.heads[line] = next,
            before => self.pool[before as usize].next = next,
        }
        self.pool[at as usize] = Record { bytes: 0, next: self.free, ..self.pool[at as usize] };
        self.free = at;
        next
    }

    /// The same, where it is not known what stands before it.
    fn unlink_from(&mut self, line: usize, at: u16) {
        let (mut here, mut before) = (self.heads[line], END);
        while here != END && here != at {
            (before, here) = (here, self.pool[here as usize].next);
        }
        if here == at {
            self.unlink(line, at, before);
        }
    }

    /// Takes bytes off a record; and off the strong writes before it, where nobody is left who would know that it has observed
    /// them.
    fn forget(&mut self, line: usize, at: u16, bytes: u64) {
        let (mut here, mut before, mut behind) = (self.heads[line], END, false);
        let observes = self.pool[at as usize].observes();
        while here != END {
            let record = &mut self.pool[here as usize];
            if here == at || behind && observes && record.published() {
                record.bytes &= !bytes;
            }
            behind |= here == at;
            if record.bytes == 0 {
                here = self.unlink(line, here, before);
            } else {
                (before, here) = (here, record.next);
            }
        }
    }

    fn push(&mut self, line: usize, record: &Record, room: &Room) {
        let record = Record { next: self.heads[line], ..*record };
        let at = match self.free {
            END => {
                if self.pool.len() == self.pool.capacity() {
                    let more = self.pool.capacity().max(8);
                    if self.pool.len() + more > MOST || !room.take(more * size_of::<Record>()) {
                        return;
                    }
                    self.pool.reserve_exact(more);
                }
                self.pool.push(record);
                self.pool.len() as u16 - 1
            }
            at => {
                self.free = self.pool[at as usize].next;
                self.pool[at as usize] = record;
                at
            }
        };
        self.heads[line] = at;
    }
}

/// Bytes that records may still take.
#[derive(Debug)]
pub(super) struct Room(AtomicUsize);

impl Room {
    pub fn new(bytes: usize) -> Self {
        Self(AtomicUsize::new(bytes))
    }

    /// Takes some, if they are there.
    pub fn take(&self, bytes: usize) -> bool {
        self.0.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(bytes)).is_ok()
    }
}
