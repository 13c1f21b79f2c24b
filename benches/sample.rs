//! The choice of a token, against a softmax over the sorted vocabulary.

mod common;

use common::{VOCAB, compare, criterion, random};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use warptune::ops::sample::{Sampling, argmax, sample};
use warptune::tensor::Tensor;

const ROWS: usize = 4;

/// All words by falling logit, their probabilities with the standard library's exp, and a walk to the uniform number.
fn sorted(logits: &[f32], sampling: &Sampling, uniform: f32) -> usize {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
    let k = if sampling.top_k == 0 { order.len() } else { sampling.top_k };
    order.truncate(k);
    let top = logits[order[0]];
    let weights: Vec<f32> = order.iter().map(|&i| ((logits[i] - top) / sampling.temperature).exp()).collect();
    let mut left = uniform * sampling.top_p * weights.iter().sum::<f32>();
    order
        .into_iter()
        .zip(weights)
        .find(|(_, w)| {
            left -= w;
            left < 0.0
        })
        .map_or(0, |(i, _)| i)
}

fn tokens(c: &mut Criterion) {
    let data = random(1, &[ROWS, VOCAB], warptune::tensor::DType::F32).to_vec_f32().unwrap();
    let logits = Tensor::from_f32(data.iter().map(|x| 30.0 * x).collect(), &[ROWS, VOCAB]);
    let uniforms = Tensor::from_f32(vec![0.5; ROWS], &[ROWS]);
    let bytes = Throughput::BytesDecimal((4 * ROWS * VOCAB) as u64);
    let base = Sampling { temperature: 0.8, ..Sampling::default() };
    let cases = [
        ("temperature", base.clone()),
        ("top-k 50", Sampling { top_k: 50, ..base.clone() }),
        ("top-p 0.9", Sampling { top_p: 0.9, ..base }),
    ];
    for (name, sampling) in cases {
        let ours = || drop(sample(&logits, None, &uniforms, &sampling).unwrap());
        let plain = || {
            for row in logits.as_f32().unwrap().chunks(VOCAB) {
                std::hint::black_box(sorted(row, &sampling, 0.5));
            }
        };
        compare(
            c,
            "sample",
            &format!("{name} {ROWS}x{VOCAB}"),
            bytes.clone(),
            ours,
            ("sorting all words", plain),
        );
    }
    let best = || {
        for row in logits.as_f32().unwrap().chunks(VOCAB) {
            std::hint::black_box(row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)));
        }
    };
    let ours = || drop(argmax(&logits).unwrap());
    compare(c, "sample", &format!("greedy {ROWS}x{VOCAB}"), bytes, ours, ("max_by", best));
}

criterion_group! { name = benches; config = criterion(); targets = tokens }
criterion_main!(benches);
