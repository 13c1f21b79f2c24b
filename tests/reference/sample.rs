//! The distribution of the next token, as transformers defines the settings.

use warptune::ops::sample::Sampling;

/// transformers' processors one after the other, each on the whole vocabulary with minus infinity for what is out.
pub fn distribution(logits: &[f32], history: &[u32], s: &Sampling) -> Vec<f64> {
    let mut scores: Vec<f64> = logits.iter().map(|&x| f64::from(x)).collect();
    let seen: std::collections::BTreeSet<u32> = history.iter().copied().collect();
    for id in seen {
        let x = &mut scores[id as usize];
        *x = if *x < 0.0 {
            *x * f64::from(s.repetition_penalty)
        } else {
            *x / f64::from(s.repetition_penalty)
        };
    }
    scores.iter_mut().for_each(|x| *x /= f64::from(s.temperature));
    if s.top_k > 0 {
        let mut sorted = scores.clone();
        sorted.sort_by(|a, b| b.total_cmp(a));
        let least = sorted[s.top_k.min(sorted.len()) - 1];
        scores.iter_mut().filter(|x| **x < least).for_each(|x| *x = f64::NEG_INFINITY);
    }
    if s.top_p < 1.0 {
        let probabilities = softmax(&scores);
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|&a, &b| probabilities[b].total_cmp(&probabilities[a]));
        let mut before = 0.0;
        for i in order {
            if before >= f64::from(s.top_p) {
                scores[i] = f64::NEG_INFINITY;
            }
            before += probabilities[i];
        }
    }
    if s.min_p > 0.0 {
        let probabilities = softmax(&scores);
        let least = f64::from(s.min_p) * probabilities.iter().fold(0.0, |m: f64, &p| m.max(p));
        scores
            .iter_mut()
            .zip(probabilities)
            .filter(|(_, p)| *p < least)
            .for_each(|(x, _)| *x = f64::NEG_INFINITY);
    }
    softmax(&scores)
}

pub fn softmax(scores: &[f64]) -> Vec<f64> {
    let top = scores.iter().fold(f64::NEG_INFINITY, |m, &x| m.max(x));
    let weights: Vec<f64> = scores.iter().map(|x| (x - top).exp()).collect();
    let total: f64 = weights.iter().sum();
    weights.into_iter().map(|w| w / total).collect()
}
