//! CUDA kernels of the choice of tokens: see kernels/sample.cu.

use super::{History, OP, Sampling};
use crate::device::cuda::{CudaDevice, Grid, Pointer, kernel};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

kernel! {
    /// The best token of each part of each row. Clears the rows' bins, where there are any.
    Argmax in "sample" { logits: Pointer, best: Pointer, bins: Pointer, vocab: u32 }
}

kernel! {
    /// The same of scores, which it makes of the logits.
    Penalise in "sample" {
        logits: Pointer, tokens: Pointer, lengths: Pointer, capacity: u64, penalty: f32, scores: Pointer, best: Pointer, bins: Pointer,
        vocab: u32,
    }
}

kernel! {
    /// The best of a row's parts.
    Finish in "sample" { best: Pointer, ids: Pointer, parts: u32 }
}

kernel! {
    /// The mass of each segment of each row.
    Masses in "sample" {
        scores: Pointer, best: Pointer, parts: u32, sums: Pointer, vocab: u32, inverse_temperature: f32, min_p: f32,
    }
}

kernel! {
    /// A token for each row, of all words.
    Draw in "sample" {
        scores: Pointer, best: Pointer, parts: u32, sums: Pointer, uniforms: Pointer, ids: Pointer, vocab: u32,
        inverse_temperature: f32, min_p: f32,
    }
}

kernel! {
    /// The number or the masses of a row's words by their distance from the best.
    Bins in "sample" {
        scores: Pointer, best: Pointer, parts: u32, bins: Pointer, vocab: u32, inverse_temperature: f32,
    }
}

kernel! {
    /// The words that top-k or top-p may leave.
    Gather in "sample" {
        scores: Pointer, best: Pointer, parts: u32, bins: Pointer, candidates: Pointer, ids: Pointer, counts: Pointer, vocab: u32,
        inverse_temperature: f32, top_k: u32, top_p: f32,
    }
}

kernel! {
    /// A token for each row, of these.
    Choose in "sample" {
        best: Pointer, parts: u32, bins: Pointer, candidates: Pointer, ids_of_candidates: Pointer, counts: Pointer,
        uniforms: Pointer, ids: Pointer, vocab: u32, inverse_temperature: f32, top_k: u32, top_p: f32, min_p: f32,
    }
}

/// Words that the kernels can count.
const MAX_VOCAB: usize = 1 << 20;

/// Words of a part of the search for the best, and threads of a block.
const PART: usize = 8192;
const PART_THREADS: u32 = 256;
/// Words of a segment, which a warp has; threads of the blocks that go by segments.
const SEGMENT: usize = 1024;
const SEGMENT_THREADS: u32 = 256;
/// Bins of a row, and words of a block that fills them.
const BINS: usize = 256;
const HISTOGRAM_PART: usize = 16384;
/// Threads of blocks with a histogram, and its bytes of shared memory: for sums, and for numbers alone.
const THREADS: u32 = 1024;
const SUMS: u32 = 64 << 10;
const NUMBERS: u32 = 32 << 10;

/// Rows and words of f32 logits.
fn dims(logits: &Tensor) -> Result<(usize, usize, u32)> {
    let (rows, vocab) = logits.dims2(OP)?;
    if vocab > MAX_VOCAB {
        let detail = format!("a vocabulary of {vocab}, at most {MAX_VOCAB} have CUDA kernels");
        return Err(Error::Shape { op: OP, detail });
    }
    Ok((rows, vocab, vocab as u32))
}

/// Room for a matrix of words of 64 bits, which no tensor has.
fn wide(device: &'static CudaDevice, rows: usize, columns: usize) -> Result<Tensor> {
    Tensor::uninitialised(device, &[rows, columns, 2], DType::U32)
}

/// Scores, and the best of each part of their rows.
struct Rows {
    device: &'static CudaDevice,
    scores: Tensor,
    /// Whether nobody else has the scores.
    own: bool,
    best: Tensor,
    rows: usize,
    vocab: u32,
    parts: u32,
}

impl Rows {
    /// Penalises tokens of the history, if there is one. Clears `bins`.
    fn new(
        device: &'static CudaDevice,
        logits: &Tensor,
        history: Option<(History<'_>, f32)>,
        bins: Option<&Tensor>,
    ) -> Result<Rows> {
        let (rows, words, vocab) = dims(logits)?;
        let parts = words.div_ceil(PART).max(1);
        let best = wide(device, rows, parts)?;
        let at = |tensor: &Tensor| tensor.pointer(OP, device);
        let bins = bins.map_or(Ok(Pointer::NULL), at)?;
        let grid = Grid { blocks: [rows, parts, 1], threads: PART_THREADS, shared: 0 };
        let own = history.is_some();
        let scores = match history {
            None => {
                let arguments = Argmax { logits: at(logits)?, best: at(&best)?, bins, vocab };
                device.launch("sample_argmax", arguments, grid)?;
                logits.clone()
            }
            Some((History { tokens, lengths }, penalty)) => {
                let scores = Tensor::uninitialised(device, logits.shape(), DType::F32)?;
                let arguments = Penalise {
                    logits: at(logits)?,
                    tokens: at(tokens)?,
                    lengths: at(lengths)?,
                    capacity: tokens.dims2(OP)?.1 as u64,
                    penalty,
                    scores: at(&scores)?,
                    best: at(&best)?,
                    bins,
                    vocab,
                };
                device.launch("sample_penalise", arguments, grid)?;
                scores
            }
        };
        Ok(Rows { device, scores, own, best, rows, vocab, parts: parts as u32 })
    }

    fn at(&self, tensor: &Tensor) -> Result<Pointer> {
        tensor.pointer(OP, self.device)
    }

    fn ids(&self) -> Result<Tensor> {
        Tensor::uninitialised(self.device, &[self.rows], DType::U32)
    }

    fn segments(&self) -> usize {
        (self.vocab as usize).div_ceil(SEGMENT)
    }

    /// A warp for each segment.
    fn by_segments(&self) -> Grid {
        let blocks = self.segments().div_ceil(SEGMENT_THREADS as usize / 32);
        Grid { blocks: [self.rows, blocks, 1], threads: SEGMENT_THREADS, shared: 0 }
    }

    /// The first of the largest of each row.
    fn best(&self) -> Result<Tensor> {
        let ids = self.ids()?;
        let arguments = Finish { best: self.at(&self.best)?, ids: self.at(&ids)?, parts: self.parts };
        self.device.launch("sample_argmax_finish", arguments, Grid::new(self.rows, 32))?;
        Ok(ids)
    }

    /// A draw from all words whose weight is at least min_p.
    fn draw(&self, uniforms: &Tensor, sampling: &Sampling) -> Result<Tensor> {
        let ids = self.ids()?;
        let sums = wide(self.device, self.rows, self.segments())?;
        let (scores, best, sums) = (self.at(&self.scores)?, self.at(&self.best)?, self.at(&sums)?);
        let (vocab, parts) = (self.vocab, self.parts);
        let (inverse_temperature, min_p) = (sampling.inverse_temperature(), sampling.min_p);
        let arguments = Masses { scores, best, parts, sums, vocab, inverse_temperature, min_p };
        self.device.launch("sample_masses", arguments, self.by_segments())?;
        let (uniforms, at) = (self.at(uniforms)?, self.at(&ids)?);
        let arguments =
            Draw { scores, best, parts, sums, uniforms, ids: at, vocab, inverse_temperature, min_p };
        self.device.launch("sample_draw", arguments, Grid::new(self.rows, 32))?;
        Ok(ids)
    }

    /// A draw from the words that top-k (0: all), top-p and min-p leave. `bins` are clear.
    fn choose(&self, bins: &Tensor, uniforms: &Tensor, sampling: &Sampling, top_k: u32) -> Result<Tensor> {
        let ids = self.ids()?;
        let shape = [self.rows, self.vocab as usize];
        // The weights are written over the candidates: they take the place of scores only where these are not the caller's.
        let candidates = match self.own {
            true => self.scores.clone(),
            false => Tensor::uninitialised(self.device, &shape, DType::F32)?,
        };
        let ids_of_candidates = Tensor::uninitialised(self.device, &shape, DType::U32)?;
        let counts = Tensor::uninitialised(self.device, &[self.rows, self.segments()], DType::U32)?;
        let (scores, best, bins) = (self.at(&self.scores)?, self.at(&self.best)?, self.at(bins)?);
        let (candidates, ids_of_candidates) = (self.at(&candidates)?, self.at(&ids_of_candidates)?);
        let (counts, uniforms, at) = (self.at(&counts)?, self.at(uniforms)?, self.at(&ids)?);
        let (vocab, parts) = (self.vocab, self.parts);
        let (inverse_temperature, top_p, min_p) =
            (sampling.inverse_temperature(), sampling.top_p, sampling.min_p);
        let (fill, gather, shared) = match top_k {
            0 => ("sample_weights", "sample_gather_weights", SUMS),
            _ => ("sample_counts", "sample_gather_counts", NUMBERS),
        };
        let arguments = Bins { scores, best, parts, bins, vocab, inverse_temperature };
        let blocks = [self.rows, (vocab as usize).div_ceil(HISTOGRAM_PART), 1];
        self.device.launch(fill, arguments, Grid { blocks, threads: THREADS, shared })?;
        let arguments = Gather {
            scores,
            best,
            parts,
            bins,
            candidates,
            ids: ids_of_candidates,
            counts,
            vocab,
            inverse_temperature,
            top_k,
            top_p,
        };
        self.device.launch(gather, arguments, self.by_segments())?;
        let arguments = Choose {
            best,
            parts,
            bins,
            candidates,
            ids_of_candidates,
            counts,
            uniforms,
            ids: at,
            vocab,
            inverse_temperature,
            top_k,
            top_p,
            min_p,
        };
        self.device.launch(
            "sample_choose",
            arguments,
            Grid { shared: SUMS, ..Grid::new(self.rows, THREADS) },
        )?;
        Ok(ids)
    }
}

pub(super) fn sample(
    device: &'static CudaDevice,
    logits: &Tensor,
    history: Option<History<'_>>,
    uniforms: &Tensor,
    sampling: &Sampling,
) -> Result<Tensor> {
    let (rows, words, _) = dims(logits)?;
    let penalty = sampling.repetition_penalty;
    let history = history.filter(|_| penalty != 1.0).map(|history| (history, penalty));
    if sampling.is_greedy() {
        return Rows::new(device, logits, history, None)?.best();
    }
    // Of 2^20 words at most.
    let top_k = if sampling.top_k < words { sampling.top_k as u32 } else { 0 };
    if top_k == 0 && sampling.top_p == 1.0 {
        return Rows::new(device, logits, history, None)?.draw(uniforms, sampling);
    }
    let bins = wide(device, rows, BINS)?;
    Rows::new(device, logits, history, Some(&bins))?.choose(&bins, uniforms, sampling, top_k)
}

pub(super) fn argmax(device: &'static CudaDevice, logits: &Tensor) -> Result<Tensor> {
    Rows::new(device, logits, None, None)?.best()
}
