//! The same elements in another shape.

use crate::Result;
use crate::autograd::{Tape, Var};

/// x in the shape `shape` of as many elements; memory is shared.
pub fn reshape(tape: &Tape, x: &Var, shape: &[usize]) -> Result<Var> {
    let before = x.shape().to_vec();
    tape.record("reshape", &[x], x.value().reshape(shape)?, move |dy, g| g.give(0, dy.reshape(&before)?))
}
