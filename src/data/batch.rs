//! Samples and the batches that the model sees.

use std::sync::Arc;

/// The label of a position whose prediction carries no loss; the same value as the cross-entropy op's.
pub const IGNORE_LABEL: u32 = u32::MAX;

/// One tokenized sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The token ids.
    pub ids: Vec<u32>,
    /// Whether each token is one that the model is trained to write. The first never is: nothing comes before it.
    pub trained: Vec<bool>,
    /// Line or row of the data file, counted from 1.
    pub line: usize,
}

impl Sample {
    /// How many tokens carry loss.
    pub fn loss_tokens(&self) -> usize {
        self.trained.iter().skip(1).filter(|&&t| t).count()
    }
}

/// Sequences one after another, without padding. Sequence s is tokens `cu_seqlens[s]..cu_seqlens[s + 1]`; attention stays inside
/// it, and its positions begin at 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Token ids, `[T]`.
    pub ids: Vec<u32>,
    /// Position of each token in its sequence, `[T]`.
    pub positions: Vec<u32>,
    /// What each position is trained to predict, `[T]`: the next id of its sequence, or [`IGNORE_LABEL`].
    pub labels: Vec<u32>,
    /// 0, then the end of each sequence.
    pub cu_seqlens: Arc<[usize]>,
    /// Number of labels that are not [`IGNORE_LABEL`].
    pub loss_tokens: usize,
}

impl Batch {
    /// The concatenation of `samples`; empty ones are left out.
    pub fn new<'a>(samples: impl IntoIterator<Item = &'a Sample>) -> Batch {
        let (mut ids, mut positions, mut labels) = (Vec::new(), Vec::new(), Vec::new());
        let mut ends = vec![0];
        for sample in samples.into_iter().filter(|s| !s.ids.is_empty()) {
            ids.extend_from_slice(&sample.ids);
            positions.extend((0u32..).take(sample.ids.len()));
            let next = sample.ids.iter().zip(&sample.trained).skip(1);
            labels.extend(next.map(|(&id, &trained)| if trained { id } else { IGNORE_LABEL }));
            labels.push(IGNORE_LABEL);
            ends.push(ids.len());
        }
        let loss_tokens = labels.iter().filter(|&&l| l != IGNORE_LABEL).count();
        Batch { ids, positions, labels, cu_seqlens: ends.into(), loss_tokens }
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there is no token.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Number of sequences.
    pub fn sequences(&self) -> usize {
        self.cu_seqlens.len() - 1
    }
}
