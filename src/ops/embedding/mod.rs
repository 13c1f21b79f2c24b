//! Embedding: rows of a table.

mod cpu;
mod cuda;

use super::place::place;
use crate::autograd::{Tape, Var};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

const OP: &str = "embedding";

/// Row `ids[t]` of `table` `[V, D]` for each t, as `[T, D]` of type `dtype`.
///
/// Gradient: row v of `dtable`, f32, is the sum of dy_t over the t with `ids[t] == v`, in the order of t.
///
/// Errors: an id outside the table (named, with its position), operands of other shapes or types. On a CUDA device ids are not
/// looked at, since that would wait for the device: whoever uploads them has checked them. One outside the table there makes a row of
/// NaN, and takes no part in the gradient.
pub fn embedding(tape: &Tape, ids: &Tensor, table: &Var, dtype: DType) -> Result<Var> {
    let device = place(OP, [ids, table.value()])?;
    ids.dims1(OP)?;
    let (vocab, _) = table.value().dims2(OP)?;
    if ids.dtype() != DType::U32 {
        return Err(Error::DType { op: OP, detail: format!("ids are {}, u32 expected", ids.dtype()) });
    }
    if let Some(device) = device {
        let y = cuda::forward(device, ids, table.value(), dtype)?;
        let (ids, shape) = (ids.clone(), table.shape().to_vec());
        return tape.record(OP, &[table], y, move |dy, context| {
            context.give(0, cuda::grad_table(device, &ids, &dy, &shape)?)
        });
    }
    if let Some((t, id)) = ids.as_u32()?.iter().enumerate().find(|&(_, &id)| id as usize >= vocab) {
        let detail = format!("id {id} at position {t} is outside the table of {vocab} rows");
        return Err(Error::Shape { op: OP, detail });
    }
    let y = cpu::forward(ids, table.value(), dtype)?;
    let (ids, shape) = (ids.clone(), table.shape().to_vec());
    tape.record(OP, &[table], y, move |dy, context| context.give(0, cpu::grad_table(&ids, &dy, &shape)?))
}
