//! Registers that may be read before they are written.

use std::collections::HashMap;

use super::{Input, registers, writes};
use crate::machine::{
    decode::{Proto, Virtual},
    op::Op,
    program::Tracked,
};

/// The registers whose definedness the machine follows, lane by lane.
pub struct Undefined {
    /// Index among the tracked.
    index: HashMap<Virtual, u16>,
    /// The registers by that index.
    order: Vec<Virtual>,
}

/// Whether an instruction moves bits and looks at none.
fn copies(op: &Op) -> bool {
    matches!(op, Op::Mov { .. } | Op::Pack { .. } | Op::Unpack { .. })
}

impl Undefined {
    /// The registers that are live at the start of the kernel, and what copies of them reach.
    ///
    /// # Errors
    /// Too many of them.
    pub fn new(input: &Input, at_entry: impl Iterator<Item = Virtual>) -> Result<Self, String> {
        let mut this = Self { index: HashMap::new(), order: Vec::new() };
        at_entry.for_each(|register| this.add(register));
        if this.order.is_empty() {
            return Ok(this);
        }
        let mut copied: HashMap<Virtual, Vec<Virtual>> = HashMap::new();
        for proto in input.protos.iter().filter(|p| copies(&p.op)) {
            for from in registers(&proto.args[proto.writes as usize..]) {
                copied.entry(from).or_default().extend(writes(proto));
            }
        }
        let mut at = 0;
        while let Some(from) = this.order.get(at) {
            copied.remove(from).into_iter().flatten().for_each(|to| this.add(to));
            at += 1;
        }
        if this.order.len() > usize::from(u16::MAX) {
            return Err("too many registers may be read before they are written".into());
        }
        Ok(this)
    }

    fn add(&mut self, register: Virtual) {
        let next = self.order.len() as u16;
        self.index.entry(register).or_insert_with(|| {
            self.order.push(register);
            next
        });
    }

    /// What an instruction does to the tracked registers, if anything.
    pub fn instruction(&self, proto: &Proto) -> Option<Tracked> {
        if self.order.is_empty() {
            return None;
        }
        let find = |register: Virtual| self.index.get(&register).copied();
        let sources = registers(&proto.args[proto.writes as usize..]).filter_map(find).collect();
        let (reads, copies) = if copies(&proto.op) { (Vec::new(), sources) } else { (sources, Vec::new()) };
        let guard = proto.guard.and_then(|(guard, _)| find(guard));
        let tracked = Tracked { guard, reads, copies, writes: writes(proto).filter_map(find).collect() };
        let any = tracked.guard.is_some()
            || !(tracked.reads.is_empty() && tracked.copies.is_empty() && tracked.writes.is_empty());
        any.then_some(tracked)
    }

    /// Their names.
    pub fn names(&self, input: &Input) -> Vec<String> {
        self.order.iter().map(|&register| input.names[register as usize].clone()).collect()
    }
}
