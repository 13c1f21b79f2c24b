//! Dropout.

pub(in crate::ops) mod cpu;
mod cuda;

use super::place::place;
use crate::autograd::{Tape, Var};
use crate::device::philox::Philox;
use crate::{Error, Result};

const OP: &str = "dropout";

/// Which elements of one dropout are kept, and their factor: a function of the generator alone, so that the backward asks
/// again instead of remembering.
#[derive(Clone, Copy, Debug)]
pub struct Mask {
    pub(in crate::ops) random: Philox,
    /// Element i is kept if the upper 24 bits of random word i are at least this: p 2^24.
    pub(in crate::ops) threshold: u32,
    /// 1 / (1 - p).
    pub(in crate::ops) scale: f32,
}

impl Mask {
    /// The mask of the next dropout on a tape; `None` where dropout is off or `p` is 0. An error unless 0 <= p < 1.
    pub fn next(tape: &Tape, op: &'static str, p: f32) -> Result<Option<Mask>> {
        if !(0.0..1.0).contains(&p) {
            return Err(Error::model(op, format!("dropout probability {p}, expected 0 <= p < 1")));
        }
        if p == 0.0 {
            return Ok(None);
        }
        let threshold = (f64::from(p) * f64::from(1 << 24)).ceil() as u32;
        Ok(tape.next_dropout().map(|random| Mask { random, threshold, scale: 1.0 / (1.0 - p) }))
    }
}

/// Zeroes each element with probability `p` and scales the rest by 1 / (1 - p); the identity where dropout is off.
///
/// Element i is kept if uniform number i of the dropout's Philox stream is at least p. Nothing is kept for the backward but
/// the generator's counter: `dx = mask dy / (1 - p)`.
///
/// Errors: [`Error::Model`] unless 0 <= p < 1, [`Error::DType`] if x is not of a float type.
pub fn dropout(tape: &Tape, x: &Var, p: f32) -> Result<Var> {
    crate::ops::matmul::check_float(OP, [x])?;
    let Some(mask) = Mask::next(tape, OP, p)? else { return Ok(x.clone()) };
    if let Some(device) = place(OP, [x.value()])? {
        let y = cuda::masked(device, x.value(), &mask)?;
        return tape
            .record(OP, &[x], y, move |dy, context| context.give(0, cuda::masked(device, &dy, &mask)?));
    }
    let y = cpu::masked(x.value(), &mask)?;
    tape.record(OP, &[x], y, move |dy, context| context.give(0, cpu::masked(&dy, &mask)?))
}
