//! Races in shared memory: pairs of accesses to a byte, at least one a write, that nothing orders.
//!
//! Every granule (the smallest access that the kernel makes) has a stamp of its last write, and every warp a stamp of its
//! last read of it. What these few stamps cannot hold goes to a list on the side. An access whose granules all carry
//! stamps from before its warp's horizon is fine at one glance; otherwise each granule is looked at.

use std::collections::HashMap;

use super::{
    Site,
    clocks::{Clock, Group, Order},
    runs::lanes_of,
    sweep,
};
use crate::machine::{
    op::{Op, Window},
    program::Program,
};

/// Stamps beyond this time are cleared between blocks, so that times do not run out.
const RESTART: u32 = 1 << 30;

const LANE_SHIFT: u32 = 20;
const WARP_SHIFT: u32 = 25;
const STRONG: u32 = 1 << 31;
const PC: u32 = (1 << LANE_SHIFT) - 1;
/// In the place of the warp, for reads: several lanes read, [`Table::read_lanes`] says which.
const MANY: u32 = 1 << WARP_SHIFT;
/// All but the instruction.
const THREAD: u32 = !PC;

/// An access, or several by lanes of one warp at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Access {
    pub time: u32,
    pub warp: u32,
    pub lanes: u32,
    pub pc: u32,
    pub strong: bool,
    pub write: bool,
}

/// Two accesses that race.
#[derive(Debug)]
pub(super) struct Conflict {
    /// Where, as a shared address.
    pub address: u32,
    /// The lane of the later one.
    pub lane: u32,
    /// Whether the later one writes.
    pub write: bool,
    /// The earlier one; its first lane is the one that races.
    pub before: Access,
}

/// An access of neighbouring lanes to bytes that lie side by side.
#[derive(Clone, Copy, Debug)]
pub(super) struct Touch {
    pub site: Site,
    /// The first lane.
    pub lane: u32,
    pub lanes: u32,
    /// Whether all lanes access the same bytes.
    pub same: bool,
    /// The shared address of the first lane.
    pub address: usize,
    /// Bytes of a lane.
    pub size: usize,
    pub strong: bool,
}

impl Touch {
    #[inline(always)]
    fn mask(&self) -> u32 {
        (u32::MAX >> (32 - self.lanes)) << self.lane
    }

    fn who(&self) -> u32 {
        let strong = if self.strong { STRONG } else { 0 };
        strong | self.site.warp << WARP_SHIFT | self.lane << LANE_SHIFT | self.site.pc.min(PC)
    }

    /// The touches of single lanes of `mask`.
    fn split(self, mask: u32) -> impl Iterator<Item = Touch> {
        lanes_of(mask).map(move |lane| {
            let index = lane - self.lane as usize;
            let address = if self.same { self.address } else { self.address + index * self.size };
            Touch { lane: lane as u32, lanes: 1, same: false, address, ..self }
        })
    }
}

/// The bytes that a write finds and those that it leaves: writing what is there already is no race.
pub(super) type Values<'a> = Option<(&'a [u8], &'a [u8])>;

/// The race detector of a block.
pub(super) struct Races {
    pub order: Order,
    table: Table,
}

struct Table {
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
    /// Accesses that later ones replaced in the table without being ordered after them.
    more: HashMap<u32, Vec<Access>>,
}

/// The smallest access to what may be shared memory, as a power of two; at most 4 bytes.
fn granule_shift(program: &Program) -> u32 {
    let shared = |window| matches!(window, Window::Shared | Window::Generic);
    let bytes = program.code.iter().filter_map(|inst| match inst.op {
        Op::Load(address, shape, _) | Op::Store(address, shape, _) if shared(address.window) => {
            Some(u32::from(shape.count) * u32::from(shape.bytes))
        }
        Op::Atomic(address, _, ty, _) if shared(address.window) => Some(super::atomics::size(ty) as u32),
        _ => None,
    });
    bytes.min().unwrap_or(4).clamp(1, 4).ilog2()
}

/// Whether A, of lane `me`, is ordered after what a lane of a warp did at `time`.
#[inline(always)]
fn ordered(clock: &Clock, me: (u32, u32), other: (u32, u32), time: u32) -> bool {
    me == other || clock.lane(other.0, other.1) >= time
}

impl Races {
    pub fn new(program: &Program, threads: u32, shared_bytes: u32) -> Self {
        let shift = granule_shift(program);
        let granules = (shared_bytes as usize).div_ceil(1 << shift);
        let warps = threads.div_ceil(32) as usize;
        let by_granule = || vec![0; granules];
        let by_warp = || vec![0; granules * warps];
        let table = Table {
            shift,
            granules,
            write_time: by_granule(),
            write_who: by_granule(),
            read_time: by_granule(),
            readers: by_granule(),
            warp_read_time: by_warp(),
            warp_read_who: by_warp(),
            read_lanes: by_warp(),
            more: HashMap::new(),
        };
        Self { order: Order::new(threads), table }
    }

    /// Makes it ready for the next block.
    pub fn reset(&mut self) {
        let table = &mut self.table;
        table.more.clear();
        if self.order.now < RESTART {
            self.order.reset();
        } else {
            table.write_time.fill(0);
            table.read_time.fill(0);
            table.warp_read_time.fill(0);
            self.order.restart();
        }
    }

    /// Checks and notes a read.
    #[inline(always)]
    pub fn read(&mut self, touch: Touch) -> Result<(), Conflict> {
        let Self { order, table } = self;
        order.touch(touch.site.warp);
        let (now, mask) = (order.now, touch.mask());
        for group in order.groups(touch.site.warp) {
            match group.lanes & mask {
                0 => {}
                all if all == mask && touch.same => return table.read_same(group, &touch, now),
                all if all == mask => return table.read(group, &touch, now),
                some => touch.split(some).try_for_each(|t| table.read(group, &t, now))?,
            }
        }
        Ok(())
    }

    /// Checks and notes a write. `values` are the bytes of the touch's lanes.
    #[inline(always)]
    pub fn write(&mut self, touch: Touch, values: Values) -> Result<(), Conflict> {
        let Self { order, table } = self;
        order.touch(touch.site.warp);
        let (now, mask) = (order.now, touch.mask());
        for group in order.groups(touch.site.warp) {
            match group.lanes & mask {
                0 => {}
                all if all == mask => return table.write(group, &touch, values, now),
                some => touch.split(some).try_for_each(|t| {
                    let at = t.address - touch.address;
                    let values = values.map(|(old, new)| (&old[at..at + t.size], &new[at..at + t.size]));
                    table.write(group, &t, values, now)
                })?,
            }
        }
        Ok(())
    }

    /// Notes that copies landed: nobody can have touched the bytes since they were issued. For copies that an mbarrier
    /// waits for, `slot` stands for the thread.
    pub fn land(&mut self, touch: Touch, slot: Option<u32>) {
        let now = self.order.now;
        match slot {
            None => {
                self.order.touch(touch.site.warp);
                self.table.stamp(&touch, now);
            }
            Some(slot) => {
                let site = Site { warp: self.order.copies(), ..touch.site };
                let count = touch.lanes as usize * touch.size;
                let all = Touch { site, lane: slot, lanes: 1, size: count, ..touch };
                self.table.stamp(&all, now);
            }
        }
    }

    /// The index, among warps, of the copies that mbarriers wait for.
    pub fn copies(&self) -> u32 {
        self.order.copies()
    }
}

impl Table {
    /// The granules of a touch, and how many a lane has, as a power of two.
    #[inline(always)]
    fn granules(&self, touch: &Touch) -> (std::ops::Range<usize>, u32) {
        let first = touch.address >> self.shift;
        let each = (touch.size >> self.shift).max(1);
        let lanes = if touch.same { 1 } else { touch.lanes as usize };
        (first..(first + each * lanes).min(self.granules), each.ilog2())
    }

    #[inline(always)]
    fn read(&mut self, group: &Group, touch: &Touch, now: u32) -> Result<(), Conflict> {
        let (range, each) = self.granules(touch);
        let warp = touch.site.warp;
        if sweep::later(&self.write_time[range.clone()], group.horizon) {
            for (index, granule) in range.clone().enumerate() {
                self.after_write(group, touch, touch.lane + (index as u32 >> each), granule)?;
            }
        }
        let base = warp as usize * self.granules;
        let own = base + range.start..base + range.end;
        let who = touch.who() & !(0x3f << WARP_SHIFT);
        if sweep::later(&self.warp_read_time[own.clone()], group.clock.warp(warp))
            && sweep::differs(&self.warp_read_who[own.clone()], who, LANE_SHIFT, each, THREAD)
        {
            for (index, granule) in range.clone().enumerate() {
                let lane = touch.lane + (index as u32 >> each);
                self.note_read(group, touch, 1 << lane, granule, now);
            }
        } else {
            self.warp_read_time[own.clone()].fill(now);
            sweep::stamp(&mut self.warp_read_who[own], who, LANE_SHIFT, each);
        }
        self.read_time[range.clone()].fill(now);
        sweep::set_bits(&mut self.readers[range], 1 << warp);
        Ok(())
    }

    fn read_same(&mut self, group: &Group, touch: &Touch, now: u32) -> Result<(), Conflict> {
        let (range, _) = self.granules(touch);
        let late = sweep::later(&self.write_time[range.clone()], group.horizon);
        for granule in range {
            if late {
                for lane in lanes_of(touch.mask()) {
                    self.after_write(group, touch, lane as u32, granule)?;
                }
            }
            self.note_read(group, touch, touch.mask(), granule, now);
            self.read_time[granule] = now;
            self.readers[granule] |= 1 << touch.site.warp;
        }
        Ok(())
    }

    fn conflict(&self, granule: usize, lane: u32, write: bool, before: Access) -> Conflict {
        Conflict { address: (granule << self.shift) as u32, lane, write, before }
    }

    fn last_write(&self, granule: usize) -> Access {
        let (time, who) = (self.write_time[granule], self.write_who[granule]);
        Access {
            time,
            warp: who >> WARP_SHIFT & 0x3f,
            lanes: 1 << (who >> LANE_SHIFT & 31),
            pc: who & PC,
            strong: who & STRONG != 0,
            write: true,
        }
    }

    fn last_read(&self, warp: u32, granule: usize) -> Access {
        let at = warp as usize * self.granules + granule;
        let (time, who) = (self.warp_read_time[at], self.warp_read_who[at]);
        let one = 1 << (who >> LANE_SHIFT & 31);
        let lanes = if who & MANY != 0 { self.read_lanes[at] } else { one };
        Access { time, warp, lanes, pc: who & PC, strong: who & STRONG != 0, write: false }
    }

    /// Whether a lane's access races with an earlier one, as far as order goes; with the lane that it races with first.
    fn unordered(group: &Group, touch: &Touch, lane: u32, before: Access) -> Option<Access> {
        if before.strong && touch.strong {
            return None;
        }
        let me = (touch.site.warp, lane);
        let other = lanes_of(before.lanes)
            .find(|&l| !ordered(&group.clock, me, (before.warp, l as u32), before.time))?;
        Some(Access { lanes: 1 << other, ..before })
    }

    /// A read after the writes that were noted.
    fn after_write(&self, group: &Group, touch: &Touch, lane: u32, granule: usize) -> Result<(), Conflict> {
        let listed = self.more.get(&(granule as u32)).into_iter().flatten().filter(|a| a.write);
        for before in listed.copied().chain([self.last_write(granule)]) {
            if let Some(before) = Self::unordered(group, touch, lane, before) {
                return Err(self.conflict(granule, lane, false, before));
            }
        }
        Ok(())
    }

    /// Notes that the lanes of `lanes` read a granule.
    ///
    /// An earlier read may be forgotten where a lane that reads now is ordered after it: who is ordered after this read
    /// is ordered after that one too.
    fn note_read(&mut self, group: &Group, touch: &Touch, mut lanes: u32, granule: usize, now: u32) {
        let warp = touch.site.warp;
        let old = self.last_read(warp, granule);
        let at = warp as usize * self.granules + granule;
        if old.time > group.clock.warp(warp) {
            let known =
                |lane: &usize| group.clock.lane(warp, *lane as u32) >= old.time || lanes >> lane & 1 != 0;
            let known = lanes_of(old.lanes).filter(known).fold(0, |all, lane| all | 1u32 << lane);
            let stricter = touch.strong && !old.strong;
            if old.time == now && old.strong == touch.strong {
                lanes |= old.lanes;
            } else if stricter || known != old.lanes {
                let kept = if stricter { old.lanes } else { old.lanes & !known };
                self.keep(group, touch, lanes.trailing_zeros(), granule, Access { lanes: kept, ..old });
            }
        }
        let strong = if touch.strong { STRONG } else { 0 };
        self.warp_read_time[at] = now;
        let one = lanes.trailing_zeros();
        let many = if lanes.is_power_of_two() { 0 } else { MANY };
        self.warp_read_who[at] = strong | many | one << LANE_SHIFT | touch.site.pc.min(PC);
        if many != 0 {
            self.read_lanes[at] = lanes;
        }
    }

    /// Puts an access on the list of its granule, and takes those of its kind off that the access of `lane` is ordered
    /// after, unless they are stricter than it.
    fn keep(&mut self, group: &Group, touch: &Touch, lane: u32, granule: usize, access: Access) {
        let list = self.more.entry(granule as u32).or_default();
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

    #[inline(always)]
    fn write(&mut self, group: &Group, touch: &Touch, values: Values, now: u32) -> Result<(), Conflict> {
        let (range, each) = self.granules(touch);
        if sweep::later(&self.write_time[range.clone()], group.horizon)
            || sweep::later(&self.read_time[range.clone()], group.horizon)
        {
            for (index, granule) in range.clone().enumerate() {
                let lane = touch.lane + (index as u32 >> each);
                let bytes =
                    index << self.shift..((index + 1) << self.shift).min(touch.lanes as usize * touch.size);
                let same = values.is_some_and(|(old, new)| old[bytes.clone()] == new[bytes]);
                self.write_granule(group, touch, lane, granule, same)?;
            }
        }
        self.stamp(touch, now);
        Ok(())
    }

    /// A write after the accesses that were noted.
    fn write_granule(
        &mut self,
        group: &Group,
        touch: &Touch,
        lane: u32,
        granule: usize,
        same: bool,
    ) -> Result<(), Conflict> {
        for warp in lanes_of(self.readers[granule]) {
            let before = self.last_read(warp as u32, granule);
            if let Some(before) = Self::unordered(group, touch, lane, before) {
                return Err(self.conflict(granule, lane, true, before));
            }
        }
        let listed = self.more.get(&(granule as u32)).into_iter().flatten();
        let last = self.last_write(granule);
        for before in listed.copied().chain([last]) {
            let Some(before) = Self::unordered(group, touch, lane, before) else { continue };
            if !(before.write && same) {
                return Err(self.conflict(granule, lane, true, before));
            }
        }
        // A write that this one is not ordered after stays: later accesses have to be ordered after both.
        let me = (touch.site.warp, lane);
        if !ordered(&group.clock, me, (last.warp, last.lanes.trailing_zeros()), last.time) {
            self.keep(group, touch, lane, granule, last);
        }
        Ok(())
    }

    #[inline(always)]
    fn stamp(&mut self, touch: &Touch, now: u32) {
        let (range, each) = self.granules(touch);
        self.write_time[range.clone()].fill(now);
        sweep::stamp(&mut self.write_who[range], touch.who(), LANE_SHIFT, each);
    }
}
