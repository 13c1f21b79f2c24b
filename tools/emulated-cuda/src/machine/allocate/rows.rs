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
#[derive(Default)]
struct Free {
    bits: Vec<u64>,
    /// One more than the highest that was ever taken.
    top: usize,
}

impl Free {
    /// Takes the lowest slot, or two neighbours, growing the file if need be.
    fn take(&mut self, pair: bool) -> usize {
        let mut carry = false;
        for (word, &bits) in self.bits.iter().enumerate() {
            let fits = match pair {
                false => bits,
                // A bit with its upper neighbour; bit 63's is the first of the next word.
                true => bits & (bits >> 1),
            };
            if pair && carry && bits & 1 != 0 {
                return self.taken(word * 64 - 1, 2);
            }
            if fits != 0 {
                return self.taken(word * 64 + fits.trailing_zeros() as usize, 1 + usize::from(pair));
            }
            carry = bits >> 63 != 0;
        }
        self.bits.push(!0);
        self.take(pair)
    }

    fn taken(&mut self, at: usize, count: usize) -> usize {
        for slot in at..at + count {
            self.bits[slot / 64] &= !(1 << (slot % 64));
        }
        self.top = self.top.max(at + count);
        at
    }

    fn give(&mut self, at: usize, count: usize) {
        for slot in at..at + count {
            self.bits[slot / 64] |= 1 << (slot % 64);
        }
    }
}

/// Gives every register its rows.
///
/// # Errors
/// The line at which there were too many, and a message.
pub fn allocate(input: &Input, flow: &Flow, liveness: &Liveness) -> Result<Rows, (u32, String)> {
    let stretches = stretches(input, flow, liveness);
    let mut order: Vec<Virtual> =
        (0..stretches.len() as Virtual).filter(|&r| stretches[r as usize].from != u32::MAX).collect();
    order.sort_unstable_by_key(|&r| stretches[r as usize].from);
    let mut slots = vec![NONE; stretches.len()];
    let (mut rows, mut preds) = (Free::default(), Free::default());
    let mut busy: BinaryHeap<Reverse<(u32, Virtual)>> = BinaryHeap::new();
    for register in order {
        let stretch = stretches[register as usize];
        while let Some(&Reverse((to, done))) = busy.peek()
            && to < stretch.from
        {
            busy.pop();
            let at = slots[done as usize] as usize;
            match input.widths[done as usize] {
                Width::Pred => preds.give(at, 1),
                Width::Word => rows.give(at, 1),
                Width::Wide => rows.give(at, 2),
            }
        }
        let at = match input.widths[register as usize] {
            Width::Pred => preds.take(false),
            Width::Word => rows.take(false),
            Width::Wide => rows.take(true),
        };
        if at + 1 >= CONSTANT as usize {
            let line = input.protos[stretch.from as usize / 2].location.line;
            return Err((line, format!("more than {CONSTANT} registers are live at once")));
        }
        slots[register as usize] = at as Slot;
        busy.push(Reverse((stretch.to, register)));
    }
    Ok(Rows { slots, rows: rows.top, preds: preds.top })
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
