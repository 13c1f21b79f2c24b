//! Order that programs make themselves, with fences and flags (PTX memory model: release and acquire patterns).
//!
//! What a thread has done before a fence, its strong writes after that fence publish: whoever reads such a value
//! strongly, and fences then, is ordered after it. An atomic hands on what was published at its place before it. A flag may lie
//! in shared memory, or in global memory, where other blocks see it (`posts`) if the fences are for the whole device.
//!
//! One pattern that the model does not have is taken for a fence: a barrier of the block after an atomic on global memory.
//! "The last block to take a ticket adds up what the others left" is written so everywhere, NVIDIA's samples included.

use std::{collections::HashMap, sync::Arc};

use super::{
    clocks::{Clock, Order},
    others::Others,
    posts::{self, Post, Posts, Shard},
};
use crate::machine::op::{self, Scope};

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
        clock.own.add(self.warp, self.lanes, order.lanes(self.warp), self.time);
    }

    /// The same of one lane, for other blocks.
    fn for_all(&self, order: &Order, lane: usize) -> Others {
        let (mut own, mut others) = (self.knew.own.clone(), self.knew.others.clone());
        own.add(self.warp, 1 << lane, order.lanes(self.warp), self.time);
        others.add(order.block, own);
        others
    }
}

/// What lanes have read since their last fence.
#[derive(Debug, Default)]
struct Seen {
    lanes: u32,
    /// From flags in shared memory.
    clock: Clock,
    /// From flags in global memory: what a fence of the block's scope suffices for.
    near: Others,
    /// And what needs one of the device's.
    far: Others,
    /// The last of these flags: its address, and which post was there.
    last: (u64, u64),
}

/// What is put aside while an access that is a fence itself runs.
#[derive(Debug, Default)]
struct Aside {
    seen: Vec<Seen>,
    fences: Option<[Vec<Release>; 2]>,
}

/// The fences and flags of a block.
#[derive(Debug, Default)]
pub(super) struct Flags {
    /// By shared address: what a strong read there may lead to.
    published: HashMap<u64, Vec<Release>>,
    /// By warp: the last fences of its lanes, of any scope and of the device's.
    fences: Vec<[Vec<Release>; 2]>,
    /// By warp.
    seen: Vec<Vec<Seen>>,
    /// By warp, for single lanes: what their atomics on global memory have found since their last barrier.
    updated: Vec<Vec<(u32, Others)>>,
    aside: Aside,
}

/// Joins what is put at lanes with what is there.
fn put(list: &mut Vec<(u32, Others)>, lanes: u32, others: &Others) {
    match list.iter_mut().find(|(l, _)| *l == lanes) {
        Some((_, known)) => known.join(others),
        None => list.push((lanes, others.clone())),
    }
}

impl Flags {
    /// Of a block of so many warps.
    pub fn new(warps: usize) -> Self {
        let mut flags = Self::default();
        flags.fences.resize_with(warps, Default::default);
        flags.seen.resize_with(warps, Vec::new);
        flags.updated.resize_with(warps, Vec::new);
        flags
    }

    /// Makes it ready for the next block.
    pub fn reset(&mut self) {
        self.published.clear();
        self.fences.iter_mut().flatten().for_each(Vec::clear);
        self.seen.iter_mut().for_each(Vec::clear);
        self.updated.iter_mut().for_each(Vec::clear);
        self.aside = Aside::default();
    }

    /// The lanes of `mask` fence.
    pub fn fence(&mut self, order: &mut Order, warp: u32, mask: u32, scope: Scope) {
        self.acquire(order, warp, mask, scope);
        self.release(order, warp, mask, scope);
    }

    /// Orders what lanes do from now on after what they have seen.
    fn acquire(&mut self, order: &mut Order, warp: u32, mask: u32, scope: Scope) {
        self.seen[warp as usize].retain_mut(|seen| {
            let now = seen.lanes & mask;
            if now == 0 {
                return true;
            }
            if seen.clock != Clock::default() {
                order.acquire(warp, now, &std::mem::take(&mut seen.clock));
            }
            order.learn(warp, now, &std::mem::take(&mut seen.near));
            seen.last = (0, 0);
            if scope == Scope::Device {
                order.learn(warp, now, &std::mem::take(&mut seen.far));
            }
            !seen.far.is_empty()
        });
    }

    /// What lanes have done up to now, their strong writes publish.
    fn release(&mut self, order: &mut Order, warp: u32, mask: u32, scope: Scope) {
        let lists = &mut self.fences[warp as usize];
        for list in if scope == Scope::Device { &mut lists[..] } else { &mut lists[..1] } {
            list.iter_mut().for_each(|f| f.lanes &= !mask);
            list.retain(|f| f.lanes != 0);
            for group in order.groups(warp).iter().filter(|g| g.lanes & mask != 0) {
                let knew = Arc::new(group.clock.clone());
                list.push(Release { warp, lanes: group.lanes & mask, time: order.now, knew });
            }
        }
        order.advance(warp);
    }

    /// An access of lanes begins that is a fence for itself alone: before it, after it, or both.
    pub fn begin(&mut self, order: &mut Order, warp: u32, mask: u32, kind: op::Order, scope: Scope) {
        if matches!(kind, op::Order::Release | op::Order::AcqRel) {
            self.aside.fences = Some(self.fences[warp as usize].clone());
            self.release(order, warp, mask, scope);
        }
        if matches!(kind, op::Order::Acquire | op::Order::AcqRel) {
            let all = std::mem::take(&mut self.seen[warp as usize]);
            let (apart, rest) = all.into_iter().partition(|seen| seen.lanes & mask != 0);
            (self.aside.seen, self.seen[warp as usize]) = (apart, rest);
        }
    }

    /// It ends.
    pub fn end(&mut self, order: &mut Order, warp: u32, mask: u32, kind: op::Order, scope: Scope) {
        if matches!(kind, op::Order::Acquire | op::Order::AcqRel) {
            self.acquire(order, warp, mask, scope);
            self.seen[warp as usize].append(&mut self.aside.seen);
        }
        if let Some(fences) = self.aside.fences.take() {
            self.fences[warp as usize] = fences;
        }
    }

    /// Lanes come to a barrier of the block.
    pub fn barrier(&mut self, order: &mut Order, warp: u32, mask: u32) {
        self.updated[warp as usize].retain(|(lanes, others)| {
            let now = lanes & mask;
            if now != 0 {
                order.learn(warp, now, others);
            }
            now == 0
        });
    }

    /// The last fence of a lane, of any scope or of the device's.
    fn last_fence(&self, warp: u32, lane: usize, scope: Scope) -> Option<&Release> {
        let list = &self.fences[warp as usize][usize::from(scope == Scope::Device)];
        list.iter().find(|f| f.lanes >> lane & 1 != 0)
    }

    /// A lane has written strongly to shared memory; `handed_on` says that the write was an atomic.
    #[inline(always)]
    pub fn write(&mut self, order: &Order, warp: u32, lane: usize, address: u64, handed_on: bool) {
        if self.fences[warp as usize][0].is_empty() && self.published.is_empty() {
            return;
        }
        let Some(fence) = self.last_fence(warp, lane, Scope::Block).cloned() else {
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

    /// A lane has read strongly in shared memory.
    #[inline(always)]
    pub fn read(&mut self, order: &Order, warp: u32, lane: usize, address: u64) {
        if self.published.is_empty() {
            return;
        }
        let Some(releases) = self.published.get(&address) else { return };
        let seen = seen_by(&mut self.seen[warp as usize], 1 << lane);
        releases.iter().for_each(|r| r.join_into(order, &mut seen.clock));
    }

    /// A lane writes strongly to global memory.
    pub fn post(
        &self,
        order: &Order,
        posts: &Posts,
        shard: &mut Shard,
        (warp, lane): (u32, usize),
        (address, size): (u64, usize),
        handed_on: bool,
    ) {
        let wide = self.last_fence(warp, lane, Scope::Device);
        let narrow = self.last_fence(warp, lane, Scope::Block).filter(|_| posts.narrow);
        if wide.is_none() && narrow.is_none() {
            if !handed_on {
                posts::keys(address, size).for_each(|key| _ = shard.remove(&key));
            }
            return;
        }
        let far = wide.map(|release| release.for_all(order, lane));
        let near = narrow.map(|release| release.for_all(order, lane));
        for key in posts::keys(address, size) {
            let post = shard.entry(key).or_default();
            if !handed_on {
                *post = Post::default();
            }
            post.version = posts.version();
            far.iter().for_each(|far| post.far.join(far));
            near.iter().for_each(|near| put(&mut post.near, order.block, near));
        }
    }

    /// A lane has read strongly from global memory; `update` says that it was an atomic.
    pub fn look(
        &mut self,
        order: &Order,
        shard: &Shard,
        (warp, lane): (u32, usize),
        (address, size): (u64, usize),
        update: bool,
    ) {
        for key in posts::keys(address, size) {
            let Some(post) = shard.get(&key) else { continue };
            let seen = seen_by(&mut self.seen[warp as usize], 1 << lane);
            // A thread that spins finds the same again and again.
            if std::mem::replace(&mut seen.last, (key, post.version)) == (key, post.version) && !update {
                continue;
            }
            seen.far.join(&post.far);
            let near = post.near.iter().filter(|(block, _)| *block == order.block);
            near.for_each(|(_, near)| seen.near.join(near));
            if update {
                put(&mut self.updated[warp as usize], 1 << lane, &post.far);
            }
        }
    }
}

/// What a lane has seen.
fn seen_by(list: &mut Vec<Seen>, lanes: u32) -> &mut Seen {
    let at = list.iter().position(|seen| seen.lanes == lanes).unwrap_or_else(|| {
        list.push(Seen { lanes, ..Seen::default() });
        list.len() - 1
    });
    &mut list[at]
}
