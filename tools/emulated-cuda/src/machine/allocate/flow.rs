//! The control-flow graph of a kernel.

use super::Input;
use crate::machine::op::Op;

/// Basic blocks and the ways between them.
pub struct Flow {
    /// First instruction of each block, and behind the last block the number of instructions.
    pub starts: Vec<u32>,
    /// Blocks that may follow each block.
    pub next: Vec<Vec<u32>>,
    /// Blocks that may precede each block.
    pub previous: Vec<Vec<u32>>,
}

/// Whether an instruction ends a block.
fn ends(op: &Op) -> bool {
    matches!(op, Op::Branch { .. } | Op::BranchIndexed { .. } | Op::Exit | Op::Trap)
}

impl Flow {
    /// The graph of a kernel.
    ///
    /// # Errors
    /// A label that stands at no instruction.
    pub fn new(input: &Input) -> Result<Self, String> {
        let protos = &input.protos;
        let mut leads = vec![false; protos.len() + 1];
        leads[0] = true;
        leads[protos.len()] = true;
        let mut lead = |label: u32| match input.labels.get(label as usize) {
            Some(&at) if (at as usize) < protos.len() => {
                leads[at as usize] = true;
                Ok(())
            }
            _ => Err("a branch leads out of the kernel".to_owned()),
        };
        let mut after = Vec::new();
        for (index, proto) in protos.iter().enumerate() {
            match proto.op {
                Op::Branch { target, .. } => lead(target)?,
                Op::BranchIndexed { list } => {
                    input.branch_lists[list as usize].iter().try_for_each(|&label| lead(label))?;
                }
                _ => {}
            }
            if ends(&proto.op) {
                after.push(index + 1);
            }
        }
        after.into_iter().for_each(|at| leads[at] = true);
        let starts: Vec<u32> = (0..=protos.len() as u32).filter(|&at| leads[at as usize]).collect();
        let blocks = starts.len() - 1;
        let mut of = vec![0u32; protos.len()];
        for block in 0..blocks {
            of[starts[block] as usize..starts[block + 1] as usize].fill(block as u32);
        }
        let mut next = vec![Vec::new(); blocks];
        let mut previous = vec![Vec::new(); blocks];
        for block in 0..blocks {
            let last = &protos[starts[block + 1] as usize - 1];
            let mut to: Vec<u32> = match last.op {
                Op::Branch { target, .. } => vec![of[input.labels[target as usize] as usize]],
                Op::BranchIndexed { list } => input.branch_lists[list as usize]
                    .iter()
                    .map(|&label| of[input.labels[label as usize] as usize])
                    .collect(),
                _ => Vec::new(),
            };
            if (!ends(&last.op) || last.guard.is_some()) && block + 1 < blocks {
                to.push(block as u32 + 1);
            }
            to.sort_unstable();
            to.dedup();
            to.iter().for_each(|&t| previous[t as usize].push(block as u32));
            next[block] = to;
        }
        Ok(Self { starts, next, previous })
    }

    /// How many blocks there are.
    pub fn blocks(&self) -> usize {
        self.next.len()
    }

    /// The instructions of a block.
    pub fn range(&self, block: usize) -> std::ops::Range<usize> {
        self.starts[block] as usize..self.starts[block + 1] as usize
    }
}
