//! Order that programs make themselves, with fences and flags (PTX memory model: release and acquire patterns).
//!
//! What a thread has done before a fence, its strong writes after that fence publish: whoever reads such a value
//! strongly, and fences then, is ordered after it. An atomic hands on what was published at its place before it.

use std::{collections::HashMap, sync::Arc};

use super::clocks::{Clock, Order};

/// Releases kept at an address before they are joined into one.
const KEPT: usize = 8;

/// What lanes did up to a fence.
#[derive(Clone, Debug)]
struct Release {
    warp: u32,
    lanes: u32,
    time: u32,
    /// What they knew of others.
    knew: Arc<Clock>,
}

impl Release {
    fn join_into(&self, order: &Order, clock: &mut Clock) {
        clock.join(&self.knew);
        clock.add(self.warp, self.lanes, order.lanes(self.warp), self.time);
    }
}

/// The fences and flags of a block.
#[derive(Debug, Default)]
pub(super) struct Flags {
    /// By generic address: what a strong read there may lead to.
    published: HashMap<u64, Vec<Release>>,
    /// By warp: the last fences of its lanes.
    fences: Vec<Vec<Release>>,
    /// By warp: what lanes have read since their last fence.
    seen: Vec<Vec<(u32, Clock)>>,
}

impl Flags {
    /// Of a block of so many warps.
    pub fn new(warps: usize) -> Self {
        Self { published: HashMap::new(), fences: vec![Vec::new(); warps], seen: vec![Vec::new(); warps] }
    }

    /// Makes it ready for the next block.
    pub fn reset(&mut self) {
        self.published.clear();
        self.fences.iter_mut().for_each(Vec::clear);
        self.seen.iter_mut().for_each(Vec::clear);
    }

    /// The lanes of `mask` fence.
    pub fn fence(&mut self, order: &mut Order, warp: u32, mask: u32) {
        self.seen[warp as usize].retain(|(lanes, clock)| {
            let now = lanes & mask;
            if now != 0 {
                order.acquire(warp, now, clock);
            }
            now == 0
        });
        let fences = &mut self.fences[warp as usize];
        fences.iter_mut().for_each(|f| f.lanes &= !mask);
        fences.retain(|f| f.lanes != 0);
        for group in order.groups(warp).iter().filter(|g| g.lanes & mask != 0) {
            let knew = Arc::new(group.clock.clone());
            fences.push(Release { warp, lanes: group.lanes & mask, time: order.now, knew });
        }
        order.advance(warp);
    }

    /// A lane has written strongly; `handed_on` says that the write was an atomic.
    #[inline(always)]
    pub fn write(&mut self, order: &Order, warp: u32, lane: usize, address: u64, handed_on: bool) {
        if self.fences[warp as usize].is_empty() && self.published.is_empty() {
            return;
        }
        let fence = self.fences[warp as usize].iter().find(|f| f.lanes >> lane & 1 != 0);
        let Some(fence) = fence else {
            if !handed_on {
                self.published.remove(&address);
            }
            return;
        };
        let here = self.published.entry(address).or_default();
        if !handed_on {
            here.clear();
        }
        let bit = 1 << lane;
        match here.iter_mut().find(|r| Arc::ptr_eq(&r.knew, &fence.knew)) {
            Some(release) => release.lanes |= bit,
            None => here.push(Release { lanes: bit, ..fence.clone() }),
        }
        if here.len() > KEPT {
            let mut clock = Clock::default();
            here.iter().for_each(|r| r.join_into(order, &mut clock));
            here.clear();
            here.push(Release { warp, lanes: bit, time: fence.time, knew: Arc::new(clock) });
        }
    }

    /// A lane has read strongly.
    #[inline(always)]
    pub fn read(&mut self, order: &Order, warp: u32, lane: usize, address: u64) {
        if self.published.is_empty() {
            return;
        }
        let Some(releases) = self.published.get(&address) else { return };
        let seen = &mut self.seen[warp as usize];
        let at = seen.iter().position(|(lanes, _)| *lanes == 1 << lane).unwrap_or_else(|| {
            seen.push((1 << lane, Clock::default()));
            seen.len() - 1
        });
        releases.iter().for_each(|r| r.join_into(order, &mut seen[at].1));
    }
}
