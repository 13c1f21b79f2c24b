//! What went wrong, in words.

use super::{Site, Spaces, Trouble, races::Conflict, runs::lanes_of, trouble};
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

impl Spaces<'_> {
    /// A thread by its linear index in the block.
    fn thread(&self, warp: u32, lane: u32) -> String {
        format!("thread {} (warp {warp}, lane {lane})", warp * 32 + lane)
    }

    /// A race.
    #[cold]
    pub(super) fn race(&self, site: Site, conflict: &Conflict) -> Box<Trouble> {
        let Conflict { address, lane, write, before } = *conflict;
        let kind = match (write, before.write) {
            (false, _) => "read after write",
            (true, false) => "write after read",
            (true, true) => "write after write",
        };
        let copies = self.races.as_ref().is_some_and(|(races, _)| races.copies() == before.warp);
        let other = if copies {
            "a copy that an mbarrier waits for".into()
        } else {
            self.thread(before.warp, lanes_of(before.lanes).next().unwrap_or(0) as u32)
        };
        let did = |write| if write { "wrote" } else { "read" };
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
}
