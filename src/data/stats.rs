//! Figures about a set of samples.

use super::Sample;

/// Counts and lengths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Samples.
    pub examples: usize,
    /// Tokens in all.
    pub tokens: usize,
    /// Tokens that carry loss.
    pub loss_tokens: usize,
    /// Token lengths in ascending order.
    lengths: Vec<usize>,
}

impl Stats {
    /// Counts `samples`.
    pub fn of(samples: &[Sample]) -> Stats {
        let mut lengths: Vec<usize> = samples.iter().map(|s| s.ids.len()).collect();
        lengths.sort_unstable();
        Stats {
            examples: samples.len(),
            tokens: lengths.iter().sum(),
            loss_tokens: samples.iter().map(Sample::loss_tokens).sum(),
            lengths,
        }
    }

    /// The length that `percent` of the samples do not exceed (nearest rank); 0 if there are none.
    pub fn length_percentile(&self, percent: usize) -> usize {
        let rank = (self.lengths.len() * percent.min(100)).div_ceil(100);
        self.lengths.get(rank.saturating_sub(1)).copied().unwrap_or(0)
    }
}
