//! The control-flow graph of a kernel, and where branches meet again.

use super::Input;
use crate::machine::{op::Op, program::NO_JOIN};

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

    /// For each instruction, where the ways from it meet again if it is a branch.
    pub fn joins(&self, input: &Input) -> Vec<u32> {
        let after = self.postdominators();
        let mut joins = vec![NO_JOIN; input.protos.len()];
        for (block, &join) in after.iter().enumerate() {
            let last = self.range(block).end - 1;
            let branches = matches!(input.protos[last].op, Op::Branch { .. } | Op::BranchIndexed { .. });
            if branches && join != NO_JOIN {
                joins[last] = self.starts[join as usize];
            }
        }
        joins
    }

    /// The immediate postdominator of each block: Cooper, Harvey and Kennedy's algorithm on the graph turned round, in which
    /// one more node, the exit, follows every block that ends the thread.
    fn postdominators(&self) -> Vec<u32> {
        let exit = self.blocks();
        let ends: Vec<u32> = (0..exit as u32).filter(|&b| self.next[b as usize].is_empty()).collect();
        let backward = |node: usize| if node == exit { &ends } else { &self.previous[node] };
        // Numbers in postorder of a walk from the exit; what no exit is reached from has none.
        let mut number = vec![u32::MAX; exit + 1];
        let mut order = Vec::new();
        let mut seen = vec![false; exit + 1];
        let mut stack = vec![(exit, 0)];
        seen[exit] = true;
        while let Some((node, at)) = stack.pop() {
            if let Some(&way) = backward(node).get(at) {
                stack.push((node, at + 1));
                if !std::mem::replace(&mut seen[way as usize], true) {
                    stack.push((way as usize, 0));
                }
            } else {
                number[node] = order.len() as u32;
                order.push(node);
            }
        }
        let mut after = vec![u32::MAX; exit + 1];
        after[exit] = exit as u32;
        let mut changed = true;
        while changed {
            changed = false;
            for &node in order.iter().rev().skip(1) {
                let ways = self.next[node]
                    .iter()
                    .copied()
                    .chain(ends.binary_search(&(node as u32)).map(|_| exit as u32));
                let mut found = u32::MAX;
                for way in ways.filter(|&w| after[w as usize] != u32::MAX) {
                    found = if found == u32::MAX { way } else { meet(&after, &number, found, way) };
                }
                if after[node] != found {
                    after[node] = found;
                    changed = true;
                }
            }
        }
        after.truncate(exit);
        after.iter().map(|&join| if join == exit as u32 { NO_JOIN } else { join }).collect()
    }
}

/// The nearest node that both are followed by.
fn meet(after: &[u32], number: &[u32], mut a: u32, mut b: u32) -> u32 {
    while a != b {
        while number[a as usize] < number[b as usize] {
            a = after[a as usize];
        }
        while number[b as usize] < number[a as usize] {
            b = after[b as usize];
        }
    }
    a
}
