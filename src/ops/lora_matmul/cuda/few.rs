//! A few rows: decoding.

use super::Run;
use crate::Result;
use crate::device::cuda::{Grid, Pointer, kernel};
use crate::ops::epilogue::Finish;
use crate::ops::lora_matmul::{OP, Weight};
use crate::ops::quantized_matmul::cuda::{self as quantized_matmul, FewAdapters};
use crate::tensor::{DType, Tensor};

kernel! {
    /// u.
    FewDown in "lora_matmul" {
        x: Pointer, a: Pointer, adapter_of: Pointer, scales: Pointer, scale: f32, u: Pointer, k: u32, rank: u32, padded: u32,
    }
}

kernel! {
    /// y.
    FewUp in "lora_matmul" {
        x: Pointer, w: Pointer, u: Pointer, b: Pointer, adapter_of: Pointer, bias: Pointer, operand: Pointer,
        kept: Pointer, kind: u32, y: Pointer, m: u32, n: u32, k: u32, rank: u32, padded: u32,
    }
}

/// As many rows as a plain matmul streams its weight for (src/ops/matmul/plan.rs); and as a kernel for fewer has.
const ROWS: usize = 16;
const FEWER_ROWS: usize = 8;
/// Threads of a block for an element of u, columns of y of a block, and its threads (kernels/common/gemv.cuh).
const DOWN_THREADS: u32 = 128;
const TILE: usize = 32;
const THREADS: u32 = 256;

impl Run<'_> {
    /// Whether the kernels for few rows can do it: 16 bits, no mask, rows that start on 16 bytes. The shapes decide, and how the
    /// tensors lie.
    pub(super) fn is_few(&self, x: &Tensor) -> Result<bool> {
        let suits = self.tensor_cores && self.m <= ROWS && self.layer.mask.is_none();
        // Factors are used as they are; those of the other type of 16 bits have pairs made of them for the other kernels.
        let known = |factor: &Tensor| factor.dtype() == DType::F32 || factor.dtype() == self.dtype;
        let suits = suits && known(&self.layer.a) && known(&self.layer.b);
        if !suits || !self.pointer(&self.layer.a)?.is_aligned() {
            return Ok(false);
        }
        match &self.layer.w {
            Weight::Dense(w) => self.aligned(&[x, w]),
            Weight::Quantized(w) => quantized_matmul::is_few(OP, self.device, x, w),
        }
    }

    /// y, and u as f32 `[M, padded]`.
    pub(super) fn few(&self, x: &Tensor, finish: &Finish) -> Result<(Tensor, Tensor)> {
        let super::Layer { a, b, .. } = self.layer;
        let [m, n, k, rank, padded] =
            [self.m, self.n, self.k, self.rank, self.padded].map(|size| size as u32);
        let adapter_of = self.table(|tables| &tables.adapter_of)?;
        let u = self.new_tensor(&[self.m, self.padded], DType::F32)?;
        let arguments = FewDown {
            x: self.pointer(x)?,
            a: self.pointer(a)?,
            adapter_of,
            scales: self.scales()?,
            scale: self.layer.one_scale(),
            u: self.pointer(&u)?,
            k,
            rank,
            padded,
        };
        let entries = ["lora_matmul_fwd_down_few_bf16_f32", "lora_matmul_fwd_down_few_bf16_bf16"];
        let grid = Grid { blocks: [self.padded, self.m, 1], threads: DOWN_THREADS, shared: 0 };
        self.launch(a.dtype().select(OP, entries)?, arguments, grid)?;

        let w = match &self.layer.w {
            Weight::Dense(w) => w,
            Weight::Quantized(w) => {
                let [u_at, b_at] = [self.pointer(&u)?, self.pointer(b)?];
                let adapters = FewAdapters { u: u_at, b: b_at, b_dtype: b.dtype(), adapter_of, rank, padded };
                return Ok((quantized_matmul::few(OP, self.device, x, w, &adapters, finish)?, u));
            }
        };
        let y = self.new_tensor(&[self.m, self.n], self.dtype)?;
        let Finish { bias, operand, kept, kind, .. } = *finish;
        let arguments = FewUp {
            x: self.pointer(x)?,
            w: self.pointer(w)?,
            u: self.pointer(&u)?,
            b: self.pointer(b)?,
            adapter_of,
            bias,
            operand,
            kept,
            kind,
            y: self.pointer(&y)?,
            m,
            n,
            k,
            rank,
            padded,
        };
        let entries = match self.m <= FEWER_ROWS {
            true => ["lora_matmul_fwd_few_bf16_f32_rows8", "lora_matmul_fwd_few_bf16_bf16_rows8"],
            false => ["lora_matmul_fwd_few_bf16_f32_rows16", "lora_matmul_fwd_few_bf16_bf16_rows16"],
        };
        let blocks = if self.m == 0 { 0 } else { self.n.div_ceil(TILE) };
        self.launch(b.dtype().select(OP, entries)?, arguments, Grid::new(blocks, THREADS))?;
        Ok((y, u))
    }
}
