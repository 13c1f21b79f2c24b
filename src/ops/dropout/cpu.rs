//! CPU kernels of dropout.

use super::{Mask, OP};
use crate::device::cpu::lanes::{Kernel, Simd, dispatch};
use crate::device::cpu::parallel;
use crate::tensor::{Element, Tensor};
use crate::{Result, dispatch_float};

/// Elements of a task.
const PIECE: usize = 4096;

/// Blocks of random words drawn together.
const BLOCKS: usize = 8;

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
    parallel::rows_mut(data, PIECE, |first, data| {
        dispatch(Piece { data, start: first * PIECE, mask: *mask })
    });
}

struct Piece<'a, T> {
    data: &'a mut [T],
    /// Number of the first element, a multiple of [`PIECE`].
    start: usize,
    mask: Mask,
}

impl<T: Element> Kernel for Piece<'_, T> {
    type Output = ();

    /// Plain loops, which the compiler vectorises.
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Mask { random, threshold, scale } = self.mask;
        let mut counter = (self.start / 4) as u64;
        for elements in self.data.chunks_mut(4 * BLOCKS) {
            let pairs = random.blocks::<BLOCKS>(counter);
            for (two, pair) in elements.chunks_mut(2).zip(pairs.as_flattened()) {
                for (x, word) in two.iter_mut().zip([*pair as u32, (pair >> 32) as u32]) {
                    *x = T::from_f32(if word >> 8 >= threshold { x.to_f32() * scale } else { 0.0 });
                }
            }
            counter += BLOCKS as u64;
        }
    }
}
