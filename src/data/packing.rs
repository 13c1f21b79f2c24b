//! Packing: short sequences share a batch row of fixed capacity. Nothing else changes: each keeps its own positions, and
//! attention does not cross between them (see [`super::Batch`]).

use std::collections::BTreeSet;

use crate::{Error, Result};

/// Puts sequences of the given lengths into as few bins of `capacity` tokens as best-fit decreasing finds: from the longest to
/// the shortest, each into the fullest bin that still has room (at most 11/9 of the optimum; Johnson 1973). Every index
/// occurs exactly once; bins list theirs in ascending order and are sorted by their first.
///
/// # Errors
/// If a sequence is longer than `capacity`.
pub fn pack(lengths: &[usize], capacity: usize) -> Result<Vec<Vec<usize>>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(lengths[i]), i));
    if let Some(&longest) = order.first()
        && lengths[longest] > capacity
    {
        return Err(Error::config(
            "data.pack_to",
            format!("rows of {capacity} tokens cannot take a sequence of {}", lengths[longest]),
        ));
    }
    let mut bins: Vec<Vec<usize>> = Vec::new();
    // (room left, bin)
    let mut open: BTreeSet<(usize, usize)> = BTreeSet::new();
    for i in order {
        let length = lengths[i];
        let (room, bin) = match open.range((length, 0)..).next().copied() {
            Some(fit) => {
                open.remove(&fit);
                fit
            }
            None => {
                bins.push(Vec::new());
                (capacity, bins.len() - 1)
            }
        };
        bins[bin].push(i);
        open.insert((room - length, bin));
    }
    for bin in &mut bins {
        bin.sort_unstable();
    }
    bins.sort_unstable();
    Ok(bins)
}
