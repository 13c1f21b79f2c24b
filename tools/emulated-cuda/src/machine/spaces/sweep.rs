//! Passes over stamps and states, written so that the compiler vectorises them.

/// Whether any time is later than `limit`.
#[inline(always)]
pub(super) fn later(times: &[u32], limit: u32) -> bool {
    // Times fit 31 bits, and comparing signed numbers is what every vector unit can do.
    times.iter().fold(0, |any, &time| any | u32::from(time as i32 > limit as i32)) != 0
}

/// Writes a stamp whose lane number grows every `1 << each` entries.
#[inline(always)]
pub(super) fn stamp(stamps: &mut [u32], first: u32, lane_shift: u32, each: u32) {
    for (index, stamp) in stamps.iter_mut().enumerate() {
        *stamp = first + ((index as u32 >> each) << lane_shift);
    }
}

/// Whether any entry differs, in the bits of `mask`, from what [`stamp`] would write.
#[inline(always)]
pub(super) fn differs(stamps: &[u32], first: u32, lane_shift: u32, each: u32, mask: u32) -> bool {
    let wrong = stamps
        .iter()
        .enumerate()
        .fold(0, |wrong, (index, stamp)| wrong | (stamp ^ (first + ((index as u32 >> each) << lane_shift))));
    wrong & mask != 0
}

/// Sets bits in every entry.
#[inline(always)]
pub(super) fn set_bits(entries: &mut [u32], bits: u32) {
    entries.iter_mut().for_each(|e| *e |= bits);
}

/// All bits of all bytes.
#[inline(always)]
pub(super) fn any_bits(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |all, b| all | b)
}
