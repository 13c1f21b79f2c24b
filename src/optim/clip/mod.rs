//! Clipping gradients by their global norm.

mod cuda;

use std::collections::BTreeMap;

use rayon::prelude::*;

use crate::autograd::{Gradients, Param};
use crate::device::Device;
use crate::device::cpu::{parallel, slices};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// Scales the gradients of `params` so that their joint 2-norm is at most `max_norm`: by `max_norm / (norm + 1e-6)` if that is
/// below 1, as `torch.nn.utils.clip_grad_norm_` does. Returns the norm before clipping, summed in f64. With an infinite
/// `max_norm` nothing is changed. Each parameter must be given once; one without a gradient counts as zero.
///
/// Gradients on a CUDA device are summed there, and what is fetched is one number for each parameter. The sums' order is
/// another than on the CPU, and so the last bits of the norm may be.
///
/// Errors: [`Error::NonFinite`] with the name of the first parameter whose gradient is not finite (nothing is changed then), and
/// [`Error::Model`] unless `max_norm` is positive.
pub fn clip_grad_norm(gradients: &mut Gradients, params: &[Param], max_norm: f64) -> Result<f64> {
    // Not a number fails too.
    if !matches!(max_norm.partial_cmp(&0.0), Some(std::cmp::Ordering::Greater)) {
        let detail = format!("clipping to a norm of {max_norm}, expected a positive number");
        return Err(Error::model("gradient norm", detail));
    }
    // By device: the numbers of its parameters among `params`, and what each of their gradients sums to.
    let mut on_devices: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    let mut sums = vec![0.0; params.len()];
    for (i, param) in params.iter().enumerate() {
        let Some(grad) = gradients.get_mut(param) else { continue };
        match grad.device() {
            Device::Cpu => sums[i] = sum_of_squares(grad.as_f32()?),
            Device::Cuda(ordinal) => {
                // The kernels scale in place.
                grad.make_unshared()?;
                on_devices.entry(ordinal).or_default().push(i);
            }
        }
    }
    let mut groups = Vec::with_capacity(on_devices.len());
    for (&ordinal, numbers) in &on_devices {
        let grads: Vec<&Tensor> = numbers.iter().filter_map(|&i| gradients.get(&params[i])).collect();
        let mut group = cuda::Group::new(Device::Cuda(ordinal).cuda()?, grads.iter().copied())?;
        numbers.iter().zip(group.sums_of_squares()?).for_each(|(&i, sum)| sums[i] = sum);
        groups.push(group);
    }
    let mut total = 0.0;
    for (param, sum) in params.iter().zip(sums) {
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
            if let Some(grad) = gradients.get_mut(param)
                && grad.device() == Device::Cpu
            {
                let pieces = grad.make_mut_f32()?.par_chunks_mut(parallel::GRAIN);
                pieces.for_each(|piece| slices::scale(piece, factor as f32));
            }
        }
        groups.iter_mut().try_for_each(|group| group.scale(factor as f32))?;
    }
    Ok(norm)
}

/// Partial sums of fixed pieces, added in order.
fn sum_of_squares(x: &[f32]) -> f64 {
    let partial: Vec<f64> = x.par_chunks(parallel::GRAIN).map(slices::sum_of_squares).collect();
    partial.iter().sum()
}
