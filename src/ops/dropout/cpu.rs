//! CPU kernels of dropout.

use super::{Mask, OP};
use crate::device::cpu::parallel;
use crate::tensor::{Element, Tensor};
use crate::{Result, dispatch_float};

/// Elements of a task; a multiple of the four that one block of random words serves.
const PIECE: usize = 4096;

/// The masked and scaled elements, of the same type.
pub(super) fn masked(x: &Tensor, mask: &Mask) -> Result<Tensor> {
    dispatch_float!(OP, x.dtype(), T => {
        let mut out = T::slice(x)?.to_vec();
        apply(&mut out, mask);
        Ok(T::tensor(out, x.shape()))
    })
}

/// Masks and scales in place.
pub(in crate::ops) fn apply<T: Element>(data: &mut [T], mask: &Mask) {
    parallel::rows_mut(data, PIECE, |first, piece| {
        let start = (first * PIECE / 4) as u64;
        for (block, four) in piece.chunks_mut(4).enumerate() {
            let words = mask.random.block(start + block as u64);
            for (x, word) in four.iter_mut().zip(words) {
                let kept = word >> 8 >= mask.threshold;
                *x = T::from_f32(if kept { x.to_f32() * mask.scale } else { 0.0 });
            }
        }
    });
}
