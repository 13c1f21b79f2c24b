//! CUDA kernels of the linear layer.

use super::OP;
use super::plan::{Case, Plan};
use super::shares::{Cores, Shares, Sharing};
use crate::device::cuda::{CudaDevice, Entry, Grid, Pointer, kernel};
use crate::ops::epilogue::{Epilogue, Finish};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

kernel! {
    /// kernels/matmul.cu: products, on tensor cores and on the ordinary ones.
    Product in "matmul" {
        a: Pointer, b: Pointer, lda: i64, ldb: i64, bias: Pointer, operand: Pointer, kept: Pointer, kind: u32,
        c: Pointer, ldc: i64, m: i32, n: i32, k: i32, shares: Shares,
    }
}

kernel! {
    /// kernels/gemv.cu
    Gemv in "gemv" {
        x: Pointer, w: Pointer, bias: Pointer, operand: Pointer, kept: Pointer, kind: u32, y: Pointer, m: i32, n: i32, k: i32,
    }
}

kernel! {
    /// kernels/matmul.cu
    ColumnSums in "matmul" { dy: Pointer, out: Pointer, m: i32, n: i32 }
}

/// Columns of y that a block of kernels/gemv.cu makes, and its threads.
const GEMV_TILE: usize = 32;
const GEMV_THREADS: u32 = 256;

/// y, and z if it is kept.
pub(super) fn forward(
    device: &'static CudaDevice,
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    epilogue: &Epilogue<'_>,
    keeps: bool,
) -> Result<(Tensor, Option<Tensor>)> {
    let of_y = ([pair(x)?[0], pair(w)?[0]], x.dtype());
    let finish = Finish::new(OP, device, epilogue, bias, of_y, keeps)?;
    let y = product(device, Case::Nt, x, w, &finish, x.dtype())?;
    Ok((y, finish.z))
}

/// `dx = dy W`, plus the gradient that x has already.
pub(super) fn grad_input(
    device: &'static CudaDevice,
    dy: &Tensor,
    w: &Tensor,
    residual: Option<&Tensor>,
) -> Result<Tensor> {
    product(device, Case::Nn, dy, w, &Finish::adding(OP, device, residual)?, dy.dtype())
}

/// `dW = dy^T x`, f32.
pub(in crate::ops) fn grad_weight(device: &'static CudaDevice, dy: &Tensor, x: &Tensor) -> Result<Tensor> {
    product(device, Case::Tn, dy, x, &Finish::adding(OP, device, None)?, DType::F32)
}

/// The sum over the rows of dy `[M, n]`, f32 `[n]`.
pub(in crate::ops) fn column_sums(device: &'static CudaDevice, dy: &Tensor) -> Result<Tensor> {
    let (m, n) = dy.dims2(OP)?;
    let out = Tensor::uninitialised(device, &[n], DType::F32)?;
    let entry = dy.dtype().select(OP, ["matmul_column_sums_f32", "matmul_column_sums_bf16"])?;
    let entry = Entry::of(OP, entry, &[dy.dtype()])?;
    let arguments =
        ColumnSums { dy: dy.pointer(OP, device)?, out: out.pointer(OP, device)?, m: int(m)?, n: int(n)? };
    device.launch(entry, arguments, Grid::new(n.div_ceil(32), 256))?;
    Ok(out)
}

fn int(size: usize) -> Result<i32> {
    i32::try_from(size)
        .map_err(|_| Error::Shape { op: OP, detail: format!("a dimension of {size}, at most 2^31 - 1 fit") })
}

/// A product's operands as kernels take them.
struct Operands<'a> {
    a: Pointer,
    b: Pointer,
    finish: &'a Finish,
    c: Pointer,
    lda: i64,
    ldb: i64,
    /// Whether all rows of A and B start on 16 bytes.
    aligned: bool,
}

fn product(
    device: &'static CudaDevice,
    case: Case,
    a: &Tensor,
    b: &Tensor,
    finish: &Finish,
    out: DType,
) -> Result<Tensor> {
    let ([a_rows, a_cols], [b_rows, b_cols]) = (pair(a)?, pair(b)?);
    let [m, n, k] = match case {
        Case::Nt => [a_rows, b_rows, a_cols],
        Case::Nn => [a_rows, b_cols, a_cols],
        Case::Tn => [a_cols, b_cols, a_rows],
    };
    let c = Tensor::uninitialised(device, &[m, n], out)?;
    let row_aligned =
        |x: &Tensor, at: Pointer, cols: usize| at.is_aligned() && cols.is_multiple_of(x.dtype().pack());
    let (a_at, b_at) = (a.pointer(OP, device)?, b.pointer(OP, device)?);
    let operands = Operands {
        a: a_at,
        b: b_at,
        finish,
        c: c.pointer(OP, device)?,
        lda: a_cols as i64,
        ldb: b_cols as i64,
        aligned: row_aligned(a, a_at, a_cols) && row_aligned(b, b_at, b_cols),
    };
    let types = (a.dtype(), b.dtype());
    match Plan::new(case, m, a.dtype(), b.dtype()) {
        Plan::Gemv { rows } => gemv(device, &operands, types, [m, n, k], rows)?,
        Plan::TensorCores => {
            let entry = tensor_cores(case, operands.aligned);
            tiled(device, &operands, (entry, Cores::Tensor), types, [m, n, k], out)?;
        }
        Plan::OrdinaryCores => {
            let entry = ordinary_cores(case, types)?;
            tiled(device, &operands, (entry, Cores::Ordinary), types, [m, n, k], out)?;
        }
    }
    Ok(c)
}

/// A block's columns of W once for all rows, or for each group of `rows` rows.
fn gemv(
    device: &'static CudaDevice,
    operands: &Operands,
    types: (DType, DType),
    [m, n, k]: [usize; 3],
    rows: usize,
) -> Result<()> {
    use DType::{BF16, F16, F32};
    // f16 has the names of bf16, but an x in f32 and a W in f16 are multiplied on the ordinary cores.
    let entry = match (types, operands.aligned, rows) {
        ((BF16, BF16) | (F16, F16), true, 8) => "matmul_gemv_bf16_bf16_rows8",
        ((BF16, BF16) | (F16, F16), true, _) => "matmul_gemv_bf16_bf16_rows16",
        ((BF16, BF16) | (F16, F16), false, _) => "matmul_gemv_bf16_bf16_ragged",
        ((F32, F32), true, 1) => "matmul_gemv_f32_f32_rows1",
        ((F32, F32), true, 2) => "matmul_gemv_f32_f32_rows2",
        ((F32, F32), true, 4) => "matmul_gemv_f32_f32_rows4",
        ((F32, F32), true, _) => "matmul_gemv_f32_f32_rows8",
        ((F32, F32), false, _) => "matmul_gemv_f32_f32_ragged",
        ((F32, BF16 | F16), true, 1) => "matmul_gemv_f32_bf16_rows1",
        ((F32, BF16 | F16), true, 2) => "matmul_gemv_f32_bf16_rows2",
        ((F32, BF16 | F16), true, 4) => "matmul_gemv_f32_bf16_rows4",
        ((F32, BF16 | F16), true, 8) => "matmul_gemv_f32_bf16_rows8",
        ((F32, BF16 | F16), true, _) => "matmul_gemv_f32_bf16_rows16",
        ((F32, BF16 | F16), false, _) => "matmul_gemv_f32_bf16_ragged",
        ((BF16 | F16, F32), true, 1) => "matmul_gemv_bf16_f32_rows1",
        ((BF16 | F16, F32), true, 2) => "matmul_gemv_bf16_f32_rows2",
        ((BF16 | F16, F32), true, 4) => "matmul_gemv_bf16_f32_rows4",
        ((BF16 | F16, F32), true, _) => "matmul_gemv_bf16_f32_rows8",
        ((BF16 | F16, F32), false, _) => "matmul_gemv_bf16_f32_ragged",
        ((a, b), ..) => return Err(no_kernel(a, b)),
    };
    let entry = Entry::of(OP, entry, &[types.0, types.1])?;
    // The kernels for rows that are not aligned are of the largest groups.
    let group = match (types, operands.aligned) {
        (_, true) => rows,
        ((BF16, BF16) | (F16, F16) | (F32, BF16), false) => 16,
        (_, false) => 8,
    };
    let Operands { a: x, b: w, c: y, .. } = *operands;
    let Finish { bias, operand, kept, kind, .. } = *operands.finish;
    let (blocks, (m, n, k)) = (n.div_ceil(GEMV_TILE) * m.div_ceil(group), (int(m)?, int(n)?, int(k)?));
    let arguments = Gemv { x, w, bias, operand, kept, kind, y, m, n, k };
    device.launch(entry, arguments, Grid::new(blocks, GEMV_THREADS))
}

/// The kernel of 16-bit operands, whose rows start on 16 bytes or not.
fn tensor_cores(case: Case, aligned: bool) -> &'static str {
    match (case, aligned) {
        (Case::Nt, true) => "matmul_nt_bf16",
        (Case::Nn, true) => "matmul_nn_bf16",
        (Case::Tn, true) => "matmul_tn_bf16",
        (Case::Nt, false) => "matmul_nt_bf16_ragged",
        (Case::Nn, false) => "matmul_nn_bf16_ragged",
        (Case::Tn, false) => "matmul_tn_bf16_ragged",
    }
}

/// The kernel of operands of these types.
fn ordinary_cores(case: Case, types: (DType, DType)) -> Result<&'static str> {
    use DType::{BF16, F16, F32};
    Ok(match (case, types) {
        (Case::Nt, (F32, F32)) => "matmul_nt_f32_f32",
        (Case::Nt, (F32, BF16 | F16)) => "matmul_nt_f32_bf16",
        (Case::Nt, (BF16 | F16, F32)) => "matmul_nt_bf16_f32",
        (Case::Nn, (F32, F32)) => "matmul_nn_f32_f32",
        (Case::Nn, (F32, BF16 | F16)) => "matmul_nn_f32_bf16",
        (Case::Nn, (BF16 | F16, F32)) => "matmul_nn_bf16_f32",
        (Case::Tn, (F32, F32)) => "matmul_tn_f32_f32",
        (_, (a, b)) => return Err(no_kernel(a, b)),
    })
}

/// A product of operands of `types` by the kernel `entry`; c is of type `out`.
fn tiled(
    device: &'static CudaDevice,
    operands: &Operands,
    (entry, cores): (&'static str, Cores),
    types: (DType, DType),
    [m, n, k]: [usize; 3],
    out: DType,
) -> Result<()> {
    let entry = Entry::of(OP, entry, &[types.0, types.1])?;
    let sharing = Sharing::new(OP, device, cores, [m, n, k])?;
    let Operands { a, b, c, lda, ldb, .. } = *operands;
    let Finish { bias, operand, kept, kind, .. } = *operands.finish;
    let (ldc, m, n, k) = (n as i64, int(m)?, int(n)?, int(k)?);
    let shares = sharing.shares;
    let arguments = Product { a, b, lda, ldb, bias, operand, kept, kind, c, ldc, m, n, k, shares };
    device.launch(entry, arguments, sharing.grid())?;
    sharing.finish(device, operands.finish, c, out)
}

fn no_kernel(a: DType, b: DType) -> Error {
    Error::DType { op: OP, detail: format!("{a} times {b} has no CUDA kernel") }
}

fn pair(x: &Tensor) -> Result<[usize; 2]> {
    x.dims2(OP).map(|(rows, cols)| [rows, cols])
}
