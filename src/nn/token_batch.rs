//! Tokens as a model takes them.

use crate::device::Device;
use crate::ops::attention::CuSeqlens;
use crate::tensor::Tensor;
use crate::{Error, Result};

/// A packed batch: the concatenation of sequences, without padding. T is the number of tokens of all of them.
#[derive(Clone, Debug)]
pub struct TokenBatch {
    ids: Tensor,
    positions: Tensor,
    cu_seqlens: CuSeqlens,
}

impl TokenBatch {
    /// A batch from its parts: `ids` and `positions` (of each token in its sequence), both u32 `[T]`; `cu_seqlens`: 0, then
    /// the end of each sequence, the last being T.
    ///
    /// # Errors
    /// [`Error::Shape`] or [`Error::DType`] when the parts do not fit together.
    pub fn new(ids: Tensor, positions: Tensor, cu_seqlens: impl Into<CuSeqlens>) -> Result<TokenBatch> {
        const OP: &str = "token batch";
        let cu_seqlens = cu_seqlens.into();
        let (tokens, numbered) = (ids.as_u32()?.len(), positions.as_u32()?.len());
        if ids.dims1(OP)? != positions.dims1(OP)? {
            return Err(Error::Shape { op: OP, detail: format!("{tokens} ids but {numbered} positions") });
        }
        let ends_right = cu_seqlens.first() == Some(&0) && cu_seqlens.last() == Some(&tokens);
        if !ends_right || cu_seqlens.windows(2).any(|pair| pair[0] > pair[1]) {
            let detail =
                format!("sequence ends {cu_seqlens:?} must rise from 0 to {tokens}, the number of tokens");
            return Err(Error::Shape { op: OP, detail });
        }
        Ok(TokenBatch { ids, positions, cu_seqlens })
    }

    /// Sequences one after the other, each with positions from 0.
    ///
    /// # Errors
    /// A sequence longer than 2^32 tokens.
    pub fn packed<S: AsRef<[u32]>>(sequences: &[S]) -> Result<TokenBatch> {
        let starts = vec![0; sequences.len()];
        TokenBatch::continued(sequences, &starts)
    }

    /// As [`TokenBatch::packed`], sequence i with positions from `starts[i]`: new tokens after cached ones.
    ///
    /// # Errors
    /// A position of 2^32 or more; a number of starts that is not the number of sequences.
    pub fn continued<S: AsRef<[u32]>>(sequences: &[S], starts: &[usize]) -> Result<TokenBatch> {
        const OP: &str = "token batch";
        if sequences.len() != starts.len() {
            let detail = format!("{} sequences but {} starts", sequences.len(), starts.len());
            return Err(Error::Shape { op: OP, detail });
        }
        let total = sequences.iter().map(|s| s.as_ref().len()).sum();
        let (mut ids, mut positions) = (Vec::with_capacity(total), Vec::with_capacity(total));
        let mut cu_seqlens = Vec::with_capacity(sequences.len() + 1);
        cu_seqlens.push(0);
        for (sequence, &start) in sequences.iter().zip(starts) {
            let sequence = sequence.as_ref();
            let range = u32::try_from(start).ok().zip(u32::try_from(sequence.len()).ok());
            let Some((start, end)) = range.and_then(|(start, len)| Some((start, start.checked_add(len)?)))
            else {
                let detail =
                    format!("{} tokens from position {start}: positions have 32 bits", sequence.len());
                return Err(Error::Shape { op: OP, detail });
            };
            ids.extend_from_slice(sequence);
            positions.extend(start..end);
            cu_seqlens.push(ids.len());
        }
        let tensor = |values: Vec<u32>| Tensor::from_u32(values, &[total]);
        TokenBatch::new(tensor(ids), tensor(positions), cu_seqlens)
    }

    /// The same batch on a device: what all ops of a pass read is moved there once.
    ///
    /// # Errors
    /// [`Error::Cuda`] when it does not fit.
    pub fn to_device(&self, device: Device) -> Result<TokenBatch> {
        let (ids, positions) = (self.ids.to_device(device)?, self.positions.to_device(device)?);
        Ok(TokenBatch { ids, positions, cu_seqlens: self.cu_seqlens.clone() })
    }

    /// Token ids, u32 `[T]`.
    pub fn ids(&self) -> &Tensor {
        &self.ids
    }

    /// The position of each token in its sequence, u32 `[T]`.
    pub fn positions(&self) -> &Tensor {
        &self.positions
    }

    /// 0, then the end of each sequence.
    pub fn cu_seqlens(&self) -> &CuSeqlens {
        &self.cu_seqlens
    }

    /// The number of tokens, T.
    pub fn tokens(&self) -> usize {
        self.ids.numel()
    }

    /// The lengths of the sequences.
    pub fn lengths(&self) -> impl Iterator<Item = usize> + '_ {
        self.cu_seqlens.windows(2).map(|pair| pair[1] - pair[0])
    }
}
