//! Clipping gradients by their global norm.

use rayon::prelude::*;

use crate::autograd::{Gradients, Param};
use crate::device::cpu::{parallel, slices};
use crate::{Error, Result};

/// Scales the gradients of `params` so that their joint 2-norm is at most `max_norm`: by `max_norm / (norm + 1e-6)` if that is
/// below 1, as `torch.nn.utils.clip_grad_norm_` does. Returns the norm before clipping, summed in f64. With an infinite
/// `max_norm` nothing is changed. Each parameter must be given once; one without a gradient counts as zero.
///
/// Errors: [`Error::NonFinite`] with the name of the first parameter whose gradient is not finite (nothing is changed then), and
/// [`Error::Model`] unless `max_norm` is positive.
pub fn clip_grad_norm(gradients: &mut Gradients, params: &[Param], max_norm: f64) -> Result<f64> {
    // Not a number fails too.
    if !matches!(max_norm.partial_cmp(&0.0), Some(std::cmp::Ordering::Greater)) {
        let detail = format!("clipping to a norm of {max_norm}, expected a positive number");
        return Err(Error::model("gradient norm", detail));
    }
    let mut total = 0.0;
    for param in params {
        let Some(grad) = gradients.get(param) else { continue };
        let sum = sum_of_squares(grad.as_f32()?);
        if !sum.is_finite() {
            let what = "the gradient".to_string();
            return Err(Error::NonFinite { what, place: Some(param.name().to_string()) });
        }
        total += sum;
    }
    let norm = total.sqrt();
    let factor = max_norm / (norm + 1e-6);
    if factor < 1.0 {
        for param in params {
            if let Some(grad) = gradients.get_mut(param) {
                let pieces = grad.make_mut_f32()?.par_chunks_mut(parallel::GRAIN);
                pieces.for_each(|piece| slices::scale(piece, factor as f32));
            }
        }
    }
    Ok(norm)
}

/// Partial sums of fixed pieces, added in order.
fn sum_of_squares(x: &[f32]) -> f64 {
    let partial: Vec<f64> = x.par_chunks(parallel::GRAIN).map(slices::sum_of_squares).collect();
    partial.iter().sum()
}
