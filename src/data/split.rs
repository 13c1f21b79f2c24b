//! Train and validation sets.

use super::random::shuffled;
use crate::{Error, Result};

/// Splits `items` into a training and a validation set: round(fraction * n) items chosen by `seed`, at least one if
/// `fraction` is above 0. Both keep the order of the file.
///
/// # Errors
/// If `fraction` is not in [0, 1) or would leave no training item.
pub fn split<T>(items: Vec<T>, fraction: f64, seed: u64) -> Result<(Vec<T>, Vec<T>)> {
    if !(0.0..1.0).contains(&fraction) {
        return Err(Error::config(
            "data.validation",
            format!("must be at least 0 and below 1, is {fraction}"),
        ));
    }
    if fraction == 0.0 {
        return Ok((items, Vec::new()));
    }
    let count = ((items.len() as f64 * fraction).round() as usize).max(1);
    if count >= items.len() {
        return Err(Error::config(
            "data.validation",
            format!(
                "{fraction} of {} examples leaves none to train on: give more data or a smaller share",
                items.len()
            ),
        ));
    }
    let mut held_out = vec![false; items.len()];
    for &i in &shuffled(items.len(), seed, 0)[..count] {
        held_out[i] = true;
    }
    let (mut train, mut validation) = (Vec::with_capacity(items.len() - count), Vec::with_capacity(count));
    for (item, held_out) in items.into_iter().zip(held_out) {
        if held_out { validation.push(item) } else { train.push(item) }
    }
    Ok((train, validation))
}
