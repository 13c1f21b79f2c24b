//! The choice of tokens on the CPU.

use super::{History, NOT_FINITE, Sampling};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// A token for each row of logits.
pub(super) fn sample(
    logits: &Tensor,
    history: Option<History<'_>>,
    uniforms: &Tensor,
    sampling: &Sampling,
) -> Result<Tensor> {
    let (rows, vocab) = (logits.shape()[0], logits.shape()[1]);
    let mut sampler = Sampler::new(sampling.clone())?;
    let (values, uniforms) = (logits.as_f32()?, uniforms.as_f32()?);
    let seen = history.map(|h| Ok((h.tokens.as_u32()?, h.tokens.shape()[1], h.lengths.as_u32()?)));
    let seen = seen.transpose()?;
    let choose = |row: usize| {
        let tokens = seen.map_or(&[][..], |(tokens, capacity, lengths)| {
            &tokens[row * capacity..][..capacity.min(lengths[row] as usize)]
        });
        match sampler.choose(&values[row * vocab..][..vocab], tokens, uniforms[row]) {
            Err(Error::NonFinite { .. }) => Ok(NOT_FINITE),
            chosen => chosen,
        }
    };
    Ok(Tensor::from_u32((0..rows).map(choose).collect::<Result<_>>()?, &[rows]))
}

/// Applies a [`Sampling`]; keeps its buffers from token to token.
pub struct Sampler {
    sampling: Sampling,
    scores: Vec<f32>,
    order: Vec<f32>,
    /// Tokens that are left, by id, with their weights (not normalised).
    candidates: Vec<(u32, f32)>,
    /// The same by falling weight.
    sorted: Vec<(u32, f32)>,
}

impl Sampler {
    /// A sampler.
    ///
    /// # Errors
    /// As [`Sampling::check`].
    pub fn new(sampling: Sampling) -> Result<Sampler> {
        sampling.check()?;
        let (scores, order, candidates, sorted) = Default::default();
        Ok(Sampler { sampling, scores, order, candidates, sorted })
    }

    /// The tokens that the settings leave of `logits` `[vocab]`, with their probabilities. `history`: the tokens so far.
    ///
    /// # Errors
    /// [`Error::NonFinite`] when a logit is not a number, or all are minus infinity.
    pub fn distribution(&mut self, logits: &[f32], history: &[u32]) -> Result<Vec<(u32, f32)>> {
        let total = self.prepare(logits, history)? as f32 / UNITS;
        Ok(self.candidates.iter().map(|&(id, weight)| (id, weight / total)).collect())
    }

    /// A token: the one at `uniform` (in [0, 1), of which 24 bits count) of the cumulative distribution by id; the most likely one if
    /// greedy.
    ///
    /// # Errors
    /// As [`Sampler::distribution`].
    pub fn choose(&mut self, logits: &[f32], history: &[u32], uniform: f32) -> Result<u32> {
        let total = self.prepare(logits, history)?;
        // A product of 24 bits and of 31 more than the vocabulary has.
        let numerator = ((uniform * (1 << 24) as f32) as u32).min((1 << 24) - 1);
        let goal = ((u128::from(total) * u128::from(numerator)) >> 24) as u64;
        let mut sum = 0;
        let chosen = self.candidates.iter().find(|&&(_, weight)| {
            sum += mass(weight);
            sum > goal
        });
        chosen.map(|&(id, _)| id).ok_or_else(non_finite)
    }

    /// Fills `candidates`; returns the sum of their masses.
    fn prepare(&mut self, logits: &[f32], history: &[u32]) -> Result<u64> {
        let Sampling { top_k, top_p, min_p, repetition_penalty, .. } = self.sampling;
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
        if self.sampling.is_greedy() {
            self.candidates.push((best as u32, 1.0));
            return Ok(mass(1.0));
        }
        let mut least = f32::NEG_INFINITY;
        if top_k > 0 && top_k < self.scores.len() {
            self.order.clear();
            self.order.extend_from_slice(&self.scores);
            least = *self.order.select_nth_unstable_by(top_k - 1, |a, b| b.total_cmp(a)).1;
        }
        let inverse = self.sampling.inverse_temperature();
        let kept = self.scores.iter().enumerate().filter(|&(_, &score)| score >= least);
        self.candidates.extend(kept.map(|(id, &score)| (id as u32, power((score - top) * inverse))));
        if top_p < 1.0 {
            self.keep_top_p(top_p);
        }
        if min_p > 0.0 {
            // The most likely token has weight 1.
            self.candidates.retain(|&(_, weight)| weight >= min_p);
        }
        Ok(self.candidates.iter().map(|&(_, weight)| mass(weight)).sum())
    }

    fn keep_top_p(&mut self, top_p: f32) {
        let total: u64 = self.candidates.iter().map(|&(_, weight)| mass(weight)).sum();
        let limit = ((f64::from(top_p) * total as f64).ceil() as u64).max(1);
        self.sorted.clone_from(&self.candidates);
        self.sorted.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let mut sum = 0;
        let last = self.sorted.iter().find(|&&(_, weight)| {
            sum += mass(weight);
            sum >= limit
        });
        if let Some(&(last, least)) = last {
            self.candidates.retain(|&(id, weight)| weight > least || (weight == least && id <= last));
        }
    }
}

/// Weights are summed in whole numbers of 2^-31: no order of summation changes the sum. What is cut off of all the words of a vocabulary of 2^17
/// is 2^-14 of the most likely one's weight, at most.
const UNITS: f32 = (1u32 << 31) as f32;

fn mass(weight: f32) -> u64 {
    u64::from((weight * UNITS) as u32)
}

/// e^x for x <= 0 within 2 units in the last place; 0 below -87. Products and sums are rounded one by one, in the order of
/// kernels/sample.cu: the same bits. The coefficients are those of `device::cpu::lanes::math::exp`.
fn power(x: f32) -> f32 {
    if x <= -87.0 {
        return 0.0;
    }
    let n = (x * std::f32::consts::LOG2_E).round_ties_even();
    let r = x - n * 0.693_359_4 - n * -2.121_944_4e-4;
    let q = 0.001_381_446_7;
    let q = q * r + 0.008_368_781;
    let q = q * r + 0.041_668_393;
    let q = q * r + 0.166_665_2;
    let q = q * r + 0.499_999_94;
    let y = r * r * q + r + 1.0;
    f32::from_bits(y.to_bits().wrapping_add((n as i32 as u32) << 23))
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

#[cfg(test)]
mod tests {
    use super::{mass, power};

    #[test]
    fn powers_are_within_two_units_in_the_last_place() {
        assert_eq!((power(0.0), power(-0.0), power(-87.0), power(f32::NEG_INFINITY)), (1.0, 1.0, 0.0, 0.0));
        let mut x = -86.99f32;
        while x < 0.0 {
            let exact = f64::from(x).exp();
            assert!((f64::from(power(x)) / exact - 1.0).abs() < 2.0 / f64::from(1 << 23), "{x}");
            x += 0.001_7;
        }
    }

    #[test]
    fn masses_are_the_weights_cut_off() {
        assert_eq!((mass(1.0), mass(0.0), mass(4.6e-10), mass(4.7e-10)), (1 << 31, 0, 0, 1));
        assert_eq!(mass(1.0 - f32::EPSILON / 2.0), (1 << 31) - (1 << 7));
    }
}
