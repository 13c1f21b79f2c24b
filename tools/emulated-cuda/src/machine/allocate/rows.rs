//! Linear scan: each register gets rows for the stretch of instructions in which it is live.

use std::{cmp::Reverse, collections::BinaryHeap};

use super::{Input, flow::Flow, liveness::Liveness, reads, writes};
use crate::machine::{
    decode::Virtual,
    op::{CONSTANT, NONE, Op, Slot, Width},
};

/// Where the registers lie.
pub struct Rows {
    /// The first row, or the predicate, of each register; [`NONE`] for one that no instruction names.
    pub slots: Vec<Slot>,
    /// Rows in use.
    pub rows: usize,
    /// Predicates in use.
    pub preds: usize,
}

/// From the first to the last moment of a register. An instruction has two moments: at 2 i it reads, at 2 i + 1 it writes.
#[derive(Clone, Copy)]
struct Stretch {
    from: u32,
    to: u32,
}

impl Stretch {
    const EMPTY: Self = Self { from: u32::MAX, to: 0 };

    fn cover(&mut self, moment: u32) {
        self.from = self.from.min(moment);
        self.to = self.to.max(moment);
    }
}

/// Whether an instruction has read all of its operands before it writes any, so that its result may take the place of one.
fn reads_first(op: &Op) -> bool {
    matches!(op, Op::Integer(_) | Op::Float(_) | Op::Packed(_) | Op::Mov { .. } | Op::Selp { .. })
}

/// Free slots of a file, lowest first.
struct Free {
    bits: Vec<u64>,
    /// One more than the highest that was ever taken.
    top: usize,
}

impl Free {
    const fn new() -> Self {
        Self { bits: Vec::new(), top: 0 }
    }

    /// Takes the lowest slot, growing the file if need be.
    fn take(&mut self) -> usize {
        let word = self.bits.iter().position(|&bits| bits != 0).unwrap_or_else(|| {
            self.bits.push(!0);
            self.bits.len() - 1
        });
        let bit = self.bits[word].trailing_zeros() as usize;
        self.bits[word] &= !(1 << bit);
        let at = word * 64 + bit;
        self.top = self.top.max(at + 1);
        at
    }

    fn give(&mut self, at: usize) {
        self.bits[at / 64] |= 1 << (at % 64);
    }
}

/// Gives every register its rows: those of one row first, then those of two.
///
/// Two registers of one width may share their rows, as writes touch none but the lanes that run. Registers of different widths may
/// not: a lane's 64 bits lie where two other lanes have 32, and lanes that have parted are in different stretches.
///
/// # Errors
/// The line at which there were too many, and a message.
pub fn allocate(input: &Input, flow: &Flow, liveness: &Liveness) -> Result<Rows, (u32, String)> {
    let stretches = stretches(input, flow, liveness);
    let mut order: Vec<Virtual> =
        (0..stretches.len() as Virtual).filter(|&r| stretches[r as usize].from != u32::MAX).collect();
    order.sort_unstable_by_key(|&r| stretches[r as usize].from);
    let mut slots = vec![NONE; stretches.len()];
    let mut files = [const { Free::new() }; 3];
    let file = |register: Virtual| input.widths[register as usize] as usize;
    let mut busy: BinaryHeap<Reverse<(u32, Virtual)>> = BinaryHeap::new();
    for register in order {
        let stretch = stretches[register as usize];
        while let Some(&Reverse((to, done))) = busy.peek()
            && to < stretch.from
        {
            busy.pop();
            files[file(done)].give(slots[done as usize] as usize);
        }
        let at = files[file(register)].take();
        let rows = files[Width::Word as usize].top + 2 * files[Width::Wide as usize].top;
        if rows.max(files[Width::Pred as usize].top) >= CONSTANT as usize {
            let line = input.protos[stretch.from as usize / 2].location.line;
            return Err((line, format!("more than {CONSTANT} registers are live at once")));
        }
        slots[register as usize] = at as Slot;
        busy.push(Reverse((stretch.to, register)));
    }
    let words = files[Width::Word as usize].top;
    for (slot, width) in slots.iter_mut().zip(&input.widths) {
        if *width == Width::Wide && *slot != NONE {
            *slot = words as Slot + 2 * *slot;
        }
    }
    let rows = words + 2 * files[Width::Wide as usize].top;
    Ok(Rows { slots, rows, preds: files[Width::Pred as usize].top })
}

/// When each register is live, gaps filled.
fn stretches(input: &Input, flow: &Flow, liveness: &Liveness) -> Vec<Stretch> {
    let mut stretches = vec![Stretch::EMPTY; input.widths.len()];
    for block in 0..flow.blocks() {
        let range = flow.range(block);
        for register in liveness.at_start(block) {
            stretches[register as usize].cover(2 * range.start as u32);
        }
        for register in liveness.at_end(block) {
            stretches[register as usize].cover(2 * range.end as u32 - 1);
        }
    }
    for (index, proto) in input.protos.iter().enumerate() {
        let moment = 2 * index as u32;
        for register in reads(proto) {
            stretches[register as usize].cover(moment);
        }
        for register in writes(proto) {
            // A result that nobody reads needs a place of its own at that moment all the same.
            stretches[register as usize].cover(moment + 1);
            if !reads_first(&proto.op) {
                stretches[register as usize].cover(moment);
            }
        }
    }
    stretches
}
