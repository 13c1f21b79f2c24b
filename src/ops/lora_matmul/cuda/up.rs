//! The long product.

use super::{Factors, Kept, Pass, Run};
use crate::device::cuda::{Pointer, kernel};
use crate::ops::epilogue::Finish;
use crate::ops::lora_matmul::{OP, Weight};
use crate::ops::matmul::shares::{Cores, Shares, Sharing};
use crate::ops::quantized_matmul::cuda::{Adapters, product};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

kernel! {
    /// y or dx.
    Up in "lora_matmul" {
        a: Pointer, b: Pointer, adapters: Adapters, bias: Pointer, operand: Pointer, kept: Pointer, kind: u32, c: Pointer,
        m: u32, n: u32, k: u32, shares: Shares,
    }
}

impl Run<'_> {
    /// `finish(mask(rank factor) + a w)`: y from x and u, dx from dy and v.
    pub(super) fn up(
        &self,
        pass: Pass,
        a: &Tensor,
        rank: &Tensor,
        factors: &Factors,
        kept: Option<&Kept>,
        finish: &Finish,
    ) -> Result<Tensor> {
        let (factor, ld) = &factors.up;
        let (keep, words, keep_scale) = self.keep(kept)?;
        let adapters = Adapters {
            rank_rows: self.pointer(rank)?,
            factor: self.pointer(factor)?,
            segments: self.table(|t| &t.segments)?,
            meets: self.table(|t| &t.meets)?,
            keep,
            ld_factor: *ld as i64,
            factor_stride: Factors::stride(factor, self.adapters),
            inner: rank.dims2(OP)?.1 as u32,
            rank: self.rank as u32,
            words,
            keep_scale,
        };
        let w = match &self.layer.w {
            Weight::Dense(w) => w,
            Weight::Quantized(w) => return product(OP, self.device, pass, a, w, &adapters, finish),
        };
        let m = self.m;
        let (k, n) = if pass == Pass::Forward { (self.k, self.n) } else { (self.n, self.k) };
        let c = self.new_tensor(&[m, n], self.dtype)?;
        let cores = if self.tensor_cores { Cores::Tensor } else { Cores::Ordinary };
        let sharing = Sharing::new(OP, self.device, cores, [m, n, k])?;
        let Finish { bias, operand, kept, kind, .. } = *finish;
        let arguments = Up {
            a: self.pointer(a)?,
            b: self.pointer(w)?,
            adapters,
            bias,
            operand,
            kept,
            kind,
            c: self.pointer(&c)?,
            m: m as u32,
            n: n as u32,
            k: k as u32,
            shares: sharing.shares,
        };
        let entry = if self.tensor_cores {
            match (pass, self.aligned(&[a, w])?) {
                (Pass::Forward, true) => "lora_matmul_fwd_bf16",
                (Pass::Forward, false) => "lora_matmul_fwd_bf16_ragged",
                (Pass::Backward, true) => "lora_matmul_bwd_input_bf16",
                (Pass::Backward, false) => "lora_matmul_bwd_input_bf16_ragged",
            }
        } else {
            let of_f32 = match pass {
                Pass::Forward => ["lora_matmul_fwd_f32_f32", "lora_matmul_fwd_f32_bf16"],
                Pass::Backward => ["lora_matmul_bwd_input_f32_f32", "lora_matmul_bwd_input_f32_bf16"],
            };
            match (pass, a.dtype(), w.dtype()) {
                (_, DType::F32, w) => w.select(OP, of_f32)?,
                (Pass::Forward, DType::BF16 | DType::F16, DType::F32) => "lora_matmul_fwd_bf16_f32",
                (Pass::Backward, DType::BF16 | DType::F16, DType::F32) => "lora_matmul_bwd_input_bf16_f32",
                (_, a, w) => {
                    let detail = format!("{a} times {w} has no CUDA kernel on the ordinary cores");
                    return Err(Error::DType { op: OP, detail });
                }
            }
        };
        self.launch(entry, arguments, sharing.grid())?;
        sharing.finish(self.device, finish, arguments.c, self.dtype)?;
        Ok(c)
    }
}
