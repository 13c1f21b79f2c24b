//! The barriers of a block.

use super::{op::BarKind, spaces::Clock};

/// How many a block has.
pub const BARRIERS: usize = 16;

/// A barrier: who has arrived since it last opened.
#[derive(Debug, Default)]
pub struct Barrier {
    /// The lanes of each warp that have arrived.
    arrived: Vec<u32>,
    /// Threads that it waits for, as its first arrival said; none for the whole block.
    expected: Option<u32>,
    /// What it does beside waiting, as its first waiter said; a `bar.arrive` does not say.
    kind: Option<BarKind>,
    /// Whether anybody has arrived.
    busy: bool,
    /// What those who arrived knew.
    pub clock: Clock,
    /// Lanes of all warps whose predicate was true, for reductions.
    pub votes: u32,
    /// Lanes that voted.
    pub voters: u32,
}

impl Barrier {
    /// Ready for a block of `warps` warps.
    pub fn reset(&mut self, warps: usize) {
        self.arrived.clear();
        self.arrived.resize(warps, 0);
        (self.expected, self.kind, self.busy) = (None, None, false);
        self.clock = Clock::default();
        (self.votes, self.voters) = (0, 0);
    }

    /// Lanes of a warp arrive.
    ///
    /// # Errors
    /// When they already had, or when they come with another count or another operation than those before them.
    pub fn arrive(
        &mut self,
        warp: u32,
        lanes: u32,
        expected: Option<u32>,
        kind: BarKind,
    ) -> Result<(), String> {
        let before = &mut self.arrived[warp as usize];
        if *before & lanes != 0 {
            return Err("the same threads arrive twice before the barrier opens".into());
        }
        if self.busy && self.expected != expected {
            let words =
                |count: Option<u32>| count.map_or("the whole block".into(), |n| format!("{n} threads"));
            let (old, new) = (words(self.expected), words(expected));
            return Err(format!("threads wait for {new} at a barrier where others wait for {old}"));
        }
        if kind != BarKind::Arrive {
            if self.kind.is_some_and(|other| other != kind) {
                return Err("threads of one barrier disagree about its reduction".into());
            }
            self.kind = Some(kind);
        }
        *before |= lanes;
        (self.expected, self.busy) = (expected, true);
        Ok(())
    }

    /// Whether as many threads have arrived as it waits for, `everybody` where it waits for the whole block. A warp counts
    /// as 32 threads once all its lanes (`lanes`, warp by warp) have come.
    ///
    /// # Errors
    /// When more have.
    pub fn complete(&self, lanes: impl Iterator<Item = u32>, everybody: u32) -> Result<bool, String> {
        let count = |(arrived, all): (&u32, u32)| if *arrived == all { 32 } else { arrived.count_ones() };
        let arrived: u32 = self.arrived.iter().zip(lanes).map(count).sum();
        let expected = self.expected.unwrap_or(everybody);
        if arrived > expected {
            return Err(format!("{arrived} threads arrived at a barrier for {expected}"));
        }
        Ok(arrived == expected)
    }

    /// Whether somebody waits here.
    pub fn busy(&self) -> bool {
        self.busy
    }
}
