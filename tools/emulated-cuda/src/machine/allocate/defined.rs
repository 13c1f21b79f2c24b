//! Registers that may be read before they are written.

use std::collections::HashMap;

use super::{Input, registers, writes};
use crate::machine::{
    decode::{Arg, Proto, Virtual},
    op::Width,
    program::Tracked,
    undefined::{Use, source_use},
};

/// The registers whose definedness the machine follows, bit by bit.
pub struct Undefined {
    /// Index among the tracked.
    index: HashMap<Virtual, u16>,
    /// The registers by that index, each with the one whose name it goes by.
    order: Vec<(Virtual, Virtual)>,
}

/// The registers whose undefined bits an instruction hands on.
fn passing(proto: &Proto) -> impl Iterator<Item = Virtual> + '_ {
    let sources = proto.args[proto.writes as usize..].iter().enumerate();
    sources.filter_map(|(source, arg)| match arg {
        Arg::Reg(register) if source_use(&proto.op, source) == Use::Passes => Some(*register),
        _ => None,
    })
}

impl Undefined {
    /// The registers that are live at the start of the kernel, and those that their bits may reach.
    ///
    /// # Errors
    /// Too many of them.
    pub fn new(input: &Input, at_entry: impl Iterator<Item = Virtual>) -> Result<Self, String> {
        let mut this = Self { index: HashMap::new(), order: Vec::new() };
        at_entry.for_each(|register| this.add(register, register));
        if this.order.is_empty() {
            return Ok(this);
        }
        let mut reached: HashMap<Virtual, Vec<Virtual>> = HashMap::new();
        for proto in &input.protos {
            for from in passing(proto) {
                reached.entry(from).or_default().extend(writes(proto));
            }
        }
        let mut at = 0;
        while let Some(&(from, name)) = this.order.get(at) {
            for to in reached.remove(&from).into_iter().flatten() {
                // The decoder's own registers have no name.
                this.add(to, if input.temporary(to) { name } else { to });
            }
            at += 1;
        }
        if this.order.len() > usize::from(u16::MAX) {
            return Err("too many registers may be read before they are written".into());
        }
        Ok(this)
    }

    fn add(&mut self, register: Virtual, name: Virtual) {
        let next = self.order.len() as u16;
        self.index.entry(register).or_insert_with(|| {
            self.order.push((register, name));
            next
        });
    }

    /// What an instruction does to the tracked registers, if anything.
    pub fn instruction(&self, proto: &Proto) -> Option<Tracked> {
        if self.order.is_empty() {
            return None;
        }
        let find = |register: Virtual| self.index.get(&register).copied();
        let operands = |range: std::ops::Range<usize>| {
            let numbered = proto.args[range.clone()].iter().zip(range);
            let found =
                numbered.filter_map(|(arg, at)| registers(&[*arg]).find_map(find).map(|r| (at as u8, r)));
            found.collect::<Vec<_>>()
        };
        let written = usize::from(proto.writes);
        let tracked = Tracked {
            guard: proto.guard.and_then(|(guard, _)| find(guard)),
            writes: proto.writes,
            sources: operands(written..proto.args.len()),
            targets: operands(0..written),
        };
        let any = tracked.guard.is_some() || !(tracked.sources.is_empty() && tracked.targets.is_empty());
        any.then_some(tracked)
    }

    /// Their names and widths.
    pub fn registers(&self, input: &Input) -> (Vec<String>, Vec<Width>) {
        let one = |&(register, name): &(Virtual, Virtual)| {
            (input.names[name as usize].clone(), input.widths[register as usize])
        };
        self.order.iter().map(one).unzip()
    }
}
