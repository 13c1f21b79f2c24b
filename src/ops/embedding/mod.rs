//! Embedding: rows of a table.

use crate::Result;
use crate::autograd::{Tape, Var};
use crate::tensor::{DType, Tensor};

/// Row `ids[t]` of `table` `[V, D]` for each t, as `[T, D]` of type `dtype`.
pub fn embedding(tape: &Tape, ids: &Tensor, table: &Var, dtype: DType) -> Result<Var> {
    let _ = (tape, ids, table, dtype);
    Err(crate::Error::unsupported("embedding", "being written"))
}
