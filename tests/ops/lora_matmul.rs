//! Linear layers with an adapter.

use proptest::prelude::*;
use warptune::Error;
use warptune::autograd::{Tape, Var};
use warptune::device::Device;
use warptune::ops::epilogue::Epilogue;
use warptune::ops::lora_matmul::{Lora, LoraStack, Segments, lora_matmul, lora_matmul_segmented};
use warptune::ops::matmul::matmul;
use warptune::tensor::{DType, Tensor};

use super::{FLOATS, cases, float_types, half_type};
use crate::reference::lora_matmul::{
    Runs, Shape, lora, lora_backward, lora_segmented, lora_segmented_backward,
};
use crate::reference::matmul::{product_magnitude, transposed};
use crate::reference::{Real, cast, dropout, stored};
use crate::support::devices::{assert_no_reports, cuda, on_each};
use crate::support::gradcheck::{
    Outcome, assert_deterministic, assert_repeatable, check_oracle, dot, run_at,
};
use crate::support::random::Random;
use crate::support::tolerance::{Tolerance, assert_close};
use crate::support::{bits, values};

const SEED: u64 = 11;
const STEP: u64 = 5;

fn op(scale: f32, dropout: f32) -> impl Fn(&Tape, &[Var]) -> warptune::Result<Var> {
    move |tape, v| {
        lora_matmul(
            tape,
            &v[0],
            &v[1],
            v.get(4),
            &Lora { a: &v[2], b: &v[3], scale, dropout },
            Epilogue::None,
        )
    }
}

fn segmented(runs: &Runs, dropout: f32) -> impl Fn(&Tape, &[Var]) -> warptune::Result<Var> {
    let segments = Segments::new(runs.runs.iter().copied());
    let scales: Vec<f32> = runs.scales.iter().map(|&scale| scale as f32).collect();
    let scales = Tensor::from_f32(scales, &[runs.scales.len()]);
    move |tape, v| {
        let scales = scales.to_device(v[0].value().device())?;
        let loras = LoraStack { a: &v[2], b: &v[3], scales: &scales, dropout };
        lora_matmul_segmented(tape, &v[0], &v[1], v.get(4), &loras, &segments, Epilogue::None)
    }
}

/// x, w, A and B, of one adapter or of a stack, and perhaps a bias.
fn inputs(
    s: &Shape,
    stack: Option<usize>,
    [x_type, w_type, a_type]: [DType; 3],
    bias: bool,
    seed: u64,
) -> Vec<Tensor> {
    let mut random = Random::new(seed);
    let stacked = |shape: [usize; 2]| stack.into_iter().chain(shape).collect::<Vec<usize>>();
    let mut inputs = vec![
        random.tensor(&[s.m, s.k], x_type, 1.0),
        random.tensor(&[s.n, s.k], w_type, 0.3),
        random.tensor(&stacked([s.r, s.k]), a_type, 0.5),
        random.tensor(&stacked([s.n, s.r]), a_type, 0.5),
    ];
    if bias {
        inputs.push(random.tensor(&[s.n], w_type, 1.0));
    }
    inputs
}

/// One adapter with a scale, or several.
enum Adapters<'a> {
    One(f32),
    Several(&'a Runs),
}

impl Adapters<'_> {
    /// y and the gradients, by the oracle; with `absolute`, of the scales' absolute values.
    fn run<R: Real>(&self, v: &[Vec<R>], keep: &[R], dy: &[R], s: &Shape, absolute: bool) -> Vec<Vec<R>> {
        let size = |scale: f64| if absolute { scale.abs() } else { scale };
        let (y, grads) = match self {
            Adapters::One(scale) => {
                let scale = size(f64::from(*scale));
                (lora(v, keep, scale, s), lora_backward(v, keep, scale, dy, s))
            }
            Adapters::Several(runs) => {
                let scales = runs.scales.iter().map(|&scale| size(scale)).collect();
                let runs = Runs { runs: runs.runs.clone(), scales };
                (lora_segmented(v, keep, &runs, s), lora_segmented_backward(v, keep, &runs, dy, s))
            }
        };
        std::iter::once(y).chain(grads.into_iter().take(v.len())).collect()
    }

    /// Sums of absolute values, found by putting absolute values into the oracle itself.
    fn magnitudes(&self, v: &[Vec<f64>], keep: &[f64], dy: &[f64], s: &Shape) -> Vec<Vec<f64>> {
        let abs = |x: &[f64]| -> Vec<f64> { x.iter().map(|x| x.abs()).collect() };
        let v: Vec<Vec<f64>> = v.iter().map(|x| abs(x)).collect();
        self.run(&v, keep, &abs(dy), s, true)
    }
}

/// What a device may make of `inputs`, with everything required a gradient of.
struct Expected {
    values: Vec<Vec<f64>>,
    tolerances: Vec<Tolerance>,
    /// What is allowed more where u and v, and the factors, are pairs of bf16 or f16: each pair is right to 2^-16 (of f16 better, but for
    /// the smallest), and the product of two low parts, as small, is left out.
    of_pairs: Vec<Tolerance>,
    types: Vec<DType>,
}

const NAMES: [&str; 6] = ["y", "dx", "dW", "dA", "dB", "dbias"];

impl Expected {
    fn new(inputs: &[Tensor], dy: &Tensor, p: f32, adapters: &Adapters<'_>, s: &Shape) -> Expected {
        let v: Vec<Vec<f64>> = inputs.iter().map(values).collect();
        let f: Vec<Vec<f32>> = v.iter().map(|x| cast(x)).collect();
        let x_type = dy.dtype();
        let dy = values(dy);
        let n = s.m * s.k;
        let keep = if p > 0.0 { dropout::mask(SEED, STEP << 32, p, n) } else { vec![1.0; n] };
        let exact = adapters.run(&v, &keep, &dy, s, false);
        let sizes = adapters.magnitudes(&v, &keep, &dy, s);
        let mut bare = v.clone();
        bare[1].fill(0.0);
        bare.get_mut(4).into_iter().for_each(|bias| bias.fill(0.0));
        let adapter_sizes = adapters.magnitudes(&bare, &keep, &dy, s);
        let naive: Vec<Vec<f32>> = adapters.run(&f, &cast(&keep), &cast(&dy), s, false);
        let types: Vec<DType> = (0..exact.len()).map(|i| if i < 2 { x_type } else { DType::F32 }).collect();
        let tolerance = |i: usize| {
            Tolerance::twice_naive(&stored(&naive[i], types[i]), &exact[i])
                .plus(Tolerance::rounding(DType::F32, 4.0, &sizes[i]))
                .plus(Tolerance::rounding(types[i], 1.0, &exact[i]))
        };
        // dW and dbias have nothing of the adapter.
        let of_pairs = adapter_sizes.iter().enumerate().map(|(i, size)| {
            Tolerance::rounding(DType::BF16, if matches!(i, 2 | 5) { 0.0 } else { 4.0 / 256.0 }, size)
        });
        Expected {
            tolerances: (0..exact.len()).map(tolerance).collect(),
            of_pairs: of_pairs.collect(),
            values: exact,
            types,
        }
    }

    #[track_caller]
    fn check(&self, outcome: &Outcome, pairs: bool) {
        for (i, name) in NAMES.into_iter().enumerate().take(self.values.len()) {
            let result = if i == 0 { &outcome.output } else { outcome.grad(i - 1) };
            assert_eq!(result.dtype(), self.types[i], "{name}");
            let mut tolerance = self.tolerances[i].clone();
            if pairs {
                tolerance = tolerance.plus(self.of_pairs[i].clone());
            }
            assert_close(name, result, &self.values[i], &tolerance);
        }
    }
}

/// Whether a device computes with pairs of bf16 or f16.
fn pairs(device: Device, inputs: &[Tensor]) -> bool {
    device == cuda() && inputs[0].dtype() != DType::F32 && inputs[1].dtype() == inputs[0].dtype()
}

proptest! {
    #![proptest_config(cases(40))]

    #[test]
    fn values_and_gradients_match_the_oracle(
        (m, k, n, r) in (1usize..40, 1usize..50, 1usize..40, 1usize..20),
        [x_type, w_type, a_type] in float_types::<3>(),
        bias in any::<bool>(),
        p in prop_oneof![Just(0.0f32), 0.05f32..0.6],
        scale in 0.1f32..4.0,
        seed in any::<u64>(),
    ) {
        let s = Shape { m, k, n, r };
        let inputs = inputs(&s, None, [x_type, w_type, a_type], bias, seed);
        let dy = Random::new(!seed).tensor(&[m, n], x_type, 1.0);
        let expected = Expected::new(&inputs, &dy, p, &Adapters::One(scale), &s);
        on_each(|device| {
            let tape = Tape::training(SEED, STEP);
            let outcome = run_at(device, tape, &inputs, &dy, |_| true, op(scale, p)).unwrap();
            expected.check(&outcome, pairs(device, &inputs));
        });
    }

    #[test]
    fn segments_match_the_oracle(
        (k, n, r) in (1usize..40, 1usize..40, 1usize..12),
        runs in proptest::collection::vec((0usize..30, proptest::option::of(0usize..3)), 1..7),
        [x_type, w_type, a_type] in float_types::<3>(),
        bias in any::<bool>(),
        p in prop_oneof![Just(0.0f32), 0.05f32..0.6],
        seed in any::<u64>(),
    ) {
        let s = Shape { m: runs.iter().map(|(len, _)| len).sum(), k, n, r };
        let runs = Runs { runs, scales: vec![0.5, -2.0, 3.0] };
        let inputs = inputs(&s, Some(3), [x_type, w_type, a_type], bias, seed);
        let dy = Random::new(!seed).tensor(&[s.m, n], x_type, 1.0);
        let expected = Expected::new(&inputs, &dy, p, &Adapters::Several(&runs), &s);
        on_each(|device| {
            let tape = Tape::training(SEED, STEP);
            let outcome = run_at(device, tape, &inputs, &dy, |_| true, segmented(&runs, p)).unwrap();
            expected.check(&outcome, pairs(device, &inputs));
        });
    }
}

/// On tensor cores: more than a tile of rows, columns and rank, parts of every long sum, rows that start on 16 bytes and rows that
/// do not, with a mask and without, factors of both types, and a handful of rows.
#[test]
fn tensor_core_tiles() {
    let shapes = [
        (Shape { m: 150, k: 136, n: 264, r: 16 }, 0.3, false),
        (Shape { m: 545, k: 520, n: 72, r: 40 }, 0.0, false),
        (Shape { m: 523, k: 536, n: 136, r: 29 }, 0.2, false),
        (Shape { m: 131, k: 531, n: 67, r: 36 }, 0.1, false),
        (Shape { m: 40, k: 96, n: 80, r: 136 }, 0.1, false),
        (Shape { m: 150, k: 136, n: 264, r: 16 }, 0.0, false),
        (Shape { m: 70, k: 100, n: 129, r: 33 }, 0.0, true),
        (Shape { m: 141, k: 40, n: 60, r: 31 }, 0.3, false),
        (Shape { m: 60, k: 64, n: 96, r: 64 }, 0.4, true),
        (Shape { m: 1, k: 1024, n: 128, r: 8 }, 0.0, false),
        (Shape { m: 16, k: 600, n: 40, r: 1 }, 0.0, true),
        (Shape { m: 9, k: 40, n: 40, r: 3 }, 0.0, false),
        (Shape { m: 2, k: 48, n: 36, r: 9 }, 0.0, true),
    ];
    for (i, (s, p, narrow)) in shapes.into_iter().enumerate() {
        let half = half_type(i);
        let inputs =
            inputs(&s, None, [half, half, if narrow { half } else { DType::F32 }], i % 2 == 0, i as u64);
        let dy = Random::new(!(i as u64)).tensor(&[s.m, s.n], half, 1.0);
        let expected = Expected::new(&inputs, &dy, p, &Adapters::One(1.5), &s);
        let tape = Tape::training(SEED, STEP);
        let outcome = run_at(cuda(), tape, &inputs, &dy, |_| true, op(1.5, p)).unwrap();
        expected.check(&outcome, true);
        assert_no_reports();
    }
}

/// The same on the ordinary cores, for operands of which one at least is f32.
#[test]
fn ordinary_core_tiles() {
    let shapes = [
        (Shape { m: 140, k: 270, n: 70, r: 72 }, 0.3, DType::F32, DType::F32),
        (Shape { m: 530, k: 65, n: 66, r: 5 }, 0.2, DType::F32, DType::BF16),
        (Shape { m: 64, k: 515, n: 64, r: 64 }, 0.0, DType::BF16, DType::F32),
        (Shape { m: 70, k: 65, n: 66, r: 5 }, 0.2, DType::F32, DType::F16),
        (Shape { m: 64, k: 70, n: 64, r: 9 }, 0.1, DType::F16, DType::F32),
    ];
    for (i, (s, p, x_type, w_type)) in shapes.into_iter().enumerate() {
        let inputs = inputs(&s, None, [x_type, w_type, DType::F32], true, i as u64);
        let dy = Random::new(!(i as u64)).tensor(&[s.m, s.n], x_type, 1.0);
        let expected = Expected::new(&inputs, &dy, p, &Adapters::One(0.7), &s);
        let tape = Tape::training(SEED, STEP);
        expected.check(&run_at(cuda(), tape, &inputs, &dy, |_| true, op(0.7, p)).unwrap(), false);
        assert_no_reports();
    }
}

/// Runs of one row, of rows across tiles and of more than a chunk of 1024, adapters that come twice or never, rows without one.
#[test]
fn segments_across_tiles() {
    let short = (0..40).map(|i| (1, Some(i % 3))).collect();
    let cases = [
        (
            vec![(5, Some(2)), (190, Some(0)), (60, None), (1, Some(2)), (30, Some(3))],
            56,
            72,
            16,
            DType::BF16,
        ),
        (vec![(1100, Some(3)), (3, None), (40, Some(0))], 40, 48, 8, DType::F16),
        (short, 520, 24, 40, DType::BF16),
        (vec![(100, None), (29, Some(1)), (70, Some(0)), (9, Some(1))], 65, 70, 9, DType::F32),
    ];
    for (i, (runs, k, n, r, dtype)) in cases.into_iter().enumerate() {
        let s = Shape { m: runs.iter().map(|(len, _)| len).sum(), k, n, r };
        let runs = Runs { runs, scales: vec![0.5, 2.0, -1.0, 1.5] };
        let p = if i % 2 == 0 { 0.2 } else { 0.0 };
        let inputs = inputs(&s, Some(4), [dtype, dtype, DType::F32], i == 0, i as u64);
        let dy = Random::new(!(i as u64)).tensor(&[s.m, n], dtype, 1.0);
        let expected = Expected::new(&inputs, &dy, p, &Adapters::Several(&runs), &s);
        on_each(|device| {
            let tape = Tape::training(SEED, STEP);
            let outcome = run_at(device, tape, &inputs, &dy, |_| true, segmented(&runs, p)).unwrap();
            expected.check(&outcome, pairs(device, &inputs));
        });
    }
}

/// Up to 16 rows without a mask go through kernels of their own, whose rows do not depend on each other: one adapter and several,
/// factors of both types, gradients too; and the rows that are not aligned, which go through the others.
#[test]
fn few_rows() {
    let shapes = [
        (1, 1024, 72, 16, false),
        (3, 520, 40, 5, true),
        (8, 72, 33, 64, false),
        (9, 264, 64, 12, true),
        (16, 128, 100, 8, false),
        (7, 99, 20, 4, false),
        (2, 48, 20, 9, true),
        (11, 40, 20, 6, false),
    ];
    for (case, (m, k, n, r, narrow)) in shapes.into_iter().enumerate() {
        let half = half_type(case);
        let s = Shape { m, k, n, r };
        let types = [half, half, if narrow { half } else { DType::F32 }];
        let runs = vec![(m / 3, Some(2)), (m / 3, None), (m - m / 3 * 2, Some(0))];
        let runs = Runs { runs, scales: vec![0.5, 1.0, -2.0] };
        let dy = Random::new(5).tensor(&[m, n], half, 1.0);
        let one = inputs(&s, None, types, true, m as u64);
        let stack = inputs(&s, Some(3), types, m == 9, m as u64);
        let of_one = Expected::new(&one, &dy, 0.0, &Adapters::One(1.5), &s);
        let of_stack = Expected::new(&stack, &dy, 0.0, &Adapters::Several(&runs), &s);
        on_each(|device| {
            let tape = || Tape::training(SEED, STEP);
            let outcome = run_at(device, tape(), &one, &dy, |_| true, op(1.5, 0.0)).unwrap();
            of_one.check(&outcome, pairs(device, &one));
            let last = run_at(
                device,
                tape(),
                &[&[one[0].rows(m - 1, 1).unwrap()], &one[1..]].concat(),
                &dy.rows(m - 1, 1).unwrap(),
                |_| true,
                op(1.5, 0.0),
            );
            if device == cuda() && k % 8 == 0 {
                assert_eq!(bits(&outcome.output)[(m - 1) * n..], bits(&last.unwrap().output));
            }
            let outcome = run_at(device, tape(), &stack, &dy, |_| true, segmented(&runs, 0.0)).unwrap();
            of_stack.check(&outcome, pairs(device, &stack));
        });
    }
}

/// Factors of bf16 on a layer of f16, and the other way round, few rows and many.
#[test]
fn factors_of_the_other_type_of_16_bits() {
    for (i, m) in [4, 20, 5, 40].into_iter().enumerate() {
        let (s, half, other) = (Shape { m, k: 64, n: 48, r: 8 }, half_type(i / 2), half_type(i / 2 + 1));
        let inputs = inputs(&s, None, [half, half, other], false, i as u64);
        let dy = Random::new(!(i as u64)).tensor(&[s.m, s.n], half, 1.0);
        let expected = Expected::new(&inputs, &dy, 0.0, &Adapters::One(1.5), &s);
        on_each(|device| {
            let tape = Tape::training(SEED, STEP);
            let outcome = run_at(device, tape, &inputs, &dy, |_| true, op(1.5, 0.0)).unwrap();
            expected.check(&outcome, pairs(device, &inputs));
        });
    }
}

/// A stack of one adapter for all rows is that adapter, and an adapter without rows gets a gradient of zeros.
#[test]
fn one_segment_is_the_plain_op() {
    let s = Shape { m: 30, k: 40, n: 24, r: 6 };
    for dtype in FLOATS {
        let plain = inputs(&s, None, [dtype, dtype, DType::F32], true, 9);
        let dy = Random::new(10).tensor(&[s.m, s.n], dtype, 1.0);
        let mut stacked = plain.clone();
        for i in [2, 3] {
            let one = values(&plain[i]);
            let two = one.iter().chain(&one).map(|&x| x as f32).collect();
            stacked[i] = Tensor::from_f32(two, &[2, plain[i].shape()[0], plain[i].shape()[1]]);
        }
        let runs = Runs { runs: vec![(s.m, Some(1))], scales: vec![1.0, 2.0] };
        on_each(|device| {
            let tape = || Tape::training(SEED, STEP);
            let one = run_at(device, tape(), &plain, &dy, |_| true, op(2.0, 0.1)).unwrap();
            let two = run_at(device, tape(), &stacked, &dy, |_| true, segmented(&runs, 0.1)).unwrap();
            assert_eq!(bits(&one.output), bits(&two.output));
            for i in [0, 1, 4] {
                assert_eq!(bits(one.grad(i)), bits(two.grad(i)), "gradient {i}");
            }
            for i in [2, 3] {
                let (one, two) = (bits(one.grad(i)), bits(two.grad(i)));
                assert!(two[..one.len()].iter().all(|&zero| zero == 0));
                assert_eq!(two[one.len()..], one, "gradient {i}");
            }
        });
    }
}

#[test]
fn the_oracle_has_the_right_gradients() {
    let s = Shape { m: 3, k: 5, n: 4, r: 2 };
    let of_one: Vec<Vec<f64>> = inputs(&s, None, [DType::F32; 3], true, 1).iter().map(values).collect();
    let dy = values(&Random::new(2).tensor(&[s.m, s.n], DType::F32, 1.0));
    let keep = dropout::mask(1, 2, 0.3, s.m * s.k);
    assert!(keep.contains(&0.0));
    let grads = lora_backward(&of_one, &keep, 1.7, &dy, &s);
    check_oracle(&of_one, &grads, |v| dot(&lora(v, &keep, 1.7, &s), &dy));

    let s = Shape { m: 6, k: 5, n: 4, r: 2 };
    let runs =
        Runs { runs: vec![(1, Some(1)), (2, None), (2, Some(0)), (1, Some(1))], scales: vec![1.7, -0.4] };
    let inputs: Vec<Vec<f64>> = inputs(&s, Some(2), [DType::F32; 3], true, 4).iter().map(values).collect();
    let dy = values(&Random::new(3).tensor(&[s.m, s.n], DType::F32, 1.0));
    let keep = dropout::mask(1, 2, 0.3, s.m * s.k);
    let grads = lora_segmented_backward(&inputs, &keep, &runs, &dy, &s);
    check_oracle(&inputs, &grads, |v| dot(&lora_segmented(v, &keep, &runs, &s), &dy));
}

#[test]
fn same_bits_on_every_run() {
    let s = Shape { m: 67, k: 130, n: 95, r: 8 };
    for dtype in FLOATS {
        let inputs = inputs(&s, None, [dtype, dtype, DType::F32], true, 3);
        let dy = Random::new(4).tensor(&[s.m, s.n], dtype, 1.0);
        assert_deterministic(&inputs, &dy, || Tape::training(SEED, STEP), op(2.0, 0.1));
        assert_repeatable(cuda(), &inputs, &dy, || Tape::training(SEED, STEP), op(2.0, 0.1));
    }
    let runs =
        Runs { runs: vec![(20, Some(0)), (7, None), (30, Some(1)), (10, Some(0))], scales: vec![2.0, 0.5] };
    for dtype in FLOATS {
        let inputs = inputs(&s, Some(2), [dtype, dtype, DType::F32], true, 5);
        let dy = Random::new(6).tensor(&[s.m, s.n], dtype, 1.0);
        let op = segmented(&runs, 0.1);
        assert_repeatable(Device::Cpu, &inputs, &dy, || Tape::training(SEED, STEP), &op);
        assert_repeatable(cuda(), &inputs, &dy, || Tape::training(SEED, STEP), &op);
    }
}

#[test]
fn frozen_parts_get_no_gradient_and_change_none_of_the_others() {
    let s = Shape { m: 9, k: 20, n: 11, r: 4 };
    for dtype in [DType::F32, DType::BF16] {
        let inputs = inputs(&s, None, [dtype, DType::BF16, DType::F32], true, 5);
        let dy = Random::new(6).tensor(&[s.m, s.n], dtype, 1.0);
        on_each(|device| {
            let run = |wanted: fn(usize) -> bool| {
                let tape = Tape::training(SEED, STEP);
                run_at(device, tape, &inputs, &dy, wanted, op(2.0, 0.2)).unwrap()
            };
            let all = run(|_| true);
            for wanted in [|i| i == 0, |i| i == 2, |i| i == 3, |i| i == 2 || i == 3, |i| i == 4]
                as [fn(usize) -> bool; 5]
            {
                let some = run(wanted);
                for i in 0..inputs.len() {
                    let expected = wanted(i).then(|| bits(all.grad(i)));
                    assert_eq!(some.grads[i].as_ref().map(bits), expected, "gradient of input {i}");
                }
            }
        });
    }
}

#[test]
fn dropout_is_off_in_evaluation_and_b_zero_gives_the_base_layer() {
    let s = Shape { m: 6, k: 33, n: 17, r: 4 };
    for dtype in FLOATS {
        let mut inputs = inputs(&s, None, [dtype, dtype, DType::F32], false, 7);
        inputs[3] = Tensor::zeros(&[s.n, s.r], DType::F32);
        on_each(|device| {
            let v: Vec<Var> = inputs.iter().map(|x| Var::constant(x.to_device(device).unwrap())).collect();
            let tape = Tape::inference();
            let with = |p| bits(op(2.0, p)(&tape, &v).unwrap().value());
            assert_eq!(with(0.5), with(0.0));
            let base = matmul(&tape, &v[0], &v[1], None, Epilogue::None).unwrap();
            let adapted = op(2.0, 0.0)(&tape, &v).unwrap();
            if device == cuda() {
                // Two kernels: their sums may go in two orders.
                let base = values(base.value());
                let [x, w] = [values(&inputs[0]), values(&inputs[1])];
                let size = product_magnitude(&x, &transposed(&w, s.n, s.k), s.m, s.k, s.n);
                let tolerance = Tolerance::rounding(DType::F32, s.k as f64, &size)
                    .plus(Tolerance::rounding(dtype, 2.0, &base));
                assert_close("y", adapted.value(), &base, &tolerance);
            } else {
                assert_eq!(bits(adapted.value()), bits(base.value()));
            }
        });
    }
}

#[test]
fn no_rows() {
    let s = Shape { m: 0, k: 5, n: 4, r: 2 };
    for dtype in FLOATS {
        let inputs = inputs(&s, None, [dtype, dtype, DType::F32], true, 8);
        let dy = Tensor::zeros(&[0, 4], dtype);
        on_each(|device| {
            let tape = Tape::training(SEED, STEP);
            let outcome = run_at(device, tape, &inputs, &dy, |_| true, op(2.0, 0.1)).unwrap();
            assert_eq!(outcome.output.shape(), [0, 4]);
            assert_eq!(outcome.grad(0).shape(), [0, 5]);
            for i in 1..5 {
                assert!(values(outcome.grad(i)).iter().all(|&g| g == 0.0));
            }
        });
    }
}

#[test]
fn operands_that_do_not_fit_are_named() {
    let var = |shape: &[usize]| Var::constant(Tensor::zeros(shape, DType::F32));
    let (x, w) = (var(&[2, 3]), var(&[4, 3]));
    let run = |a: &[usize], b: &[usize], dropout| {
        let (a, b) = (var(a), var(b));
        lora_matmul(
            &Tape::training(1, 1),
            &x,
            &w,
            None,
            &Lora { a: &a, b: &b, scale: 1.0, dropout },
            Epilogue::None,
        )
        .unwrap_err()
    };
    assert_eq!(
        run(&[2, 5], &[4, 2], 0.0).to_string(),
        "lora_matmul: A [2, 5] and B [4, 2] for a weight [4, 3]: expected A [r, 3] and B [4, r]"
    );
    assert!(matches!(run(&[2, 3], &[4, 3], 0.0), Error::Shape { .. }));
    assert!(run(&[2, 3], &[4, 2], 1.0).to_string().contains("0 <= p < 1"));
    assert!(run(&[2, 3], &[4, 2], f32::NAN).to_string().contains("0 <= p < 1"));
}

#[test]
fn segments_that_do_not_fit_are_named() {
    let var = |shape: &[usize]| Var::constant(Tensor::zeros(shape, DType::F32));
    let (x, w) = (var(&[5, 3]), var(&[4, 3]));
    let run = |a: &[usize], b: &[usize], scales: usize, runs: &[(usize, Option<usize>)]| {
        let (a, b, scales) = (var(a), var(b), Tensor::zeros(&[scales], DType::F32));
        let loras = LoraStack { a: &a, b: &b, scales: &scales, dropout: 0.0 };
        let segments = Segments::new(runs.iter().copied());
        lora_matmul_segmented(&Tape::inference(), &x, &w, None, &loras, &segments, Epilogue::None).map(|_| ())
    };
    let fitting = [(2, Some(1)), (3, None)];
    assert!(run(&[2, 6, 3], &[2, 4, 6], 2, &fitting).is_ok());
    let error = run(&[2, 6, 3], &[2, 4, 6], 3, &fitting).unwrap_err().to_string();
    assert_eq!(
        error,
        "lora_matmul: A [2, 6, 3], B [2, 4, 6] and f32 scales [3] for a weight [4, 3]: expected A [E, r, 3], B [E, 4, r] and f32 \
         scales [E]"
    );
    for (a, b) in
        [([2, 6, 4], [2, 4, 6]), ([2, 6, 3], [3, 4, 6]), ([2, 6, 3], [2, 5, 6]), ([2, 6, 3], [2, 4, 7])]
    {
        assert!(matches!(run(&a, &b, 2, &fitting), Err(Error::Shape { .. })));
    }
    let error = run(&[2, 6, 3], &[2, 4, 6], 2, &[(4, Some(0))]).unwrap_err().to_string();
    assert_eq!(error, "lora_matmul: segments of 4 rows in all for x [5, 3]");
    let error = run(&[2, 6, 3], &[2, 4, 6], 2, &[(5, Some(2))]).unwrap_err().to_string();
    assert_eq!(error, "lora_matmul: adapter 2 of a stack of 2, numbered from 0");
}
