//! Asynchronous copies from global to shared memory (`cp.async`).
//!
//! The bytes are read when a copy is issued and put aside; until the issuing lane has waited for them, or an mbarrier has
//! on its behalf, the target holds poison, and whoever touches it faults.

use std::collections::VecDeque;

use super::{
    Need, POISON, Site, Spaces, Trouble, message,
    records::Kind,
    runs::{Run, Runs, lanes_of},
    shared::state,
    traffic, trouble,
};
use crate::machine::{
    FaultKind,
    op::{Shape, Window},
    windows,
};

/// Bytes that a lane copies at most.
const MOST: usize = 16;

/// The copies of a warp instruction.
struct Batch {
    pc: u32,
    /// Bytes of a lane.
    size: usize,
    /// Lanes whose bytes have not landed.
    left: u32,
    /// The group of each lane's copy.
    groups: [u32; 32],
    /// Whether these are all the same.
    even: bool,
    /// How many instructions of the warp came before.
    number: u64,
    to: [u64; 32],
    data: [u8; 32 * MOST],
}

/// What a warp has under way.
pub(super) struct Copies {
    queue: VecDeque<Batch>,
    /// The number of each lane's open group: that of the groups it has closed.
    open: [u32; 32],
    /// Whether these are all the same.
    even: bool,
    issued: u64,
}

impl Copies {
    pub fn new() -> Self {
        Self { queue: VecDeque::new(), open: [0; 32], even: true, issued: 0 }
    }

    pub fn reset(&mut self) {
        self.queue.clear();
        self.open = [0; 32];
        self.even = true;
        self.issued = 0;
    }

    /// How many instructions have issued copies.
    pub fn issued(&self) -> u64 {
        self.issued
    }

    /// The instruction whose copy is to write a byte of shared memory.
    fn writer(&self, byte: u64) -> Option<u32> {
        let inside =
            |c: &&Batch| lanes_of(c.left).any(|l| (c.to[l]..c.to[l] + c.size as u64).contains(&byte));
        self.queue.iter().find(inside).map(|c| c.pc)
    }
}

impl Spaces<'_> {
    /// Which copy is under way to a byte, in words that continue a sentence.
    pub(super) fn pending_copy(&self, byte: usize) -> String {
        let found = self.copies.iter().enumerate().find_map(|(w, c)| Some((w, c.writer(byte as u64)?)));
        found.map_or_else(String::new, |(warp, pc)| {
            format!(": the one that warp {warp} issued at {}", message::place(self.program, pc))
        })
    }

    /// Issues the copies of a warp instruction.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn issue_copies(
        &mut self,
        site: Site,
        to: &[u64; 32],
        from_window: Window,
        from: &[u64; 32],
        mask: u32,
        size: usize,
        sizes: &[u32; 32],
    ) -> Result<(), Box<Trouble>> {
        let Copies { open, even, issued, .. } = self.copies[site.warp as usize];
        let mut copy = Batch {
            pc: site.pc,
            size,
            left: mask,
            groups: open,
            even,
            number: issued,
            to: *to,
            data: [0; 32 * MOST],
        };
        self.read_sources(site, from_window, from, mask, size, sizes, &mut copy.data)?;
        for run in Runs::new(to, mask, size, false) {
            let range = self.shared_range(&run, size, Need::Write)?;
            if let Some((races, _)) = &mut self.races
                && let Err(conflict) = races.write(run.touch(site, size, false), None)
            {
                return Err(self.race(site, &conflict));
            }
            self.shared.special += range.len();
            self.shared.states[range.clone()].fill(state::PENDING);
            self.shared.bytes[range].fill(POISON);
        }
        if self.counting {
            let reading = lanes_of(mask).filter(|&l| sizes[l] > 0).fold(0, |all, lane| all | 1 << lane);
            traffic::count_global(&mut self.counters.global_copy, from, reading, |lane| sizes[lane]);
            traffic::count_shared(&mut self.counters.shared_store, to, mask, size);
        }
        let copies = &mut self.copies[site.warp as usize];
        copies.queue.push_back(copy);
        copies.issued += 1;
        Ok(())
    }

    /// Checks and reads the global side of copies; what is not read stays zero.
    #[allow(clippy::too_many_arguments)]
    fn read_sources(
        &mut self,
        site: Site,
        window: Window,
        from: &[u64; 32],
        mask: u32,
        size: usize,
        sizes: &[u32; 32],
        data: &mut [u8; 32 * MOST],
    ) -> Result<(), Box<Trouble>> {
        let time = self.global_time(site.warp);
        let mut whole = 0;
        if window == Window::Global && sizes.iter().all(|s| *s as usize == size) {
            whole = mask;
        }
        for lane in lanes_of(mask & !whole) {
            let (address, bytes) = (from[lane], sizes[lane] as usize);
            let place = if window == Window::Generic { windows::resolve(address).0 } else { window };
            let fault = |kind, why: &str| {
                let message = format!("copies {size} bytes from {address:#x} to shared memory: {why}");
                Err(trouble(kind, lane, message))
            };
            if place != Window::Global {
                return fault(FaultKind::IllegalAddress, "the source is not in global memory");
            }
            if address & (size as u64 - 1) != 0 {
                return fault(FaultKind::Misaligned, "the source is not aligned to that");
            }
            if bytes > size {
                return fault(FaultKind::Undefined, &format!("it is told to read {bytes} of them"));
            }
            if bytes == size {
                whole |= 1 << lane;
            } else if bytes > 0 {
                // The bytes that are read lie at an address that is aligned for each of them alone.
                let at = Run { lane: lane as u32, lanes: bytes as u32, address, same: false };
                let offset = self.global_offset(&at, 1, Need::Read)?;
                let one = Run { lanes: 1, ..at };
                self.fetch(site, time, &one, offset, bytes, &mut data[lane * size..][..bytes])?;
            }
        }
        for run in Runs::new(from, whole, size, false) {
            let offset = self.global_offset(&run, size, Need::Read)?;
            let into = &mut data[run.lane as usize * size..][..run.len(size)];
            self.fetch(site, time, &run, offset, size, into)?;
        }
        Ok(())
    }

    fn fetch(
        &self,
        site: Site,
        time: Option<u32>,
        run: &Run,
        offset: usize,
        size: usize,
        into: &mut [u8],
    ) -> Result<(), Box<Trouble>> {
        let from = self.device.memory.bytes_at(offset);
        let shape = Shape { count: 1, bytes: size as u8, signed: false, wide: false, strong: None };
        // SAFETY: the caller has found the range to lie in live memory. Copies are weak: see `load_run`.
        self.in_order(time, run.entry(site, offset, shape, Kind::Read), None, |part| unsafe {
            let into = &mut into[part.clone()];
            std::ptr::copy_nonoverlapping(from.add(part.start), into.as_mut_ptr(), into.len());
        })?;
        if let Some(footprint) = self.footprint {
            footprint.read(offset, into.len());
        }
        Ok(())
    }

    /// Closes the groups of lanes.
    pub(super) fn close_groups(&mut self, site: Site, mask: u32) {
        let Copies { open, even, .. } = &mut self.copies[site.warp as usize];
        lanes_of(mask).for_each(|lane| open[lane] += 1);
        *even = open.iter().all(|group| *group == open[0]);
    }

    /// Lands what lanes wait for: all but their last `pending` groups, or everything.
    pub(super) fn wait_for_copies(&mut self, site: Site, mask: u32, pending: Option<u32>) {
        let Copies { open, even, .. } = self.copies[site.warp as usize];
        self.land(site.warp, None, |copy| {
            let Some(pending) = pending else { return mask };
            let over =
                |lane: usize| u64::from(copy.groups[lane]) + u64::from(pending) < u64::from(open[lane]);
            match copy.even && even {
                true => {
                    if over(0) {
                        mask
                    } else {
                        0
                    }
                }
                false => lanes_of(mask).filter(|&lane| over(lane)).fold(0, |all, lane| all | 1 << lane),
            }
        });
    }

    /// Lands the copies that a lane had issued when its warp had issued so many, for an mbarrier.
    pub(super) fn land_for_mbarrier(&mut self, warp: u32, lane: u32, issued: u64, slot: u32) {
        self.land(warp, Some(slot), |copy| if copy.number < issued { 1 << lane } else { 0 });
    }

    fn land(&mut self, warp: u32, slot: Option<u32>, due: impl Fn(&Batch) -> u32) {
        let mut queue = std::mem::take(&mut self.copies[warp as usize].queue);
        for copy in &mut queue {
            let lanes = due(copy) & copy.left;
            copy.left &= !lanes;
            for run in Runs::new(&copy.to, lanes, copy.size, false) {
                let range = run.address as usize..run.address as usize + run.len(copy.size);
                let data = &copy.data[run.lane as usize * copy.size..][..range.len()];
                self.shared.bytes[range.clone()].copy_from_slice(data);
                self.shared.special -= range.len();
                self.shared.states[range].fill(0);
                if let Some((races, _)) = &mut self.races {
                    races.land(run.touch(Site { pc: copy.pc, warp }, copy.size, false), slot);
                }
            }
        }
        while queue.front().is_some_and(|c| c.left == 0) {
            queue.pop_front();
        }
        self.copies[warp as usize].queue = queue;
    }
}
