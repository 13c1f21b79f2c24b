//! The race detector against one that keeps every access and a full vector clock of every thread.

use cuda::machine::{FaultKind::Race, op::Window};
use proptest::prelude::*;

use super::*;

const WARPS: u32 = 3;
const THREADS: usize = 96;
/// Few bytes, so that accesses meet.
const BYTES: u64 = 32;

#[derive(Clone, Debug)]
enum Step {
    Access {
        warp: u32,
        mask: u32,
        size: u8,
        place: u64,
        step: u64,
        write: Option<u8>,
        strong: bool,
    },
    Meet {
        warp: u32,
        mask: u32,
    },
    /// Those of the first list arrive, those of the second have waited.
    Barrier {
        arrive: Vec<(u32, u32)>,
        wait: Vec<(u32, u32)>,
    },
}

fn masks() -> impl Strategy<Value = u32> {
    prop_oneof![
        4 => Just(FULL),
        2 => prop_oneof![Just(0xffff), Just(0xffff_0000), Just(0x5555_5555), Just(0xff00)],
        2 => (0..32u32).prop_map(|l| 1 << l),
        1 => any::<u32>().prop_map(|m| m | 1),
    ]
}

fn steps() -> impl Strategy<Value = Step> {
    let who = || (0..WARPS, masks());
    let all = Just((0..WARPS).map(|w| (w, FULL)).collect::<Vec<_>>());
    let write = prop_oneof![2 => Just(None), 2 => (0..3u8).prop_map(Some)];
    prop_oneof![
        6 => (who(), prop_oneof![Just(1u8), Just(2), Just(4)], 0..8u64, 0..3u64, write, any::<bool>())
            .prop_map(|((warp, mask), size, place, step, write, strong)| {
                Step::Access { warp, mask, size, place, step, write, strong }
            }),
        2 => who().prop_map(|(warp, mask)| Step::Meet { warp, mask }),
        3 => all.clone().prop_map(|all| Step::Barrier { arrive: all.clone(), wait: all }),
        2 => (proptest::collection::vec(who(), 1..4), proptest::collection::vec(who(), 1..4))
            .prop_map(|(arrive, wait)| Step::Barrier { arrive, wait }),
    ]
}

#[derive(Clone)]
struct Model {
    /// What each thread knows of each; its own entry is its own time.
    clocks: Vec<[u32; THREADS]>,
    /// By byte: who accessed it, when, whether that was a write, and whether it was strong.
    history: Vec<Vec<(usize, u32, bool, bool)>>,
    bytes: Vec<u8>,
}

impl Model {
    fn threads(who: &[(u32, u32)]) -> impl Iterator<Item = usize> {
        let of = |&(warp, mask): &(u32, u32)| {
            (0..32).filter(move |l| mask >> l & 1 != 0).map(move |l| warp as usize * 32 + l)
        };
        who.iter().flat_map(of)
    }

    fn join(to: &mut [u32; THREADS], from: &[u32; THREADS]) {
        to.iter_mut().zip(from).for_each(|(a, b)| *a = (*a).max(*b));
    }

    fn order(&mut self, arrive: &[(u32, u32)], wait: &[(u32, u32)]) {
        let mut clock = [0; THREADS];
        for thread in Self::threads(arrive) {
            Self::join(&mut clock, &self.clocks[thread]);
            self.clocks[thread][thread] += 1;
        }
        Self::threads(wait).for_each(|thread| Self::join(&mut self.clocks[thread], &clock));
    }

    /// Whether an access races.
    fn access(&mut self, thread: usize, byte: usize, write: Option<u8>, strong: bool) -> bool {
        let mut race = false;
        for &(other, time, wrote, was_strong) in &self.history[byte] {
            let harmless =
                !wrote && write.is_none() || wrote && write == Some(self.bytes[byte]) || strong && was_strong;
            race |= other != thread && self.clocks[thread][other] < time && !harmless;
        }
        self.history[byte].push((thread, self.clocks[thread][thread], write.is_some(), strong));
        self.bytes[byte] = write.unwrap_or(self.bytes[byte]);
        race
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn no_race_is_missed_and_none_invented(
        // Most accesses that race are left out, so that long histories come about.
        steps in proptest::collection::vec((steps(), prop::bool::weighted(0.05)), 1..100),
    ) {
        let machine = machine(RACES, 1);
        let mut spaces = machine.spaces(THREADS as u32);
        let mut model = Model {
            clocks: (0..THREADS).map(|t| std::array::from_fn(|u| u32::from(t == u))).collect(),
            history: vec![Vec::new(); BYTES as usize],
            bytes: vec![0xff; BYTES as usize],
        };
        for (step, dare) in steps {
            match step {
                Step::Meet { warp, mask } => {
                    spaces.warp_sync(warp, mask);
                    model.order(&[(warp, mask)], &[(warp, mask)]);
                }
                Step::Barrier { arrive, wait } => {
                    let mut clock = Clock::default();
                    arrive.iter().for_each(|&(w, m)| spaces.release(w, m, &mut clock));
                    wait.iter().for_each(|&(w, m)| spaces.acquire(w, m, &clock));
                    model.order(&arrive, &wait);
                }
                Step::Access { warp, mask, size, place, step, write, strong } => {
                    let bytes = u64::from(size);
                    let addresses = every(place * bytes * 4 % BYTES, step * bytes).map(|a| a % BYTES);
                    let (mut racing, before) = (0u32, model.clone());
                    for lane in (0..32).filter(|l| mask >> l & 1 != 0) {
                        for byte in addresses[lane] as usize..addresses[lane] as usize + size as usize {
                            let race = model.access(warp as usize * 32 + lane, byte, write, strong);
                            racing |= u32::from(race) << lane;
                        }
                    }
                    if racing != 0 && !dare {
                        model = before;
                        continue;
                    }
                    let mut data = [write.unwrap_or(0); 1024];
                    let shape = Shape { strong: strong.then_some(Scope::Device), ..shape(1, size) };
                    let result = match write {
                        Some(_) => spaces.store(site(warp, 1), Window::Shared, &addresses, mask, shape, &data),
                        None => spaces.load(site(warp, 1), Window::Shared, &addresses, mask, shape, &mut data),
                    };
                    match result {
                        Ok(()) => prop_assert_eq!(racing, 0, "missed"),
                        Err(trouble) => {
                            prop_assert_eq!(trouble.kind, Race);
                            prop_assert!(racing >> trouble.lane & 1 != 0, "invented: {}", trouble.message);
                            return Ok(());
                        }
                    }
                }
            }
        }
    }
}
