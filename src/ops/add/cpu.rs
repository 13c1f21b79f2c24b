//! CPU kernel of the sum.

use super::OP;
use crate::device::cpu::lanes::{Lanewise, Simd, map};
use crate::tensor::{Element, Tensor};
use crate::{Result, dispatch_float};

#[derive(Clone, Copy)]
struct Sum;

impl Lanewise<2, 1> for Sum {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, [a, b]: [S::V; 2]) -> [S::V; 1] {
        [s.add(a, b)]
    }
}

pub(super) fn sum(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    dispatch_float!(OP, a.dtype(), T => {
        let mut y = bytemuck::zeroed_vec::<T>(a.numel());
        map(Sum, [T::slice(a)?, T::slice(b)?], [&mut y]);
        Ok(T::tensor(y, a.shape()))
    })
}
