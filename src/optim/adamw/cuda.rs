//! A step of AdamW on a CUDA device: see kernels/adamw.cu.

use bytemuck::{Pod, Zeroable};

use super::{Slot, Update};
use crate::Result;
use crate::device::cuda::{CudaDevice, Grid, Pointer, kernel};
use crate::device::philox::Philox;
use crate::optim::table::{Extent, THREADS, Table, extents};
use crate::tensor::{DType, Tensor};

const OP: &str = "adamw";

kernel! {
    /// A step of all parameters of a table. `shrink` is that of the parameters that weight decay applies to.
    Step in "adamw" {
        table: Pointer, count: u32, one_minus_beta1: f32, beta2: f32, one_minus_beta2: f32, root_correction2: f32, eps: f32,
        minus_step_size: f32, shrink: f32, seed: u64, stream: u64,
    }
}

/// A parameter, as the kernel reads of it.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Entry {
    extent: Extent,
    param: u64,
    master: u64,
    exp_avg: u64,
    exp_avg_sq: u64,
    grad: u64,
    first_word: u64,
    narrow: u32,
    decay: u32,
}

/// Steps parameters that are all on one device, each with its gradient there. `update.shrink` is that of the parameters that weight
/// decay applies to.
pub(super) fn step(
    device: &'static CudaDevice,
    slots: &mut [(&mut Slot, &Tensor)],
    update: &Update,
    random: Philox,
    table: &mut Table,
) -> Result<()> {
    let (extents, chunks) = extents(slots.iter().map(|(slot, _)| slot.exp_avg.numel()));
    let mut entries = Vec::with_capacity(slots.len());
    for ((slot, grad), extent) in slots.iter_mut().zip(extents) {
        let in_place = |tensor: &mut Tensor| {
            tensor.make_unshared()?;
            tensor.pointer(OP, device)
        };
        let master = slot.master.as_mut().map_or(Ok(Pointer::NULL), in_place)?;
        let (exp_avg, exp_avg_sq) = (in_place(&mut slot.exp_avg)?, in_place(&mut slot.exp_avg_sq)?);
        let narrow = u32::from(slot.param.value().dtype() == DType::BF16);
        entries.push(Entry {
            extent,
            param: slot.param.update(in_place)?.0,
            master: master.0,
            exp_avg: exp_avg.0,
            exp_avg_sq: exp_avg_sq.0,
            grad: grad.pointer(OP, device)?.0,
            first_word: slot.first_word,
            narrow,
            decay: u32::from(slot.decay),
        });
    }
    let arguments = Step {
        table: table.at(device, &entries)?,
        count: entries.len() as u32,
        one_minus_beta1: update.one_minus_beta1,
        beta2: update.beta2,
        one_minus_beta2: update.one_minus_beta2,
        root_correction2: update.root_correction2,
        eps: update.eps,
        minus_step_size: update.minus_step_size,
        shrink: update.shrink,
        seed: random.seed,
        stream: random.stream,
    };
    device.launch("adamw_step", arguments, Grid::new(chunks, THREADS))
}
