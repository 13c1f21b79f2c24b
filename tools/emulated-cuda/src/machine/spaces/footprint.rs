//! Which sectors of global memory a launch touched.

use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use crate::machine::DeviceMemory;

/// Bytes of a sector.
pub(super) const SECTOR: u64 = 32;
/// Words of bits in a leaf: 65536 sectors, 2 MiB of memory.
const WORDS: usize = 1024;

/// A bit a sector.
type Leaf = Box<[AtomicU64; WORDS]>;

/// The distinct sectors of global memory that a launch read and wrote: bits, in a table that grows where they are set.
/// The blocks of the launch share it.
pub struct Footprint {
    read: Vec<OnceLock<Leaf>>,
    written: Vec<OnceLock<Leaf>>,
}

impl Footprint {
    /// Of a launch that has touched nothing yet.
    pub fn new(memory: &DeviceMemory) -> Self {
        let leaves = memory.span().div_ceil(SECTOR * 64 * WORDS as u64);
        let table = || (0..leaves).map(|_| OnceLock::new()).collect();
        Self { read: table(), written: table() }
    }

    /// How many sectors were read, and how many written.
    pub fn count(&self) -> (u64, u64) {
        let bits = |leaf: &Leaf| leaf.iter().map(|w| u64::from(w.load(Relaxed).count_ones())).sum::<u64>();
        let all = |table: &[OnceLock<Leaf>]| table.iter().filter_map(|l| l.get()).map(bits).sum();
        (all(&self.read), all(&self.written))
    }

    /// Bytes of device memory, by their offset, were read.
    pub(super) fn read(&self, offset: usize, len: usize) {
        set(&self.read, offset, len);
    }

    /// Bytes of device memory, by their offset, were written.
    pub(super) fn write(&self, offset: usize, len: usize) {
        set(&self.written, offset, len);
    }
}

fn set(table: &[OnceLock<Leaf>], offset: usize, len: usize) {
    let mut sector = offset as u64 / SECTOR;
    let end = (offset + len) as u64;
    let last = end.div_ceil(SECTOR);
    while sector < last {
        let word = sector / 64;
        let next = last.min((word + 1) * 64);
        let bits = (u64::MAX >> (64 - (next - sector))) << (sector % 64);
        let leaf =
            table[(word as usize) / WORDS].get_or_init(|| Box::new([const { AtomicU64::new(0) }; WORDS]));
        let word = &leaf[word as usize % WORDS];
        // Most sectors are touched again and again: look first, so that threads do not fight for the line.
        if word.load(Relaxed) & bits != bits {
            word.fetch_or(bits, Relaxed);
        }
        sector = next;
    }
}
