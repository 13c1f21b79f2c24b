//! Attention over packed batches.

use half::{bf16, f16};
use proptest::prelude::*;
use warptune::autograd::{Tape, Var};
use warptune::device::Device;
use warptune::ops::attention::{AttentionSpec, CuSeqlens, attention};
use warptune::tensor::{DType, Tensor};

use super::{FLOATS, cases, float_type, half_type};
use crate::reference::attention::{
    Shape, attention as oracle, attention_backward, attention_backward_rounded, attention_rounded,
    backward_magnitude,
};
use crate::reference::{cast, stored};
use crate::support::devices::{assert_no_reports, cuda, on_each};
use crate::support::gradcheck::{
    Outcome, assert_deterministic, assert_repeatable, check_oracle, dot, forward_backward_at, run_at,
};
use crate::support::random::Random;
use crate::support::tolerance::{Tolerance, assert_close};
use crate::support::{bits, values};

/// Heads, key/value heads and their size, with the usual scale.
pub fn shape(heads: usize, kv_heads: usize, dim: usize, causal: bool, window: Option<usize>) -> Shape {
    Shape { heads, kv_heads, dim, scale: f64::from(1.0 / (dim as f32).sqrt()), causal, window }
}

pub fn spec(shape: &Shape, lens: &[usize]) -> AttentionSpec {
    let mut ends = vec![0];
    for len in lens {
        ends.push(ends.last().unwrap() + len);
    }
    AttentionSpec {
        heads: shape.heads,
        kv_heads: shape.kv_heads,
        head_dim: shape.dim,
        scale: shape.scale as f32,
        causal: shape.causal,
        window: shape.window,
        cu_seqlens: ends.into(),
    }
}

/// q, k, v and the output's gradient.
struct Inputs {
    qkv: [Tensor; 3],
    dout: Tensor,
}

impl Inputs {
    fn draw(random: &mut Random, shape: &Shape, tokens: usize, dtype: DType, std: f64) -> Inputs {
        let (q, kv) = ([tokens, shape.heads * shape.dim], [tokens, shape.kv_heads * shape.dim]);
        let qkv =
            [random.tensor(&q, dtype, std), random.tensor(&kv, dtype, std), random.tensor(&kv, dtype, 1.0)];
        Inputs { qkv, dout: random.tensor(&q, dtype, 1.0) }
    }

    fn run_at(&self, device: Device, shape: &Shape, lens: &[usize]) -> Outcome {
        let spec = spec(shape, lens);
        let op = |tape: &Tape, v: &[Var]| attention(tape, &v[0], &v[1], &v[2], &spec);
        forward_backward_at(device, &self.qkv, &self.dout, op).unwrap()
    }

    fn rows(&self, start: usize, len: usize) -> Inputs {
        let rows = |x: &Tensor| x.rows(start, len).unwrap();
        Inputs { qkv: self.qkv.each_ref().map(rows), dout: rows(&self.dout) }
    }
}

/// A bound on the relative error of a softmax: a rounding of each product in the largest score, and of the exponential.
pub fn softmax_roundings(shape: &Shape, q: &[f64], k: &[f64]) -> f64 {
    let norm = |x: &[f64]| {
        x.chunks(shape.dim).map(|x| x.iter().map(|x| x * x).sum::<f64>().sqrt()).fold(0.0, f64::max)
    };
    4.0 + 2.0 * norm(q) * norm(k) * shape.scale
}

/// The kernels on tensor cores round probabilities, and gradients of scores, to their type before the second product.
fn rounded_to(dtype: DType, x: f32) -> f32 {
    match dtype {
        DType::BF16 => bf16::from_f32(x).to_f32(),
        DType::F16 => f16::from_f32(x).to_f32(),
        _ => x,
    }
}

fn check(device: Device, inputs: &Inputs, shape: &Shape, lens: &[usize]) {
    let outcome = inputs.run_at(device, shape, lens);
    let dtype = inputs.qkv[0].dtype();
    let rounds = dtype != DType::F32 && device != Device::Cpu;
    let round = |x: f32| if rounds { rounded_to(dtype, x) } else { x };
    let mut start = 0;
    for (i, &len) in lens.iter().enumerate() {
        let part = inputs.rows(start, len);
        let [q, k, v] = part.qkv.each_ref().map(values);
        let dout = values(&part.dout);
        let [q32, k32, v32, dout32] = [&q, &k, &v, &dout].map(|x| cast::<f64, f32>(x));
        let roundings = softmax_roundings(shape, &q, &k);
        // `rounded`: how many roundings to 16 bits there are of what is summed.
        let tolerance = |naive: &[f32], exact: &[f64], size: &[f64], rounded: f64| {
            Tolerance::twice_naive(&stored(naive, dtype), exact)
                .plus(Tolerance::rounding(DType::F32, roundings, size))
                .plus(Tolerance::rounding(dtype, rounded, size))
                .plus(Tolerance::rounding(dtype, 1.0, exact))
        };
        let exact = oracle(shape, &q, &k, &v);
        let naive = attention_rounded(shape, &q32, &k32, &v32, round);
        let size = oracle(shape, &q, &k, &v.iter().map(|x| x.abs()).collect::<Vec<_>>());
        let out = outcome.output.rows(start, len).unwrap();
        assert_eq!(out.dtype(), dtype);
        let rounded = f64::from(u8::from(rounds));
        let what = format!("{shape:?} {dtype} on {device}, sequence {i} of {lens:?}");
        assert_close(&format!("{what}: o"), &out, &exact, &tolerance(&naive, &exact, &size, rounded));

        let exact = attention_backward(shape, &q, &k, &v, &dout);
        let naive = attention_backward_rounded(shape, &q32, &k32, &v32, &dout32, round);
        let size = backward_magnitude(shape, &q, &k, &v, &dout);
        // delta is found from the output as it was stored.
        let delta = f64::from(u8::from(dtype != DType::F32));
        for (g, name) in ["dq", "dk", "dv"].into_iter().enumerate() {
            let ours = outcome.grad(g).rows(start, len).unwrap();
            assert_eq!(ours.dtype(), dtype);
            let rounded = if g < 2 { rounded + delta } else { rounded };
            let tolerance = tolerance(&naive[g], &exact[g], &size[g], rounded);
            assert_close(&format!("{what}: {name}"), &ours, &exact[g], &tolerance);
        }
        start += len;
    }
}

pub fn any_shape() -> impl Strategy<Value = Shape> {
    let dims = prop_oneof![Just(1), Just(4), Just(16), Just(20), Just(33), Just(64)];
    let masks = prop_oneof![
        Just((false, None)),
        Just((true, None)),
        (1usize..40).prop_map(|window| (true, Some(window))),
        (60usize..70).prop_map(|window| (true, Some(window))),
    ];
    (1usize..3, 1usize..4, dims, masks).prop_map(|(kv_heads, group, dim, (causal, window))| {
        shape(kv_heads * group, kv_heads, dim, causal, window)
    })
}

proptest! {
    #![proptest_config(cases(40))]

    #[test]
    fn values_and_gradients_match_the_oracle(
        shape in any_shape(),
        lens in prop::collection::vec(prop_oneof![Just(0usize), Just(1), 2usize..20, 60usize..90], 0..4),
        dtype in float_type(),
        seed in any::<u64>(),
    ) {
        let inputs = Inputs::draw(&mut Random::new(seed), &shape, lens.iter().sum(), dtype, 1.0);
        check(Device::Cpu, &inputs, &shape, &lens);
    }
}

fn any_shape_on_a_device() -> impl Strategy<Value = Shape> {
    let dims = prop::sample::select(vec![1usize, 16, 20, 33, 40, 64, 72, 80, 96, 128]);
    (any_shape(), dims)
        .prop_map(|(other, dim)| shape(other.heads, other.kv_heads, dim, other.causal, other.window))
}

proptest! {
    #![proptest_config(cases(16))]

    #[test]
    fn values_and_gradients_match_the_oracle_on_a_device(
        shape in any_shape_on_a_device(),
        lens in prop::collection::vec(prop_oneof![Just(0usize), Just(1), 2usize..20, 60usize..90], 0..4),
        dtype in float_type(),
        seed in any::<u64>(),
    ) {
        let inputs = Inputs::draw(&mut Random::new(seed), &shape, lens.iter().sum(), dtype, 1.0);
        check(cuda(), &inputs, &shape, &lens);
        assert_no_reports();
    }
}

/// Every kernel: heads that fill its size, and shorter ones; rows that start on 16 bytes, and rows that do not.
#[test]
fn every_size_of_heads_on_a_device() {
    let mut random = Random::new(14);
    let masks = [(true, None), (false, None), (true, Some(70)), (true, Some(33))];
    let f32s = [64, 65, 128, 129, 256].map(|dim| (DType::F32, dim, vec![70, 3]));
    let halves = [32, 24, 64, 40, 96, 72, 128, 104, 192, 136, 256, 200].into_iter().enumerate();
    let halves = halves.map(|(case, dim)| (half_type(case), dim, vec![200, 1]));
    let ragged = [20, 64 + 3, 101, 65, 130, 253].into_iter().enumerate();
    let ragged = ragged.map(|(case, dim)| (half_type(case), dim, vec![140, 9]));
    for (i, (dtype, dim, lens)) in f32s.into_iter().chain(halves).chain(ragged).enumerate() {
        let (causal, window) = masks[i % masks.len()];
        let shape = shape(2, 1, dim, causal, window);
        let inputs = Inputs::draw(&mut random, &shape, lens.iter().sum(), dtype, 1.0);
        check(cuda(), &inputs, &shape, &lens);
        assert_no_reports();
    }
}

#[test]
fn several_tiles() {
    let mut random = Random::new(11);
    let masks = [(true, None), (false, None), (true, Some(65)), (true, Some(100))];
    for (case, (causal, window)) in masks.into_iter().enumerate() {
        let shape = shape(3, 1, 64, causal, window);
        for dtype in [DType::F32, half_type(case)] {
            let inputs = Inputs::draw(&mut random, &shape, 350, dtype, 1.0);
            on_each(|device| check(device, &inputs, &shape, &[150, 200]));
        }
    }
}

#[test]
fn heads_larger_than_a_tile() {
    let shape = shape(2, 1, 130, true, None);
    let inputs = Inputs::draw(&mut Random::new(12), &shape, 70, DType::F32, 1.0);
    on_each(|device| check(device, &inputs, &shape, &[70]));
}

/// Scores in the thousands: a softmax without its maximum subtracted would be infinite.
#[test]
fn large_scores() {
    let shape = shape(2, 1, 16, true, None);
    for dtype in FLOATS {
        let inputs = Inputs::draw(&mut Random::new(13), &shape, 150, dtype, 40.0);
        on_each(|device| check(device, &inputs, &shape, &[150]));
    }
}

#[test]
fn the_oracle_has_the_right_gradients() {
    let mut random = Random::new(1);
    let mut draw = |n: usize| -> Vec<f64> { (0..n).map(|_| random.normal()).collect() };
    for (causal, window) in [(true, None), (false, None), (true, Some(2))] {
        let shape = shape(4, 2, 3, causal, window);
        let inputs = [draw(5 * 12), draw(5 * 6), draw(5 * 6)];
        let dout = draw(5 * 12);
        let grads = attention_backward(&shape, &inputs[0], &inputs[1], &inputs[2], &dout);
        check_oracle(&inputs, &grads, |v| dot(&oracle(&shape, &v[0], &v[1], &v[2]), &dout));
    }
}

#[test]
fn a_sequence_has_the_same_bits_alone_and_in_any_company() {
    let mut random = Random::new(3);
    let lens = [5, 0, 130, 1, 64, 77];
    for (case, (causal, window)) in [(true, None), (false, None), (true, Some(9))].into_iter().enumerate() {
        let shape = shape(6, 2, 32, causal, window);
        for dtype in [DType::F32, half_type(case)] {
            let inputs = Inputs::draw(&mut random, &shape, lens.iter().sum(), dtype, 1.0);
            on_each(|device| {
                let together = inputs.run_at(device, &shape, &lens);
                let mut start = 0;
                for len in lens {
                    let alone = inputs.rows(start, len).run_at(device, &shape, &[len]);
                    let same = |a: &Tensor, b: &Tensor| bits(a) == bits(&b.rows(start, len).unwrap());
                    assert!(same(&alone.output, &together.output), "output of the sequence of {len}");
                    for g in 0..3 {
                        assert!(
                            same(alone.grad(g), together.grad(g)),
                            "gradient {g} of the sequence of {len}"
                        );
                    }
                    start += len;
                }
            });
        }
    }
}

/// Equal scores: the output is the mean of the values that a token sees, and with powers of two of those nothing is rounded
/// on the way, so one key too many or too few shows.
#[test]
fn equal_scores_take_the_mean_of_what_is_seen() {
    let (tokens, dim) = (300, 32);
    for (causal, window) in [(true, None), (false, None), (true, Some(64)), (true, Some(100))] {
        let shape = shape(1, 1, dim, causal, window);
        let mut inputs = Inputs::draw(&mut Random::new(15), &shape, tokens, DType::BF16, 1.0);
        inputs.qkv[0] = Tensor::zeros(&[tokens, dim], DType::BF16);
        let v = values(&inputs.qkv[2]);
        let zeros = vec![0.0; tokens * dim];
        let exact = oracle(&shape, &zeros, &zeros, &v);
        let size = oracle(&shape, &zeros, &zeros, &v.iter().map(|x| x.abs()).collect::<Vec<_>>());
        // Sums of whole probabilities are exact; those of values are f32 sums of at most 300 terms.
        let tolerance =
            Tolerance::rounding(DType::F32, 300.0, &size).plus(Tolerance::rounding(DType::BF16, 1.0, &exact));
        on_each(|device| {
            let out = inputs.run_at(device, &shape, &[tokens]).output;
            assert_close(&format!("{shape:?} on {device}"), &out, &exact, &tolerance);
        });
    }
}

#[test]
fn a_token_depends_on_what_it_sees_only() {
    let shape = shape(2, 2, 16, true, Some(10));
    for dtype in [DType::F32, DType::BF16] {
        let inputs = Inputs::draw(&mut Random::new(4), &shape, 100, dtype, 1.0);
        let mut changed = inputs.rows(0, 100);
        for x in [1, 2] {
            let mut wide = changed.qkv[x].to_dtype(DType::F32).unwrap();
            wide.make_mut_f32().unwrap()[50 * 32..51 * 32].fill(1e3);
            changed.qkv[x] = wide.to_dtype(dtype).unwrap();
        }
        on_each(|device| {
            let before = values(&inputs.run_at(device, &shape, &[100]).output);
            let after = values(&changed.run_at(device, &shape, &[100]).output);
            for token in 0..100 {
                let same = before[token * 32..(token + 1) * 32] == after[token * 32..(token + 1) * 32];
                assert_eq!(same, !(50..60).contains(&token), "token {token}");
            }
        });
    }
}

#[test]
fn window_edges() {
    let mut random = Random::new(5);
    let with = |window| shape(2, 1, 16, true, window);
    for dtype in FLOATS {
        let inputs = Inputs::draw(&mut random, &with(None), 140, dtype, 1.0);
        on_each(|device| {
            let run = |window, lens: &[usize]| inputs.run_at(device, &with(window), lens);
            let whole = run(None, &[140]).bits();
            for window in [140, 141, usize::MAX] {
                assert!(run(Some(window), &[140]).bits() == whole, "a window of {window} hides nothing");
            }
            assert!(run(Some(139), &[140]).bits() != whole);
            // Who sees itself only takes its own value as it is.
            let own = run(Some(1), &[140]);
            let v = values(&inputs.qkv[2]);
            let expected: Vec<f64> = v.chunks(16).flat_map(|v| [v, v].concat()).collect();
            assert_eq!(values(&own.output), expected);
            // On a device the mask decides which tiles are walked, not what comes out of those that are.
            assert_eq!(run(None, &[1; 140]).bits()[0], own.bits()[0]);
        });
    }
}

#[test]
fn same_bits_on_every_run() {
    let mut random = Random::new(2);
    for dtype in FLOATS {
        let shape = shape(6, 2, 32, true, None);
        let lens = [100, 3, 200];
        let inputs = Inputs::draw(&mut random, &shape, 303, dtype, 1.0);
        let spec = spec(&shape, &lens);
        let op = |tape: &Tape, v: &[Var]| attention(tape, &v[0], &v[1], &v[2], &spec);
        assert_deterministic(&inputs.qkv, &inputs.dout, Tape::recording, op);
        assert_repeatable(cuda(), &inputs.qkv, &inputs.dout, Tape::recording, op);
    }
}

#[test]
fn one_gradient_alone_is_the_same() {
    for (dtype, dim) in [(DType::F32, 16), (DType::BF16, 16), (DType::F16, 136)] {
        let shape = shape(4, 2, dim, true, None);
        let inputs = Inputs::draw(&mut Random::new(6), &shape, 80, dtype, 1.0);
        let spec = spec(&shape, &[80]);
        let op = |tape: &Tape, v: &[Var]| attention(tape, &v[0], &v[1], &v[2], &spec);
        on_each(|device| {
            let all = inputs.run_at(device, &shape, &[80]);
            for wanted in 0..3 {
                let tape = Tape::recording();
                let one = run_at(device, tape, &inputs.qkv, &inputs.dout, |i| i == wanted, op).unwrap();
                assert_eq!(one.grads.iter().flatten().count(), 1);
                assert_eq!(bits(one.grad(wanted)), bits(all.grad(wanted)));
            }
        });
    }
}

#[test]
fn no_tokens() {
    let shape = shape(2, 1, 64, true, None);
    for (dtype, lens) in [(DType::F32, vec![]), (DType::BF16, vec![0, 0]), (DType::F16, vec![0])] {
        let inputs = Inputs::draw(&mut Random::new(8), &shape, 0, dtype, 1.0);
        on_each(|device| {
            let outcome = inputs.run_at(device, &shape, &lens);
            assert_eq!(outcome.output.shape(), [0, 128]);
            assert_eq!(outcome.grad(0).shape(), [0, 128]);
            assert_eq!(outcome.grad(1).shape(), [0, 64]);
        });
    }
}

#[test]
fn what_is_not_a_number_stays_visible() {
    let shape = shape(1, 1, 8, true, None);
    for dtype in FLOATS {
        for operand in 0..3 {
            let mut inputs = Inputs::draw(&mut Random::new(7), &shape, 5, dtype, 1.0);
            let mut wide = inputs.qkv[operand].to_dtype(DType::F32).unwrap();
            wide.make_mut_f32().unwrap()[2 * 8] = f32::NAN;
            inputs.qkv[operand] = wide.to_dtype(dtype).unwrap();
            on_each(|device| {
                let out = values(&inputs.run_at(device, &shape, &[5]).output);
                // A probability of 0 times a value that is not a number is not a number: values must be finite even where masked.
                assert!(
                    operand == 2 || out[..16].iter().all(|x| x.is_finite()),
                    "operand {operand}: earlier tokens"
                );
                assert!(out[16..24].iter().any(|x| x.is_nan()), "operand {operand}: {out:?}");
            });
        }
    }
}

#[test]
fn operands_that_do_not_fit_are_named() {
    let good = shape(4, 2, 8, true, None);
    let var = |rows: usize, cols: usize| Var::constant(Tensor::zeros(&[rows, cols], DType::F32));
    let run = |spec: &AttentionSpec, q: Var, k: Var, v: Var| {
        attention(&Tape::inference(), &q, &k, &v, spec).map(|_| ()).map_err(|e| e.to_string())
    };
    let fit = |spec: &AttentionSpec| run(spec, var(6, 32), var(6, 16), var(6, 16));
    assert_eq!(fit(&spec(&good, &[2, 4])), Ok(()));
    let refused = |change: &dyn Fn(&mut AttentionSpec)| {
        let mut spec = spec(&good, &[2, 4]);
        change(&mut spec);
        fit(&spec).unwrap_err()
    };
    assert_eq!(
        refused(&|s| s.cu_seqlens = vec![0, 2, 5].into()),
        "attention: cu_seqlens [0, 2, 5] does not rise from 0 to the 6 tokens of the batch"
    );
    refused(&|s| s.cu_seqlens = vec![0, 4, 2, 6].into());
    refused(&|s| s.cu_seqlens = vec![1, 6].into());
    refused(&|s| s.cu_seqlens = vec![].into());
    refused(&|s| s.kv_heads = 3);
    refused(&|s| s.kv_heads = 0);
    refused(&|s| (s.heads, s.kv_heads, s.head_dim) = (usize::MAX / 2, 1, 8));
    refused(&|s| s.window = Some(0));
    refused(&|s| (s.window, s.causal) = (Some(3), false));
    refused(&|s| s.scale = f32::NAN);
    let whole = spec(&good, &[6]);
    assert!(run(&whole, var(6, 32), var(6, 16), var(5, 16)).is_err());
    assert!(run(&whole, var(6, 32), var(6, 32), var(6, 16)).is_err());
    let bf16 = Var::constant(Tensor::zeros(&[6, 16], DType::BF16));
    assert!(run(&whole, var(6, 32), bf16.clone(), bf16).is_err());
}

#[test]
fn sequence_ends_are_copied_to_a_device_once() {
    let ends = CuSeqlens::from(vec![0, 3, 3, 10]);
    for device in [Device::Cpu, cuda()] {
        let copy = ends.on(device).unwrap();
        assert_eq!(copy.device(), device);
        assert_eq!(copy.to_device(Device::Cpu).unwrap().as_u32().unwrap(), [0, 3, 3, 10]);
    }
    let again = ends.clone().on(Device::Cpu).unwrap();
    assert_eq!(again.as_u32().unwrap().as_ptr(), ends.on(Device::Cpu).unwrap().as_u32().unwrap().as_ptr());
    let error = CuSeqlens::from(vec![0, 1 << 31]).on(Device::Cpu).unwrap_err();
    assert_eq!(error.to_string(), "attention: a batch of 2147483648 tokens, less than 2^31 expected");
}
