//! The choice of the next token, with the meaning and the order that transformers gives the settings: repetition penalty,
//! temperature, top-k, top-p, min-p.

use crate::{Error, Result};

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
}

/// Applies a [`Sampling`]; keeps its buffers from token to token.
pub struct Sampler {
    sampling: Sampling,
    scores: Vec<f32>,
    order: Vec<f32>,
    /// Tokens that are left, with their weights (not normalised).
    candidates: Vec<(u32, f32)>,
}

impl Sampler {
    /// A sampler.
    ///
    /// # Errors
    /// As [`Sampling::check`].
    pub fn new(sampling: Sampling) -> Result<Sampler> {
        sampling.check()?;
        Ok(Sampler { sampling, scores: Vec::new(), order: Vec::new(), candidates: Vec::new() })
    }

    /// The tokens that the settings leave of `logits` `[vocab]`, with their probabilities. `history`: the tokens so far.
    ///
    /// # Errors
    /// [`Error::NonFinite`] when a logit is not a number, or all are minus infinity.
    pub fn distribution(&mut self, logits: &[f32], history: &[u32]) -> Result<Vec<(u32, f32)>> {
        let total = self.prepare(logits, history)?;
        Ok(self.candidates.iter().map(|&(id, weight)| (id, weight / total)).collect())
    }

    /// A token: the one at `uniform` (in [0, 1)) of the cumulative distribution; the most likely one if greedy.
    ///
    /// # Errors
    /// As [`Sampler::distribution`].
    pub fn choose(&mut self, logits: &[f32], history: &[u32], uniform: f32) -> Result<u32> {
        let total = self.prepare(logits, history)?;
        let mut left = uniform * total;
        for &(id, weight) in &self.candidates {
            left -= weight;
            if left < 0.0 {
                return Ok(id);
            }
        }
        // Rounding used up what was left: the last candidate.
        self.candidates.last().map(|&(id, _)| id).ok_or_else(non_finite)
    }

    /// Fills `candidates`; returns the sum of their weights.
    fn prepare(&mut self, logits: &[f32], history: &[u32]) -> Result<f32> {
        let Sampling { temperature, top_k, top_p, min_p, repetition_penalty } = self.sampling;
        self.scores.clear();
        self.scores.extend_from_slice(logits);
        if repetition_penalty != 1.0 {
            // From the logits, not the scores: a token that occurred twice is penalised once.
            for &id in history {
                if let Some(&logit) = logits.get(id as usize) {
                    self.scores[id as usize] =
                        if logit < 0.0 { logit * repetition_penalty } else { logit / repetition_penalty };
                }
            }
        }
        let best = first_maximum(&self.scores)?;
        let top = self.scores[best];
        self.candidates.clear();
        if temperature == 0.0 {
            self.candidates.push((best as u32, 1.0));
            return Ok(1.0);
        }
        let mut least = f32::NEG_INFINITY;
        if top_k > 0 && top_k < self.scores.len() {
            self.order.clear();
            self.order.extend_from_slice(&self.scores);
            least = *self.order.select_nth_unstable_by(top_k - 1, |a, b| b.total_cmp(a)).1;
        }
        let weight = |score: f32| ((score - top) / temperature).exp();
        let kept = self.scores.iter().enumerate().filter(|&(_, &score)| score >= least);
        self.candidates.extend(kept.map(|(id, &score)| (id as u32, weight(score))));
        if top_p < 1.0 {
            self.keep_top_p(top_p);
        }
        if min_p > 0.0 {
            // The most likely token has weight 1.
            self.candidates.retain(|&(_, weight)| weight >= min_p);
        }
        Ok(self.candidates.iter().map(|&(_, weight)| weight).sum())
    }

    fn keep_top_p(&mut self, top_p: f32) {
        let total: f32 = self.candidates.iter().map(|&(_, weight)| weight).sum();
        self.candidates.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let mut before = 0.0;
        let enough = self.candidates.iter().position(|&(_, weight)| {
            let reached = before >= top_p * total;
            before += weight;
            reached
        });
        // The first candidate always stays: nothing is before it.
        self.candidates.truncate(enough.unwrap_or(self.candidates.len()));
    }
}

/// The index of the largest score, the first if several are.
fn first_maximum(scores: &[f32]) -> Result<usize> {
    let mut best = 0;
    for (i, score) in scores.iter().enumerate() {
        if score.is_nan() {
            return Err(non_finite());
        }
        if *score > scores[best] {
            best = i;
        }
    }
    match scores.get(best) {
        Some(score) if score.is_finite() => Ok(best),
        _ => Err(non_finite()),
    }
}

fn non_finite() -> Error {
    Error::NonFinite { what: "the next token's logits".into(), place: None }
}
