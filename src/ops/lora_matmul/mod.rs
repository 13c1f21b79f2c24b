//! A frozen or trainable linear layer with a low-rank adapter (LoRA, arXiv 2106.09685), fused.

use crate::Result;
use crate::autograd::{Tape, Var};

/// The adapter of a [`lora_matmul`].
pub struct Lora<'a> {
    /// `[r, in]`.
    pub a: &'a Var,
    /// `[out, r]`.
    pub b: &'a Var,
    /// alpha / r, or alpha / sqrt(r).
    pub scale: f32,
    /// Probability with which an element of the adapter's input is dropped in training.
    pub dropout: f32,
}

/// `y = x W^T + bias + scale (dropout(x) A^T) B^T`. x: `[M, in]`, w: `[out, in]`.
pub fn lora_matmul(tape: &Tape, x: &Var, w: &Var, bias: Option<&Var>, lora: &Lora<'_>) -> Result<Var> {
    let _ = (tape, x, w, bias, lora);
    Err(crate::Error::unsupported("lora_matmul", "being written"))
}
