//! Sampling against transformers' definitions, computed naively in f64.

use proptest::prelude::*;
use warptune::generate::{Sampler, Sampling};
use warptune::tensor::DType;

use crate::ops::cases;
use crate::reference::sample::{distribution as reference, softmax};
use crate::support::golden::read_tensors;
use crate::support::random::Random;

/// What f32 costs a probability, at most: a few roundings of the score in the exponent, and one for each summand of the
/// total.
fn allowed(logits: &[f32], s: &Sampling) -> f64 {
    let largest = logits.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    let score = largest * s.repetition_penalty.max(1.0 / s.repetition_penalty) / s.temperature;
    DType::F32.unit_roundoff() * (4.0 * f64::from(score) + logits.len() as f64)
}

proptest! {
    #![proptest_config(cases(64))]

    #[test]
    fn distribution_is_that_of_transformers(
        seed in any::<u64>(),
        vocab in 1usize..200,
        temperature in 0.1f32..3.0,
        top_k in 0usize..40,
        top_p in prop_oneof![Just(1.0f32), 0.01f32..1.0],
        min_p in prop_oneof![Just(0.0f32), 0.0f32..0.9],
        repetition_penalty in prop_oneof![Just(1.0f32), 0.5f32..2.0],
    ) {
        let mut random = Random::new(seed);
        let logits = random.vec(vocab, 3.0);
        let history: Vec<u32> = (0..10).map(|_| random.below(vocab) as u32).collect();
        let sampling = Sampling { temperature, top_k, top_p, min_p, repetition_penalty };
        let expected = reference(&logits, &history, &sampling);
        let allowed = allowed(&logits, &sampling);
        let mut sampler = Sampler::new(sampling).unwrap();
        let mut ours = vec![0.0f64; vocab];
        for (id, p) in sampler.distribution(&logits, &history).unwrap() {
            ours[id as usize] = f64::from(p);
        }
        for (id, (&p, &q)) in ours.iter().zip(&expected).enumerate() {
            prop_assert!((p - q).abs() <= allowed, "token {id}: {p}, expected {q}");
        }
        // The ends of the cumulative distribution are candidates.
        for uniform in [0.0, 0.999_999_94] {
            let id = sampler.choose(&logits, &history, uniform).unwrap();
            prop_assert!(expected[id as usize] > 0.0);
        }
    }
}

#[test]
fn scores_are_those_of_transformers() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/ops");
    let json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.join("sampling.json")).unwrap()).unwrap();
    let tensors = read_tensors(&folder.join("sampling.safetensors"));
    let vocab = tensors["logits"].shape[1];
    for (i, case) in json["cases"].as_array().unwrap().iter().enumerate() {
        let setting = |key: &str, default: f64| case[key].as_f64().unwrap_or(default) as f32;
        let sampling = Sampling {
            temperature: setting("temperature", 1.0),
            top_k: case["top_k"].as_u64().unwrap_or(0) as usize,
            top_p: setting("top_p", 1.0),
            min_p: setting("min_p", 0.0),
            repetition_penalty: setting("repetition_penalty", 1.0),
        };
        let mut sampler = Sampler::new(sampling.clone()).unwrap();
        let rows =
            tensors["logits"].values.chunks(vocab).zip(tensors[&format!("{i}.scores")].values.chunks(vocab));
        for ((logits, scores), seen) in rows.zip(json["seen"].as_array().unwrap()) {
            let seen: Vec<u32> =
                seen.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
            let expected = softmax(&scores.iter().map(|&x| f64::from(x)).collect::<Vec<_>>());
            let allowed = allowed(logits, &sampling);
            let mut ours = vec![0.0; vocab];
            for (id, p) in sampler.distribution(logits, &seen).unwrap() {
                ours[id as usize] = f64::from(p);
            }
            for (id, (p, q)) in ours.iter().zip(&expected).enumerate() {
                assert_eq!(*p > 0.0, *q > 0.0, "{case}: whether token {id} is left");
                assert!((p - q).abs() <= allowed, "{case}: token {id}: {p}, expected {q}");
            }
        }
    }
}

#[test]
fn greedy_takes_the_first_of_equals() {
    let mut sampler = Sampler::new(Sampling::default()).unwrap();
    assert_eq!(sampler.choose(&[0.0, 2.0, 2.0, -1.0], &[], 0.9).unwrap(), 1);
}

#[test]
fn frequencies_follow_the_probabilities() {
    let logits: Vec<f32> = [0.5f32, 0.3, 0.2].iter().map(|p| p.ln()).collect();
    let mut sampler = Sampler::new(Sampling { temperature: 1.0, ..Sampling::default() }).unwrap();
    let mut counts = [0usize; 3];
    for i in 0..1000 {
        counts[sampler.choose(&logits, &[], (i as f32 + 0.5) / 1000.0).unwrap() as usize] += 1;
    }
    assert_eq!(counts, [500, 300, 200]);
}

#[test]
fn settings_out_of_range_and_broken_logits_are_errors() {
    let base = Sampling { temperature: 1.0, ..Sampling::default() };
    for (sampling, key) in [
        (Sampling { temperature: -1.0, ..base.clone() }, "temperature"),
        (Sampling { temperature: f32::NAN, ..base.clone() }, "temperature"),
        (Sampling { top_p: 0.0, ..base.clone() }, "top_p"),
        (Sampling { min_p: 1.5, ..base.clone() }, "min_p"),
        (Sampling { repetition_penalty: 0.0, ..base.clone() }, "repetition_penalty"),
    ] {
        let error = Sampler::new(sampling).err().unwrap().to_string();
        assert!(error.contains(key), "{error}");
    }
    let mut sampler = Sampler::new(base).unwrap();
    for logits in [&[1.0, f32::NAN][..], &[f32::NEG_INFINITY; 3], &[1.0, f32::INFINITY], &[]] {
        assert!(sampler.choose(logits, &[], 0.5).is_err(), "{logits:?}");
    }
}
