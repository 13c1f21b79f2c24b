//! CPU kernel of the sum.

use super::OP;
use crate::device::cpu::parallel;
use crate::tensor::{Element, Tensor};
use crate::{Result, dispatch_float};

pub(super) fn sum(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    dispatch_float!(OP, a.dtype(), T => {
        let mut y = T::slice(a)?.to_vec();
        parallel::zip_mut(&mut y, T::slice(b)?, |y, b| *y = T::from_f32(y.to_f32() + b.to_f32()));
        Ok(T::tensor(y, a.shape()))
    })
}
