//! What a product makes of its sums before it rounds them: an op that would read the product again costs nothing there.

mod cuda;

use super::{add, gelu, swiglu};
use crate::autograd::{BackwardContext, Tape, Var};
use crate::ops::gelu::GeluKind;
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

pub(super) use cuda::Finish;

/// What y is of `z = x W^T + bias` (with an adapter's part), `[M, out]`. On a CUDA device it is made of z in f32, and rounded once.
#[derive(Clone, Copy, Default)]
pub enum Epilogue<'a> {
    /// `y = z`.
    #[default]
    None,
    /// `y = z + residual`; the residual has y's shape and type.
    Residual(&'a Var),
    /// `y = gelu(z)`. Kept for the backward: z.
    Gelu(GeluKind),
    /// `y = silu(gate) z` (see [`swiglu`](crate::ops::swiglu::swiglu)); the gate has y's shape and type. Kept for the backward: z
    /// and the gate.
    SwiGlu(&'a Var),
}

impl<'a> Epilogue<'a> {
    /// The tensor that it reads.
    pub(super) fn operand(&self) -> Option<&'a Var> {
        match *self {
            Epilogue::Residual(operand) | Epilogue::SwiGlu(operand) => Some(operand),
            Epilogue::None | Epilogue::Gelu(_) => None,
        }
    }

    /// Errors: an operand that is not of y's shape or type.
    pub(super) fn check(&self, op: &'static str, shape: [usize; 2], dtype: DType) -> Result<()> {
        let (name, operand) = match *self {
            Epilogue::Residual(operand) => ("residual", operand),
            Epilogue::SwiGlu(operand) => ("gate", operand),
            Epilogue::None | Epilogue::Gelu(_) => return Ok(()),
        };
        if operand.shape() != shape {
            let detail = format!("{name} {:?} for a product {shape:?}", operand.shape());
            return Err(Error::Shape { op, detail });
        }
        if operand.dtype() != dtype {
            return Err(Error::DType {
                op,
                detail: format!("{} {name} for a {dtype} product", operand.dtype()),
            });
        }
        Ok(())
    }

    /// Whether a backward will ask for z: it may if the tape records an op with these inputs.
    pub(super) fn keeps(&self, tape: &Tape, inputs: &[&Var]) -> bool {
        let wanted = tape.is_recording() && inputs.iter().any(|x| x.requires_grad());
        wanted && matches!(self, Epilogue::Gelu(_) | Epilogue::SwiGlu(_))
    }

    /// y in host memory.
    pub(super) fn of(&self, z: &Tensor) -> Result<Tensor> {
        match *self {
            Epilogue::None => Ok(z.clone()),
            Epilogue::Residual(residual) => add::value(z, residual.value()),
            Epilogue::Gelu(kind) => gelu::value(z, kind),
            Epilogue::SwiGlu(gate) => swiglu::value(gate.value(), z),
        }
    }

    /// Its backward, for an op of which the operand is input `input`; z if [`Epilogue::keeps`].
    pub(super) fn backward(&self, z: Option<Tensor>, input: usize) -> Backward {
        let of = match (*self, z) {
            (Epilogue::Residual(_), _) => Of::Residual,
            (Epilogue::Gelu(kind), Some(z)) => Of::Gelu(kind, z),
            (Epilogue::SwiGlu(gate), Some(z)) => Of::SwiGlu { gate: gate.value().clone(), z },
            // Without z nothing is recorded.
            (Epilogue::None | Epilogue::Gelu(_) | Epilogue::SwiGlu(_), _) => Of::None,
        };
        Backward { of, input }
    }
}

/// The backward of an epilogue.
pub(super) struct Backward {
    of: Of,
    /// Which input the operand is.
    input: usize,
}

/// What of, and what it needs.
enum Of {
    None,
    Residual,
    Gelu(GeluKind, Tensor),
    SwiGlu { gate: Tensor, z: Tensor },
}

impl Backward {
    /// The gradient of z, for that of y; gives the operand its own.
    pub fn run(self, dy: Tensor, context: &mut BackwardContext<'_>) -> Result<Tensor> {
        match self.of {
            Of::None => Ok(dy),
            Of::Residual => {
                context.give(self.input, dy.clone())?;
                Ok(dy)
            }
            Of::Gelu(kind, z) => gelu::gradient(&z, &dy, kind),
            Of::SwiGlu { gate, z } => {
                let [dgate, dz] = swiglu::gradients(&gate, &z, &dy)?;
                context.give(self.input, dgate)?;
                Ok(dz)
            }
        }
    }
}
