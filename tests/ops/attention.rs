//! Attention over packed batches.

use proptest::prelude::*;
use warptune::autograd::{Tape, Var};
use warptune::device::Device;
use warptune::ops::attention::{AttentionSpec, CuSeqlens, attention};
use warptune::tensor::{DType, Tensor};

use super::{cases, float_type};
use crate::reference::attention::{Shape, attention as oracle, attention_backward, backward_magnitude};
use crate::reference::{cast, stored};
use crate::support::devices::cuda;
use crate::support::gradcheck::{
    Outcome, assert_deterministic, check_oracle, dot, forward_backward, forward_backward_on,
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

    fn run(&self, shape: &Shape, lens: &[usize]) -> Outcome {
        let spec = spec(shape, lens);
        forward_backward(&self.qkv, &self.dout, |tape, v| attention(tape, &v[0], &v[1], &v[2], &spec))
            .unwrap()
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

fn check(inputs: &Inputs, shape: &Shape, lens: &[usize]) {
    let outcome = inputs.run(shape, lens);
    let dtype = inputs.qkv[0].dtype();
    let mut start = 0;
    for (i, &len) in lens.iter().enumerate() {
        let part = inputs.rows(start, len);
        let [q, k, v] = part.qkv.each_ref().map(values);
        let dout = values(&part.dout);
        let [q32, k32, v32, dout32] = [&q, &k, &v, &dout].map(|x| cast::<f64, f32>(x));
        let roundings = softmax_roundings(shape, &q, &k);
        let tolerance = |naive: &[f32], exact: &[f64], size: &[f64]| {
            Tolerance::twice_naive(&stored(naive, dtype), exact)
                .plus(Tolerance::rounding(DType::F32, roundings, size))
                .plus(Tolerance::rounding(dtype, 1.0, exact))
        };
        let exact = oracle(shape, &q, &k, &v);
        let size = oracle(shape, &q, &k, &v.iter().map(|x| x.abs()).collect::<Vec<_>>());
        let out = outcome.output.rows(start, len).unwrap();
        assert_eq!(out.dtype(), dtype);
        assert_close(
            &format!("sequence {i}: o"),
            &out,
            &exact,
            &tolerance(&oracle(shape, &q32, &k32, &v32), &exact, &size),
        );

        let exact = attention_backward(shape, &q, &k, &v, &dout);
        let naive = attention_backward(shape, &q32, &k32, &v32, &dout32);
        let mut size = backward_magnitude(shape, &q, &k, &v, &dout);
        if dtype == DType::BF16 {
            // delta is found from the output as it was stored: rounded to bf16, 2^16 f32 roundings.
            size.iter_mut().take(2).flatten().for_each(|x| *x *= 65536.0 / roundings);
        }
        for (g, name) in ["dq", "dk", "dv"].into_iter().enumerate() {
            let ours = outcome.grad(g).rows(start, len).unwrap();
            assert_eq!(ours.dtype(), dtype);
            let tolerance = tolerance(&naive[g], &exact[g], &size[g]);
            assert_close(&format!("sequence {i}: {name}"), &ours, &exact[g], &tolerance);
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
        check(&inputs, &shape, &lens);
    }
}

#[test]
fn several_tiles() {
    let mut random = Random::new(11);
    for (causal, window) in [(true, None), (false, None), (true, Some(65)), (true, Some(100))] {
        let shape = shape(3, 1, 64, causal, window);
        check(&Inputs::draw(&mut random, &shape, 350, DType::F32, 1.0), &shape, &[150, 200]);
    }
}

#[test]
fn heads_larger_than_a_tile() {
    let shape = shape(2, 1, 130, true, None);
    check(&Inputs::draw(&mut Random::new(12), &shape, 70, DType::F32, 1.0), &shape, &[70]);
}

/// Scores in the thousands: a softmax without its maximum subtracted would be infinite.
#[test]
fn large_scores() {
    let shape = shape(2, 1, 16, true, None);
    check(&Inputs::draw(&mut Random::new(13), &shape, 150, DType::F32, 40.0), &shape, &[150]);
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
    for (causal, window) in [(true, None), (false, None), (true, Some(9))] {
        let shape = shape(6, 2, 32, causal, window);
        let inputs = Inputs::draw(&mut random, &shape, lens.iter().sum(), DType::F32, 1.0);
        let together = inputs.run(&shape, &lens);
        let mut start = 0;
        for len in lens {
            let alone = inputs.rows(start, len).run(&shape, &[len]);
            let same = |a: &Tensor, b: &Tensor| bits(a) == bits(&b.rows(start, len).unwrap());
            assert!(same(&alone.output, &together.output), "output of the sequence of {len}");
            for g in 0..3 {
                assert!(same(alone.grad(g), together.grad(g)), "gradient {g} of the sequence of {len}");
            }
            start += len;
        }
    }
}

#[test]
fn a_token_depends_on_what_it_sees_only() {
    let shape = shape(2, 2, 16, true, Some(10));
    let inputs = Inputs::draw(&mut Random::new(4), &shape, 100, DType::F32, 1.0);
    let before = values(&inputs.run(&shape, &[100]).output);
    let mut changed = inputs.rows(0, 100);
    for x in [1, 2] {
        changed.qkv[x].make_mut_f32().unwrap()[50 * 32..51 * 32].fill(1e3);
    }
    let after = values(&changed.run(&shape, &[100]).output);
    for token in 0..100 {
        let same = before[token * 32..(token + 1) * 32] == after[token * 32..(token + 1) * 32];
        assert_eq!(same, !(50..60).contains(&token), "token {token}");
    }
}

#[test]
fn window_edges() {
    let mut random = Random::new(5);
    let with = |window| shape(2, 1, 16, true, window);
    let inputs = Inputs::draw(&mut random, &with(None), 140, DType::F32, 1.0);
    let whole = inputs.run(&with(None), &[140]).bits();
    for window in [140, 141, usize::MAX] {
        assert!(
            inputs.run(&with(Some(window)), &[140]).bits() == whole,
            "a window of {window} hides nothing"
        );
    }
    assert!(inputs.run(&with(Some(139)), &[140]).bits() != whole);
    // Who sees itself only takes its own value as it is.
    let own = inputs.run(&with(Some(1)), &[140]);
    let v = values(&inputs.qkv[2]);
    let expected: Vec<f64> = v.chunks(16).flat_map(|v| [v, v].concat()).collect();
    assert_eq!(values(&own.output), expected);
    assert_eq!(inputs.run(&with(None), &[1; 140]).bits(), own.bits());
}

#[test]
fn same_bits_on_every_run() {
    let mut random = Random::new(2);
    for dtype in [DType::F32, DType::BF16] {
        let shape = shape(6, 2, 32, true, None);
        let lens = [100, 3, 200];
        let inputs = Inputs::draw(&mut random, &shape, 303, dtype, 1.0);
        let spec = spec(&shape, &lens);
        let op = |tape: &Tape, v: &[Var]| attention(tape, &v[0], &v[1], &v[2], &spec);
        assert_deterministic(&inputs.qkv, &inputs.dout, Tape::recording, op);
    }
}

#[test]
fn one_gradient_alone_is_the_same() {
    let shape = shape(4, 2, 16, true, None);
    let inputs = Inputs::draw(&mut Random::new(6), &shape, 80, DType::F32, 1.0);
    let all = inputs.run(&shape, &[80]);
    let spec = spec(&shape, &[80]);
    for wanted in 0..3 {
        let op = |tape: &Tape, v: &[Var]| attention(tape, &v[0], &v[1], &v[2], &spec);
        let one =
            forward_backward_on(Tape::recording(), &inputs.qkv, &inputs.dout, |i| i == wanted, op).unwrap();
        assert_eq!(one.grads.iter().flatten().count(), 1);
        assert_eq!(bits(one.grad(wanted)), bits(all.grad(wanted)));
    }
}

#[test]
fn what_is_not_a_number_stays_visible() {
    let shape = shape(1, 1, 8, true, None);
    for operand in 0..3 {
        let mut inputs = Inputs::draw(&mut Random::new(7), &shape, 5, DType::F32, 1.0);
        inputs.qkv[operand].make_mut_f32().unwrap()[2 * 8] = f32::NAN;
        let out = values(&inputs.run(&shape, &[5]).output);
        // A probability of 0 times a value that is not a number is not a number: values must be finite even where masked.
        assert!(operand == 2 || out[..16].iter().all(|x| x.is_finite()), "operand {operand}: earlier tokens");
        assert!(out[16..24].iter().any(|x| x.is_nan()), "operand {operand}: {out:?}");
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
        refused(&|s| s.cu_seqlens = [0, 2, 5].into()),
        "attention: cu_seqlens [0, 2, 5] does not rise from 0 to the 6 tokens of the batch"
    );
    refused(&|s| s.cu_seqlens = [0, 4, 2, 6].into());
    refused(&|s| s.cu_seqlens = [1, 6].into());
    refused(&|s| s.cu_seqlens = [].into());
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
    let error = CuSeqlens::from([0, 1 << 31]).on(Device::Cpu).unwrap_err();
    assert_eq!(error.to_string(), "attention: a batch of 2147483648 tokens, less than 2^31 expected");
}
