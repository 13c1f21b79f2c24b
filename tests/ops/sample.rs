//! The choice of tokens: each device's against the definition in f64, and bit for bit against each other.

use proptest::prelude::*;
use warptune::device::Device;
use warptune::ops::sample::{History, NOT_FINITE, Sampling, argmax, sample};
use warptune::tensor::{DType, Tensor};

use super::cases;
use crate::reference::sample::distribution;
use crate::support::bits;
use crate::support::devices::{assert_no_reports, cuda, on_each};
use crate::support::random::Random;

/// Rows of logits, what came before each, and a uniform number for each.
struct Batch {
    logits: Tensor,
    tokens: Tensor,
    lengths: Vec<u32>,
    uniforms: Vec<f32>,
}

impl Batch {
    /// Some tokens of the history are outside the vocabulary, and one length says more than there is.
    fn draw(random: &mut Random, rows: usize, vocab: usize, dtype: DType) -> Batch {
        let capacity = 1 + random.below(40);
        Batch {
            // bf16 has many equals.
            logits: random.tensor(&[rows, vocab], dtype, 3.0).to_dtype(DType::F32).unwrap(),
            tokens: random.ids(rows * capacity, vocab + 3).reshape(&[rows, capacity]).unwrap(),
            lengths: (0..rows).map(|_| random.below(capacity + 2) as u32).collect(),
            uniforms: (0..rows).map(|_| random.uniform() as f32).map(|u| u.min(0.999_999_94)).collect(),
        }
    }

    fn run(&self, device: Device, sampling: &Sampling) -> Vec<u32> {
        let there = |tensor: &Tensor| tensor.to_device(device).unwrap();
        let rows = self.uniforms.len();
        let uniforms = Tensor::from_f32(self.uniforms.clone(), &[rows]);
        let (tokens, lengths) =
            (there(&self.tokens), there(&Tensor::from_u32(self.lengths.clone(), &[rows])));
        let history = Some(History { tokens: &tokens, lengths: &lengths });
        let ids = sample(&there(&self.logits), history, &there(&uniforms), sampling).unwrap();
        assert_eq!((ids.device(), ids.dtype(), ids.shape()), (device, DType::U32, &[rows][..]));
        bits(&ids)
    }

    /// Panics unless each row's token is where its uniform number points to in the cumulative distribution.
    fn check(&self, ids: &[u32], sampling: &Sampling) {
        let (vocab, capacity) = (self.logits.shape()[1], self.tokens.shape()[1]);
        let rows =
            self.logits.as_f32().unwrap().chunks(vocab).zip(self.tokens.as_u32().unwrap().chunks(capacity));
        for (row, ((logits, tokens), &id)) in rows.zip(ids).enumerate() {
            let seen = &tokens[..capacity.min(self.lengths[row] as usize)];
            let seen: Vec<u32> = seen.iter().copied().filter(|&id| (id as usize) < vocab).collect();
            let p = distribution(logits, &seen, sampling);
            let (before, own) = (p[..id as usize].iter().sum::<f64>(), p[id as usize]);
            let uniform = (f64::from(self.uniforms[row]) * f64::from(1 << 24)).floor() / f64::from(1 << 24);
            // A few roundings of the score in the exponent, and what is cut off of each weight.
            let largest = logits.iter().fold(0.0f32, |m, x| m.max(x.abs()));
            let penalty = sampling.repetition_penalty.max(1.0 / sampling.repetition_penalty);
            let score = f64::from(largest * penalty / sampling.temperature);
            let allowed =
                DType::F32.unit_roundoff() * (8.0 * score + 8.0) + vocab as f64 / f64::from(1u32 << 31);
            assert!(
                own > 0.0 && before - allowed <= uniform && uniform <= before + own + allowed,
                "row {row}: token {id} has {before} .. +{own}, uniform {uniform}, {sampling:?}"
            );
        }
    }
}

fn settings() -> impl Strategy<Value = Sampling> {
    let temperature = 0.1f32..3.0;
    let top_k = prop_oneof![Just(0usize), 1usize..40, 1usize..3000];
    let top_p = prop_oneof![Just(1.0f32), 0.01f32..1.0];
    let min_p = prop_oneof![Just(0.0f32), 0.0f32..0.9];
    let penalty = prop_oneof![Just(1.0f32), 0.5f32..2.0];
    (temperature, top_k, top_p, min_p, penalty).prop_map(|(temperature, top_k, top_p, min_p, penalty)| {
        Sampling { temperature, top_k, top_p, min_p, repetition_penalty: penalty }
    })
}

proptest! {
    #![proptest_config(cases(40))]

    #[test]
    fn tokens_follow_the_distribution_and_are_the_same_on_a_device(
        sampling in settings(),
        (rows, vocab) in (1usize..4, prop_oneof![1usize..60, 1usize..3000]),
        dtype in super::float_type(),
        seed in any::<u64>(),
    ) {
        let batch = Batch::draw(&mut Random::new(seed), rows, vocab, dtype);
        let here = batch.run(Device::Cpu, &sampling);
        batch.check(&here, &sampling);
        prop_assert_eq!(batch.run(cuda(), &sampling), here);
        let greedy = Sampling { temperature: 0.0, ..sampling };
        prop_assert_eq!(batch.run(cuda(), &greedy), batch.run(Device::Cpu, &greedy));
        assert_no_reports();
    }
}

/// More segments than a warp has lanes, and more tiles than one for each thread.
#[test]
fn large_vocabularies() {
    let mut random = Random::new(2);
    for (vocab, top_k, top_p) in [(40_000, 0, 0.9), (70_001, 0, 1.0), (33_000, 1000, 0.7), (20_000, 50, 1.0)]
    {
        let batch = Batch::draw(&mut random, 2, vocab, DType::BF16);
        let sampling = Sampling { temperature: 1.5, top_k, top_p, min_p: 1e-5, repetition_penalty: 1.1 };
        let here = batch.run(Device::Cpu, &sampling);
        batch.check(&here, &sampling);
        assert_eq!(batch.run(cuda(), &sampling), here);
    }
    assert_no_reports();
}

/// From distributions that have all their weight in one word to those in which all words weigh the same, and with words that have no chance: the
/// few words that top-k and top-p may leave are found before they are chosen from, and none may be missing.
#[test]
fn peaked_and_flat_distributions() {
    let mut random = Random::new(3);
    for temperature in [1e-38, 1e-3, 0.05, 1.0, 30.0, 1e5, 3e38] {
        for (top_k, top_p) in [(0, 0.3), (0, 0.999_999), (7, 1.0), (700, 0.9), (2999, 0.5)] {
            let mut batch = Batch::draw(&mut random, 2, 3000, DType::F32);
            let mut logits = batch.logits.as_f32().unwrap().to_vec();
            // One row has few words at all.
            logits.iter_mut().take(2990).for_each(|x| *x = f32::NEG_INFINITY);
            batch.logits = Tensor::from_f32(logits, &[2, 3000]);
            let sampling = Sampling { temperature, top_k, top_p, ..Sampling::default() };
            let here = batch.run(Device::Cpu, &sampling);
            assert_eq!(batch.run(cuda(), &sampling), here, "{sampling:?}");
        }
    }
    assert_no_reports();
}

/// Many rows of the same logits; uniform numbers cover the range evenly.
fn spread(device: Device, logits: &[f32], rows: usize, sampling: &Sampling) -> Vec<u32> {
    let vocab = logits.len();
    let logits = Tensor::from_f32(logits.repeat(rows), &[rows, vocab]).to_device(device).unwrap();
    let uniforms = (0..rows).map(|i| (i as f32 + 0.5) / rows as f32).collect();
    let uniforms = Tensor::from_f32(uniforms, &[rows]).to_device(device).unwrap();
    bits(&sample(&logits, None, &uniforms, sampling).unwrap())
}

#[test]
fn frequencies_are_the_probabilities_in_the_order_of_ids() {
    let logits: Vec<f32> = [0.3f32, 0.5, 0.2].iter().map(|p| p.ln()).collect();
    let sampling = Sampling { temperature: 1.0, ..Sampling::default() };
    let expected: Vec<u32> = [[0; 15].as_slice(), &[1; 25], &[2; 10]].concat();
    on_each(|device| assert_eq!(spread(device, &logits, 50, &sampling), expected));
}

#[test]
fn of_equals_top_p_keeps_the_first_and_top_k_all() {
    let logits = [0.0, 2.0, -1.0, 2.0, 2.0, 1.0, 2.0];
    let base = Sampling { temperature: 1.0, ..Sampling::default() };
    let left = |device, sampling: &Sampling| {
        let mut ids = spread(device, &logits, 24, sampling);
        ids.dedup();
        ids
    };
    on_each(|device| {
        assert_eq!(left(device, &Sampling { top_k: 2, ..base.clone() }), [1, 3, 4, 6]);
        // The four have a little less than a quarter of all each.
        assert_eq!(left(device, &Sampling { top_p: 0.3, ..base.clone() }), [1, 3]);
        assert_eq!(left(device, &Sampling { top_p: 0.5, ..base.clone() }), [1, 3, 4]);
        assert_eq!(left(device, &Sampling { top_p: 1e-6, ..base.clone() }), [1]);
        assert_eq!(left(device, &Sampling { top_p: 0.5, top_k: 1, ..base.clone() }), [1, 3]);
        assert_eq!(left(device, &Sampling { min_p: 0.2, ..base.clone() }), [1, 3, 4, 5, 6]);
        assert_eq!(left(device, &Sampling { min_p: 1.0, ..base.clone() }), [1, 3, 4, 6]);
    });
}

#[test]
fn greedy_takes_the_first_of_equals_also_in_another_part_of_the_vocabulary() {
    on_each(|device| {
        let best = |logits: Vec<f32>| {
            let vocab = logits.len();
            bits(&argmax(&Tensor::from_f32(logits, &[1, vocab]).to_device(device).unwrap()).unwrap())
        };
        assert_eq!(best(vec![0.0, 2.0, 2.0, -1.0]), [1]);
        assert_eq!(best(vec![-0.0, 0.0]), [0]);
        assert_eq!(best(vec![f32::NEG_INFINITY, -3e38]), [1]);
        for at in [[8191, 8192], [8192, 20_000], [300, 16_500], [20_001, 20_002]] {
            let mut logits = vec![-5.0; 20_003];
            at.iter().for_each(|&i| logits[i] = -4.5);
            assert_eq!(best(logits), [at[0] as u32]);
        }
    });
}

#[test]
fn rows_that_are_not_finite_are_marked_and_the_others_chosen() {
    let (nan, infinite) = (f32::NAN, f32::INFINITY);
    let rows = [
        [1.0, 3.0, 2.0],
        [1.0, nan, 2.0],
        [-infinite, 1.0, -infinite],
        [-infinite; 3],
        [0.0, 1.0, infinite],
        [-nan, 9.0, 1.0],
    ];
    let logits = Tensor::from_f32(rows.concat(), &[6, 3]);
    let expected = [1, NOT_FINITE, 1, NOT_FINITE, NOT_FINITE, NOT_FINITE];
    on_each(|device| {
        let logits = logits.to_device(device).unwrap();
        let uniforms = Tensor::full_on(device, &[6], DType::F32, 0.5).unwrap();
        assert_eq!(bits(&argmax(&logits).unwrap()), expected);
        let base = Sampling { temperature: 0.1, ..Sampling::default() };
        for sampling in [base.clone(), Sampling { top_k: 2, top_p: 0.9, ..base }] {
            assert_eq!(bits(&sample(&logits, None, &uniforms, &sampling).unwrap()), expected);
        }
        let none = Tensor::zeros_on(device, &[2, 0], DType::F32).unwrap();
        assert_eq!(bits(&argmax(&none).unwrap()), [NOT_FINITE; 2]);
        let none = Tensor::zeros_on(device, &[0, 5], DType::F32).unwrap();
        assert!(bits(&argmax(&none).unwrap()).is_empty());
    });
}

#[test]
fn operands_that_do_not_fit_are_named() {
    let (logits, uniforms) = (Tensor::zeros(&[2, 3], DType::F32), Tensor::zeros(&[2], DType::F32));
    let sampling = Sampling::default();
    let text = |result: warptune::Result<Tensor>| result.unwrap_err().to_string();
    assert!(text(sample(&logits, None, &Tensor::zeros(&[3], DType::F32), &sampling)).contains("uniforms"));
    assert!(text(sample(&Tensor::zeros(&[2, 3], DType::BF16), None, &uniforms, &sampling)).contains("f32"));
    assert!(text(sample(&uniforms, None, &uniforms, &sampling)).contains("a matrix is expected"));
    let (tokens, lengths) = (Tensor::zeros(&[2, 5], DType::U32), Tensor::zeros(&[3], DType::U32));
    let history = Some(History { tokens: &tokens, lengths: &lengths });
    assert!(text(sample(&logits, history, &uniforms, &sampling)).contains("lengths"));
    let bad = Sampling { top_p: 0.0, ..sampling.clone() };
    assert!(text(sample(&logits, None, &uniforms, &bad)).contains("top_p"));
    let there = logits.to_device(cuda()).unwrap();
    assert!(text(sample(&there, None, &uniforms, &sampling)).contains("operands in two places"));
    let wide = Tensor::zeros_on(cuda(), &[1, (1 << 20) + 1], DType::F32).unwrap();
    assert!(text(argmax(&wide)).contains("a vocabulary of 1048577"));
}
