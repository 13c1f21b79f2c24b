//! How many sectors and wavefronts an access takes.
//!
//! Global memory moves in sectors of 32 bytes; each that a warp instruction touches counts once. Shared memory has 32
//! banks of 4-byte words (CUDA C++ Programming Guide, "Shared Memory" of compute capability 5.x and later): one pass, a
//! wavefront, serves one word of each bank, to as many lanes as ask for that word. A warp that asks for 8 or 16 bytes a
//! lane is served by halves or quarters of its lanes, so that each part asks for at most 128 bytes, and `ldmatrix` by
//! matrices of 8 rows of 16 bytes, which is the same rule.

use super::{footprint::SECTOR, runs::lanes_of};
use crate::machine::counters::{Traffic, Wavefronts};

const BANKS: usize = 32;

/// The values of a mask's lanes, sorted, and how many they are.
fn sorted<T: Copy + Default + Ord>(of: impl Fn(usize) -> T, mask: u32) -> ([T; 32], usize) {
    let mut list = [T::default(); 32];
    let mut count = 0;
    for lane in lanes_of(mask) {
        list[count] = of(lane);
        count += 1;
    }
    if !list[..count].is_sorted() {
        list[..count].sort_unstable();
    }
    (list, count)
}

/// Counts an access to global memory: `bytes` of each lane, at addresses that make it lie in one sector. Lanes that have
/// the same address overlap.
pub(super) fn count_global(
    traffic: &mut Traffic,
    addresses: &[u64; 32],
    mask: u32,
    bytes: impl Fn(usize) -> u32,
) {
    let (list, count) = sorted(|lane| (addresses[lane], bytes(lane)), mask);
    let list = &list[..count];
    let mut distinct = 0;
    let mut last = None;
    for (index, (address, bytes)) in list.iter().enumerate() {
        // The longest of those with one address comes last.
        let longest = list.get(index + 1).is_none_or(|(next, _)| next != address);
        distinct += if longest { u64::from(*bytes) } else { 0 };
        let sector = Some(address / SECTOR);
        traffic.sectors += u64::from(sector != last);
        last = sector;
        traffic.bytes += u64::from(*bytes);
    }
    traffic.requests += u64::from(count > 0);
    traffic.ideal_sectors += distinct.div_ceil(SECTOR);
}

/// Counts an access to shared memory: `size` bytes a lane, at multiples of `size`.
pub(super) fn count_shared(to: &mut Wavefronts, addresses: &[u64; 32], mask: u32, size: usize) {
    let words = size.div_ceil(4);
    // Lanes that are served together.
    let part = BANKS / words;
    to.requests += 1;
    to.bytes += mask.count_ones() as u64 * size as u64;
    for first in (0..32).step_by(part) {
        let lanes = mask & ((u32::MAX >> (32 - part)) << first);
        if lanes == 0 {
            continue;
        }
        let (list, count) = sorted(|lane| addresses[lane], lanes);
        let mut banks = [0u8; BANKS];
        let mut total = 0;
        let mut last = None;
        for address in &list[..count] {
            let word = (address / 4) as usize;
            if last == Some(word) {
                continue;
            }
            last = Some(word);
            (word..word + words).for_each(|w| banks[w % BANKS] += 1);
            total += words;
        }
        to.wavefronts += u64::from(banks.iter().copied().max().unwrap_or(0));
        to.ideal += total.div_ceil(BANKS) as u64;
    }
}
