//! An epilogue as kernels take it: kernels/common/epilogue.cuh.

use super::Epilogue;
use crate::Result;
use crate::device::cuda::{CudaDevice, Pointer};
use crate::ops::gelu::GeluKind;
use crate::tensor::{DType, Tensor};

/// The last arguments but y of a product's kernel, and what they point to.
pub(in crate::ops) struct Finish {
    pub bias: Pointer,
    pub operand: Pointer,
    pub kept: Pointer,
    pub kind: u32,
    /// The bias in f32.
    _bias: Option<Tensor>,
    /// z, if it is kept.
    pub z: Option<Tensor>,
}

impl Finish {
    /// Of a product of this shape and type, for op `op`.
    pub fn new(
        op: &'static str,
        device: &'static CudaDevice,
        epilogue: &Epilogue<'_>,
        bias: Option<&Tensor>,
        (shape, dtype): ([usize; 2], DType),
        keeps: bool,
    ) -> Result<Finish> {
        let bias = bias.map(|bias| bias.to_dtype(DType::F32)).transpose()?;
        let z = keeps.then(|| Tensor::uninitialised(device, &shape, dtype)).transpose()?;
        let pointer = |x: Option<&Tensor>| x.map_or(Ok(Pointer::NULL), |x| x.pointer(op, device));
        let kind = match epilogue {
            Epilogue::None => 0,
            Epilogue::Residual(_) => 1,
            Epilogue::Gelu(GeluKind::Erf) => 2,
            Epilogue::Gelu(GeluKind::Tanh) => 3,
            Epilogue::SwiGlu(_) => 4,
        };
        Ok(Finish {
            bias: pointer(bias.as_ref())?,
            operand: pointer(epilogue.operand().map(|x| x.value()))?,
            kept: pointer(z.as_ref())?,
            kind,
            _bias: bias,
            z,
        })
    }

    /// Of a gradient's product, which is added to the gradient that is there already, if there is one.
    pub fn adding(
        op: &'static str,
        device: &'static CudaDevice,
        residual: Option<&Tensor>,
    ) -> Result<Finish> {
        let operand = residual.map_or(Ok(Pointer::NULL), |x| x.pointer(op, device))?;
        let kind = u32::from(residual.is_some());
        Ok(Finish { bias: Pointer::NULL, operand, kept: Pointer::NULL, kind, _bias: None, z: None })
    }
}
