//! `shfl`, `vote`, `match`, `redux`: what the lanes of a warp tell each other, as functions of whole rows.
//!
//! Masks have a bit for each lane. `members` are the lanes that take part: those of the instruction's mask which have not
//! exited.

use super::Row;
use crate::machine::op::{ReduxOp, ShuffleMode, VoteMode};

/// What `shfl` returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shuffled {
    /// The values; a lane that reads from no member gets the source's register as it is.
    pub row: Row,
    /// Lanes whose source was in range.
    pub in_range: u32,
    /// Executing lanes that read from a lane which does not execute or is not in the mask.
    pub undefined: u32,
}

/// `shfl.sync.MODE.b32 d|p, a, b, c, mask`: each lane reads `a` of another. The low 5 bits of `b` say which, those of `c` are
/// the clamp, bits 8 to 12 of `c` the mask of segments.
#[inline]
pub fn shuffle(mode: ShuffleMode, a: &Row, b: &Row, c: &Row, executing: u32, mask: u32) -> Shuffled {
    let mut result = Shuffled { row: [0; 32], in_range: 0, undefined: 0 };
    for lane in 0..32u32 {
        let index = lane as usize;
        let offset = b[index] & 31;
        let (clamp, segment) = (c[index] & 31, c[index] >> 8 & 31);
        let first = lane & segment;
        let last = first | clamp & !segment;
        // As the ISA has it: `up` compares with the same number as the others, but from the other side.
        let (source, in_range) = match mode {
            ShuffleMode::Up => (lane.wrapping_sub(offset), lane as i32 - offset as i32 >= last as i32),
            ShuffleMode::Down => (lane + offset, lane + offset <= last),
            ShuffleMode::Bfly => (lane ^ offset, lane ^ offset <= last),
            ShuffleMode::Idx => {
                let source = first | offset & !segment;
                (source, source <= last)
            }
        };
        let source = if in_range { source & 31 } else { lane };
        result.row[index] = a[source as usize];
        result.in_range |= u32::from(in_range) << lane;
        result.undefined |= (!(executing & mask) >> source & 1) << lane;
    }
    result.undefined &= executing;
    result
}

/// `vote.sync.MODE`: the ballot, or all ones for true and zero for false.
#[inline]
pub fn vote(mode: VoteMode, predicate: u32, members: u32) -> u32 {
    let yes = predicate & members;
    let holds = match mode {
        VoteMode::Ballot => return yes,
        VoteMode::All => yes == members,
        VoteMode::Any => yes != 0,
        VoteMode::Uni => yes == 0 || yes == members,
    };
    if holds { u32::MAX } else { 0 }
}

/// `match.any.sync`: for each lane, the members whose value is the same as its own. Of use for the members alone.
#[inline]
pub fn match_any<T: Copy + PartialEq>(values: &[T; 32], members: u32) -> Row {
    std::array::from_fn(|lane| same_as(values, values[lane], members))
}

/// `match.all.sync`: the members, if all have the same value, else zero. The predicate is whether it is not zero.
#[inline]
pub fn match_all<T: Copy + PartialEq>(values: &[T; 32], members: u32) -> u32 {
    let first = values[(members.trailing_zeros() & 31) as usize];
    if same_as(values, first, members) == members { members } else { 0 }
}

#[inline(always)]
fn same_as<T: Copy + PartialEq>(values: &[T; 32], value: T, members: u32) -> u32 {
    let mut same = 0;
    for (lane, other) in values.iter().enumerate() {
        same |= u32::from(*other == value) << lane;
    }
    same & members
}

/// `redux.sync.OP`: one value of the members' values. Without members, the value that changes no other.
#[inline]
pub fn redux(op: ReduxOp, values: &Row, members: u32) -> u32 {
    let fold = |start: u32, f: fn(u32, u32) -> u32| {
        (0..32).filter(|lane| members >> lane & 1 != 0).fold(start, |total, lane| f(total, values[lane]))
    };
    match op {
        ReduxOp::Add => fold(0, u32::wrapping_add),
        ReduxOp::MinU => fold(u32::MAX, u32::min),
        ReduxOp::MaxU => fold(0, u32::max),
        ReduxOp::MinS => fold(i32::MAX as u32, |x, y| (x as i32).min(y as i32) as u32),
        ReduxOp::MaxS => fold(i32::MIN as u32, |x, y| (x as i32).max(y as i32) as u32),
        ReduxOp::And => fold(u32::MAX, |x, y| x & y),
        ReduxOp::Or => fold(0, |x, y| x | y),
        ReduxOp::Xor => fold(0, |x, y| x ^ y),
    }
}
