//! CUDA kernels of the linear layer with a weight in 4-bit blocks, without adapters or with those of lora_matmul: see
//! kernels/quantized_matmul.cu.

use super::OP;
use crate::device::cuda::{Argument, CudaDevice, Entry, Grid, Pointer, kernel};
use crate::ops::epilogue::Finish;
use crate::ops::matmul::shares::{Cores, Shares, Sharing};
use crate::ops::place::extent;
use crate::ops::quantize::NESTED_BLOCK;
use crate::tensor::{BlockScales, DType, QuantizedTensor, Tensor};
use crate::{Error, Result};

kernel! {
    /// y or dx.
    Product in "quantized_matmul" {
        a: Pointer, w: Matrix, adapters: Adapters, bias: Pointer, operand: Pointer, kept: Pointer, kind: u32, c: Pointer,
        m: u32, n: u32, k: u32, shares: Shares,
    }
}

kernel! {
    /// y of a few rows.
    FewRows in "quantized_matmul" {
        x: Pointer, w: Matrix, u: Pointer, b: Pointer, adapter_of: Pointer, rank: u32, padded: u32, bias: Pointer,
        operand: Pointer, kept: Pointer, kind: u32, y: Pointer, m: u32, n: u32, k: u32,
    }
}

/// Rows that W is streamed for at most, and those that the smaller kernel is for; columns of a block of them, and its threads.
const FEW_ROWS: usize = 16;
const FEWER_ROWS: usize = 8;
const FEW_TILE: usize = 32;
const FEW_THREADS: u32 = 256;
/// Elements of a row that the kernels decode at once.
const GROUP: usize = 32;

/// Forward from x to y, or backward from dy to dx.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ops) enum Pass {
    /// `y = x W^T`.
    Forward,
    /// `dx = dy W`.
    Backward,
}

/// The adapters' part of a product, as kernels take it (kernels/common/lora.cuh).
#[derive(Clone, Copy)]
#[repr(C)]
pub(in crate::ops) struct Adapters {
    /// u or v, and the factors: in 16 bits with high and low parts, or in f32.
    pub rank_rows: Pointer,
    pub factor: Pointer,
    pub segments: Pointer,
    pub meets: Pointer,
    pub keep: Pointer,
    pub ld_factor: i64,
    pub factor_stride: i64,
    /// The length of a row of u or v.
    pub inner: u32,
    pub rank: u32,
    pub words: u32,
    pub keep_scale: f32,
}

impl Argument for Adapters {}

impl Adapters {
    const NONE: Adapters = Adapters {
        rank_rows: Pointer::NULL,
        factor: Pointer::NULL,
        segments: Pointer::NULL,
        meets: Pointer::NULL,
        keep: Pointer::NULL,
        ld_factor: 0,
        factor_stride: 0,
        inner: 0,
        rank: 0,
        words: 0,
        keep_scale: 1.0,
    };
}

/// The adapters' part of a few rows: u in f32 `[M, padded]`, B, and the adapter of each row.
#[derive(Clone, Copy)]
pub(in crate::ops) struct FewAdapters {
    pub u: Pointer,
    pub b: Pointer,
    pub b_dtype: DType,
    pub adapter_of: Pointer,
    pub rank: u32,
    pub padded: u32,
}

impl FewAdapters {
    const NONE: FewAdapters = FewAdapters {
        u: Pointer::NULL,
        b: Pointer::NULL,
        b_dtype: DType::F32,
        adapter_of: Pointer::NULL,
        rank: 0,
        padded: 0,
    };
}

/// A quantized matrix as kernels take it (kernels/common/four_bit.cuh).
#[derive(Clone, Copy)]
#[repr(C)]
pub(in crate::ops) struct Matrix {
    codes: Pointer,
    absmax: Pointer,
    nested_codes: Pointer,
    nested_map: Pointer,
    nested_absmax: Pointer,
    kind: u32,
    nested_offset: f32,
    block_log2: u32,
    /// To the end of the struct.
    padding: u32,
}

impl Argument for Matrix {}

impl Matrix {
    pub fn of(op: &'static str, device: &'static CudaDevice, w: &QuantizedTensor) -> Result<Matrix> {
        // The kernels count groups with 32 bits.
        extent(op, w.numel().div_ceil(GROUP))?;
        let at = |part: &Tensor| part.pointer(op, device);
        let plain = Matrix {
            codes: at(w.codes())?,
            absmax: Pointer::NULL,
            nested_codes: Pointer::NULL,
            nested_map: Pointer::NULL,
            nested_absmax: Pointer::NULL,
            kind: w.kind() as u32,
            nested_offset: 0.0,
            block_log2: w.block().trailing_zeros(),
            padding: 0,
        };
        match w.scales() {
            BlockScales::Plain(absmax) => Ok(Matrix { absmax: at(absmax)?, ..plain }),
            BlockScales::Nested(nested) if nested.block == NESTED_BLOCK => Ok(Matrix {
                nested_codes: at(&nested.codes)?,
                nested_map: at(&nested.map)?,
                nested_absmax: at(&nested.absmax)?,
                nested_offset: nested.offset,
                ..plain
            }),
            BlockScales::Nested(nested) => Err(Error::unsupported(
                format!("{op} with scales in blocks of {}", nested.block),
                format!("the CUDA kernels take blocks of {NESTED_BLOCK}"),
            )),
        }
    }
}

/// Whether rows start on 16 bytes and are whole groups.
fn is_aligned(x: Pointer, cols: usize, matrix: &Matrix, w: &QuantizedTensor) -> bool {
    let packs = x.is_aligned() && cols.is_multiple_of(DType::BF16.pack());
    packs && matrix.codes.is_aligned() && w.shape()[1].is_multiple_of(GROUP)
}

/// Whether `x` is of few rows, for which W is streamed. The shapes decide, and how the tensors lie.
pub(in crate::ops) fn is_few(
    op: &'static str,
    device: &'static CudaDevice,
    x: &Tensor,
    w: &QuantizedTensor,
) -> Result<bool> {
    let (m, k) = x.dims2(op)?;
    let few = x.dtype().is_half() && m <= FEW_ROWS;
    Ok(few && is_aligned(x.pointer(op, device)?, k, &Matrix::of(op, device, w)?, w))
}

pub(super) fn forward(
    device: &'static CudaDevice,
    x: &Tensor,
    w: &QuantizedTensor,
    finish: &Finish,
) -> Result<Tensor> {
    match is_few(OP, device, x, w)? {
        true => few(OP, device, x, w, &FewAdapters::NONE, finish),
        false => product(OP, device, Pass::Forward, x, w, &Adapters::NONE, finish),
    }
}

/// `dx = dy W`, plus the gradient that is there already, if there is one.
pub(super) fn grad_input(
    device: &'static CudaDevice,
    dy: &Tensor,
    w: &QuantizedTensor,
    residual: Option<&Tensor>,
) -> Result<Tensor> {
    let finish = Finish::adding(OP, device, residual)?;
    product(OP, device, Pass::Backward, dy, w, &Adapters::NONE, &finish)
}

/// `finish(mask(rank factor) + a w)`: y from x and u, dx from dy and v; for op `op`.
pub(in crate::ops) fn product(
    op: &'static str,
    device: &'static CudaDevice,
    pass: Pass,
    a: &Tensor,
    w: &QuantizedTensor,
    adapters: &Adapters,
    finish: &Finish,
) -> Result<Tensor> {
    let ((m, k), n) = (a.dims2(op)?, w.shape()[if pass == Pass::Forward { 0 } else { 1 }]);
    let c = Tensor::uninitialised(device, &[m, n], a.dtype())?;
    let matrix = Matrix::of(op, device, w)?;
    let cores = if a.dtype().is_half() { Cores::Tensor } else { Cores::Ordinary };
    let sharing = Sharing::new(op, device, cores, [m, n, k])?;
    let Finish { bias, operand, kept, kind, .. } = *finish;
    let arguments = Product {
        a: a.pointer(op, device)?,
        w: matrix,
        adapters: *adapters,
        bias,
        operand,
        kept,
        kind,
        c: c.pointer(op, device)?,
        m: extent(op, m)?,
        n: extent(op, n)?,
        k: extent(op, k)?,
        shares: sharing.shares,
    };
    let entry = match (cores, pass, is_aligned(arguments.a, k, &matrix, w)) {
        (Cores::Tensor, Pass::Forward, true) => "quantized_matmul_fwd_bf16",
        (Cores::Tensor, Pass::Forward, false) => "quantized_matmul_fwd_bf16_ragged",
        (Cores::Tensor, Pass::Backward, true) => "quantized_matmul_bwd_input_bf16",
        (Cores::Tensor, Pass::Backward, false) => "quantized_matmul_bwd_input_bf16_ragged",
        (Cores::Ordinary, Pass::Forward, _) => "quantized_matmul_fwd_f32",
        (Cores::Ordinary, Pass::Backward, _) => "quantized_matmul_bwd_input_f32",
    };
    device.launch(Entry::of(op, entry, &[a.dtype()])?, arguments, sharing.grid())?;
    sharing.finish(device, finish, arguments.c, a.dtype())?;
    Ok(c)
}

/// `finish(x W^T + u B^T)` where [`is_few`] says that x is of few rows; for op `op`.
pub(in crate::ops) fn few(
    op: &'static str,
    device: &'static CudaDevice,
    x: &Tensor,
    w: &QuantizedTensor,
    adapters: &FewAdapters,
    finish: &Finish,
) -> Result<Tensor> {
    let ((m, k), n) = (x.dims2(op)?, w.shape()[0]);
    let y = Tensor::uninitialised(device, &[m, n], x.dtype())?;
    let FewAdapters { u, b, adapter_of, rank, padded, .. } = *adapters;
    let Finish { bias, operand, kept, kind, .. } = *finish;
    let arguments = FewRows {
        x: x.pointer(op, device)?,
        w: Matrix::of(op, device, w)?,
        u,
        b,
        adapter_of,
        rank,
        padded,
        bias,
        operand,
        kept,
        kind,
        y: y.pointer(op, device)?,
        m: extent(op, m)?,
        n: extent(op, n)?,
        k: extent(op, k)?,
    };
    let entries = match m <= FEWER_ROWS {
        true => ["quantized_matmul_fwd_few_bf16_f32_rows8", "quantized_matmul_fwd_few_bf16_bf16_rows8"],
        false => ["quantized_matmul_fwd_few_bf16_f32_rows16", "quantized_matmul_fwd_few_bf16_bf16_rows16"],
    };
    let entry = Entry::of(op, adapters.b_dtype.select(op, entries)?, &[x.dtype(), adapters.b_dtype])?;
    let blocks = if m == 0 { 0 } else { n.div_ceil(FEW_TILE) };
    device.launch(entry, arguments, Grid::new(blocks, FEW_THREADS))?;
    Ok(y)
}
