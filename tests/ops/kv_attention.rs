//! Attention over a cache.

use proptest::prelude::*;
use warptune::autograd::{Tape, Var};
use warptune::ops::attention::attention;
use warptune::ops::kv_attention::{KvAttentionSpec, KvView, kv_attention};
use warptune::tensor::{DType, Tensor};

use super::attention::{any_shape, shape, softmax_roundings, spec as packed_spec};
use super::{cases, float_type};
use crate::reference::attention::{Shape, attention as oracle};
use crate::reference::{cast, stored};
use crate::support::random::Random;
use crate::support::tolerance::{Tolerance, assert_close};
use crate::support::{bits, under_thread_counts, values};

fn spec(shape: &Shape) -> KvAttentionSpec {
    KvAttentionSpec {
        heads: shape.heads,
        kv_heads: shape.kv_heads,
        head_dim: shape.dim,
        scale: shape.scale as f32,
        window: shape.window,
    }
}

/// Queries of all sequences, and each one's keys and values.
struct Inputs {
    q: Tensor,
    new: Vec<usize>,
    caches: Vec<(Vec<f32>, Vec<f32>)>,
}

impl Inputs {
    /// Sequences of (new tokens, tokens before them).
    fn draw(random: &mut Random, shape: &Shape, lens: &[(usize, usize)], dtype: DType) -> Inputs {
        let new: Vec<usize> = lens.iter().map(|l| l.0).collect();
        let q = random.tensor(&[new.iter().sum(), shape.heads * shape.dim], dtype, 1.0);
        let cols = shape.kv_heads * shape.dim;
        let caches =
            lens.iter().map(|(a, b)| (random.vec((a + b) * cols, 1.0), random.vec((a + b) * cols, 1.0)));
        Inputs { q, new, caches: caches.collect() }
    }

    fn run(&self, shape: &Shape) -> Tensor {
        let cols = shape.kv_heads * shape.dim;
        let views: Vec<_> = self.caches.iter().map(|(k, v)| KvView { k, v, len: k.len() / cols }).collect();
        kv_attention(&self.q, &self.new, &views, &spec(shape)).unwrap()
    }
}

proptest! {
    #![proptest_config(cases(48))]

    #[test]
    fn values_match_the_oracle(
        shape in any_shape(),
        lens in prop::collection::vec((prop_oneof![0usize..6, 60usize..70], prop_oneof![0usize..5, 60usize..150]), 0..4),
        dtype in float_type(),
        seed in any::<u64>(),
    ) {
        let shape = Shape { causal: true, ..shape };
        let inputs = Inputs::draw(&mut Random::new(seed), &shape, &lens, dtype);
        let out = inputs.run(&shape);
        prop_assert_eq!(out.dtype(), dtype);
        let mut start = 0;
        for (&new, (k, v)) in inputs.new.iter().zip(&inputs.caches) {
            let q = values(&inputs.q.rows(start, new).unwrap());
            let (k64, v64) = (cast::<_, f64>(k), cast::<_, f64>(v));
            let exact = oracle(&shape, &q, &k64, &v64);
            let size = oracle(&shape, &q, &k64, &v64.iter().map(|x| x.abs()).collect::<Vec<_>>());
            let naive = stored(&oracle(&shape, &cast::<_, f32>(&q), k, v), dtype);
            let tolerance = Tolerance::twice_naive(&naive, &exact)
                .plus(Tolerance::rounding(DType::F32, softmax_roundings(&shape, &q, &k64), &size))
                .plus(Tolerance::rounding(dtype, 1.0, &exact));
            assert_close(&format!("{new} of {}", k64.len()), &out.rows(start, new).unwrap(), &exact, &tolerance);
            start += new;
        }
    }
}

/// A prompt in one go, in chunks, or token by token: as training sees it.
#[test]
fn agrees_with_attention_over_the_whole_sequence() {
    let mut random = Random::new(8);
    for window in [None, Some(70)] {
        let shape = shape(6, 2, 32, true, window);
        let tokens = 150;
        let q = random.tensor(&[tokens, 6 * 32], DType::F32, 1.0);
        let k = random.tensor(&[tokens, 2 * 32], DType::F32, 1.0);
        let v = random.tensor(&[tokens, 2 * 32], DType::F32, 1.0);
        let [qv, kv, vv] = [&q, &k, &v].map(|x| Var::constant(x.clone()));
        let whole = attention(&Tape::inference(), &qv, &kv, &vv, &packed_spec(&shape, &[tokens])).unwrap();
        for new in [1, 4, 5, 63, 64, 90, 150] {
            let cache = KvView { k: k.as_f32().unwrap(), v: v.as_f32().unwrap(), len: tokens };
            let newest = q.rows(tokens - new, new).unwrap();
            let ours = kv_attention(&newest, &[new], &[cache], &spec(&shape)).unwrap();
            let theirs = whole.value().rows(tokens - new, new).unwrap();
            if new > 4 {
                assert_eq!(bits(&ours), bits(&theirs), "{new} new tokens");
            }
            let ones = vec![1.0; new * 6 * 32];
            assert_close("decoded", &ours, &values(&theirs), &Tolerance::rounding(DType::F32, 32.0, &ones));
        }
    }
}

#[test]
fn same_bits_alone_in_company_and_on_every_run() {
    let mut random = Random::new(9);
    let shape = shape(6, 2, 64, true, None);
    let lens = [(1, 300), (70, 0), (0, 5), (1, 0), (3, 128), (9, 100)];
    for dtype in [DType::F32, DType::BF16] {
        let inputs = Inputs::draw(&mut random, &shape, &lens, dtype);
        let [one, two, again] = under_thread_counts(|| bits(&inputs.run(&shape)));
        assert!(one == two && two == again);
        let mut start = 0;
        for (new, cache) in inputs.new.iter().zip(&inputs.caches) {
            let q = inputs.q.rows(start, *new).unwrap();
            let alone = Inputs { q, new: vec![*new], caches: vec![cache.clone()] };
            let width = 6 * 64;
            assert!(
                bits(&alone.run(&shape)) == one[start * width..(start + new) * width],
                "sequence at {start}"
            );
            start += new;
        }
    }
}

#[test]
fn large_scores_do_not_overflow() {
    let shape = shape(1, 1, 16, true, None);
    let k = [vec![100.0f32; 16], vec![-100.0; 16]].concat();
    let v = [vec![1.0f32; 16], vec![2.0; 16]].concat();
    let q = Tensor::from_f32(vec![100.0; 16], &[1, 16]);
    let out = kv_attention(&q, &[1], &[KvView { k: &k, v: &v, len: 2 }], &spec(&shape)).unwrap();
    assert_eq!(values(&out), [1.0; 16]);
}

#[test]
fn lengths_that_contradict_each_other_are_named() {
    let good = shape(4, 2, 8, true, None);
    let (k, v) = (vec![0.0f32; 3 * 16], vec![0.0f32; 3 * 16]);
    let cache = KvView { k: &k, v: &v, len: 3 };
    let run = |rows: usize, new: &[usize], caches: &[KvView<'_>]| {
        kv_attention(&Tensor::zeros(&[rows, 32], DType::F32), new, caches, &spec(&good))
            .map(|_| ())
            .map_err(|e| e.to_string())
    };
    assert_eq!(run(2, &[2], &[cache]), Ok(()));
    assert_eq!(run(0, &[], &[]), Ok(()));
    assert_eq!(
        run(4, &[4], &[cache]).unwrap_err(),
        "kv_attention: sequence 0: 4 new tokens, a cache of 3 tokens with 48 elements of keys and 48 of values"
    );
    assert!(run(2, &[1], &[cache]).is_err());
    assert!(run(2, &[1, 1], &[cache]).is_err());
    assert!(run(2, &[usize::MAX, 3], &[cache, cache]).is_err());
    assert!(run(2, &[2], &[KvView { len: 4, ..cache }]).is_err());
    assert!(run(2, &[2], &[KvView { v: &v[1..], ..cache }]).is_err());
    assert!(run(2, &[2], &[KvView { len: usize::MAX, ..cache }]).is_err());
    let q = Tensor::zeros(&[2, 31], DType::F32);
    assert!(kv_attention(&q, &[2], &[cache], &spec(&good)).is_err());
    let q = Tensor::zeros(&[2, 32], DType::U32);
    assert!(kv_attention(&q, &[2], &[cache], &spec(&good)).is_err());
}
