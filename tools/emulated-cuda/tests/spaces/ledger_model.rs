//! The race detector of global memory against one that keeps every access and a full vector clock of every thread.

use std::collections::{BTreeSet, HashMap};

use cuda::machine::{
    FaultKind::Race,
    memory::AllocationKind,
    op::{AtomicKind, AtomicType, Window},
};
use proptest::prelude::*;

use super::*;

const BLOCKS: usize = 3;
const WARPS: u32 = 2;
/// Threads of a block.
const SIZE: usize = 64;
const THREADS: usize = BLOCKS * SIZE;
/// Few bytes, across two lines, so that accesses meet; and flags behind them.
const BYTES: u64 = 96;
const FLAGS: u64 = 4;
/// So many reads of a byte that nothing orders, one more to come, the detector keeps for sure.
const CROWD: usize = 2;

type Clocks = [u32; THREADS];

#[derive(Clone, Copy, Debug)]
struct Who {
    block: usize,
    warp: u32,
    mask: u32,
}

impl Who {
    fn lanes(self) -> impl Iterator<Item = usize> {
        (0..32).filter(move |l| self.mask >> l & 1 != 0)
    }

    fn threads(self) -> impl Iterator<Item = usize> {
        self.lanes().map(move |l| self.block * SIZE + self.warp as usize * 32 + l)
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Flag {
    Store,
    Load,
    Add,
}

#[derive(Clone, Debug)]
enum Step {
    Access {
        who: Who,
        size: u8,
        place: u64,
        step: u64,
        write: Option<u8>,
        strong: Option<Scope>,
    },
    /// An exchange with these bytes.
    Update {
        who: Who,
        place: u64,
        step: u64,
        write: u8,
        scope: Scope,
    },
    Meet(Who),
    Barrier(usize),
    Fence(Who, Scope),
    Flag(Who, Flag, u64),
}

fn who() -> impl Strategy<Value = Who> {
    let mask = prop_oneof![
        3 => Just(FULL),
        1 => prop_oneof![Just(0xffff), Just(0x5555_5555), Just(0xff00)],
        4 => (0..3u32).prop_map(|l| 1 << l),
        1 => any::<u32>().prop_map(|m| m | 1),
    ];
    (0..BLOCKS, 0..WARPS, mask).prop_map(|(block, warp, mask)| Who { block, warp, mask })
}

fn scope() -> impl Strategy<Value = Scope> {
    prop_oneof![1 => Just(Scope::Block), 3 => Just(Scope::Device)]
}

fn steps() -> impl Strategy<Value = Step> {
    let write = prop_oneof![2 => Just(None), 2 => (0..3u8).prop_map(Some)];
    let size = prop_oneof![Just(1u8), Just(2), Just(4), Just(8)];
    let flag = prop_oneof![1 => Just(Flag::Store), 2 => Just(Flag::Load), 1 => Just(Flag::Add)];
    prop_oneof![
        6 => (who(), size, 0..12u64, 0..3u64, write, prop::option::weighted(0.4, scope()))
            .prop_map(|(who, size, place, step, write, strong)| Step::Access { who, size, place, step, write, strong }),
        2 => (who(), 0..12u64, 0..3u64, 0..3u8, scope())
            .prop_map(|(who, place, step, write, scope)| Step::Update { who, place, step, write, scope }),
        1 => who().prop_map(Step::Meet),
        2 => (0..BLOCKS).prop_map(Step::Barrier),
        3 => (who(), scope()).prop_map(|(who, scope)| Step::Fence(who, scope)),
        4 => (who(), flag, 0..FLAGS).prop_map(|(who, flag, at)| Step::Flag(who, flag, at)),
    ]
}

/// An access.
#[derive(Clone, Copy)]
struct Event {
    /// Number of the instruction, and of the lane unless all access the same.
    record: (usize, usize),
    thread: usize,
    time: u32,
    read: bool,
    write: bool,
    strong: Option<Scope>,
}

/// What a flag makes known, to all and to the threads of a block.
#[derive(Clone)]
struct Post {
    far: Clocks,
    near: [Clocks; BLOCKS],
}

const NOTHING: Post = Post { far: [0; THREADS], near: [[0; THREADS]; BLOCKS] };

#[derive(Clone)]
struct Model {
    /// What each thread knows of each; its own entry is its own time.
    clocks: Vec<Clocks>,
    history: Vec<Vec<Event>>,
    bytes: Vec<u8>,
    /// By byte: whether so many accesses came to it at once that some may be forgotten.
    crowded: Vec<bool>,
    /// What stands behind the values at places: of words, and of accesses that are smaller.
    flags: HashMap<u64, Post>,
    /// By thread: what it knew at its last fence, of any scope and of the device's.
    fenced: Vec<[Clocks; 2]>,
    /// By thread: what it has seen in flags since, and with atomics since its last barrier.
    seen: Vec<Post>,
    updated: Vec<Clocks>,
}

fn join(to: &mut Clocks, from: &Clocks) {
    to.iter_mut().zip(from).for_each(|(a, b)| *a = (*a).max(*b));
}

impl Model {
    fn new() -> Self {
        Self {
            clocks: (0..THREADS).map(|t| std::array::from_fn(|u| u32::from(t == u))).collect(),
            history: vec![Vec::new(); BYTES as usize],
            bytes: vec![0xff; BYTES as usize],
            crowded: vec![false; BYTES as usize],
            flags: HashMap::new(),
            fenced: vec![[[0; THREADS]; 2]; THREADS],
            seen: vec![NOTHING; THREADS],
            updated: vec![[0; THREADS]; THREADS],
        }
    }

    fn meet(&mut self, threads: impl Iterator<Item = usize> + Clone) {
        let mut clock = [0; THREADS];
        for thread in threads.clone() {
            join(&mut clock, &self.clocks[thread]);
            self.clocks[thread][thread] += 1;
        }
        threads.for_each(|thread| join(&mut self.clocks[thread], &clock));
    }

    fn barrier(&mut self, block: usize) {
        let threads = block * SIZE..(block + 1) * SIZE;
        for thread in threads.clone() {
            let updated = std::mem::replace(&mut self.updated[thread], [0; THREADS]);
            join(&mut self.clocks[thread], &updated);
        }
        self.meet(threads);
    }

    fn fence(&mut self, thread: usize, scope: Scope) {
        let block = thread / SIZE;
        let near = std::mem::replace(&mut self.seen[thread].near[block], [0; THREADS]);
        join(&mut self.clocks[thread], &near);
        if scope == Scope::Device {
            let far = std::mem::replace(&mut self.seen[thread].far, [0; THREADS]);
            join(&mut self.clocks[thread], &far);
            self.fenced[thread][1] = self.clocks[thread];
        }
        self.fenced[thread][0] = self.clocks[thread];
        self.clocks[thread][thread] += 1;
    }

    /// A strong access.
    fn flag(&mut self, thread: usize, flag: Flag, at: u64, size: u64) {
        (0..size).step_by(4).for_each(|word| self.post(thread, flag, at + word));
    }

    fn post(&mut self, thread: usize, flag: Flag, at: u64) {
        let block = thread / SIZE;
        let here = self.flags.entry(at).or_insert(NOTHING);
        if flag != Flag::Store {
            join(&mut self.seen[thread].far, &here.far);
            join(&mut self.seen[thread].near[block], &here.near[block]);
        }
        if flag == Flag::Add {
            join(&mut self.updated[thread], &here.far);
        }
        if flag == Flag::Store {
            *here = NOTHING;
        }
        if flag != Flag::Load {
            join(&mut here.near[block], &self.fenced[thread][0]);
            join(&mut here.far, &self.fenced[thread][1]);
        }
    }

    fn before(&self, old: &Event, new: &Event) -> bool {
        old.thread == new.thread || self.clocks[new.thread][old.thread] >= old.time
    }

    /// Whether an access races, and whether so many came to its byte that it may be missed.
    fn access(&mut self, new: Event, byte: usize, value: u8) -> (bool, bool) {
        let (mut race, mut crowd) = (false, BTreeSet::new());
        let history = &self.history[byte];
        let strong = |a: &Event, b: &Event| {
            let together = a.thread / SIZE == b.thread / SIZE;
            let enough = |scope: Option<Scope>| scope.is_some_and(|s| together || s == Scope::Device);
            enough(a.strong) && enough(b.strong)
        };
        for (index, old) in history.iter().enumerate() {
            if self.before(old, &new) {
                continue;
            }
            crowd.insert(old.record);
            // Somebody, whom this comes after, has found there what a strong write put there.
            let found = |other: &Event| other.read && strong(old, other) && self.before(other, &new);
            let harmless = !old.write && !new.write
                || old.write && new.write && !new.read && value == self.bytes[byte]
                || strong(old, &new)
                || old.write && history[index + 1..].iter().any(found);
            race |= !harmless;
        }
        // An atomic stands for those before it, and is no match for what only its block sees. Of strong reads, the last stands for
        // all, and for the strong writes before the first. A write stands for reads before it, and may be tolerated.
        let count = |kind: fn(&Event) -> bool| history.iter().filter(|old| kind(old)).count();
        let narrow = new.strong == Some(Scope::Block) && count(|old| old.read && old.write) > 0
            || new.write && value == self.bytes[byte] && count(|old| old.write) > 0
            || !new.write && count(|old| old.read && !old.write && old.strong.is_some()) > 1;
        self.history[byte].push(new);
        self.bytes[byte] = if new.write { value } else { self.bytes[byte] };
        self.crowded[byte] |= crowd.len() > CROWD;
        (race, self.crowded[byte] || narrow)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1500) })]

    #[test]
    fn no_race_is_missed_and_none_invented(
        // Most accesses that race are left out, so that long histories come about.
        steps in proptest::collection::vec((steps(), prop::bool::weighted(0.05)), 1..120),
    ) {
        let machine = machine(RACES, 1);
        let at = machine.allocate(4096, AllocationKind::Device);
        let flags = at + 1024;
        machine.device.memory.write(at, &[0xff; 4096]).unwrap();
        let ledger = machine.ledger();
        let mut blocks: Vec<_> = (0..BLOCKS as u64).map(|b| machine.block(ledger, b, SIZE as u32)).collect();
        let mut model = Model::new();
        for (number, (step, dare)) in steps.into_iter().enumerate() {
            match step {
                Step::Meet(who) => {
                    blocks[who.block].warp_sync(who.warp, who.mask);
                    model.meet(who.threads().collect::<Vec<_>>().into_iter());
                }
                Step::Barrier(block) => {
                    barrier(&mut blocks[block], &[0, 1]);
                    model.barrier(block);
                }
                Step::Fence(who, scope) => {
                    blocks[who.block].fence(who.warp, who.mask, scope);
                    who.threads().for_each(|thread| model.fence(thread, scope));
                }
                Step::Flag(who, flag, index) => {
                    let (site, place) = (site(who.warp, 2), [flags + 4 * index; 32]);
                    let (space, mut data, shape) = (&mut blocks[who.block], [1; 1024], strong(1, 4));
                    let result = match flag {
                        Flag::Store => space.store(site, Window::Global, &place, who.mask, shape, &data),
                        Flag::Load => space.load(site, Window::Global, &place, who.mask, shape, &mut data),
                        Flag::Add => {
                            let (kind, ty, scope) = (AtomicKind::Add, AtomicType::U32, Scope::Device);
                            let (one, mut old) = ([1; 32], [0; 32]);
                            space.atomic(site, Window::Global, &place, who.mask, kind, ty, scope, &one, &one, &mut old)
                        }
                    };
                    prop_assert!(result.is_ok());
                    who.threads().for_each(|thread| model.flag(thread, flag, 1024 + 4 * index, 4));
                }
                Step::Access { .. } | Step::Update { .. } => {
                    let (who, size, place, step, write, strong, read) = match step {
                        Step::Access { who, size, place, step, write, strong } => {
                            (who, size, place, step, write, strong, write.is_none())
                        }
                        Step::Update { who, place, step, write, scope } => {
                            (who, 4, place, step, Some(write), Some(scope), true)
                        }
                        _ => unreachable!(),
                    };
                    let bytes = u64::from(size);
                    let places = every(place * bytes * 3 % BYTES, step * bytes).map(|a| a % BYTES);
                    let (mut racing, mut crowded, before) = (0u32, false, model.clone());
                    for (lane, thread) in who.lanes().zip(who.threads()) {
                        for byte in places[lane] as usize..places[lane] as usize + size as usize {
                            let time = model.clocks[thread][thread];
                            let record = (number, if step == 0 { 0 } else { lane });
                            let event = Event { record, thread, time, read, write: write.is_some(), strong };
                            let (race, crowd) = model.access(event, byte, write.unwrap_or(0));
                            racing |= u32::from(race) << lane;
                            crowded |= race && crowd;
                        }
                        if strong.is_some() {
                            let flag = match (write, read) {
                                (Some(_), true) => Flag::Add,
                                (Some(_), false) => Flag::Store,
                                (None, _) => Flag::Load,
                            };
                            model.flag(thread, flag, places[lane], bytes);
                        }
                    }
                    if racing != 0 && !dare {
                        model = before;
                        continue;
                    }
                    let mut data = [write.unwrap_or(0); 1024];
                    let (shape, addresses) = (Shape { strong, ..shape(1, size) }, places.map(|a| at + a));
                    let (site, space) = (site(who.warp, 1), &mut blocks[who.block]);
                    let result = match (write, read) {
                        (Some(value), true) => {
                            let (kind, ty, mut old) = (AtomicKind::Exch, AtomicType::U32, [0; 32]);
                            let (scope, a) = (strong.unwrap(), [u64::from(value) * 0x0101_0101; 32]);
                            space.atomic(site, Window::Global, &addresses, who.mask, kind, ty, scope, &a, &a, &mut old)
                        }
                        (Some(_), false) => space.store(site, Window::Global, &addresses, who.mask, shape, &data),
                        (None, _) => space.load(site, Window::Global, &addresses, who.mask, shape, &mut data),
                    };
                    match result {
                        Ok(()) if racing == 0 => {}
                        Ok(()) => {
                            prop_assert!(crowded, "missed");
                            return Ok(());
                        }
                        Err(trouble) => {
                            prop_assert_eq!(trouble.kind, Race);
                            // Of several lanes, one may be named that has found what another one wrote.
                            prop_assert!(racing != 0, "invented: {}", trouble.message);
                            return Ok(());
                        }
                    }
                }
            }
        }
    }
}
