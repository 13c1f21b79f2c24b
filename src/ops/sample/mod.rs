//! The choice of the next token, with the meaning and the order that transformers gives the settings: repetition penalty,
//! temperature, top-k, top-p, min-p.

mod cpu;
mod cuda;

pub use cpu::Sampler;

use super::place::place;
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

const OP: &str = "sample";

/// The id of a row whose logits are not finite: one is not a number, or the largest is infinite.
pub const NOT_FINITE: u32 = u32::MAX;

/// How the next token is chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Logits are divided by it; 0 takes the most likely token always (greedy).
    pub temperature: f32,
    /// Only the k most likely tokens (and those as likely as the k-th). 0: all.
    pub top_k: usize,
    /// Only the most likely tokens whose probabilities, summed, first reach this. 1: all.
    pub top_p: f32,
    /// Only tokens at least this times as likely as the most likely one. 0: all.
    pub min_p: f32,
    /// Logits of tokens that occurred before (in the prompt or the answer) are divided by it where positive, multiplied
    /// where negative. 1: no penalty.
    pub repetition_penalty: f32,
}

impl Default for Sampling {
    /// Greedy.
    fn default() -> Sampling {
        Sampling { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, repetition_penalty: 1.0 }
    }
}

impl Sampling {
    /// Whether every setting is in its range.
    ///
    /// # Errors
    /// [`Error::Config`], naming the setting.
    pub fn check(&self) -> Result<()> {
        let ranges = [
            ("temperature", self.temperature, self.temperature >= 0.0, "at least 0 (0: greedy)"),
            ("top_p", self.top_p, self.top_p > 0.0 && self.top_p <= 1.0, "in (0, 1]"),
            ("min_p", self.min_p, (0.0..=1.0).contains(&self.min_p), "in [0, 1]"),
            ("repetition_penalty", self.repetition_penalty, self.repetition_penalty > 0.0, "above 0"),
        ];
        match ranges.into_iter().find(|&(_, value, good, _)| !good || !value.is_finite()) {
            Some((key, value, _, range)) => Err(Error::config(key, format!("must be {range}, not {value}"))),
            None => Ok(()),
        }
    }

    /// 1 / temperature; infinite if greedy, which the least temperatures are too.
    fn inverse_temperature(&self) -> f32 {
        1.0 / self.temperature
    }

    fn is_greedy(&self) -> bool {
        self.inverse_temperature().is_infinite()
    }
}

/// The tokens so far of each row, where its logits are.
#[derive(Clone, Copy, Debug)]
pub struct History<'a> {
    /// u32 `[S, L]`.
    pub tokens: &'a Tensor,
    /// How many of each row count, u32 `[S]`.
    pub lengths: &'a Tensor,
}

/// A token for each row of f32 logits `[S, V]`: u32 `[S]`, where the logits are; [`NOT_FINITE`] for a row that has none.
///
/// With s the logits, penalised for tokens of the history, and w = e^((s - max s) / temperature) of those that top-k leaves: top-p
/// and min-p leave some; the token is the first, by id, at which the sum of w exceeds `uniforms` (f32 `[S]`, each in [0, 1), of which 24
/// bits count) times the sum of all. A greedy choice is the first of the largest s.
///
/// Weights are summed as whole numbers of 2^-31, and computed by the same operations everywhere: every device chooses the same token.
///
/// Errors: settings out of range, operands that do not fit, a vocabulary of more than 2^20 words on a CUDA device.
pub fn sample(
    logits: &Tensor,
    history: Option<History<'_>>,
    uniforms: &Tensor,
    sampling: &Sampling,
) -> Result<Tensor> {
    sampling.check()?;
    let rows = check(logits)?;
    let expect = |what: &str, tensor: &Tensor, dtype: DType, fits: bool| match fits && tensor.dtype() == dtype
    {
        true => Ok(()),
        false => {
            Err(Error::Shape { op: OP, detail: format!("{what} {tensor:?} for logits {:?}", logits.shape()) })
        }
    };
    expect("uniforms", uniforms, DType::F32, uniforms.shape() == [rows])?;
    let mut operands = vec![logits, uniforms];
    if let Some(History { tokens, lengths }) = history {
        expect("tokens", tokens, DType::U32, tokens.shape().len() == 2 && tokens.shape()[0] == rows)?;
        expect("lengths", lengths, DType::U32, lengths.shape() == [rows])?;
        operands.extend([tokens, lengths]);
    }
    match place(OP, operands)? {
        Some(device) => cuda::sample(device, logits, history, uniforms, sampling),
        None => cpu::sample(logits, history, uniforms, sampling),
    }
}

/// The first of the largest of each row of f32 logits `[S, V]`: u32 `[S]`, where the logits are; [`NOT_FINITE`] for a row that has none.
///
/// Errors: as [`sample`].
pub fn argmax(logits: &Tensor) -> Result<Tensor> {
    let rows = check(logits)?;
    match logits.cuda_device() {
        Some(device) => cuda::argmax(device, logits),
        None => cpu::sample(logits, None, &Tensor::zeros(&[rows], DType::F32), &Sampling::default()),
    }
}

/// The rows of logits, which must be an f32 matrix.
fn check(logits: &Tensor) -> Result<usize> {
    let (rows, _) = logits.dims2(OP)?;
    match logits.dtype() {
        DType::F32 => Ok(rows),
        other => Err(Error::DType { op: OP, detail: format!("{other} logits, f32 expected") }),
    }
}
