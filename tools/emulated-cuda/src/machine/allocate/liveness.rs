//! Which registers are needed where.

use super::{Input, flow::Flow, reads, writes};
use crate::machine::decode::Virtual;

/// Words of the bit sets of all blocks at most: 256 MiB.
const MAX_WORDS: usize = 1 << 25;
/// Marks a register that no block needs from another.
const LOCAL: u32 = u32::MAX;

/// The registers that are live at the start and the end of each block.
///
/// Only those that some block reads before it writes them have a bit: most registers live inside one block.
pub struct Liveness {
    /// Registers by bit.
    crossing: Vec<Virtual>,
    /// Words of a set.
    words: usize,
    /// Sets of the starts of the blocks.
    at_start: Vec<u64>,
    /// Sets of their ends.
    at_end: Vec<u64>,
}

impl Liveness {
    /// Solves the liveness of a kernel.
    ///
    /// # Errors
    /// A kernel whose sets would not fit in memory.
    pub fn new(input: &Input, flow: &Flow) -> Result<Self, String> {
        let (needed, killed) = summaries(input, flow);
        let mut bit = vec![LOCAL; input.widths.len()];
        let mut crossing = Vec::new();
        for &register in needed.iter().flatten() {
            if bit[register as usize] == LOCAL {
                bit[register as usize] = crossing.len() as u32;
                crossing.push(register);
            }
        }
        let words = crossing.len().div_ceil(64);
        let total = words * flow.blocks();
        if total > MAX_WORDS {
            return Err("too many registers cross too many branches".into());
        }
        let mut this = Self { crossing, words, at_start: vec![0; total], at_end: vec![0; total] };
        let mut kept = vec![!0u64; total];
        for block in 0..flow.blocks() {
            let base = block * words;
            for &register in &needed[block] {
                let bit = bit[register as usize] as usize;
                this.at_start[base + bit / 64] |= 1 << (bit % 64);
            }
            for &register in &killed[block] {
                let bit = bit[register as usize];
                if bit != LOCAL {
                    kept[base + bit as usize / 64] &= !(1 << (bit % 64));
                }
            }
        }
        // From the last block to the first, each block again when what follows it has changed.
        let mut waiting = vec![true; flow.blocks()];
        let mut work: Vec<u32> = (0..flow.blocks() as u32).collect();
        while let Some(block) = work.pop() {
            let block = block as usize;
            waiting[block] = false;
            let base = block * words;
            for &next in &flow.next[block] {
                for word in 0..words {
                    this.at_end[base + word] |= this.at_start[next as usize * words + word];
                }
            }
            let mut changed = false;
            let ends = &this.at_end[base..base + words];
            let starts = &mut this.at_start[base..base + words];
            for ((start, end), kept) in starts.iter_mut().zip(ends).zip(&kept[base..]) {
                let more = end & kept & !*start;
                changed |= more != 0;
                *start |= more;
            }
            if changed {
                for &previous in &flow.previous[block] {
                    if !std::mem::replace(&mut waiting[previous as usize], true) {
                        work.push(previous);
                    }
                }
            }
        }
        Ok(this)
    }

    fn registers<'s>(&'s self, sets: &'s [u64], block: usize) -> impl Iterator<Item = Virtual> + 's {
        let base = block * self.words;
        sets[base..base + self.words].iter().enumerate().flat_map(move |(word, &bits)| {
            let mut left = bits;
            std::iter::from_fn(move || {
                let bit = (left != 0).then(|| left.trailing_zeros() as usize)?;
                left &= left - 1;
                Some(self.crossing[word * 64 + bit])
            })
        })
    }

    /// The registers that are live at the start of a block.
    pub fn at_start(&self, block: usize) -> impl Iterator<Item = Virtual> + '_ {
        self.registers(&self.at_start, block)
    }

    /// The registers that are live at the end of a block.
    pub fn at_end(&self, block: usize) -> impl Iterator<Item = Virtual> + '_ {
        self.registers(&self.at_end, block)
    }

    /// The registers that are live when the kernel starts: some way leads from there to a read past no write.
    pub fn at_entry(&self) -> impl Iterator<Item = Virtual> + '_ {
        self.at_start(0)
    }
}

/// For each block, the registers that it reads before it writes them and those that it surely writes.
fn summaries(input: &Input, flow: &Flow) -> (Vec<Vec<Virtual>>, Vec<Vec<Virtual>>) {
    // The block (plus one) that last read or wrote a register, so that nothing need be cleared between blocks.
    let mut read_in = vec![0u32; input.widths.len()];
    let mut written_in = vec![0u32; input.widths.len()];
    let mut needed = vec![Vec::new(); flow.blocks()];
    let mut killed = vec![Vec::new(); flow.blocks()];
    for block in 0..flow.blocks() {
        let mark = block as u32 + 1;
        for proto in &input.protos[flow.range(block)] {
            for register in reads(proto) {
                let at = register as usize;
                if written_in[at] != mark && std::mem::replace(&mut read_in[at], mark) != mark {
                    needed[block].push(register);
                }
            }
            for register in writes(proto) {
                // A guarded write may leave lanes as they were.
                let sure = proto.guard.is_none() || input.temporary(register);
                if sure && std::mem::replace(&mut written_in[register as usize], mark) != mark {
                    killed[block].push(register);
                }
            }
        }
    }
    (needed, killed)
}
