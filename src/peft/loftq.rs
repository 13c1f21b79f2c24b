//! LoftQ (arXiv 2310.08659): adapters that start as the best low-rank repair of what quantization did to the weights.

use faer::MatRef;
use rayon::prelude::*;

use crate::autograd::Param;
use crate::device::Device;
use crate::formats::Checkpoint;
use crate::models::Decoder;
use crate::nn::Linear;
use crate::ops::quantize::{Quantization, dequantize, quantize};
use crate::tensor::{DType, QuantizedTensor, Tensor};
use crate::{Error, Result};

/// What stands for a weight W: Q + B A.
pub struct Split {
    /// Q, in 4-bit blocks.
    pub base: QuantizedTensor,
    /// A `[r, in]`, f32.
    pub a: Tensor,
    /// B `[out, r]`, f32.
    pub b: Tensor,
}

/// Splits `weight`, f32 `[out, in]`, into blocks of 4 bits and factors of rank `r`:
///
/// ```text
/// B A = 0;  repeat:  Q = quantize(W - B A);  B A = the r largest singular components of W - dequantize(Q)
/// ```
///
/// with B = U sqrt(S) and A = sqrt(S) V^T, the order of steps of PEFT's `loftq_init`. Each repetition costs a singular value decomposition.
///
/// # Errors
/// Those of [`quantize`]; [`Error::Config`] for a rank above the smaller dimension or no iteration.
pub fn split(weight: &Tensor, r: usize, how: &Quantization, iterations: usize) -> Result<Split> {
    let (out, input) = weight.dims2("loftq")?;
    if r > out.min(input) {
        let detail = format!("{r} is more than a weight of {out} x {input} has; LoftQ cannot fill it");
        return Err(Error::config("lora.r", detail));
    }
    if iterations == 0 {
        return Err(Error::config("lora.loftq", "needs at least one iteration"));
    }
    let full = weight.as_f32()?;
    let mut rest = full.to_vec();
    let mut done = 0;
    loop {
        let base = quantize(&Tensor::from_f32(rest, &[out, input]), how)?;
        let decoded = dequantize(&base, DType::F32)?.into_vec_f32()?;
        let residual: Vec<f32> = full.iter().zip(&decoded).map(|(w, q)| w - q).collect();
        let (a, b) = largest_components(&residual, [out, input], r)?;
        done += 1;
        if done == iterations {
            return Ok(Split {
                base,
                a: Tensor::from_f32(a, &[r, input]),
                b: Tensor::from_f32(b, &[out, r]),
            });
        }
        rest = full.to_vec();
        rest.par_chunks_mut(input.max(1)).zip(b.par_chunks(r)).for_each(|(row, b)| {
            for (factor, a) in b.iter().zip(a.chunks_exact(input)) {
                row.iter_mut().zip(a).for_each(|(w, a)| *w -= factor * a);
            }
        });
    }
}

/// sqrt(S) V^T and U sqrt(S) of the `r` largest singular values of a matrix, row by row.
fn largest_components(matrix: &[f32], [rows, columns]: [usize; 2], r: usize) -> Result<(Vec<f32>, Vec<f32>)> {
    let svd = MatRef::from_row_major_slice(matrix, rows, columns).thin_svd().map_err(|_| {
        Error::NonFinite { what: "the singular value decomposition of a residual".into(), place: None }
    })?;
    let (u, v, s) = (svd.U(), svd.V(), svd.S().column_vector());
    let roots: Vec<f32> = (0..r).map(|i| s[i].max(0.0).sqrt()).collect();
    let a = (0..r).flat_map(|i| (0..columns).map(move |j| (i, j))).map(|(i, j)| roots[i] * v[(j, i)]);
    let b = (0..rows).flat_map(|j| (0..r).map(move |i| (j, i))).map(|(j, i)| roots[i] * u[(j, i)]);
    Ok((a.collect(), b.collect()))
}

/// Starts the adapters of `model`, whose weights were quantized as `how` says while they were loaded from `checkpoint`, by LoftQ. A and B
/// are divided by the root of the adapter's scale, so that scale B A is the repair. With more than one iteration the weights in 4-bit blocks
/// change: the adapters then belong to this base alone.
///
/// # Errors
/// [`Error::Config`] when an adapter is on a weight that is not in 4-bit blocks; [`Error::Model`] when the checkpoint holds one in 4-bit blocks,
/// whose full precision is lost; those of [`split`].
pub fn init(model: &Decoder, checkpoint: &Checkpoint, how: &Quantization, iterations: usize) -> Result<()> {
    let adapted: Vec<&Linear> =
        model.linears().map(|(_, linear)| linear).filter(|linear| linear.adapter().is_some()).collect();
    adapted.into_par_iter().try_for_each(|linear| {
        let (Some(weight), Some(adapter)) = (linear.weight().quantized(), linear.adapter()) else {
            let detail = format!("'{}' is not quantized: there is nothing to repair", linear.path());
            return Err(Error::config("lora.loftq", detail));
        };
        let full = model.full_precision(checkpoint, linear)?;
        let (r, _) = adapter.a.value().dims2("loftq")?;
        let Split { base, a, b } = split(&full, r, how, iterations)?;
        let device = linear.device();
        start(&adapter.a, &a, adapter.scale, device)?;
        start(&adapter.b, &b, adapter.scale, device)?;
        weight.set(base.to_device(device)?)
    })
}

/// Gives a factor its first value.
fn start(param: &Param, factor: &Tensor, scale: f32, device: Device) -> Result<()> {
    let root = scale.sqrt();
    let values: Vec<f32> = factor.as_f32()?.iter().map(|x| x / root).collect();
    param.update(|value| {
        *value = Tensor::from_f32(values, factor.shape()).to_device(device)?;
        Ok(())
    })
}
