//! CUDA kernels of the choice of tokens: see kernels/sample.cu.

use super::{History, OP, Sampling};
use crate::device::cuda::{CudaDevice, Grid, Pointer, kernel};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

kernel! {
    /// A token for each row.
    Rows in "sample" {
        logits: Pointer, scratch: Pointer, tokens: Pointer, lengths: Pointer, capacity: u64, uniforms: Pointer, ids: Pointer,
        vocab: u32, penalty: f32, inverse_temperature: f32, top_k: u32, top_p: f32, min_p: f32,
    }
}

kernel! {
    /// The best token of each part of each row.
    Argmax in "sample" { logits: Pointer, best: Pointer, vocab: u32 }
}

kernel! {
    /// The best of a row's parts.
    Finish in "sample" { best: Pointer, ids: Pointer, parts: u32 }
}

const THREADS: u32 = 1024;
/// Dynamic shared memory of a block, in bytes: a histogram.
const SHARED: u32 = 64 << 10;
/// Words that the histogram can count.
const MAX_VOCAB: usize = 1 << 20;

/// Words of a part of the search for the best, and threads of a block.
const PART: usize = 8192;
const PART_THREADS: u32 = 256;

/// Rows and words of f32 logits.
fn dims(logits: &Tensor) -> Result<(usize, usize, u32)> {
    let (rows, vocab) = logits.dims2(OP)?;
    if vocab > MAX_VOCAB {
        let detail = format!("a vocabulary of {vocab}, at most {MAX_VOCAB} have CUDA kernels");
        return Err(Error::Shape { op: OP, detail });
    }
    Ok((rows, vocab, vocab as u32))
}

pub(super) fn sample(
    device: &'static CudaDevice,
    logits: &Tensor,
    history: Option<History<'_>>,
    uniforms: &Tensor,
    sampling: &Sampling,
) -> Result<Tensor> {
    let (rows, _, vocab) = dims(logits)?;
    let ids = Tensor::uninitialised(device, &[rows], DType::U32)?;
    let scratch = Tensor::uninitialised(device, logits.shape(), DType::F32)?;
    let (tokens, lengths, capacity) = match history {
        Some(History { tokens, lengths }) if sampling.repetition_penalty != 1.0 => {
            (tokens.pointer(OP, device)?, lengths.pointer(OP, device)?, tokens.dims2(OP)?.1)
        }
        _ => (Pointer::NULL, Pointer::NULL, 0),
    };
    let arguments = Rows {
        logits: logits.pointer(OP, device)?,
        scratch: scratch.pointer(OP, device)?,
        tokens,
        lengths,
        capacity: capacity as u64,
        uniforms: uniforms.pointer(OP, device)?,
        ids: ids.pointer(OP, device)?,
        vocab,
        penalty: sampling.repetition_penalty,
        inverse_temperature: sampling.inverse_temperature(),
        top_k: u32::try_from(sampling.top_k).unwrap_or(u32::MAX),
        top_p: sampling.top_p,
        min_p: sampling.min_p,
    };
    device.launch("sample_rows", arguments, Grid { shared: SHARED, ..Grid::new(rows, THREADS) })?;
    Ok(ids)
}

pub(super) fn argmax(device: &'static CudaDevice, logits: &Tensor) -> Result<Tensor> {
    let (rows, vocab, vocab32) = dims(logits)?;
    let parts = vocab.div_ceil(PART).max(1);
    let ids = Tensor::uninitialised(device, &[rows], DType::U32)?;
    // 64 bits each, which no tensor has.
    let best = Tensor::uninitialised(device, &[rows, parts, 2], DType::U32)?;
    let best_at = best.pointer(OP, device)?;
    let arguments = Argmax { logits: logits.pointer(OP, device)?, best: best_at, vocab: vocab32 };
    let grid = Grid { blocks: [rows, parts, 1], threads: PART_THREADS, shared: 0 };
    device.launch("sample_argmax", arguments, grid)?;
    let arguments = Finish { best: best_at, ids: ids.pointer(OP, device)?, parts: parts as u32 };
    device.launch("sample_argmax_finish", arguments, Grid::new(rows, 32))?;
    Ok(ids)
}
