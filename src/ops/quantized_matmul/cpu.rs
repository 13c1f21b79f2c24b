//! CPU kernels of the linear layer with a quantized weight: those of the dense one, with a weight that is decoded block by block.

use super::OP;
use crate::Result;
use crate::device::cpu::gemm::Product;
use crate::device::cpu::matrix::Mat;
use crate::ops::matmul::cpu::product;
use crate::tensor::{QuantizedTensor, Tensor};

pub(super) fn forward(x: &Tensor, w: &QuantizedTensor, bias: Option<&Tensor>) -> Result<Tensor> {
    product(x, bias, &[Product::of(Mat::of(x, OP)?, Mat::of_quantized(w)?.t())], w.shape()[0])
}

/// `dx = dy W`.
pub(super) fn grad_input(dy: &Tensor, w: &QuantizedTensor) -> Result<Tensor> {
    product(dy, None, &[Product::of(Mat::of(dy, OP)?, Mat::of_quantized(w)?)], w.shape()[1])
}
