//! A warp: its registers, and its lanes in groups that stand at different instructions.

use std::fmt::Write;

use super::{
    alu::lanes_of,
    lanes::{FULL, File},
    op::Op,
    program::Program,
    undefined::Undefined,
};

/// Steps that a group may run while another could, before that one gets a turn: a lane that spins on a lock must not
/// starve the lane that holds it.
const PATIENCE: u32 = 4096;
/// Steps of such a turn.
const TURN: u32 = 1024;

/// Lanes that stand at the same instruction.
#[derive(Clone, Debug)]
pub struct Split {
    /// Where they stand.
    pub pc: u32,
    /// Which they are.
    pub mask: u32,
    /// What they wait for.
    pub state: State,
    /// When they last had a turn.
    last: u64,
}

/// Whether lanes can go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// They can.
    Ready,
    /// They wait for other lanes of their warp, at an instruction that needs them all.
    Warp,
    /// They have arrived at a barrier of the block.
    Barrier,
}

/// A warp.
#[derive(Debug, Default)]
pub struct Warp {
    /// Its index in the block.
    pub index: u32,
    /// Its registers.
    pub file: File,
    /// For each tracked register, the bits that nothing has written.
    pub undefined: Vec<Undefined>,
    /// The lanes that exist.
    pub lanes: u32,
    /// The lanes that have not left.
    pub live: u32,
    /// Its lanes by where they stand.
    pub splits: Vec<Split>,
    /// The instruction that ran last, for reports.
    pub pc: u32,
    patience: u32,
    /// Steps left of a turn out of order.
    turn: u32,
    clock: u64,
}

impl Warp {
    /// Makes it ready to run a block's threads `32 * index ..`, of `threads`.
    pub fn start(&mut self, program: &Program, index: u32, threads: u32) {
        let count = (threads - 32 * index).min(32);
        self.index = index;
        self.lanes = if count == 32 { FULL } else { (1 << count) - 1 };
        self.live = self.lanes;
        self.file.start(program);
        self.undefined.clear();
        self.undefined.extend(program.tracked_widths.iter().map(|&width| Undefined::new(width)));
        self.splits.clear();
        self.splits.push(Split { pc: 0, mask: self.lanes, state: State::Ready, last: 0 });
        (self.pc, self.patience, self.turn, self.clock) = (0, 0, 0, 0);
    }

    /// The group that runs next: the one that stands earliest in the program, so that lanes which parted meet again
    /// where their paths join.
    pub fn pick(&mut self) -> Option<usize> {
        self.merge();
        let ready = || self.splits.iter().enumerate().filter(|(_, s)| s.state == State::Ready);
        let several = ready().count() > 1;
        let (at, _) = if several && self.patience > PATIENCE {
            self.patience = 0;
            self.turn = TURN;
            ready().min_by_key(|(_, s)| s.last)?
        } else {
            self.turn = 0;
            ready().min_by_key(|(_, s)| s.pc)?
        };
        self.clock += 1;
        self.splits[at].last = self.clock;
        Some(at)
    }

    /// Joins the groups that stand at the same instruction. Those that wait for lanes of their warp look again.
    fn merge(&mut self) {
        let mut at = 0;
        while at < self.splits.len() {
            let mut other = at + 1;
            while other < self.splits.len() {
                let (a, b) = (&self.splits[at], &self.splits[other]);
                let waiting = a.state == State::Warp && b.state == State::Warp;
                let barrier = a.state == State::Barrier || b.state == State::Barrier;
                if a.pc == b.pc && !waiting && !barrier {
                    let joined = self.splits.swap_remove(other);
                    self.splits[at].mask |= joined.mask;
                    self.splits[at].state = State::Ready;
                } else {
                    other += 1;
                }
            }
            at += 1;
        }
    }

    /// Whether another group should run, or be joined, now that group `at` stands where it does.
    #[inline]
    pub fn should_switch(&mut self, at: usize) -> bool {
        let pc = self.splits[at].pc;
        let mut earlier = false;
        for (index, other) in self.splits.iter().enumerate() {
            if index == at || other.state == State::Barrier {
                continue;
            }
            if other.pc == pc {
                return true;
            }
            earlier |= other.state == State::Ready && other.pc < pc;
            self.patience += u32::from(other.state == State::Ready);
        }
        if self.turn > 0 {
            self.turn -= 1;
            return self.turn == 0;
        }
        earlier || self.patience > PATIENCE
    }

    /// Takes lanes out of a group: they stand at `pc` from now on.
    pub fn part(&mut self, at: usize, lanes: u32, pc: u32, state: State) {
        let split = &mut self.splits[at];
        if split.mask == lanes {
            (split.pc, split.state) = (pc, state);
            return;
        }
        split.mask &= !lanes;
        let last = split.last;
        self.splits.push(Split { pc, mask: lanes, state, last });
    }

    /// Lanes leave for good.
    pub fn exit(&mut self, at: usize, lanes: u32) {
        self.live &= !lanes;
        self.splits[at].mask &= !lanes;
        if self.splits[at].mask == 0 {
            self.splits.swap_remove(at);
        }
        // Who waits for them need not any more.
        self.splits.iter_mut().filter(|s| s.state == State::Warp).for_each(|s| s.state = State::Ready);
    }

    /// `bar.warp.sync` may be written in several places, each lane coming to its own: lets those go on who have named the
    /// same mask and have all come. The lanes that met, by the instruction at which they stood.
    pub fn meet(&mut self, program: &Program) -> Option<Vec<(u32, u32)>> {
        let mut wanted = [None; 32];
        for split in self.splits.iter().filter(|s| s.state == State::Warp) {
            let inst = &program.code[split.pc as usize];
            if matches!(inst.op, Op::WarpSync) {
                lanes_of(split.mask)
                    .for_each(|lane| wanted[lane] = Some(self.file.lanes::<u32>(inst.o[0])[lane]));
            }
        }
        let met = wanted.iter().flatten().find_map(|mask| {
            let come =
                (0..32).filter(|&lane| wanted[lane] == Some(*mask)).fold(0, |all, lane| all | 1 << lane);
            (mask & self.live & !come == 0).then_some(come)
        })?;
        let mut places = Vec::new();
        for at in 0..self.splits.len() {
            let pc = self.splits[at].pc;
            let lanes = self.splits[at].mask & met;
            if lanes != 0 {
                places.push((pc, lanes));
                self.part(at, lanes, pc + 1, State::Ready);
            }
        }
        Some(places)
    }

    /// Where its lanes stand, in words.
    pub fn describe(&self, program: &Program) -> String {
        let mut text = String::new();
        for split in &self.splits {
            let line = program.places[split.pc as usize].line;
            let source = program.text.get(line.saturating_sub(1) as usize).map_or("", |t| t.trim());
            let waits = match split.state {
                State::Ready => "can go on at",
                State::Warp => "wait for other lanes of their warp at",
                State::Barrier => "wait at the barrier at",
            };
            let _ = write!(text, "\n    lanes {} {waits} PTX line {line}: {source}", lane_list(split.mask));
        }
        let gone = self.lanes & !self.live;
        if gone != 0 {
            let _ = write!(text, "\n    lanes {} have exited", lane_list(gone));
        }
        text
    }
}

/// Lanes in words: `0-3,7`.
pub fn lane_list(mask: u32) -> String {
    let mut text = String::new();
    let mut lanes = lanes_of(mask).peekable();
    while let Some(first) = lanes.next() {
        let mut last = first;
        while lanes.next_if_eq(&(last + 1)).is_some() {
            last += 1;
        }
        if !text.is_empty() {
            text.push(',');
        }
        let _ = if first == last { write!(text, "{first}") } else { write!(text, "{first}-{last}") };
    }
    text
}
