//! CPU kernels of the embedding.

use rayon::prelude::*;

use super::OP;
use crate::device::cpu::parallel;
use crate::tensor::{DType, Element, Tensor};
use crate::{Result, dispatch_float};

pub(super) fn forward(ids: &Tensor, table: &Tensor, dtype: DType) -> Result<Tensor> {
    let (ids, dim) = (ids.as_u32()?, table.shape()[1]);
    dispatch_float!(OP, table.dtype(), T => {
        let table = T::slice(table)?;
        dispatch_float!(OP, dtype, U => {
            let mut out = bytemuck::zeroed_vec::<U>(ids.len() * dim);
            parallel::rows_mut(&mut out, dim, |first, piece| {
                for (row, &id) in piece.chunks_exact_mut(dim).zip(&ids[first..]) {
                    let source = &table[id as usize * dim..][..dim];
                    row.iter_mut().zip(source).for_each(|(o, x)| *o = U::from_f32(x.to_f32()));
                }
            });
            Ok(U::tensor(out, &[ids.len(), dim]))
        })
    })
}

/// Tasks of the backward. Each reads all ids and adds those of its own rows, in their order.
const TASKS: usize = 16;

pub(super) fn grad_table(ids: &Tensor, dy: &Tensor, shape: &[usize]) -> Result<Tensor> {
    let (ids, vocab, dim) = (ids.as_u32()?, shape[0], shape[1]);
    let mut grad = vec![0.0f32; vocab * dim];
    let rows = vocab.div_ceil(TASKS);
    dispatch_float!(OP, dy.dtype(), T => {
        let dy = T::slice(dy)?;
        grad.par_chunks_mut((rows * dim).max(1)).enumerate().for_each(|(task, piece)| {
            let own = task * rows..task * rows + piece.len() / dim;
            for (t, &id) in ids.iter().enumerate().filter(|(_, id)| own.contains(&(**id as usize))) {
                let row = &mut piece[(id as usize - own.start) * dim..][..dim];
                row.iter_mut().zip(&dy[t * dim..]).for_each(|(sum, x)| *sum += x.to_f32());
            }
        });
        Ok(Tensor::from_f32(grad, shape))
    })
}
