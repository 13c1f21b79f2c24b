//! CUDA kernels of the fused head and loss: see kernels/linear_cross_entropy.cu.

use super::{OP, Outcome, Wanted};
use crate::Result;
use crate::device::cuda::{CudaDevice, Entry, Grid, Pointer, kernel};
use crate::ops::place::extent;
use crate::tensor::{DType, Tensor};

kernel! {
    /// Which rows have a label.
    Rows in "linear_cross_entropy" {
        labels: Pointer, rows: Pointer, targets: Pointer, ranks: Pointer, count: Pointer, total: u32,
    }
}

kernel! {
    /// Their x.
    Gather in "linear_cross_entropy" {
        x: Pointer, rows: Pointer, count: Pointer, out: Pointer, dim: u32, packed: u32,
    }
}

kernel! {
    /// One of the three products of a chunk.
    Product in "linear_cross_entropy" {
        a: Pointer, b: Pointer, c: Pointer, ld: i64, count: Pointer, first: u32, rows: u32, vocab: i32, dim: i32, add: u32,
    }
}

kernel! {
    /// Losses and, in place of the logits, their gradient.
    Softmax in "linear_cross_entropy" {
        logits: Pointer, ld: u64, targets: Pointer, losses: Pointer, count: Pointer, first: u32, rows: u32, vocab: u32,
        denominator: f32,
    }
}

kernel! {
    /// The loss.
    Sum in "linear_cross_entropy" { losses: Pointer, count: Pointer, loss: Pointer, denominator: f32 }
}

kernel! {
    /// dx from that of the gathered rows.
    Scatter in "linear_cross_entropy" {
        gathered: Pointer, ranks: Pointer, scale: Pointer, times: f32, dx: Pointer, dim: u32, packed: u32,
    }
}

kernel! {
    /// dW times a number that lies on the device, and another.
    Scale in "linear_cross_entropy" { dw: Pointer, scale: Pointer, times: f32, n: u64 }
}

/// Rows and columns of a tile of the products, and threads of their blocks: on tensor cores, and on the ordinary cores.
const TILE: [usize; 2] = [128, 64];
const THREADS: [u32; 2] = [128, 256];
/// Shared memory of a block of the products on tensor cores, in bytes.
const SHARED: u32 = 64 << 10;
const SOFTMAX_THREADS: u32 = 512;
const ONE_BLOCK_THREADS: u32 = 1024;

/// Logits of a row start on 16 bytes, in f32 and in 16 bits.
const ROW_ALIGNMENT: usize = 8;

/// Bytes of logits at a time: 1024 rows at a vocabulary of 65536. With fewer rows a product spends its time on reading W: on an A100, 312
/// TFLOP/s and 2 TB/s, dW (8 bytes an element) is read and written in as much time as 640 rows take to multiply, W alone (2 bytes) 160.
pub(super) const LOGITS_BYTES: usize = 256 << 20;

/// Rows whose f32 logits over `vocab` words fit `budget` bytes on a CUDA device: whole tiles of the products, one at least.
pub fn device_chunk_rows(vocab: usize, budget: usize) -> usize {
    let row = vocab.max(1).saturating_add(ROW_ALIGNMENT - 1) / ROW_ALIGNMENT * ROW_ALIGNMENT;
    let rows = budget / size_of::<f32>() / row;
    (rows / TILE[0] * TILE[0]).max(TILE[0])
}

/// What is gathered: the gradient of the rows with a label (over their x, which nobody needs any more), and where each lies.
pub(super) struct Gathered {
    rows: Tensor,
    ranks: Tensor,
    shape: [usize; 2],
    dtype: DType,
    times: f32,
}

/// Whether the products run on tensor cores, for an x and a W of these types.
fn on_tensor_cores(x: DType, w: DType) -> bool {
    x == w && x.is_half()
}

/// What the gradients of the forward have to be multiplied with yet. In f16 they are not divided by the denominator: little would be
/// left in its range.
pub(super) fn factor_left(x: DType, w: DType, denominator: f32) -> f32 {
    if on_tensor_cores(x, w) && x == DType::F16 { 1.0 / denominator } else { 1.0 }
}

/// What the chunks share.
struct Chunks<'a> {
    device: &'static CudaDevice,
    w: &'a Tensor,
    count: Pointer,
    vocab: usize,
    dim: usize,
    /// Logits from one row to the next.
    ld: usize,
    tensor_cores: bool,
}

impl Chunks<'_> {
    /// One product over rows `first .. first + rows`. `name`: its name without the types; `c`: rows and columns of its result.
    fn multiply(
        &self,
        [tensor, ragged, of_f32, of_half]: [&'static str; 4],
        [a, b, c]: [Pointer; 3],
        [m, n]: [usize; 2],
        [first, rows]: [usize; 2],
        add: bool,
    ) -> Result<()> {
        let kind = usize::from(!self.tensor_cores);
        let entry = match (self.tensor_cores, self.w.dtype()) {
            (true, _) if self.dim.is_multiple_of(DType::BF16.pack()) && a.is_aligned() && b.is_aligned() => {
                tensor
            }
            (true, _) => ragged,
            (false, dtype) => dtype.select(OP, [of_f32, of_half])?,
        };
        let entry = Entry::of(OP, entry, &[self.w.dtype()])?;
        let arguments = Product {
            a,
            b,
            c,
            ld: self.ld as i64,
            count: self.count,
            first: extent(OP, first)?,
            rows: extent(OP, rows)?,
            vocab: extent(OP, self.vocab)? as i32,
            dim: extent(OP, self.dim)? as i32,
            add: u32::from(add),
        };
        let grid = Grid::new(m.div_ceil(TILE[kind]) * n.div_ceil(TILE[kind]), THREADS[kind]);
        self.device.launch(
            entry,
            arguments,
            Grid { shared: if self.tensor_cores { SHARED } else { 0 }, ..grid },
        )
    }
}

pub(super) fn forward(
    device: &'static CudaDevice,
    x: &Tensor,
    w: &Tensor,
    labels: &Tensor,
    denominator: f32,
    wanted: Wanted,
    budget: usize,
) -> Result<Outcome<Gathered>> {
    let ([total, dim], vocab) = ([x.shape()[0], x.shape()[1]], w.shape()[0]);
    let tensor_cores = on_tensor_cores(x.dtype(), w.dtype());
    let dtype = if tensor_cores { x.dtype() } else { DType::F32 };
    let times = factor_left(x.dtype(), w.dtype(), denominator);
    let ids = |n: usize| Tensor::uninitialised(device, &[n], DType::U32);
    let [rows, targets, ranks, count] = [ids(total)?, ids(total)?, ids(total)?, ids(1)?];
    let at = |tensor: &Tensor| tensor.pointer(OP, device);
    let (count_at, targets_at) = (at(&count)?, at(&targets)?);
    let arguments = Rows {
        labels: at(labels)?,
        rows: at(&rows)?,
        targets: targets_at,
        ranks: at(&ranks)?,
        count: count_at,
        total: extent(OP, total)?,
    };
    device.launch("linear_cross_entropy_rows", arguments, Grid::new(1, ONE_BLOCK_THREADS))?;

    let gathered = Tensor::uninitialised(device, &[total, dim], dtype)?;
    let of_f32 = ["linear_cross_entropy_gather_f32_f32", "linear_cross_entropy_gather_f32_f32"];
    let of_bf16 = ["linear_cross_entropy_gather_bf16_f32", "linear_cross_entropy_gather_bf16_bf16"];
    let entry = dtype.select(OP, x.dtype().select(OP, [of_f32, of_bf16])?)?;
    let entry = Entry::of(OP, entry, &[x.dtype(), w.dtype()])?;
    let (gathered_at, pack) = (at(&gathered)?, pack(dim, dtype, at(x)?));
    let arguments = Gather {
        x: at(x)?,
        rows: at(&rows)?,
        count: count_at,
        out: gathered_at,
        dim: extent(OP, dim)?,
        packed: u32::from(pack > 1),
    };
    device.launch(entry, arguments, rows_by_columns(dim, pack, total))?;

    let ld = vocab.next_multiple_of(ROW_ALIGNMENT);
    let chunk = device_chunk_rows(vocab, budget).min(total);
    // Losses are f64, which no tensor has.
    let losses = Tensor::uninitialised(device, &[2 * total], DType::U32)?;
    let logits = Tensor::uninitialised(device, &[chunk, ld], DType::F32)?;
    let dw = match wanted.w {
        true if total == 0 => Some(Tensor::zeros_on(x.device(), w.shape(), DType::F32)?),
        true => Some(Tensor::uninitialised(device, w.shape(), DType::F32)?),
        false => None,
    };
    let chunks = Chunks { device, w, count: count_at, vocab, dim, ld, tensor_cores };
    let (logits_at, losses_at, w_at) = (at(&logits)?, at(&losses)?, at(w)?);
    let softmax = match (wanted.x || wanted.w, tensor_cores) {
        (false, _) => "linear_cross_entropy_fwd_loss",
        (true, true) => "linear_cross_entropy_fwd_gradient_bf16",
        (true, false) => "linear_cross_entropy_fwd_gradient_f32",
    };
    let softmax = Entry::of(OP, softmax, &[dtype])?;
    for first in (0..total).step_by(chunk.max(1)) {
        let span = [first, chunk.min(total - first)];
        let x_at = at(&gathered.rows(first, span[1])?)?;
        chunks.multiply(LOGITS, [x_at, w_at, logits_at], [span[1], vocab], span, false)?;
        let arguments = Softmax {
            logits: logits_at,
            ld: ld as u64,
            targets: targets_at,
            losses: losses_at,
            count: count_at,
            first: first as u32,
            rows: span[1] as u32,
            vocab: extent(OP, vocab)?,
            denominator: denominator * times,
        };
        device.launch(softmax, arguments, Grid::new(span[1], SOFTMAX_THREADS))?;
        if let Some(dw) = &dw {
            chunks.multiply(GRAD_W, [logits_at, x_at, at(dw)?], [vocab, dim], span, first > 0)?;
        }
        if wanted.x {
            chunks.multiply(GRAD_X, [logits_at, w_at, x_at], [span[1], dim], span, false)?;
        }
    }
    let loss = Tensor::uninitialised(device, &[], DType::F32)?;
    let arguments = Sum { losses: losses_at, count: count_at, loss: at(&loss)?, denominator };
    device.launch("linear_cross_entropy_fwd_sum", arguments, Grid::new(1, ONE_BLOCK_THREADS))?;
    let shape = [total, dim];
    let dx = wanted.x.then(|| Gathered { rows: gathered, ranks, shape, dtype: x.dtype(), times });
    Ok(Outcome { loss, dx, dw })
}

/// Names of the products' kernels: on tensor cores, there with rows that do not start on 16 bytes, in f32 with W f32, and with W bf16 (or f16).
const LOGITS: [&str; 4] = [
    "linear_cross_entropy_fwd_logits_bf16",
    "linear_cross_entropy_fwd_logits_bf16_ragged",
    "linear_cross_entropy_fwd_logits_f32_f32",
    "linear_cross_entropy_fwd_logits_f32_bf16",
];
const GRAD_X: [&str; 4] = [
    "linear_cross_entropy_fwd_dx_bf16",
    "linear_cross_entropy_fwd_dx_bf16_ragged",
    "linear_cross_entropy_fwd_dx_f32_f32",
    "linear_cross_entropy_fwd_dx_f32_bf16",
];
const GRAD_W: [&str; 4] = [
    "linear_cross_entropy_fwd_dweight_bf16",
    "linear_cross_entropy_fwd_dweight_bf16_ragged",
    "linear_cross_entropy_fwd_dweight_f32",
    "linear_cross_entropy_fwd_dweight_f32",
];

/// The gradient of x for a gradient `dloss` of the loss.
pub(super) fn grad_input(device: &'static CudaDevice, dx: &Gathered, dloss: &Tensor) -> Result<Tensor> {
    let [total, dim] = dx.shape;
    let out = Tensor::uninitialised(device, &dx.shape, dx.dtype)?;
    let of_f32 = ["linear_cross_entropy_bwd_scatter_f32_f32", "linear_cross_entropy_bwd_scatter_f32_f32"];
    let of_bf16 = ["linear_cross_entropy_bwd_scatter_bf16_f32", "linear_cross_entropy_bwd_scatter_bf16_bf16"];
    let entry = dx.rows.dtype().select(OP, dx.dtype.select(OP, [of_f32, of_bf16])?)?;
    let entry = Entry::of(OP, entry, &[dx.dtype])?;
    let dx_at = out.pointer(OP, device)?;
    let pack = pack(dim, dx.rows.dtype(), dx_at);
    let arguments = Scatter {
        gathered: dx.rows.pointer(OP, device)?,
        ranks: dx.ranks.pointer(OP, device)?,
        scale: dloss.pointer(OP, device)?,
        times: dx.times,
        dx: dx_at,
        dim: extent(OP, dim)?,
        packed: u32::from(pack > 1),
    };
    device.launch(entry, arguments, rows_by_columns(dim, pack, total))?;
    Ok(out)
}

/// Multiplies the gradient of W, which nobody shares, by a gradient `dloss` of the loss and by `times` ([`factor_left`]).
pub(super) fn scale_in_place(
    device: &'static CudaDevice,
    dw: &Tensor,
    dloss: &Tensor,
    times: f32,
) -> Result<()> {
    let arguments =
        Scale { dw: dw.pointer(OP, device)?, scale: dloss.pointer(OP, device)?, times, n: dw.numel() as u64 };
    device.launch("linear_cross_entropy_bwd_scale", arguments, device.spans(dw.numel(), DType::F32.pack()))
}

/// Elements that a thread moves: 16 bytes of the larger type, where rows start on them. What is gathered starts on 16 bytes.
fn pack(dim: usize, gathered: DType, other: Pointer) -> usize {
    let pack = gathered.pack();
    if dim.is_multiple_of(pack) && other.is_aligned() { pack } else { 1 }
}

/// A block in x for each row: there may be more of them than a grid has blocks in y.
fn rows_by_columns(dim: usize, pack: usize, rows: usize) -> Grid {
    let grid = Grid::columns(dim, pack, rows);
    let [columns, rows, one] = grid.blocks;
    Grid { blocks: [rows, columns, one], ..grid }
}
