//! Local memory: that of each thread alone.
//!
//! Words of the 32 lanes of a warp lie side by side, as on hardware, so that lanes which access the same offset touch one
//! row.

use super::{Need, POISON, Site, Spaces, Trouble, runs::lanes_of, sweep, trouble};
use crate::machine::{FaultKind, op::Shape};

/// Bytes of a row: a word of each lane.
const ROW: usize = 128;
const UNWRITTEN: u8 = 1;

/// The local memory of a block's threads.
pub(super) struct Local {
    /// Bytes of a thread.
    size: usize,
    /// Bytes of a warp.
    stride: usize,
    warps: usize,
    bytes: Vec<u8>,
    /// By byte: whether it is [`UNWRITTEN`].
    states: Vec<u8>,
    /// Whether a thread of this block has touched it.
    used: bool,
}

impl Local {
    pub fn new(size: u32, threads: u32) -> Self {
        let (size, warps) = (size as usize, threads.div_ceil(32) as usize);
        Self {
            size,
            stride: size.div_ceil(4) * ROW,
            warps,
            bytes: Vec::new(),
            states: Vec::new(),
            used: false,
        }
    }

    pub fn reset(&mut self) {
        self.used = false;
    }

    /// Poisons the memory when the first thread of a block comes to it.
    #[inline(always)]
    fn prepare(&mut self) {
        if !self.used {
            self.used = true;
            for (memory, value) in [(&mut self.bytes, POISON), (&mut self.states, UNWRITTEN)] {
                memory.clear();
                memory.resize(self.stride * self.warps, value);
            }
        }
    }

    /// Index of a lane's byte.
    #[inline(always)]
    fn at(&self, warp: u32, lane: usize, offset: usize) -> usize {
        warp as usize * self.stride + offset / 4 * ROW + lane * 4 + offset % 4
    }

    /// A lane's byte, which has been written, counts as if it had not.
    pub fn unwrite(&mut self, warp: u32, lane: usize, offset: usize) {
        let at = self.at(warp, lane, offset);
        self.states[at] = UNWRITTEN;
    }

    /// Copies bytes of a lane; they have to lie inside.
    pub fn peek(&self, warp: u32, lane: u32, offset: u64, into: &mut [u8]) -> bool {
        let inside = (self.size as u64).checked_sub(offset).is_some_and(|left| into.len() as u64 <= left);
        if inside && self.used {
            for (index, byte) in into.iter_mut().enumerate() {
                *byte = self.bytes[self.at(warp, lane as usize, offset as usize + index)];
            }
        } else {
            into.fill(POISON);
        }
        inside
    }
}

/// The part of a lane's access that lies in one word: its bytes in memory and in the data.
#[inline(always)]
fn words(size: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..size).step_by(4).map(move |at| (at, (size - at).min(4)))
}

impl Spaces<'_> {
    /// Checks a lane's access; its offset.
    #[inline(always)]
    fn local_offset(
        &self,
        lane: usize,
        address: u64,
        size: usize,
        need: Need,
    ) -> Result<usize, Box<Trouble>> {
        let inside = (self.local.size as u64).checked_sub(address).is_some_and(|left| size as u64 <= left);
        if inside && address & (size as u64 - 1) == 0 {
            return Ok(address as usize);
        }
        let verb = need.verb();
        let (kind, what) = match inside {
            true => (FaultKind::Misaligned, format!("the address is no multiple of {size}")),
            false => (FaultKind::IllegalAddress, format!("a thread has {} bytes of it", self.local.size)),
        };
        Err(trouble(kind, lane, format!("{verb} {size} bytes of local memory at {address:#x}: {what}")))
    }

    #[inline(always)]
    pub(super) fn load_local(
        &mut self,
        site: Site,
        addresses: &[u64; 32],
        mask: u32,
        shape: Shape,
        into: &mut [u8; 1024],
    ) -> Result<(), Box<Trouble>> {
        let size = shape.count as usize * shape.bytes as usize;
        self.local.prepare();
        self.counters.local_loads += u64::from(self.counting);
        if let Some(offset) = self.local_row(addresses, mask, size, Need::Read)? {
            let at = self.local.at(site.warp, 0, offset);
            let rows = at..at + size / 4 * ROW;
            if !self.strict || sweep::any_bits(&self.local.states[rows.clone()]) == 0 {
                for (word, row) in self.local.bytes[rows].chunks_exact(ROW).enumerate() {
                    if size == 4 {
                        into[..ROW].copy_from_slice(row);
                        continue;
                    }
                    for (lane, bytes) in row.chunks_exact(4).enumerate() {
                        into[lane * size + word * 4..][..4].copy_from_slice(bytes);
                    }
                }
                return Ok(());
            }
        }
        for lane in lanes_of(mask) {
            let offset = self.local_offset(lane, addresses[lane], size, Need::Read)?;
            for (part, len) in words(size) {
                let at = self.local.at(site.warp, lane, offset + part);
                if self.strict && sweep::any_bits(&self.local.states[at..at + len]) != 0 {
                    let message = format!(
                        "reads {size} bytes of local memory at {offset:#x}, of which the thread has not defined all"
                    );
                    return Err(trouble(FaultKind::Uninitialised, lane, message));
                }
                into[lane * size + part..][..len].copy_from_slice(&self.local.bytes[at..at + len]);
            }
        }
        Ok(())
    }

    #[inline(always)]
    pub(super) fn store_local(
        &mut self,
        site: Site,
        addresses: &[u64; 32],
        mask: u32,
        shape: Shape,
        from: &[u8; 1024],
    ) -> Result<(), Box<Trouble>> {
        let size = shape.count as usize * shape.bytes as usize;
        self.local.prepare();
        self.counters.local_stores += u64::from(self.counting);
        if let Some(offset) = self.local_row(addresses, mask, size, Need::Write)? {
            let at = self.local.at(site.warp, 0, offset);
            let rows = at..at + size / 4 * ROW;
            self.local.states[rows.clone()].fill(0);
            for (word, row) in self.local.bytes[rows].chunks_exact_mut(ROW).enumerate() {
                if size == 4 {
                    row.copy_from_slice(&from[..ROW]);
                    continue;
                }
                for (lane, bytes) in row.chunks_exact_mut(4).enumerate() {
                    bytes.copy_from_slice(&from[lane * size + word * 4..][..4]);
                }
            }
            return Ok(());
        }
        for lane in lanes_of(mask) {
            let offset = self.local_offset(lane, addresses[lane], size, Need::Write)?;
            for (part, len) in words(size) {
                let at = self.local.at(site.warp, lane, offset + part);
                self.local.states[at..at + len].fill(0);
                self.local.bytes[at..at + len].copy_from_slice(&from[lane * size + part..][..len]);
            }
        }
        Ok(())
    }

    /// The offset that all 32 lanes access, where they access whole words at one offset.
    #[inline(always)]
    fn local_row(
        &self,
        addresses: &[u64; 32],
        mask: u32,
        size: usize,
        need: Need,
    ) -> Result<Option<usize>, Box<Trouble>> {
        let row = mask == u32::MAX && size.is_multiple_of(4) && addresses.iter().all(|a| *a == addresses[0]);
        if row { self.local_offset(0, addresses[0], size, need).map(Some) } else { Ok(None) }
    }
}
