//! Attention over a cache.

use proptest::prelude::*;
use warptune::autograd::{Tape, Var};
use warptune::device::Device;
use warptune::nn::{KvCache, KvPass};
use warptune::ops::attention::attention;
use warptune::ops::kv_attention::{KvAttentionSpec, KvView, kv_attention};
use warptune::ops::rope::{RopePairing, RopeScaling, RopeTable, rope};
use warptune::tensor::{DType, Tensor};

use super::attention::{any_shape, shape, softmax_roundings, spec as packed_spec};
use super::{FLOATS, cases, float_type, half_type};
use crate::reference::attention::{Shape, attention as oracle};
use crate::reference::{cast, stored};
use crate::support::devices::{assert_no_reports, cuda, on_each};
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

/// Queries of all sequences, and each one's keys and values (as the queries' type can hold them).
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
        let mut rows = |n: usize| random.tensor(&[n, cols], dtype, 1.0).fetch_f32().unwrap();
        let caches = lens.iter().map(|(a, b)| (rows(a + b), rows(a + b)));
        Inputs { q, new, caches: caches.collect() }
    }

    fn run(&self, shape: &Shape) -> Tensor {
        self.run_at(Device::Cpu, shape)
    }

    /// The output, in host memory.
    fn run_at(&self, device: Device, shape: &Shape) -> Tensor {
        if device == Device::Cpu {
            let cols = shape.kv_heads * shape.dim;
            let views: Vec<_> =
                self.caches.iter().map(|(k, v)| KvView { k, v, len: k.len() / cols }).collect();
            return kv_attention(&self.q, &self.new, &views, &spec(shape)).unwrap();
        }
        let mut caches: Vec<KvCache> =
            self.caches.iter().map(|_| cache(device, shape, self.q.dtype())).collect();
        let tokens = self.caches.iter().map(|(k, _)| k.len() / (shape.kv_heads * shape.dim));
        let past: Vec<usize> = tokens.zip(&self.new).map(|(all, new)| all - new).collect();
        self.extend(device, shape, &mut caches, &vec![0; past.len()], &past, None);
        let q = self.q.to_device(device).unwrap();
        self.extend(device, shape, &mut caches, &past, &self.new, Some(&q)).unwrap()
    }

    /// Takes keys and values `past[i] .. past[i] + new[i]` of each sequence into the caches, into the second of two layers (the first
    /// gets them the other way round), and attends with q.
    fn extend(
        &self,
        device: Device,
        shape: &Shape,
        caches: &mut [KvCache],
        past: &[usize],
        new: &[usize],
        q: Option<&Tensor>,
    ) -> Option<Tensor> {
        let cols = shape.kv_heads * shape.dim;
        let rows = |which: usize| {
            let mut all = Vec::new();
            for ((k, v), (past, new)) in self.caches.iter().zip(past.iter().zip(new)) {
                all.extend_from_slice(&[k, v][which][past * cols..(past + new) * cols]);
            }
            let shape = [all.len() / cols, cols];
            Tensor::from_f32(all, &shape).to_dtype(self.q.dtype()).unwrap().to_device(device).unwrap()
        };
        let (k, v) = (rows(0), rows(1));
        let mut refs: Vec<&mut KvCache> = caches.iter_mut().collect();
        let mut pass = KvPass::begin(&mut refs, new).unwrap();
        pass.append(0, &v, &k).unwrap();
        pass.append(1, &k, &v).unwrap();
        let out = q.map(|q| pass.attend(1, q, &spec(shape)).unwrap());
        let lens: Vec<usize> = past.iter().zip(new).map(|(a, b)| a + b).collect();
        assert_eq!(caches.iter().map(KvCache::len).collect::<Vec<_>>(), lens);
        out.map(|out| {
            assert_eq!(out.device(), device);
            out.to_device(Device::Cpu).unwrap()
        })
    }

    /// Compares an output with the oracle.
    #[track_caller]
    fn check(&self, shape: &Shape, out: &Tensor) {
        let dtype = self.q.dtype();
        assert_eq!(out.dtype(), dtype);
        let mut start = 0;
        for (&new, (k, v)) in self.new.iter().zip(&self.caches) {
            let q = values(&self.q.rows(start, new).unwrap());
            let (k64, v64) = (cast::<_, f64>(k), cast::<_, f64>(v));
            let exact = oracle(shape, &q, &k64, &v64);
            let size = oracle(shape, &q, &k64, &v64.iter().map(|x| x.abs()).collect::<Vec<_>>());
            let naive = stored(&oracle(shape, &cast::<_, f32>(&q), k, v), dtype);
            let tolerance = Tolerance::twice_naive(&naive, &exact)
                .plus(Tolerance::rounding(DType::F32, softmax_roundings(shape, &q, &k64), &size))
                .plus(Tolerance::rounding(dtype, 1.0, &exact));
            let what = format!("{new} of {} tokens", k.len() / (shape.kv_heads * shape.dim));
            assert_close(&what, &out.rows(start, new).unwrap(), &exact, &tolerance);
            start += new;
        }
    }
}

/// An empty cache of two layers.
fn cache(device: Device, shape: &Shape, dtype: DType) -> KvCache {
    KvCache::on(device, 2, [shape.kv_heads, shape.dim], dtype).unwrap()
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
        on_each(|device| inputs.check(&shape, &inputs.run_at(device, &shape)));
    }
}

/// Sequences that end before, at and behind the end of a page; split over pages and not; more rows than a tile has; windows that begin
/// within a page; heads of every kernel, whole packs and not.
#[test]
fn pages_and_tiles() {
    let mut random = Random::new(12);
    let lens = [(1, 255), (1, 256), (3, 510), (16, 250), (17, 500), (0, 3), (1, 0)];
    let cases = [
        (10, 2, 64, None),
        (1, 1, 128, Some(300)),
        (3, 3, 72, Some(256)),
        (2, 1, 250, Some(2)),
        (4, 1, 256, None),
        (5, 1, 129, None),
        (1, 1, 57, None),
    ];
    for (case, (heads, kv_heads, dim, window)) in cases.into_iter().enumerate() {
        let shape = shape(heads, kv_heads, dim, true, window);
        for dtype in [DType::F32, half_type(case)] {
            let inputs = Inputs::draw(&mut random, &shape, &lens, dtype);
            inputs.check(&shape, &inputs.run_at(cuda(), &shape));
            assert_no_reports();
        }
    }
}

/// Sequences with many new tokens and with few side by side, prompts and chunks that go on within a page and behind one, more than a tile
/// of queries; windows; heads of every kernel, whole packs and not.
#[test]
fn prompts_and_chunks() {
    let mut random = Random::new(14);
    let lens = [(70, 0), (2, 300), (64, 250), (20, 30), (0, 3), (150, 106), (63, 1), (1, 0)];
    let cases = [(4, 2, 64, Some(100)), (2, 2, 72, None), (2, 1, 20, Some(1)), (1, 1, 250, Some(300))];
    for (case, (heads, kv_heads, dim, window)) in cases.into_iter().enumerate() {
        let shape = shape(heads, kv_heads, dim, true, window);
        for dtype in [DType::F32, half_type(case)] {
            let inputs = Inputs::draw(&mut random, &shape, &lens, dtype);
            inputs.check(&shape, &inputs.run_at(cuda(), &shape));
            assert_no_reports();
        }
    }
}

proptest! {
    #![proptest_config(cases(6))]

    /// A prompt at once, or in chunks, or token by token: all within the tolerance of exact attention, and at once or in chunks, where
    /// these are of many tokens, the same bits.
    #[test]
    fn a_prompt_at_once_is_as_one_in_chunks_and_token_by_token(
        (kv_heads, group, dim) in (1usize..3, 1usize..3, prop_oneof![Just(16usize), Just(20), Just(64), Just(80)]),
        window in prop_oneof![Just(None), (1usize..200).prop_map(Some)],
        chunks in prop::collection::vec(64usize..100, 1..4),
        dtype in float_type(),
        seed in any::<u64>(),
    ) {
        let shape = shape(group * kv_heads, kv_heads, dim, true, window);
        let tokens: usize = chunks.iter().sum();
        let inputs = Inputs::draw(&mut Random::new(seed), &shape, &[(tokens, 0)], dtype);
        let grow = |steps: &[usize]| {
            let mut caches = [cache(cuda(), &shape, dtype)];
            let mut past = 0;
            let mut all = Vec::new();
            for &new in steps {
                let q = inputs.q.rows(past, new).unwrap().to_device(cuda()).unwrap();
                let out = inputs.extend(cuda(), &shape, &mut caches, &[past], &[new], Some(&q));
                all.extend(out.unwrap().fetch_f32().unwrap());
                past += new;
            }
            Tensor::from_f32(all, inputs.q.shape()).to_dtype(dtype).unwrap()
        };
        let whole = grow(&[tokens]);
        inputs.check(&shape, &whole);
        prop_assert!(bits(&grow(&chunks)) == bits(&whole));
        inputs.check(&shape, &grow(&vec![1; tokens]));
        assert_no_reports();
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
    for dtype in FLOATS {
        let inputs = Inputs::draw(&mut random, &shape, &lens, dtype);
        let alone = |device| {
            let mut start = 0;
            let each = inputs.new.iter().zip(&inputs.caches).flat_map(|(&new, cache)| {
                let q = inputs.q.rows(start, new).unwrap();
                start += new;
                let alone = Inputs { q, new: vec![new], caches: vec![cache.clone()] };
                bits(&alone.run_at(device, &shape))
            });
            each.collect::<Vec<_>>()
        };
        let [one, two, again] = under_thread_counts(|| bits(&inputs.run(&shape)));
        assert!(one == two && two == again);
        assert!(alone(Device::Cpu) == one);
        let [one, two] = [(); 2].map(|()| bits(&inputs.run_at(cuda(), &shape)));
        assert!(one == two);
        assert!(alone(cuda()) == one);
    }
    assert_no_reports();
}

/// How many tokens at a time a sequence grew by changes no bit of a device's answer, as long as they are few.
#[test]
fn same_bits_however_many_tokens_at_a_time() {
    let mut random = Random::new(10);
    for (dtype, window) in [(DType::BF16, None), (DType::F16, Some(40)), (DType::F32, Some(200))] {
        let shape = shape(6, 2, 32, true, window);
        let inputs = Inputs::draw(&mut random, &shape, &[(20, 245)], dtype);
        let grow = |step: usize| {
            let mut caches = [cache(cuda(), &shape, dtype)];
            inputs.extend(cuda(), &shape, &mut caches, &[0], &[245], None);
            let mut all = Vec::new();
            for start in (0..20).step_by(step) {
                let new = step.min(20 - start);
                let q = inputs.q.rows(start, new).unwrap().to_device(cuda()).unwrap();
                let out = inputs.extend(cuda(), &shape, &mut caches, &[245 + start], &[new], Some(&q));
                all.extend(bits(&out.unwrap()));
            }
            all
        };
        let single = grow(1);
        assert!([3, 10, 16].iter().all(|&step| grow(step) == single), "{dtype} {window:?}");
    }
    assert_no_reports();
}

/// Keys that are turned on their way into the cache, with the queries: the bits of a rotary embedding of each, and of an append.
#[test]
fn turned_on_the_way_in() {
    let mut random = Random::new(13);
    let lens = [(3, 0), (1, 255), (0, 4), (40, 250), (1, 256), (1, 0)];
    let new: Vec<usize> = lens.iter().map(|l| l.0).collect();
    let past: Vec<usize> = lens.iter().map(|l| l.1).collect();
    for (heads, kv_heads, dim) in [(6, 2, 64), (2, 1, 72), (3, 3, 10), (4, 1, 256)] {
        let shape = shape(heads, kv_heads, dim, true, None);
        for pairing in [RopePairing::Half, RopePairing::Interleaved] {
            let table = RopeTable::new(dim, 10_000.0, RopeScaling::None, pairing).unwrap();
            for dtype in [DType::F32, DType::BF16] {
                let inputs = Inputs::draw(&mut random, &shape, &lens, dtype);
                let rows = new.iter().sum();
                let [k, v] = [(); 2].map(|()| random.tensor(&[rows, kv_heads * dim], dtype, 1.0));
                let positions = lens.iter().flat_map(|&(new, past)| past..past + new).map(|p| p as u32);
                let positions = Tensor::from_u32(positions.collect(), &[rows]);
                on_each(|device| {
                    let there = |x: &Tensor| x.to_device(device).unwrap();
                    let [q, k, v, positions] = [there(&inputs.q), there(&k), there(&v), there(&positions)];
                    let begin = || {
                        let mut caches: Vec<KvCache> =
                            lens.iter().map(|_| cache(device, &shape, dtype)).collect();
                        inputs.extend(device, &shape, &mut caches, &vec![0; lens.len()], &past, None);
                        caches
                    };
                    let (mut separate, mut fused) = (begin(), begin());
                    let mut refs: Vec<&mut KvCache> = separate.iter_mut().collect();
                    let mut pass = KvPass::begin(&mut refs, &new).unwrap();
                    let turned = |x: &Tensor| {
                        let x = Var::constant(x.clone());
                        rope(&Tape::inference(), &x, &positions, &table, dim).unwrap().into_value()
                    };
                    let (turned_q, turned_k) = (turned(&q), turned(&k));
                    pass.append(0, &v, &turned_k).unwrap();
                    pass.append(1, &turned_k, &v).unwrap();
                    let expected = bits(&pass.attend(1, &turned_q, &spec(&shape)).unwrap());

                    let mut refs: Vec<&mut KvCache> = fused.iter_mut().collect();
                    let mut pass = KvPass::begin(&mut refs, &new).unwrap();
                    pass.append(0, &v, &turned_k).unwrap();
                    let q = pass.append_turned(1, [&q, &k, &v], &positions, &table).unwrap();
                    assert_eq!(bits(&q), bits(&turned_q), "queries of {dtype}, heads of {dim}");
                    let ours = bits(&pass.attend(1, &q, &spec(&shape)).unwrap());
                    assert!(ours == expected, "{dtype}, heads of {dim}, {pairing:?}, on {device}");
                    let total: Vec<usize> = lens.iter().map(|(new, past)| new + past).collect();
                    assert_eq!(fused.iter().map(KvCache::len).collect::<Vec<_>>(), total);
                });
            }
        }
    }
}

/// Clones share memory, and yet each goes its own way; what was cut off can be written again.
#[test]
fn clones_of_a_cache_on_a_device_part_when_they_grow() {
    let mut random = Random::new(11);
    let shape = shape(2, 1, 16, true, None);
    let first = Inputs::draw(&mut random, &shape, &[(2, 300)], DType::BF16);
    // The same past, another continuation.
    let mut second = Inputs::draw(&mut random, &shape, &[(2, 300)], DType::BF16);
    let past = 300 * 16;
    second.caches[0].0[..past].copy_from_slice(&first.caches[0].0[..past]);
    second.caches[0].1[..past].copy_from_slice(&first.caches[0].1[..past]);
    let expected = [&first, &second].map(|inputs| bits(&inputs.run_at(cuda(), &shape)));
    assert!(expected[0] != expected[1]);
    let go_on = |inputs: &Inputs, caches: &mut [KvCache]| {
        let q = inputs.q.to_device(cuda()).unwrap();
        bits(&inputs.extend(cuda(), &shape, caches, &[300], &[2], Some(&q)).unwrap())
    };
    let mut original = [cache(cuda(), &shape, DType::BF16)];
    original[0].reserve(1000).unwrap();
    first.extend(cuda(), &shape, &mut original, &[0], &[300], None);
    let mut clone = original.clone();
    assert_eq!(go_on(&first, &mut original), expected[0]);
    assert_eq!(go_on(&second, &mut clone), expected[1]);
    for (inputs, expected) in [(&second, &expected[1]), (&first, &expected[0])] {
        original[0].truncate(300);
        assert_eq!(&go_on(inputs, &mut original), expected);
    }
    assert_no_reports();
}

#[test]
fn large_scores_do_not_overflow() {
    let shape = shape(1, 1, 16, true, None);
    let k = [vec![100.0f32; 16], vec![-100.0; 16]].concat();
    let v = [vec![1.0f32; 16], vec![2.0; 16]].concat();
    let q = Tensor::from_f32(vec![100.0; 16], &[1, 16]);
    for dtype in FLOATS {
        let inputs =
            Inputs { q: q.to_dtype(dtype).unwrap(), new: vec![1], caches: vec![(k.clone(), v.clone())] };
        on_each(|device| assert_eq!(values(&inputs.run_at(device, &shape)), [1.0; 16]));
    }
}

/// A value that is not a number reaches the sequence that has it, and no other.
#[test]
fn not_a_number_stays_in_its_sequence() {
    let mut random = Random::new(13);
    let shape = shape(2, 2, 16, true, None);
    for dtype in FLOATS {
        let mut inputs = Inputs::draw(&mut random, &shape, &[(1, 20), (2, 300), (1, 20)], dtype);
        inputs.caches[1].0[5] = f32::NAN;
        on_each(|device| {
            let out = values(&inputs.run_at(device, &shape));
            // The key is of head 0, which has the first 16 of a row's 32 columns.
            for (i, x) in out.iter().enumerate() {
                assert_eq!(x.is_nan(), (32..96).contains(&i) && i % 32 < 16, "element {i} on {device}");
            }
        });
    }
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

#[test]
fn caches_and_operands_that_do_not_fit_a_pass_are_named() {
    let shape = shape(4, 2, 8, true, None);
    let device = cuda();
    let zeros = |rows, cols, dtype| Tensor::zeros_on(device, &[rows, cols], dtype).unwrap();
    let mut cache = cache(device, &shape, DType::BF16);
    let mut host = KvCache::new(2, 16);
    let mut other = KvCache::on(device, 2, [2, 8], DType::F32).unwrap();
    let kinds = "key/value cache: the sequences' caches are not all of one kind and in one place";
    let begin = |caches: &mut [&mut KvCache], new: &[usize]| {
        KvPass::begin(caches, new).map(|_| ()).map_err(|e| e.to_string())
    };
    assert_eq!(begin(&mut [&mut cache, &mut host], &[1, 1]).unwrap_err(), kinds);
    assert_eq!(begin(&mut [&mut host, &mut cache], &[1, 1]).unwrap_err(), kinds);
    assert_eq!(begin(&mut [&mut cache, &mut other], &[1, 1]).unwrap_err(), kinds);
    assert_eq!(begin(&mut [&mut cache], &[]).unwrap_err(), "key/value cache: 1 caches for 0 sequences");
    assert_eq!(begin(&mut [], &[]), Ok(()));
    let wide = &mut KvCache::on(device, 1, [1, 257], DType::BF16).unwrap();
    assert!(
        begin(&mut [wide], &[1])
            .unwrap_err()
            .contains("heads of 257 bf16 elements; f32, bf16 or f16, at most 256")
    );

    let mut caches = [&mut cache];
    let mut pass = KvPass::begin(&mut caches, &[3]).unwrap();
    let (k, q) = (zeros(3, 16, DType::BF16), zeros(3, 32, DType::BF16));
    let spec = spec(&shape);
    assert!(
        pass.append(0, &k, &zeros(2, 16, DType::BF16))
            .unwrap_err()
            .to_string()
            .contains("[2, 16]; [3, 16] expected")
    );
    assert!(
        pass.append(0, &zeros(3, 16, DType::F32), &k)
            .unwrap_err()
            .to_string()
            .contains("a f32 operand, a cache of bf16")
    );
    assert!(pass.append(2, &k, &k).unwrap_err().to_string().contains("layer 2 of a cache of 2 layers"));
    assert!(pass.append(0, &k, &Tensor::zeros(&[3, 16], DType::BF16)).is_err(), "from the host");
    let table = |dim| RopeTable::new(dim, 1e4, RopeScaling::None, RopePairing::Half).unwrap();
    let positions = |n| Tensor::from_u32((0..n).collect(), &[n as usize]).to_device(device).unwrap();
    let mut turned = |layer, [q, k, v]: [&Tensor; 3], n, dim| {
        pass.append_turned(layer, [q, k, v], &positions(n), &table(dim)).map_err(|e| e.to_string())
    };
    assert!(turned(0, [&q, &k, &k], 3, 4).unwrap_err().contains("heads of 8, and a table for heads of 4"));
    assert!(turned(0, [&q, &k, &k], 2, 8).unwrap_err().contains("[2] positions for 3 tokens"));
    assert!(turned(0, [&zeros(3, 20, DType::BF16), &k, &k], 3, 8).is_err());
    assert!(turned(0, [&q, &k, &zeros(3, 16, DType::F32)], 3, 8).is_err());
    assert!(turned(2, [&q, &k, &k], 3, 8).is_err());
    pass.append(0, &k, &k).unwrap();
    assert!(pass.attend(0, &zeros(3, 31, DType::BF16), &spec).is_err());
    assert!(pass.attend(0, &zeros(3, 32, DType::F32), &spec).is_err());
    assert!(pass.attend(5, &q, &spec).is_err());
    assert!(pass.attend(0, &q, &KvAttentionSpec { kv_heads: 1, ..spec }).is_err());
    pass.attend(0, &q, &spec).unwrap();
    assert_eq!(cache.len(), 0, "the last layer is missing");
    assert_no_reports();

    let mut caches = [&mut host];
    let mut pass = KvPass::begin(&mut caches, &[3]).unwrap();
    let k = Tensor::zeros(&[3, 16], DType::F32);
    assert!(pass.append(0, &k, &Tensor::zeros(&[3, 15], DType::F32)).is_err());
    assert!(pass.append(2, &k, &k).is_err());
    assert!(pass.attend(2, &Tensor::zeros(&[3, 32], DType::F32), &spec).is_err());
}
