//! What each thread of a block knows of what the others have done: vector clocks, kept by groups of lanes. `others` is what
//! it knows of the threads of other blocks.
//!
//! Time is one counter for the block; it advances whenever a thread releases what it has done. An access is stamped with
//! the time of the first one that its warp made since it last released anything (nobody can know of one of these and not
//! of the others); thread A knows of thread B's accesses up to a time. Nearly always all lanes of a warp know the same, so a
//! warp keeps its lanes in groups of equal knowledge, and a clock holds one time a warp, with exceptions by lanes only
//! where some lanes of a warp have released and others have not.

use super::others::Others;

/// The latest time that fits.
const LAST: u32 = i32::MAX as u32;

/// What an order-making operation hands from those who arrive to those who wait: for each thread, the time up to which its
/// accesses are known.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Clock {
    /// Of the block's own threads.
    pub(super) own: Times,
    /// Of the threads of other blocks, whose accesses to global memory are known.
    pub(super) others: Others,
}

impl Clock {
    /// The time up to which every lane of a warp is known.
    #[inline(always)]
    pub(super) fn warp(&self, warp: u32) -> u32 {
        self.own.warp(warp)
    }

    /// The time up to which a lane is known.
    #[inline(always)]
    pub(super) fn lane(&self, warp: u32, lane: u32) -> u32 {
        self.own.lane(warp, lane)
    }

    /// Adds what another clock knows.
    #[inline]
    pub(super) fn join(&mut self, other: &Clock) {
        self.own.join(&other.own);
        self.others.join(&other.others);
    }
}

/// The times up to which the threads of a block are known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Times {
    /// For every lane of a warp.
    warps: Vec<u32>,
    /// For single lanes, where they are later: sorted by warp.
    lanes: Vec<(u32, [u32; 32])>,
}

impl Times {
    /// The time up to which every lane of a warp is known.
    #[inline(always)]
    pub fn warp(&self, warp: u32) -> u32 {
        self.warps.get(warp as usize).copied().unwrap_or(0)
    }

    /// The time up to which a lane is known.
    #[inline(always)]
    pub fn lane(&self, warp: u32, lane: u32) -> u32 {
        let all = self.warp(warp);
        if self.lanes.is_empty() {
            return all;
        }
        let exception = self.lanes.iter().find(|(w, _)| *w == warp);
        exception.map_or(all, |(_, lanes)| all.max(lanes[lane as usize]))
    }

    /// Adds what others know.
    pub fn join(&mut self, other: &Times) {
        if self.warps.len() < other.warps.len() {
            self.warps.resize(other.warps.len(), 0);
        }
        self.warps.iter_mut().zip(&other.warps).for_each(|(a, b)| *a = (*a).max(*b));
        for (warp, times) in &other.lanes {
            self.join_lanes(*warp, times);
        }
        if !self.lanes.is_empty() {
            self.tidy();
        }
    }

    fn join_lanes(&mut self, warp: u32, times: &[u32; 32]) {
        match self.lanes.binary_search_by_key(&warp, |(w, _)| *w) {
            Ok(at) => self.lanes[at].1.iter_mut().zip(times).for_each(|(a, b)| *a = (*a).max(*b)),
            Err(at) => self.lanes.insert(at, (warp, *times)),
        }
    }

    /// Adds the accesses up to `time` of the lanes in `mask`, of the lanes in `all` that the warp has.
    pub fn add(&mut self, warp: u32, mask: u32, all: u32, time: u32) {
        if self.warps.len() <= warp as usize {
            self.warps.resize(warp as usize + 1, 0);
        }
        if mask & all == all {
            self.warps[warp as usize] = self.warps[warp as usize].max(time);
        } else {
            // A lane that is not there has nothing to be known.
            let of = |lane: usize| match (mask >> lane & 1, all >> lane & 1) {
                (1, _) => time,
                (_, 0) => LAST,
                _ => 0,
            };
            self.join_lanes(warp, &std::array::from_fn(of));
        }
        if !self.lanes.is_empty() {
            self.tidy();
        }
    }

    /// Turns exceptions that all lanes share into the time of the warp, and drops those that say nothing.
    fn tidy(&mut self) {
        let Self { warps, lanes } = self;
        lanes.retain(|(warp, times)| {
            let all = &mut warps[*warp as usize];
            *all = times.iter().fold(LAST, |least, time| least.min(*time)).max(*all);
            times.iter().any(|time| *time > *all && *time != LAST)
        });
    }
}

/// Lanes of a warp that know the same.
#[derive(Debug)]
pub(super) struct Group {
    /// Which.
    pub lanes: u32,
    /// What.
    pub clock: Clock,
    /// Every access up to this time is known, whoever made it.
    pub horizon: u32,
}

/// What the threads of a block know.
#[derive(Debug)]
pub(super) struct Order {
    /// The number of the block among those of the launch, in the order in which they start.
    pub block: u32,
    /// The time.
    pub now: u32,
    /// Groups by warp.
    groups: Vec<Vec<Group>>,
    /// Lanes that each warp has.
    all: Vec<u32>,
    /// The stamp of each warp's last access to shared memory, and after the warps that of the copies that mbarriers wait
    /// for.
    touched: Vec<u32>,
    /// The stamp of accesses of each warp; 0 until it makes the first since it last released anything.
    stamps: Vec<u32>,
    /// The same for accesses to global memory.
    global_stamps: Vec<u32>,
}

impl Order {
    /// For a block of so many threads.
    pub fn new(threads: u32) -> Self {
        let warps = threads.div_ceil(32);
        let lanes = |warp: u32| u32::MAX >> (32 - (threads - warp * 32).min(32));
        let mut order = Self {
            block: 0,
            now: 0,
            groups: (0..warps).map(|_| Vec::new()).collect(),
            all: (0..warps).map(lanes).chain([u32::MAX]).collect(),
            touched: vec![0; warps as usize + 1],
            stamps: vec![0; warps as usize],
            global_stamps: vec![0; warps as usize],
        };
        order.reset();
        order
    }

    /// Starts a block: whatever earlier blocks did is known to all.
    pub fn reset(&mut self) {
        let past = self.now;
        self.now += 1;
        for groups in &mut self.groups {
            groups.truncate(1);
            if groups.is_empty() {
                let own = Times { warps: vec![0; self.all.len()], lanes: Vec::new() };
                let clock = Clock { own, others: Others::default() };
                groups.push(Group { lanes: u32::MAX, clock, horizon: 0 });
            }
            let group = &mut groups[0];
            group.lanes = u32::MAX;
            group.clock.own.warps.fill(past);
            group.clock.own.lanes.clear();
            group.clock.others = Others::default();
            group.horizon = past;
        }
        self.touched.fill(past);
        self.stamps.fill(0);
        self.global_stamps.fill(0);
    }

    /// Forgets all stamps, which their owner has to forget too.
    pub fn restart(&mut self) {
        self.now = 0;
        self.reset();
    }

    /// The index in a clock of copies that mbarriers wait for.
    pub fn copies(&self) -> u32 {
        self.all.len() as u32 - 1
    }

    /// The lanes that a warp has.
    pub fn lanes(&self, warp: u32) -> u32 {
        self.all[warp as usize]
    }

    /// The groups of a warp; every lane is in one.
    #[inline(always)]
    pub fn groups(&self, warp: u32) -> &[Group] {
        &self.groups[warp as usize]
    }

    /// The time up to which every thread knows everything.
    pub fn floor(&self) -> u32 {
        self.groups.iter().flatten().map(|g| g.horizon).min().unwrap_or(0)
    }

    /// A warp touches shared memory: the stamp of that.
    #[inline(always)]
    pub fn touch(&mut self, warp: u32) -> u32 {
        let stamp = &mut self.stamps[warp as usize];
        if *stamp == 0 {
            *stamp = self.now;
            self.touched[warp as usize] = self.now;
        }
        *stamp
    }

    /// A warp touches global memory: the stamp of that.
    #[inline(always)]
    pub fn touch_global(&mut self, warp: u32) -> u32 {
        let stamp = &mut self.global_stamps[warp as usize];
        if *stamp == 0 {
            *stamp = self.now;
        }
        *stamp
    }

    /// A warp has released what it did up to now: what it does next is no part of that.
    pub fn advance(&mut self, warp: u32) {
        self.stamps[warp as usize] = 0;
        self.global_stamps[warp as usize] = 0;
        self.now = (self.now + 1).min(LAST);
    }

    /// Adds what lanes know and have done to a clock.
    pub fn release(&mut self, warp: u32, mask: u32, clock: &mut Clock) {
        for group in self.groups[warp as usize].iter().filter(|g| g.lanes & mask != 0) {
            clock.join(&group.clock);
        }
        clock.own.add(warp, mask, self.all[warp as usize], self.now);
        self.advance(warp);
    }

    /// Adds the landing of copies, as number `slot` of those whom `release` does not know.
    pub fn release_copies(&mut self, slot: u32, clock: &mut Clock) {
        let copies = self.copies();
        clock.own.add(copies, 1 << slot, u32::MAX, self.now);
        self.touched[copies as usize] = self.now;
        self.now = (self.now + 1).min(LAST);
    }

    /// Makes lanes know what a clock knows.
    pub fn acquire(&mut self, warp: u32, mask: u32, clock: &Clock) {
        let groups = &mut self.groups[warp as usize];
        for index in 0..groups.len() {
            let group = &mut groups[index];
            let inside = group.lanes & mask;
            if inside == 0 {
                continue;
            }
            if inside != group.lanes {
                let stay =
                    Group { lanes: group.lanes & !mask, clock: group.clock.clone(), horizon: group.horizon };
                group.lanes = inside;
                groups.push(stay);
            }
            groups[index].clock.join(clock);
        }
        self.merge(warp);
    }

    /// Makes lanes know what is known of the threads of all blocks.
    pub fn learn(&mut self, warp: u32, mask: u32, others: &Others) {
        if others.is_empty() {
            return;
        }
        let own = others.get(self.block).cloned().unwrap_or_default();
        self.acquire(warp, mask, &Clock { own, others: others.clone() });
    }

    /// Orders the lanes of `mask` among themselves.
    pub fn meet(&mut self, warp: u32, mask: u32) {
        let mut clock = Clock::default();
        self.release(warp, mask, &mut clock);
        self.acquire(warp, mask, &clock);
    }

    /// Joins groups that know the same, and looks at how far each can see.
    fn merge(&mut self, warp: u32) {
        let groups = &mut self.groups[warp as usize];
        let mut index = 1;
        while index < groups.len() {
            match (0..index).find(|&i| groups[i].clock == groups[index].clock) {
                Some(same) => {
                    let group = groups.swap_remove(index);
                    groups[same].lanes |= group.lanes;
                }
                None => index += 1,
            }
        }
        let past = self.now - 1;
        for group in groups {
            // Of a warp that has touched nothing since it was last heard of, everything is known.
            let seen = self.touched.iter().zip(&group.clock.own.warps);
            let seen = seen.map(|(&touched, &known)| if touched <= known { past } else { known });
            group.horizon = seen.fold(past, u32::min);
        }
    }
}
