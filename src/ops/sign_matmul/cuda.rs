//! CUDA kernels of the linear layer with a 1-bit delta: see kernels/sign_matmul.cu.

use super::{Base, Layer, OP};
use crate::Result;
use crate::autograd::Var;
use crate::device::Device;
use crate::device::cuda::{Argument, CudaDevice, Entry, Grid, Pointer, kernel};
use crate::ops::epilogue::{Epilogue, Finish};
use crate::ops::lora_matmul::Segments;
use crate::ops::matmul;
use crate::ops::place::extent;
use crate::ops::quantized_matmul::cuda::{Matrix, Pass};
use crate::tensor::{DType, QuantizedTensor, SignStack, SignTensor, Tensor};

kernel! {
    /// y or dx, of a dense base or none.
    Product in "sign_matmul" {
        a: Pointer, w: Pointer, delta: Delta, addend: Pointer, bias: Pointer, operand: Pointer, kept: Pointer, kind: u32, c: Pointer,
        m: u32, n: u32, k: u32,
    }
}

kernel! {
    /// The same of a base in 4-bit blocks.
    Product4Bit in "sign_matmul" {
        a: Pointer, w: Matrix, delta: Delta, addend: Pointer, bias: Pointer, operand: Pointer, kept: Pointer, kind: u32, c: Pointer,
        m: u32, n: u32, k: u32,
    }
}

kernel! {
    /// The deltas' part of the rows of several, f32.
    Tenants in "sign_matmul" {
        x: Pointer, deltas: Delta, words_stride: i64, scale_stride: i64, ranges: Pointer, z: Pointer, n: u32, k: u32,
    }
}

kernel! {
    /// Parts of da: the sums of tiles of rows.
    ScaleParts in "sign_matmul" { x: Pointer, delta: Delta, dy: Pointer, parts: Pointer, m: u32, n: u32, k: u32 }
}

kernel! {
    /// Their sum over the columns.
    ScaleTotal in "sign_matmul" { x: Pointer, out: Pointer, n: u32 }
}

/// Rows and columns of a block on tensor cores, its threads and its shared memory; of one on the ordinary cores.
const TILE: usize = 128;
const THREADS: u32 = 128;
const SHARED: u32 = 64 << 10;
const SMALL_TILE: usize = 64;
const SMALL_THREADS: u32 = 256;
/// Rows that bits and weights are streamed for at most, and those that the smaller kernel is for; columns of a block of them, and its threads.
const FEW_ROWS: usize = 16;
const FEWER_ROWS: usize = 8;
const FEW_TILE: usize = 32;
const FEW_THREADS: u32 = 256;
const TOTAL_THREADS: u32 = 256;
/// Elements of a row of 4-bit codes that the kernels decode at once.
const GROUP: usize = 32;

/// A delta as kernels take it (kernels/common/signs.cuh).
#[derive(Clone, Copy)]
#[repr(C)]
struct Delta {
    words: Pointer,
    scale: Pointer,
    row_words: u32,
    of_rows: u32,
}

impl Argument for Delta {}

impl Delta {
    /// None.
    const NONE: Delta = Delta { words: Pointer::NULL, scale: Pointer::NULL, row_words: 0, of_rows: 0 };

    /// Signs of `cols` columns.
    fn new(
        device: &'static CudaDevice,
        bits: &Tensor,
        scale: &Tensor,
        cols: usize,
        of_rows: bool,
    ) -> Result<Delta> {
        Ok(Delta {
            words: bits.pointer(OP, device)?,
            scale: scale.pointer(OP, device)?,
            row_words: extent(OP, SignTensor::row_bytes(cols) / 4)?,
            of_rows: u32::from(of_rows),
        })
    }
}

impl Layer {
    fn delta(&self, device: &'static CudaDevice) -> Result<Delta> {
        let cols = self.signs.shape()[1];
        Delta::new(device, self.signs.bits(), &self.scale, cols, self.has_row_scales())
    }
}

/// Whether rows of a matrix start on 16 bytes.
fn is_aligned(device: &'static CudaDevice, x: &Tensor) -> Result<bool> {
    Ok(x.pointer(OP, device)?.is_aligned() && x.dims2(OP)?.1.is_multiple_of(x.dtype().pack()))
}

/// Whether rows of codes start on 16 bytes and are whole groups.
fn is_whole(device: &'static CudaDevice, w: &QuantizedTensor) -> Result<bool> {
    Ok(w.codes().pointer(OP, device)?.is_aligned() && w.shape()[1].is_multiple_of(GROUP))
}

/// y, and z if it is kept.
pub(super) fn forward(
    device: &'static CudaDevice,
    x: &Tensor,
    bias: Option<&Tensor>,
    layer: &Layer,
    epilogue: &Epilogue<'_>,
    keeps: bool,
) -> Result<(Tensor, Option<Tensor>)> {
    let addition = (layer.delta(device)?, Pointer::NULL);
    finished(device, x, bias, &layer.base, addition, layer.signs.shape()[0], epilogue, keeps)
}

/// `epilogue(addition + x W^T + bias)` with `n` columns, and z if it is kept.
#[allow(clippy::too_many_arguments)]
fn finished(
    device: &'static CudaDevice,
    x: &Tensor,
    bias: Option<&Tensor>,
    base: &Base,
    addition: (Delta, Pointer),
    n: usize,
    epilogue: &Epilogue<'_>,
    keeps: bool,
) -> Result<(Tensor, Option<Tensor>)> {
    let of_y = ([x.dims2(OP)?.0, n], x.dtype());
    if let Base::Product(z) = base {
        // It takes the place of what an epilogue reads.
        let residual = Var::constant(z.clone());
        let finish = Finish::new(OP, device, &Epilogue::Residual(&residual), bias, of_y, false)?;
        let z = product(device, Pass::Forward, x, base, addition, n, &finish)?;
        return Ok((epilogue.of(&z)?, keeps.then_some(z)));
    }
    let finish = Finish::new(OP, device, epilogue, bias, of_y, keeps)?;
    let y = product(device, Pass::Forward, x, base, addition, n, &finish)?;
    Ok((y, finish.z))
}

/// y of several deltas: first their part, whatever the base is, and then the product with that.
pub(super) fn tenants(
    device: &'static CudaDevice,
    x: &Tensor,
    bias: Option<&Tensor>,
    base: &Base,
    deltas: &SignStack,
    segments: &Segments,
    epilogue: &Epilogue<'_>,
) -> Result<Tensor> {
    let ((m, k), [n, _]) = (x.dims2(OP)?, *deltas.shape());
    let of_rows = deltas.scales().dims2(OP)?.1;
    let z = Tensor::uninitialised(device, &[m, n], DType::F32)?;
    let tables = segments.delta_tables(Device::Cuda(device.ordinal()))?;
    let launch = |entry: &'static str, ranges: &Tensor, tile: usize, threads: u32, shared: u32| {
        let arguments = Tenants {
            x: x.pointer(OP, device)?,
            deltas: Delta::new(device, deltas.bits(), deltas.scales(), k, of_rows != 1)?,
            words_stride: (n * SignTensor::row_bytes(k) / 4) as i64,
            scale_stride: of_rows as i64,
            ranges: ranges.pointer(OP, device)?,
            z: z.pointer(OP, device)?,
            n: extent(OP, n)?,
            k: extent(OP, k)?,
        };
        let grid = Grid { blocks: [ranges.shape()[0], n.div_ceil(tile), 1], threads, shared };
        device.launch(Entry::of(OP, entry, &[x.dtype()])?, arguments, grid)
    };
    match (x.dtype().is_half(), is_aligned(device, x)?) {
        (false, _) => launch("sign_matmul_fwd_tenants_f32", &tables.small, SMALL_TILE, SMALL_THREADS, 0)?,
        (true, aligned) => {
            let [few, tiles] = match aligned {
                true => ["sign_matmul_fwd_tenants_few_bf16", "sign_matmul_fwd_tenants_bf16"],
                false => ["sign_matmul_fwd_tenants_few_bf16_ragged", "sign_matmul_fwd_tenants_bf16_ragged"],
            };
            launch(few, &tables.few, FEW_TILE, FEW_THREADS, 0)?;
            launch(tiles, &tables.tiles, TILE, THREADS, SHARED)?;
        }
    }
    let addition = (Delta::NONE, z.pointer(OP, device)?);
    Ok(finished(device, x, bias, base, addition, n, epilogue, false)?.0)
}

/// The wanted gradients of x, the base, the scale and the bias; that of x with `residual`, the gradient that it has already.
pub(super) fn backward(
    device: &'static CudaDevice,
    dy: &Tensor,
    x: &Tensor,
    layer: &Layer,
    [want_x, want_base, want_scale, want_bias]: [bool; 4],
    residual: Option<&Tensor>,
) -> Result<[Option<Tensor>; 4]> {
    let dx = want_x
        .then(|| {
            let (addition, n) = ((layer.delta(device)?, Pointer::NULL), layer.signs.shape()[1]);
            let finish = Finish::adding(OP, device, residual)?;
            product(device, Pass::Backward, dy, &layer.base, addition, n, &finish)
        })
        .transpose()?;
    let of_base = match &layer.base {
        Base::Dense(_) if want_base => Some(matmul::cuda::grad_weight(device, dy, x)?),
        Base::Product(_) if want_base => Some(dy.clone()),
        Base::Dense(_) | Base::Product(_) | Base::Quantized(_) => None,
    };
    let of_scale = want_scale.then(|| grad_scale(device, dy, x, layer)).transpose()?;
    let of_bias = want_bias.then(|| matmul::cuda::column_sums(device, dy)).transpose()?;
    Ok([dx, of_base, of_scale, of_bias])
}

/// `finish(a (scale S)^T + a W^T)` with `n` columns, y from x; or, backward, the same with S and W as they lie, dx from dy. f32 results may stand in
/// the place of those with S.
fn product(
    device: &'static CudaDevice,
    pass: Pass,
    a: &Tensor,
    base: &Base,
    (delta, addend): (Delta, Pointer),
    n: usize,
    finish: &Finish,
) -> Result<Tensor> {
    let (m, k) = a.dims2(OP)?;
    let c = Tensor::uninitialised(device, &[m, n], a.dtype())?;
    let Finish { bias, operand, kept, kind, .. } = *finish;
    let arguments = Product {
        a: a.pointer(OP, device)?,
        w: match base {
            Base::Dense(w) => w.pointer(OP, device)?,
            Base::Quantized(_) | Base::Product(_) => Pointer::NULL,
        },
        delta,
        addend,
        bias,
        operand,
        kept,
        kind,
        c: c.pointer(OP, device)?,
        m: extent(OP, m)?,
        n: extent(OP, n)?,
        k: extent(OP, k)?,
    };
    match base {
        Base::Dense(w) => dense(device, pass, a, Some(w), &arguments)?,
        Base::Product(_) => dense(device, pass, a, None, &arguments)?,
        Base::Quantized(w) => four_bit(device, pass, a, w, &arguments)?,
    }
    Ok(c)
}

/// Whether a pass is over a few rows of 16 bits.
fn is_few(pass: Pass, a: &Tensor) -> Result<bool> {
    Ok(pass == Pass::Forward && a.dtype().is_half() && a.dims2(OP)?.0 <= FEW_ROWS)
}

fn tiles([m, n]: [u32; 2], tile: usize) -> usize {
    (m as usize).div_ceil(tile) * (n as usize).div_ceil(tile)
}

fn few_grid([m, n]: [u32; 2]) -> Grid {
    Grid::new(if m == 0 { 0 } else { (n as usize).div_ceil(FEW_TILE) }, FEW_THREADS)
}

/// Launches the kernel of a dense base, or of none.
fn dense(
    device: &'static CudaDevice,
    pass: Pass,
    a: &Tensor,
    w: Option<&Tensor>,
    arguments: &Product,
) -> Result<()> {
    let types: Vec<DType> = [a].into_iter().chain(w).map(Tensor::dtype).collect();
    let size = [arguments.m, arguments.n];
    let (entry, grid) = if a.dtype().is_half() && w.is_none_or(|w| w.dtype() == a.dtype()) {
        let aligned = is_aligned(device, a)? && w.map_or(Ok(true), |w| is_aligned(device, w))?;
        if is_few(pass, a)? {
            let entry = match (aligned, arguments.m as usize <= FEWER_ROWS) {
                (true, true) => "sign_matmul_fwd_few_bf16_rows8",
                (true, false) => "sign_matmul_fwd_few_bf16_rows16",
                (false, _) => "sign_matmul_fwd_few_bf16_ragged",
            };
            (entry, few_grid(size))
        } else {
            let entry = match (pass, aligned) {
                (Pass::Forward, true) => "sign_matmul_fwd_bf16",
                (Pass::Forward, false) => "sign_matmul_fwd_bf16_ragged",
                (Pass::Backward, true) => "sign_matmul_bwd_input_bf16",
                (Pass::Backward, false) => "sign_matmul_bwd_input_bf16_ragged",
            };
            (entry, Grid { shared: SHARED, ..Grid::new(tiles(size, TILE), THREADS) })
        }
    } else {
        let pairs = match pass {
            Pass::Forward => [
                ["sign_matmul_fwd_f32_f32", "sign_matmul_fwd_f32_bf16"],
                ["sign_matmul_fwd_bf16_f32", "sign_matmul_fwd_bf16_f32"],
            ],
            Pass::Backward => [
                ["sign_matmul_bwd_input_f32_f32", "sign_matmul_bwd_input_f32_bf16"],
                ["sign_matmul_bwd_input_bf16_f32", "sign_matmul_bwd_input_bf16_f32"],
            ],
        };
        let of_w = w.map_or(DType::F32, Tensor::dtype);
        let entry = of_w.select(OP, a.dtype().select(OP, pairs)?)?;
        (entry, Grid::new(tiles(size, SMALL_TILE), SMALL_THREADS))
    };
    device.launch(Entry::of(OP, entry, &types)?, *arguments, grid)
}

/// Launches the kernel of a base in 4-bit blocks.
fn four_bit(
    device: &'static CudaDevice,
    pass: Pass,
    a: &Tensor,
    w: &QuantizedTensor,
    arguments: &Product,
) -> Result<()> {
    let Product { a: at, delta, addend, bias, operand, kept, kind, c, m, n, k, .. } = *arguments;
    let w_at = Matrix::of(OP, device, w)?;
    let arguments = Product4Bit { a: at, w: w_at, delta, addend, bias, operand, kept, kind, c, m, n, k };
    let size = [m, n];
    let (entry, grid) = if a.dtype().is_half() {
        let aligned = is_aligned(device, a)? && is_whole(device, w)?;
        if aligned && is_few(pass, a)? {
            let entry = match m as usize <= FEWER_ROWS {
                true => "sign_matmul_fwd_few_4bit_bf16_rows8",
                false => "sign_matmul_fwd_few_4bit_bf16_rows16",
            };
            (entry, few_grid(size))
        } else {
            let entry = match (pass, aligned) {
                (Pass::Forward, true) => "sign_matmul_fwd_4bit_bf16",
                (Pass::Forward, false) => "sign_matmul_fwd_4bit_bf16_ragged",
                (Pass::Backward, true) => "sign_matmul_bwd_input_4bit_bf16",
                (Pass::Backward, false) => "sign_matmul_bwd_input_4bit_bf16_ragged",
            };
            (entry, Grid { shared: SHARED, ..Grid::new(tiles(size, TILE), THREADS) })
        }
    } else {
        let entry = match pass {
            Pass::Forward => "sign_matmul_fwd_4bit_f32",
            Pass::Backward => "sign_matmul_bwd_input_4bit_f32",
        };
        (entry, Grid::new(tiles(size, SMALL_TILE), SMALL_THREADS))
    };
    device.launch(Entry::of(OP, entry, &[a.dtype()])?, arguments, grid)
}

/// `da = sum of dy o (x S^T)`.
fn grad_scale(device: &'static CudaDevice, dy: &Tensor, x: &Tensor, layer: &Layer) -> Result<Tensor> {
    let ((m, k), n) = (x.dims2(OP)?, layer.signs.shape()[0]);
    let (tile, threads, shared) = match x.dtype().is_half() {
        true => (TILE, THREADS, SHARED),
        false => (SMALL_TILE, SMALL_THREADS, 0),
    };
    let parts = Tensor::uninitialised(device, &[m.div_ceil(tile), n], DType::F32)?;
    let arguments = ScaleParts {
        x: x.pointer(OP, device)?,
        delta: layer.delta(device)?,
        dy: dy.pointer(OP, device)?,
        parts: parts.pointer(OP, device)?,
        m: extent(OP, m)?,
        n: extent(OP, n)?,
        k: extent(OP, k)?,
    };
    let entry = match (x.dtype().is_half(), is_aligned(device, x)? && is_aligned(device, dy)?) {
        (false, _) => "sign_matmul_bwd_scale_parts_f32",
        (true, true) => "sign_matmul_bwd_scale_parts_bf16",
        (true, false) => "sign_matmul_bwd_scale_parts_bf16_ragged",
    };
    let grid = Grid { shared, ..Grid::new(m.div_ceil(tile) * n.div_ceil(tile), threads) };
    device.launch(Entry::of(OP, entry, &[x.dtype()])?, arguments, grid)?;
    let of_columns = matmul::cuda::column_sums(device, &parts)?;
    if layer.has_row_scales() {
        return Ok(of_columns);
    }
    let total = Tensor::uninitialised(device, &[1], DType::F32)?;
    let arguments =
        ScaleTotal { x: of_columns.pointer(OP, device)?, out: total.pointer(OP, device)?, n: extent(OP, n)? };
    device.launch("sign_matmul_bwd_scale_total", arguments, Grid::new(1, TOTAL_THREADS))?;
    Ok(total)
}
