//! A range of a matrix's columns.

mod cpu;
mod cuda;

use super::place::place;
use crate::autograd::{Tape, Var};
use crate::{Error, Result};

const OP: &str = "columns";

/// Columns `start .. start + len` of x `[T, C]`, as `[T, len]`. Gradient: dy in those columns, zero in the others.
///
/// Errors: a range outside the matrix, operands of other shapes or types.
pub fn columns(tape: &Tape, x: &Var, start: usize, len: usize) -> Result<Var> {
    let (_, cols) = x.value().dims2(OP)?;
    if start.checked_add(len).is_none_or(|end| end > cols) {
        let detail = format!("columns {start}..+{len} of a matrix {:?}", x.shape());
        return Err(Error::Shape { op: OP, detail });
    }
    if !x.dtype().is_float() {
        return Err(x.dtype().not_a_float(OP));
    }
    if let Some(device) = place(OP, [x.value()])? {
        let y = cuda::cut(device, x.value(), start, len)?;
        return tape.record(OP, &[x], y, move |dy, context| {
            context.give(0, cuda::padded(device, &dy, start, cols)?)
        });
    }
    let y = cpu::cut(x.value(), start, len)?;
    tape.record(OP, &[x], y, move |dy, context| context.give(0, cpu::padded(&dy, start, cols)?))
}
