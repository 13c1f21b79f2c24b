//! CUDA kernels of the linear layer.

use super::OP;
use crate::device::cuda::{CudaDevice, Grid, Pointer, kernel};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

kernel! {
    /// kernels/matmul.cu: products, on tensor cores and on the ordinary ones.
    Product in "matmul" {
        a: Pointer, b: Pointer, lda: i64, ldb: i64, bias: Pointer, c: Pointer, ldc: i64, m: i32, n: i32, k: i32,
    }
}

kernel! {
    /// kernels/matmul.cu
    ColumnSums in "matmul" { dy: Pointer, out: Pointer, m: i32, n: i32 }
}

/// Rows and columns of C that a block of the tensor core kernel makes, its threads, and its shared memory.
const TILE: usize = 128;
const THREADS: u32 = 128;
const SHARED: u32 = 64 << 10;
/// The same of the kernel on the ordinary cores.
const SMALL_TILE: usize = 64;
const SMALL_THREADS: u32 = 256;

/// Which operand lies transposed, and the shape of the product.
#[derive(Clone, Copy, Debug)]
enum Case {
    /// `A B^T`: A `[m, k]`, B `[n, k]`.
    Nt,
    /// `A B`: A `[m, k]`, B `[k, n]`.
    Nn,
    /// `A^T B`: A `[k, m]`, B `[k, n]`.
    Tn,
}

pub(super) fn forward(
    device: &'static CudaDevice,
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
) -> Result<Tensor> {
    product(device, Case::Nt, x, w, bias, x.dtype())
}

/// `dx = dy W`.
pub(super) fn grad_input(device: &'static CudaDevice, dy: &Tensor, w: &Tensor) -> Result<Tensor> {
    product(device, Case::Nn, dy, w, None, dy.dtype())
}

/// `dW = dy^T x`, f32.
pub(in crate::ops) fn grad_weight(device: &'static CudaDevice, dy: &Tensor, x: &Tensor) -> Result<Tensor> {
    product(device, Case::Tn, dy, x, None, DType::F32)
}

/// The sum over the rows of dy `[M, n]`, f32 `[n]`.
pub(in crate::ops) fn column_sums(device: &'static CudaDevice, dy: &Tensor) -> Result<Tensor> {
    let (m, n) = dy.dims2(OP)?;
    let out = Tensor::uninitialised(device, &[n], DType::F32)?;
    let entry = dy.dtype().select(OP, ["matmul_column_sums_f32", "matmul_column_sums_bf16"])?;
    let arguments =
        ColumnSums { dy: dy.pointer(OP, device)?, out: out.pointer(OP, device)?, m: int(m)?, n: int(n)? };
    device.launch(entry, arguments, Grid::new(n.div_ceil(32), 256))?;
    Ok(out)
}

fn int(size: usize) -> Result<i32> {
    i32::try_from(size)
        .map_err(|_| Error::Shape { op: OP, detail: format!("a dimension of {size}, at most 2^31 - 1 fit") })
}

fn product(
    device: &'static CudaDevice,
    case: Case,
    a: &Tensor,
    b: &Tensor,
    bias: Option<&Tensor>,
    out: DType,
) -> Result<Tensor> {
    let ([a_rows, a_cols], [b_rows, b_cols]) = (pair(a)?, pair(b)?);
    let (m, n, k) = match case {
        Case::Nt => (a_rows, b_rows, a_cols),
        Case::Nn => (a_rows, b_cols, a_cols),
        Case::Tn => (a_cols, b_cols, a_rows),
    };
    let c = Tensor::uninitialised(device, &[m, n], out)?;
    let bias = bias.map(|bias| bias.to_dtype(DType::F32)).transpose()?;
    let bias_at = bias.as_ref().map_or(Ok(Pointer::NULL), |bias| bias.pointer(OP, device))?;
    let [a_at, b_at, c_at] = [a.pointer(OP, device)?, b.pointer(OP, device)?, c.pointer(OP, device)?];
    let (lda, ldb, ldc) = (a_cols as i64, b_cols as i64, n as i64);
    let (mi, ni, ki) = (int(m)?, int(n)?, int(k)?);
    let (entry, grid) = if (a.dtype(), b.dtype()) == (DType::BF16, DType::BF16) {
        // A row starts on 16 bytes if the first does and a row has a multiple of 8 elements.
        let aligned = [(a_at, lda), (b_at, ldb)].iter().all(|(Pointer(at), ld)| at % 16 == 0 && ld % 8 == 0);
        let entry = match (case, aligned) {
            (Case::Nt, true) => "matmul_nt_bf16",
            (Case::Nn, true) => "matmul_nn_bf16",
            (Case::Tn, true) => "matmul_tn_bf16",
            (Case::Nt, false) => "matmul_nt_bf16_ragged",
            (Case::Nn, false) => "matmul_nn_bf16_ragged",
            (Case::Tn, false) => "matmul_tn_bf16_ragged",
        };
        let blocks = m.div_ceil(TILE) * n.div_ceil(TILE);
        (entry, Grid { shared: SHARED, ..Grid::new(blocks, THREADS) })
    } else {
        let entry = match (case, a.dtype(), b.dtype()) {
            (Case::Nt, DType::F32, DType::F32) => "matmul_nt_f32_f32",
            (Case::Nt, DType::F32, DType::BF16) => "matmul_nt_f32_bf16",
            (Case::Nt, DType::BF16, DType::F32) => "matmul_nt_bf16_f32",
            (Case::Nn, DType::F32, DType::F32) => "matmul_nn_f32_f32",
            (Case::Nn, DType::F32, DType::BF16) => "matmul_nn_f32_bf16",
            (Case::Nn, DType::BF16, DType::F32) => "matmul_nn_bf16_f32",
            (Case::Tn, DType::F32, DType::F32) => "matmul_tn_f32_f32",
            (_, a, b) => {
                return Err(Error::DType { op: OP, detail: format!("{a} times {b} has no CUDA kernel") });
            }
        };
        (entry, Grid::new(m.div_ceil(SMALL_TILE) * n.div_ceil(SMALL_TILE), SMALL_THREADS))
    };
    let product = Product { a: a_at, b: b_at, lda, ldb, bias: bias_at, c: c_at, ldc, m: mi, n: ni, k: ki };
    device.launch(entry, product, grid)?;
    Ok(c)
}

fn pair(x: &Tensor) -> Result<[usize; 2]> {
    x.dims2(OP).map(|(rows, cols)| [rows, cols])
}
