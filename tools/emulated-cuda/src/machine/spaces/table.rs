//! Who accessed each granule of shared memory last.
//!
//! A granule is as large as the smallest access that the kernel makes. It has a stamp of its last write, and for every
//! warp one of the warp's last read; what these few stamps cannot hold goes to a list on the side. An access whose
//! granules all carry stamps from before its horizon is fine at one glance; otherwise each granule is looked at.

use std::ops::Range;

use super::{
    clocks::{Clock, Group, Order},
    races::{Access, Conflict, Touch, Values},
    runs::lanes_of,
    sweep,
};

// A stamp: whether the access was strong, the warp, the lane, the instruction.
const STRONG: u32 = 1 << 31;
const WARP_SHIFT: u32 = 25;
const WARP: u32 = 0x3f << WARP_SHIFT;
const LANE_SHIFT: u32 = 20;
const LANE: u32 = 31 << LANE_SHIFT;
const PC: u32 = (1 << LANE_SHIFT) - 1;
/// In the place of the warp, for reads: several lanes read, [`Table::read_lanes`] says which.
const MANY: u32 = 1 << WARP_SHIFT;

/// The stamps of a block's shared memory. They outlive a block: the next one knows of all that its predecessors did.
pub(super) struct Table {
    /// Bytes of a granule, as a power of two.
    shift: u32,
    granules: usize,
    /// By granule: the last write, the last read of anyone, and the warps that have read it.
    write_time: Vec<u32>,
    write_who: Vec<u32>,
    read_time: Vec<u32>,
    readers: Vec<u32>,
    /// By warp and granule: its last read.
    warp_read_time: Vec<u32>,
    warp_read_who: Vec<u32>,
    read_lanes: Vec<u32>,
    /// By granule, one more than the index of its list in `more`; 0 where it has none.
    listed: Vec<u32>,
    /// Accesses that later ones replaced in the table without being ordered after them, or that were weak where those
    /// are strong; with their granule.
    more: Vec<(usize, Vec<Access>)>,
}

/// Whether what lane `me` does is ordered after what another one did at `time`.
#[inline(always)]
fn ordered(clock: &Clock, me: (u32, u32), other: (u32, u32), time: u32) -> bool {
    me == other || clock.lane(other.0, other.1) >= time
}

fn who(touch: &Touch) -> u32 {
    let strong = if touch.strong { STRONG } else { 0 };
    strong | touch.site.warp << WARP_SHIFT | touch.lane << LANE_SHIFT | touch.site.pc.min(PC)
}

impl Table {
    pub fn new(shift: u32, warps: usize, bytes: usize) -> Self {
        let granules = bytes.div_ceil(1 << shift);
        let by_granule = || vec![0; granules];
        let by_warp = || vec![0; granules * warps];
        Self {
            shift,
            granules,
            write_time: by_granule(),
            write_who: by_granule(),
            read_time: by_granule(),
            readers: by_granule(),
            warp_read_time: by_warp(),
            warp_read_who: by_warp(),
            read_lanes: by_warp(),
            listed: by_granule(),
            more: Vec::new(),
        }
    }

    /// Makes it ready for the next block; with `clear`, times start from 0 again.
    pub fn reset(&mut self, clear: bool) {
        for (granule, _) in self.more.drain(..) {
            self.listed[granule] = 0;
        }
        if clear {
            self.write_time.fill(0);
            self.read_time.fill(0);
            self.warp_read_time.fill(0);
        }
    }

    /// The granules of a touch: the first, how many, and how many a lane has, as a power of two.
    #[inline(always)]
    fn granules(&self, touch: &Touch) -> (usize, usize, u32) {
        let first = touch.address >> self.shift;
        let each = (touch.size >> self.shift).max(1);
        let lanes = if touch.same { 1 } else { touch.lanes as usize };
        (first, (each * lanes).min(self.granules - first), each.ilog2())
    }

    /// Checks and notes a read by lanes of a group, of bytes of their own.
    #[inline(always)]
    pub fn read(&mut self, order: &Order, group: &Group, touch: &Touch, now: u32) -> Result<(), Conflict> {
        let (first, count, each) = self.granules(touch);
        // Where the compiler knows the count, a few instructions do the work of a loop.
        match count {
            1 => self.read_granules(order, group, touch, now, first..first + 1, each),
            2 => self.read_granules(order, group, touch, now, first..first + 2, each),
            4 => self.read_granules(order, group, touch, now, first..first + 4, each),
            _ => self.read_granules(order, group, touch, now, first..first + count, each),
        }
    }

    #[inline(always)]
    fn read_granules(
        &mut self,
        order: &Order,
        group: &Group,
        touch: &Touch,
        now: u32,
        range: Range<usize>,
        each: u32,
    ) -> Result<(), Conflict> {
        let warp = touch.site.warp;
        if sweep::later(&self.write_time[range.clone()], group.horizon)
            && !self.wrote_it_all(touch, range.clone(), each)
        {
            self.after_writes(group, touch, range.clone(), each)?;
        }
        let base = warp as usize * self.granules;
        let own = base + range.start..base + range.end;
        let who = who(touch) & !WARP;
        let unordered = || {
            sweep::later(&self.warp_read_time[own.clone()], group.clock.warp(warp))
                && sweep::differs(&self.warp_read_who[own.clone()], who, LANE_SHIFT, each, !PC)
        };
        if touch.strong || unordered() {
            self.note_reads(order, group, touch, now, range.clone(), each);
        } else {
            self.warp_read_time[own.clone()].fill(now);
            sweep::stamp(&mut self.warp_read_who[own], who, LANE_SHIFT, each);
        }
        self.read_time[range.clone()].fill(now);
        sweep::set_bits(&mut self.readers[range], 1 << warp);
        Ok(())
    }

    /// Checks and notes a read by lanes of a group, of the same bytes.
    pub fn read_same(
        &mut self,
        order: &Order,
        group: &Group,
        touch: &Touch,
        now: u32,
    ) -> Result<(), Conflict> {
        let (first, count, _) = self.granules(touch);
        for granule in first..first + count {
            if self.write_time[granule] > group.horizon {
                for lane in lanes_of(touch.mask()) {
                    self.after_write(group, touch, lane as u32, granule)?;
                }
            }
            self.note_read(order, group, touch, touch.mask(), granule, now);
            self.read_time[granule] = now;
            self.readers[granule] |= 1 << touch.site.warp;
        }
        Ok(())
    }

    /// Whether each granule was last written by the very lane that accesses it now.
    #[inline(always)]
    fn wrote_it_all(&self, touch: &Touch, range: Range<usize>, each: u32) -> bool {
        let mine = !sweep::differs(&self.write_who[range], who(touch), LANE_SHIFT, each, WARP | LANE);
        mine && self.more.is_empty()
    }

    fn conflict(&self, granule: usize, lane: u32, write: bool, before: Access) -> Conflict {
        Conflict { address: (granule << self.shift) as u32, lane, write, before }
    }

    fn list(&self, granule: usize) -> &[Access] {
        match self.listed[granule] {
            0 => &[],
            index => &self.more[index as usize - 1].1,
        }
    }

    fn last_write(&self, granule: usize) -> Access {
        let (time, who) = (self.write_time[granule], self.write_who[granule]);
        let (warp, lane) = ((who & WARP) >> WARP_SHIFT, (who & LANE) >> LANE_SHIFT);
        Access { time, warp, lanes: 1 << lane, pc: who & PC, strong: who & STRONG != 0, write: true }
    }

    fn last_read(&self, warp: u32, granule: usize) -> Access {
        let at = warp as usize * self.granules + granule;
        let (time, who) = (self.warp_read_time[at], self.warp_read_who[at]);
        let one = 1 << ((who & LANE) >> LANE_SHIFT);
        let lanes = if who & MANY != 0 { self.read_lanes[at] } else { one };
        Access { time, warp, lanes, pc: who & PC, strong: who & STRONG != 0, write: false }
    }

    /// Whether a lane's access races with an earlier one, as far as order goes; with the lane that it races with first.
    #[inline(always)]
    fn unordered(group: &Group, touch: &Touch, lane: u32, before: Access) -> Option<Access> {
        if before.strong && touch.strong || before.time <= group.clock.warp(before.warp) {
            return None;
        }
        let me = (touch.site.warp, lane);
        let other = lanes_of(before.lanes)
            .find(|&l| !ordered(&group.clock, me, (before.warp, l as u32), before.time))?;
        Some(Access { lanes: 1 << other, ..before })
    }

    /// Reads after the writes that were noted.
    #[inline(never)]
    fn after_writes(
        &self,
        group: &Group,
        touch: &Touch,
        range: Range<usize>,
        each: u32,
    ) -> Result<(), Conflict> {
        for (index, granule) in range.enumerate() {
            if self.write_time[granule] > group.horizon {
                self.after_write(group, touch, touch.lane + (index as u32 >> each), granule)?;
            }
        }
        Ok(())
    }

    fn after_write(&self, group: &Group, touch: &Touch, lane: u32, granule: usize) -> Result<(), Conflict> {
        let listed = self.list(granule).iter().filter(|a| a.write);
        for before in listed.copied().chain([self.last_write(granule)]) {
            if let Some(before) = Self::unordered(group, touch, lane, before) {
                return Err(self.conflict(granule, lane, false, before));
            }
        }
        Ok(())
    }

    /// Notes reads granule by granule.
    #[inline(never)]
    fn note_reads(
        &mut self,
        order: &Order,
        group: &Group,
        touch: &Touch,
        now: u32,
        range: Range<usize>,
        each: u32,
    ) {
        for (index, granule) in range.enumerate() {
            self.note_read(order, group, touch, 1 << (touch.lane + (index as u32 >> each)), granule, now);
        }
    }

    /// Notes that the lanes of `lanes` read a granule.
    ///
    /// An earlier read may be forgotten where a lane that reads now is ordered after it: who is ordered after this read
    /// is ordered after that one too.
    #[inline(always)]
    fn note_read(
        &mut self,
        order: &Order,
        group: &Group,
        touch: &Touch,
        mut lanes: u32,
        granule: usize,
        now: u32,
    ) {
        let at = touch.site.warp as usize * self.granules + granule;
        let strong = if touch.strong { STRONG } else { 0 };
        let (time, who) = (self.warp_read_time[at], self.warp_read_who[at]);
        if time == now && (who ^ strong) & STRONG == 0 {
            // Since then no lane of the warp has released anything: to all others both reads are one.
            lanes |= if who & MANY != 0 { self.read_lanes[at] } else { 1 << ((who & LANE) >> LANE_SHIFT) };
        } else if time > group.clock.warp(touch.site.warp) || touch.strong {
            self.replace_read(order, group, touch, lanes, granule);
        }
        let many = if lanes.is_power_of_two() { 0 } else { MANY };
        self.warp_read_time[at] = now;
        self.warp_read_who[at] = strong | many | lanes.trailing_zeros() << LANE_SHIFT | touch.site.pc.min(PC);
        self.read_lanes[at] = lanes;
    }

    /// Keeps what cannot be forgotten of a warp's last read when lanes of it read again.
    fn replace_read(&mut self, order: &Order, group: &Group, touch: &Touch, lanes: u32, granule: usize) {
        let old = self.last_read(touch.site.warp, granule);
        let known =
            |lane: &usize| group.clock.lane(old.warp, *lane as u32) >= old.time || lanes >> lane & 1 != 0;
        let kept = if touch.strong && !old.strong {
            // The new read says nothing to strong writes.
            if old.time > order.floor() { old.lanes } else { 0 }
        } else {
            old.lanes & !lanes_of(old.lanes).filter(known).fold(0, |all, lane| all | 1 << lane)
        };
        if kept != 0 {
            self.keep(group, touch, lanes.trailing_zeros(), granule, Access { lanes: kept, ..old });
        }
    }

    /// Puts an access on the list of its granule, and takes those of its kind off that the access of `lane` is ordered
    /// after, unless they are stricter than it.
    fn keep(&mut self, group: &Group, touch: &Touch, lane: u32, granule: usize, access: Access) {
        if self.listed[granule] == 0 {
            self.more.push((granule, Vec::new()));
            self.listed[granule] = self.more.len() as u32;
        }
        let list = &mut self.more[self.listed[granule] as usize - 1].1;
        let me = (touch.site.warp, lane);
        let forget = |a: &Access| {
            (a.strong || !touch.strong)
                && lanes_of(a.lanes).all(|l| ordered(&group.clock, me, (a.warp, l as u32), a.time))
        };
        list.retain(|a| a.write != access.write || !forget(a));
        let alike =
            |a: &&mut Access| Access { lanes: 0, pc: 0, ..**a } == Access { lanes: 0, pc: 0, ..access };
        match list.iter_mut().find(alike) {
            Some(found) => found.lanes |= access.lanes,
            None => list.push(access),
        }
    }

    /// Checks and notes a write by lanes of a group, to bytes of their own.
    #[inline(always)]
    pub fn write(
        &mut self,
        order: &Order,
        group: &Group,
        touch: &Touch,
        values: Values,
        now: u32,
    ) -> Result<(), Conflict> {
        let (first, count, each) = self.granules(touch);
        match count {
            1 => self.check_writes(order, group, touch, values, first..first + 1, each)?,
            2 => self.check_writes(order, group, touch, values, first..first + 2, each)?,
            4 => self.check_writes(order, group, touch, values, first..first + 4, each)?,
            _ => self.check_writes(order, group, touch, values, first..first + count, each)?,
        }
        self.stamp(touch, now);
        Ok(())
    }

    #[inline(always)]
    fn check_writes(
        &mut self,
        order: &Order,
        group: &Group,
        touch: &Touch,
        values: Values,
        range: Range<usize>,
        each: u32,
    ) -> Result<(), Conflict> {
        let clear = !touch.strong
            && !sweep::later(&self.read_time[range.clone()], group.horizon)
            && (!sweep::later(&self.write_time[range.clone()], group.horizon)
                || self.wrote_it_all(touch, range.clone(), each));
        if clear { Ok(()) } else { self.after_accesses(order, group, touch, values, range, each) }
    }

    /// Writes after the accesses that were noted.
    #[inline(never)]
    fn after_accesses(
        &mut self,
        order: &Order,
        group: &Group,
        touch: &Touch,
        values: Values,
        range: Range<usize>,
        each: u32,
    ) -> Result<(), Conflict> {
        let total = touch.lanes as usize * touch.size;
        for (index, granule) in range.enumerate() {
            let lane = touch.lane + (index as u32 >> each);
            let bytes = index << self.shift..((index + 1) << self.shift).min(total);
            let same = || values.is_some_and(|(old, new)| old[bytes.clone()] == new[bytes.clone()]);
            self.write_granule(order, group, touch, lane, granule, same)?;
        }
        Ok(())
    }

    fn write_granule(
        &mut self,
        order: &Order,
        group: &Group,
        touch: &Touch,
        lane: u32,
        granule: usize,
        same: impl Fn() -> bool,
    ) -> Result<(), Conflict> {
        if self.read_time[granule] > group.horizon {
            for warp in lanes_of(self.readers[granule]) {
                let before = self.last_read(warp as u32, granule);
                if let Some(before) = Self::unordered(group, touch, lane, before) {
                    return Err(self.conflict(granule, lane, true, before));
                }
            }
        }
        let last = self.last_write(granule);
        let mut tolerated = None;
        for before in self.list(granule).iter().copied().chain([last]) {
            let Some(before) = Self::unordered(group, touch, lane, before) else { continue };
            // Writing what is there already is tolerated.
            if !(before.write && *tolerated.get_or_insert_with(&same)) {
                return Err(self.conflict(granule, lane, true, before));
            }
        }
        // A write that this one is not ordered after stays, as later accesses have to be ordered after both; and a weak
        // one after which this one is strong.
        let me = (touch.site.warp, lane);
        let stricter = touch.strong && !last.strong && last.time > order.floor();
        if stricter || !ordered(&group.clock, me, (last.warp, last.lanes.trailing_zeros()), last.time) {
            self.keep(group, touch, lane, granule, last);
        }
        Ok(())
    }

    /// Notes a write.
    #[inline(always)]
    pub fn stamp(&mut self, touch: &Touch, now: u32) {
        let (first, count, each) = self.granules(touch);
        self.write_time[first..first + count].fill(now);
        sweep::stamp(&mut self.write_who[first..first + count], who(touch), LANE_SHIFT, each);
    }
}
