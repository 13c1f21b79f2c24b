//! A linear layer whose weight is a base and a 1-bit delta of it (BitDelta, arXiv 2402.10193), fused.

mod cpu;
mod cuda;

use super::epilogue::Epilogue;
use super::lora_matmul::Segments;
use super::matmul::{check_float, check_linear};
use super::place::place;
use super::quantized_matmul;
use crate::autograd::{BackwardContext, Tape, Var};
use crate::tensor::{DType, QuantizedTensor, SignStack, SignTensor, Tensor};
use crate::{Error, Result};

const OP: &str = "sign_matmul";

/// What a delta is added to.
#[derive(Clone, Copy)]
pub enum SignBase<'a> {
    /// A weight `[out, in]`.
    Dense(&'a Var),
    /// A weight `[out, in]` in 4-bit blocks; frozen.
    Quantized(&'a QuantizedTensor),
    /// The base's part of the sum as another op made it, `[M, out]` of x's type: a layer with adapters, say.
    Product(&'a Var),
}

/// A 1-bit delta of a weight: `scale S`.
#[derive(Clone, Copy)]
pub struct SignDelta<'a> {
    /// S, `[out, in]`.
    pub signs: &'a SignTensor,
    /// f32; `[1]` for the whole matrix, or `[out]` for each of its rows.
    pub scale: &'a Var,
}

/// What forward and backward both use.
struct Layer {
    base: Base,
    signs: SignTensor,
    scale: Tensor,
}

/// The base, without what is recorded of it.
enum Base {
    Dense(Tensor),
    Quantized(QuantizedTensor),
    Product(Tensor),
}

impl Layer {
    /// Whether each row of the signs has a scale of its own.
    fn has_row_scales(&self) -> bool {
        self.scale.numel() != 1
    }
}

/// `y = epilogue(x W^T + x (a S)^T + bias)`, `[M, out]` of x's type. x: `[M, in]`, W and S: `[out, in]`, bias: `[out]`; a, the delta's scale,
/// is one number or one for each row of S. With [`SignBase::Product`] z, `x W^T` is z.
///
/// Gradients, with dy that of the sum in the epilogue:
///
/// - `dx = dy W + dy (a S)`, of x's type (with a product, of the delta's part alone, and `dz = dy`);
/// - `da = sum of dy o (x S^T)`, over all of it or over the rows of x, in f32;
/// - `dW = dy^T x` and `dbias = sum over rows of dy` if wanted, in f32. The signs, and a weight in 4-bit blocks, have none.
///
/// Kept for the backward: x, if da or dW is wanted, the operands, and what the epilogue keeps; `x S^T` is made again. Signs are multiplied by as
/// they are (+1 and -1 in x's type), so that only sums round, in f32, and y once. On a CUDA device dx is added to the gradient that x already has
/// by the product itself.
///
/// Errors: [`Error::Shape`] if the operands do not fit each other, [`Error::DType`] if one is not of a float type or the scale not f32.
pub fn sign_matmul(
    tape: &Tape,
    x: &Var,
    base: SignBase<'_>,
    bias: Option<&Var>,
    delta: &SignDelta<'_>,
    epilogue: Epilogue<'_>,
) -> Result<Var> {
    let shape = check(x, base, bias, *delta.signs.shape())?;
    check_scale(delta)?;
    epilogue.check(OP, shape, x.dtype())?;
    // No gradient flows to codes.
    let codes;
    let (of_base, layer_base) = match base {
        SignBase::Dense(w) => (w, Base::Dense(w.value().clone())),
        SignBase::Quantized(w) => {
            codes = Var::constant(w.codes().clone());
            (&codes, Base::Quantized(w.clone()))
        }
        SignBase::Product(z) => (z, Base::Product(z.value().clone())),
    };
    let layer = Layer { base: layer_base, signs: delta.signs.clone(), scale: delta.scale.value().clone() };
    let inputs: Vec<&Var> =
        [x, of_base, delta.scale].into_iter().chain(bias).chain(epilogue.operand()).collect();
    let device = place(OP, inputs.iter().map(|v| v.value()).chain([delta.signs.bits()]))?;
    let keeps = epilogue.keeps(tape, &inputs);
    let (y, z) = match device {
        Some(device) => cuda::forward(device, x.value(), bias.map(Var::value), &layer, &epilogue, keeps)?,
        None => {
            let z = cpu::forward(x.value(), bias.map(Var::value), &layer)?;
            (epilogue.of(&z)?, keeps.then_some(z))
        }
    };
    let of_epilogue = epilogue.backward(z, inputs.len() - 1);
    let (x, has_bias) = (x.value().clone(), bias.is_some());
    tape.record(OP, &inputs, y, move |dy, context| {
        let dz = of_epilogue.run(dy, context)?;
        let residual = device.and_then(|_| context.take(0, x.dtype()));
        give(context, has_bias, |wanted| match device {
            Some(device) => cuda::backward(device, &dz, &x, &layer, wanted, residual.as_ref()),
            None => cpu::backward(&dz, &x, &layer, wanted),
        })
    })
}

/// As [`sign_matmul`] with a delta for each segment of the rows, or none: `y = epilogue(x W^T + x (a_t S_t)^T + bias)` in the rows of delta t. All
/// rows share one product with the weight, and all deltas are one launch. For inference: nothing of it has a gradient.
///
/// To serve adapters beside deltas, the base is the product that
/// [`lora_matmul_segmented`](crate::ops::lora_matmul::lora_matmul_segmented) makes of the same rows: [`SignBase::Product`].
///
/// A row of a delta has the same bits whatever other rows are in the batch; on a CUDA device, as long as both batches have at most 16 rows or
/// both more, and the delta's rows are one run.
///
/// Errors: those of [`sign_matmul`]; segments that are not the rows of x, or name a delta that is not in the stack; [`Error::NoBackward`] where a
/// gradient would have to flow through it.
pub fn sign_matmul_tenants(
    tape: &Tape,
    x: &Var,
    base: SignBase<'_>,
    bias: Option<&Var>,
    deltas: &SignStack,
    segments: &Segments,
    epilogue: Epilogue<'_>,
) -> Result<Var> {
    const OP: &str = "sign_matmul_tenants";
    let shape = check(x, base, bias, *deltas.shape())?;
    epilogue.check(OP, shape, x.dtype())?;
    if segments.rows() != shape[0] {
        let detail = format!("segments of {} rows in all for x {:?}", segments.rows(), x.shape());
        return Err(Error::Shape { op: OP, detail });
    }
    segments.check(OP, deltas.len())?;
    let (of_base, base) = match base {
        SignBase::Dense(w) => (Some(w), Base::Dense(w.value().clone())),
        SignBase::Quantized(w) => (None, Base::Quantized(w.clone())),
        SignBase::Product(z) => (Some(z), Base::Product(z.value().clone())),
    };
    let inputs: Vec<&Var> = std::iter::once(x).chain(of_base).chain(bias).chain(epilogue.operand()).collect();
    tape.refuse_recording(OP, &inputs)?;
    let codes = match &base {
        Base::Quantized(w) => Some(w.codes()),
        Base::Dense(_) | Base::Product(_) => None,
    };
    let places = inputs.iter().map(|v| v.value()).chain(codes).chain([deltas.bits(), deltas.scales()]);
    let (x, bias) = (x.value(), bias.map(Var::value));
    let y = match place(OP, places)? {
        Some(device) => cuda::tenants(device, x, bias, &base, deltas, segments, &epilogue)?,
        None => epilogue.of(&cpu::tenants(x, bias, &base, deltas, segments)?)?,
    };
    tape.record_inference_only(OP, &inputs, y)
}

/// Checks the operands for signs `[out, in]`; the shape of y.
fn check(x: &Var, base: SignBase<'_>, bias: Option<&Var>, [n, inner]: [usize; 2]) -> Result<[usize; 2]> {
    let (m, k) = x.value().dims2(OP)?;
    let signs = || format!("signs [{n}, {inner}] ([out, in])");
    let bad = |detail: String| Err(Error::Shape { op: OP, detail });
    if k != inner {
        return bad(format!("x {:?} and {} differ in 'in'", x.shape(), signs()));
    }
    match base {
        SignBase::Dense(w) => {
            check_linear(OP, x, w, bias)?;
            if w.shape() != [n, inner] {
                return bad(format!("a weight {:?} and {}", w.shape(), signs()));
            }
        }
        SignBase::Quantized(w) => {
            quantized_matmul::check(OP, x, w, bias)?;
            if *w.shape() != [n, inner] {
                return bad(format!("a weight {:?} and {}", w.shape(), signs()));
            }
        }
        SignBase::Product(z) => {
            if z.shape() != [m, n] || z.dtype() != x.dtype() {
                let detail =
                    format!("a {} product {:?}; {} [{m}, {n}] expected", z.dtype(), z.shape(), x.dtype());
                return bad(detail);
            }
            if let Some(bias) = bias
                && bias.shape() != [n]
            {
                return bad(format!("bias {:?} for {}", bias.shape(), signs()));
            }
            check_float(OP, std::iter::once(x).chain(bias))?;
        }
    }
    Ok([m, n])
}

/// An error for a scale that does not fit its signs.
fn check_scale(delta: &SignDelta<'_>) -> Result<()> {
    let ([n, inner], scale) = (*delta.signs.shape(), delta.scale);
    if scale.shape() != [1] && scale.shape() != [n] {
        let detail = format!("a scale {:?} for signs [{n}, {inner}]: [1] or [{n}] expected", scale.shape());
        return Err(Error::Shape { op: OP, detail });
    }
    match scale.dtype() {
        DType::F32 => Ok(()),
        other => Err(Error::DType { op: OP, detail: format!("a {other} scale, f32 expected") }),
    }
}

/// Hands the wanted ones of the gradients of x, the base, the scale and, if there is one, the bias to them.
fn give(
    context: &mut BackwardContext<'_>,
    has_bias: bool,
    backward: impl FnOnce([bool; 4]) -> Result<[Option<Tensor>; 4]>,
) -> Result<()> {
    let wanted = std::array::from_fn(|i| (i < 3 || has_bias) && context.needs(i));
    for (i, grad) in backward(wanted)?.into_iter().enumerate() {
        if let Some(grad) = grad {
            context.give(i, grad)?;
        }
    }
    Ok(())
}
