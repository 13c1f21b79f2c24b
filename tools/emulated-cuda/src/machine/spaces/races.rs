//! Races in shared memory: pairs of accesses to a byte, at least one a write, that nothing orders.
//!
//! `clocks` knows who is ordered after whom, `table` who accessed what last.

use super::{Site, clocks::Order, runs::lanes_of, table::Table};
use crate::machine::{
    op::{Op, Window},
    program::Program,
};

/// Stamps beyond this time are cleared between blocks, so that times do not run out.
const RESTART: u32 = 1 << 30;

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
    /// Its lanes, a bit each.
    #[inline(always)]
    pub fn mask(&self) -> u32 {
        (u32::MAX >> (32 - self.lanes)) << self.lane
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

/// The smallest access to what may be shared memory, as a power of two; at most 4 bytes.
fn granule_shift(program: &Program) -> u32 {
    let shared = |window| matches!(window, Window::Shared | Window::Generic);
    let bytes = program.code.iter().filter_map(|inst| match inst.op {
        Op::Load(address, shape, _) | Op::Store(address, shape, _) if shared(address.window) => {
            Some(u32::from(shape.count) * u32::from(shape.bytes))
        }
        Op::Atomic(address, _, ty, ..) if shared(address.window) => Some(super::atomics::size(ty) as u32),
        _ => None,
    });
    bytes.min().unwrap_or(4).clamp(1, 4).ilog2()
}

impl Races {
    pub fn new(program: &Program, threads: u32, shared_bytes: u32) -> Self {
        let table = Table::new(granule_shift(program), threads.div_ceil(32) as usize, shared_bytes as usize);
        Self { order: Order::new(threads), table }
    }

    /// Makes it ready for the block of a number.
    pub fn reset(&mut self, block: u32) {
        self.order.block = block;
        if self.order.now < RESTART {
            self.table.reset(false);
            self.order.reset();
        } else {
            self.table.reset(true);
            self.order.restart();
        }
    }

    /// Checks and notes a read.
    #[inline(always)]
    pub fn read(&mut self, touch: Touch) -> Result<(), Conflict> {
        let Self { order, table } = self;
        let (now, mask) = (order.touch(touch.site.warp), touch.mask());
        for group in order.groups(touch.site.warp) {
            match group.lanes & mask {
                0 => {}
                all if all == mask && touch.same => return table.read_same(order, group, &touch, now),
                all if all == mask => return table.read(order, group, &touch, now),
                some => touch.split(some).try_for_each(|t| table.read(order, group, &t, now))?,
            }
        }
        Ok(())
    }

    /// Checks and notes a write. `values` are the bytes of the touch's lanes.
    #[inline(always)]
    pub fn write(&mut self, touch: Touch, values: Values) -> Result<(), Conflict> {
        let Self { order, table } = self;
        let (now, mask) = (order.touch(touch.site.warp), touch.mask());
        for group in order.groups(touch.site.warp) {
            match group.lanes & mask {
                0 => {}
                all if all == mask => return table.write(order, group, &touch, values, now),
                some => touch.split(some).try_for_each(|t| {
                    let at = t.address - touch.address;
                    let values = values.map(|(old, new)| (&old[at..at + t.size], &new[at..at + t.size]));
                    table.write(order, group, &t, values, now)
                })?,
            }
        }
        Ok(())
    }

    /// Notes that copies landed: nobody can have touched the bytes since they were issued. For copies that an mbarrier
    /// waits for, `slot` stands for the thread.
    pub fn land(&mut self, touch: Touch, slot: Option<u32>) {
        match slot {
            None => {
                let now = self.order.touch(touch.site.warp);
                self.table.stamp(&touch, now);
            }
            Some(slot) => {
                let now = self.order.now;
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
