//! A step of AdamW on a CUDA device: see kernels/adamw.cu and kernels/adamw8.cu.

use bytemuck::{Pod, Zeroable};

use super::Update;
use super::blockwise::books;
use super::state::{Averages, Blocks, Slot};
use crate::Result;
use crate::device::Copies;
use crate::device::cuda::{CudaDevice, Grid, Pointer, kernel};
use crate::device::philox::Philox;
use crate::optim::table::{Chunks, Extent, THREADS, Table};
use crate::tensor::{DType, Tensor};

const OP: &str = "adamw";

kernel! {
    /// A step of all parameters of a table. `shrink` is that of the parameters that weight decay applies to.
    Step in "adamw" {
        table: Pointer, count: u32, one_minus_beta1: f32, beta2: f32, one_minus_beta2: f32, root_correction2: f32, eps: f32,
        minus_step_size: f32, shrink: f32, seed: u64, stream: u64,
    }
}

kernel! {
    /// As [`Step`], with averages in 8 bits.
    StepBlockwise in "adamw8" {
        table: Pointer, books: Pointer, count: u32, one_minus_beta1: f32, beta2: f32, one_minus_beta2: f32, root_correction2: f32,
        eps: f32, minus_step_size: f32, shrink: f32, seed: u64, stream: u64,
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

/// A parameter with averages in 8 bits.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct BlockwiseEntry {
    extent: Extent,
    param: u64,
    master: u64,
    exp_avg: u64,
    exp_avg_sq: u64,
    absmax: u64,
    absmax_sq: u64,
    grad: u64,
    first_word: u64,
    narrow: u32,
    decay: u32,
}

/// What a device was told of its parameters, by how their averages are kept.
#[derive(Default)]
pub(super) struct Tables {
    of_f32: Table,
    blockwise: Table,
}

/// The books, where a device's kernels copy them from.
fn books_on(device: &'static CudaDevice) -> Result<Tensor> {
    static COPIES: Copies<Tensor> = Copies::new();
    COPIES.get(device.place(), (), || {
        let bytes = bytemuck::bytes_of(books()).to_vec();
        let len = bytes.len();
        Tensor::from_u8(bytes, &[len]).to_device(device.place())
    })
}

/// Steps parameters that are all on one device, each with its gradient there. `update.shrink` is that of the parameters that weight
/// decay applies to.
pub(super) fn step(
    device: &'static CudaDevice,
    slots: &mut [(&mut Slot, &Tensor)],
    update: &Update,
    random: Philox,
    tables: &mut Tables,
) -> Result<()> {
    let in_place = |tensor: &mut Tensor| {
        tensor.make_unshared()?;
        Ok(tensor.pointer(OP, device)?.0)
    };
    let (mut of_f32, mut f32_chunks) = (Vec::new(), Chunks::default());
    let (mut blockwise, mut blockwise_chunks) = (Vec::new(), Chunks::default());
    for (slot, grad) in slots.iter_mut() {
        let Slot { param, decay, averages, master, first_word } = &mut **slot;
        let master = master.as_mut().map_or(Ok(Pointer::NULL.0), in_place)?;
        let narrow = u32::from(param.value().dtype() == DType::BF16);
        let (param, len) = (param.update(in_place)?, grad.numel());
        let (grad, first_word, decay) = (grad.pointer(OP, device)?.0, *first_word, u32::from(*decay));
        match averages {
            Averages::F32 { exp_avg, exp_avg_sq } => {
                let (exp_avg, exp_avg_sq) = (in_place(exp_avg)?, in_place(exp_avg_sq)?);
                let extent = f32_chunks.extent(len);
                of_f32.push(Entry {
                    extent,
                    param,
                    master,
                    exp_avg,
                    exp_avg_sq,
                    grad,
                    first_word,
                    narrow,
                    decay,
                });
            }
            Averages::Blockwise { exp_avg, exp_avg_sq } => {
                let place = |x: &mut Blocks| Ok((in_place(&mut x.codes)?, in_place(&mut x.absmax)?));
                let ((exp_avg, absmax), (exp_avg_sq, absmax_sq)) = (place(exp_avg)?, place(exp_avg_sq)?);
                let extent = blockwise_chunks.extent(len);
                blockwise.push(BlockwiseEntry {
                    extent,
                    param,
                    master,
                    exp_avg,
                    exp_avg_sq,
                    absmax,
                    absmax_sq,
                    grad,
                    first_word,
                    narrow,
                    decay,
                });
            }
        }
    }
    let Update { one_minus_beta1, beta2, one_minus_beta2, root_correction2, eps, minus_step_size, shrink } =
        *update;
    let Philox { seed, stream } = random;
    if !of_f32.is_empty() {
        let (table, count) = (tables.of_f32.at(device, &of_f32)?, of_f32.len() as u32);
        let arguments = Step {
            table,
            count,
            one_minus_beta1,
            beta2,
            one_minus_beta2,
            root_correction2,
            eps,
            minus_step_size,
            shrink,
            seed,
            stream,
        };
        device.launch("adamw_step", arguments, Grid::new(f32_chunks.count(), THREADS))?;
    }
    if !blockwise.is_empty() {
        let (table, count) = (tables.blockwise.at(device, &blockwise)?, blockwise.len() as u32);
        let arguments = StepBlockwise {
            table,
            books: books_on(device)?.pointer(OP, device)?,
            count,
            one_minus_beta1,
            beta2,
            one_minus_beta2,
            root_correction2,
            eps,
            minus_step_size,
            shrink,
            seed,
            stream,
        };
        device.launch("adamw_step_blockwise8", arguments, Grid::new(blockwise_chunks.count(), THREADS))?;
    }
    Ok(())
}
