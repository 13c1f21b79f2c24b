//! Rows of a table.

use super::Real;

pub fn embedding<R: Real>(ids: &[u32], table: &[R], dim: usize) -> Vec<R> {
    ids.iter().flat_map(|&id| table[id as usize * dim..][..dim].iter().copied()).collect()
}

pub fn embedding_backward<R: Real>(ids: &[u32], dy: &[R], vocab: usize, dim: usize) -> Vec<R> {
    let mut grad = vec![R::of(0.0); vocab * dim];
    for (t, &id) in ids.iter().enumerate() {
        for d in 0..dim {
            grad[id as usize * dim + d] += dy[t * dim + d];
        }
    }
    grad
}
