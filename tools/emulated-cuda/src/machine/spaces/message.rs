//! What went wrong, in words.

use super::{Site, Spaces, Trouble, ledger as global, races::Conflict, runs::lanes_of, trouble};
use crate::machine::{FaultKind, program::Program};

/// Where an instruction was written, and what it says.
pub(super) fn place(program: &Program, pc: u32) -> String {
    let Some(place) = program.places.get(pc as usize) else {
        return format!("instruction {pc}");
    };
    let source = match program.files.get(&place.file) {
        Some(file) => format!(" ({file}:{})", place.source_line),
        None => String::new(),
    };
    let text = program.text.get((place.line as usize).saturating_sub(1)).map_or("", |t| t.trim());
    format!("PTX line {}{source}: `{text}`", place.line)
}

/// What two accesses that race did, the earlier one first.
fn kind(before: bool, write: bool) -> &'static str {
    match (write, before) {
        (false, _) => "read after write",
        (true, false) => "write after read",
        (true, true) => "write after write",
    }
}

fn did(write: bool) -> &'static str {
    if write { "wrote" } else { "read" }
}

impl Spaces<'_> {
    /// A thread by its linear index in the block.
    fn thread(&self, warp: u32, lane: u32) -> String {
        format!("thread {} (warp {warp}, lane {lane})", warp * 32 + lane)
    }

    /// A race.
    #[cold]
    pub(super) fn race(&self, site: Site, conflict: &Conflict) -> Box<Trouble> {
        let Conflict { address, lane, write, before } = *conflict;
        let kind = kind(before.write, write);
        let copies = self.races.as_ref().is_some_and(|(races, _)| races.copies() == before.warp);
        let other = if copies {
            "a copy that an mbarrier waits for".into()
        } else {
            self.thread(before.warp, lanes_of(before.lanes).next().unwrap_or(0) as u32)
        };
        let message = format!(
            "{kind} at {address:#x} of shared memory, with nothing that orders them: {other} {} at {}; {} {} at {}",
            did(before.write),
            place(self.program, before.pc),
            self.thread(site.warp, lane),
            did(write),
            place(self.program, site.pc),
        );
        trouble(FaultKind::Race, lane as usize, message)
    }

    /// A race in global memory.
    #[cold]
    pub(super) fn global_race(&self, site: Site, conflict: &global::Conflict) -> Box<Trouble> {
        let global::Conflict { offset, write, clash } = conflict;
        let before = &clash.before;
        let block = |number: u32| {
            let blocks = self.ledger.map(|ledger| ledger.blocks);
            blocks
                .map_or_else(String::new, |b| format!(" of block {:?}", b.place(b.linear(u64::from(number)))))
        };
        let mine = self.races.as_ref().map_or(0, |(races, _)| races.order.block);
        let message = format!(
            "{} at {:#x} of global memory, with nothing that orders them: {}{} {} at {}; {}{} {} at {}",
            kind(before.writes(), *write),
            self.device.memory.base() + *offset as u64,
            self.thread(u32::from(before.warp), clash.other),
            block(before.block),
            did(before.writes()),
            place(self.program, before.pc),
            self.thread(site.warp, clash.lane),
            block(mine),
            did(*write),
            place(self.program, site.pc),
        );
        trouble(FaultKind::Race, clash.lane as usize, message)
    }
}
