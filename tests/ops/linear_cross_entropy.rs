//! The fused head and loss.

use proptest::prelude::*;
use warptune::autograd::{Tape, Var};
use warptune::device::Device;
use warptune::ops::linear_cross_entropy::{
    IGNORE_LABEL, check_labels, chunk_rows, device_chunk_rows, linear_cross_entropy,
    linear_cross_entropy_within,
};
use warptune::tensor::{DType, Tensor};

use super::{FLOATS, cases, float_types};
use crate::reference::linear_cross_entropy as reference;
use crate::reference::{cast, stored};
use crate::support::devices::{assert_no_reports, cuda, on_each};
use crate::support::gradcheck::{
    Outcome, assert_deterministic, assert_repeatable, check_oracle, forward_backward_at, run_at,
};
use crate::support::random::Random;
use crate::support::tolerance::{Tolerance, assert_close};
use crate::support::{bits, values};

/// The op, with labels that go where x is.
fn op(labels: Tensor, denominator: f32) -> impl Fn(&Tape, &[Var]) -> warptune::Result<Var> {
    move |tape, v| {
        let labels = labels.to_device(v[0].value().device())?;
        linear_cross_entropy(tape, &v[0], &v[1], &labels, denominator)
    }
}

/// The op with chunks of the fewest rows.
fn in_small_chunks(labels: Tensor, denominator: f32) -> impl Fn(&Tape, &[Var]) -> warptune::Result<Var> {
    move |tape, v| {
        let labels = labels.to_device(v[0].value().device())?;
        linear_cross_entropy_within(tape, &v[0], &v[1], &labels, denominator, 0)
    }
}

/// Labels of which about a third carry no loss.
fn labels(random: &mut Random, rows: usize, vocab: usize) -> (Tensor, Vec<Option<usize>>) {
    let chosen: Vec<Option<usize>> =
        (0..rows).map(|_| (random.below(3) > 0).then(|| random.below(vocab))).collect();
    let ids = chosen.iter().map(|l| l.map_or(IGNORE_LABEL, |l| l as u32)).collect();
    (Tensor::from_u32(ids, &[rows]), chosen)
}

/// What is right, and how far from it a device's results may be.
struct Expected {
    loss: (f64, Tolerance),
    grads: [(Vec<f64>, Tolerance); 2],
}

impl Expected {
    fn new(
        device: Device,
        inputs: &[Tensor; 2],
        labels: &[Option<usize>],
        denominator: f32,
        dloss: f32,
    ) -> Expected {
        let (vocab, dim) = (inputs[1].shape()[0], inputs[1].shape()[1]);
        let v = [values(&inputs[0]), values(&inputs[1])];
        let f: [Vec<f32>; 2] = [cast(&v[0]), cast(&v[1])];
        let run64 = reference::linear_cross_entropy(&v[0], &v[1], labels, denominator.into(), (dim, vocab));
        let run32 = reference::linear_cross_entropy(&f[0], &f[1], labels, denominator.into(), (dim, vocab));
        // A rounding of a logit is a relative error of its probability; the largest logit is at most this.
        let norm = |x: &[f64]| {
            x.chunks(dim).map(|r| r.iter().map(|x| x * x).sum::<f64>().sqrt()).fold(0.0, f64::max)
        };
        let logit = 1.0 + norm(&v[0]) * norm(&v[1]);
        let labelled = labels.iter().flatten().count() as f64;
        let total = labelled * (logit + (vocab as f64).ln()) / f64::from(denominator);
        let of_loss = Tolerance::twice_naive(&stored(&[run32.0], DType::F32), &[run64.0])
            .plus(Tolerance::rounding(DType::F32, 2.0, &[total]));
        let half = inputs[0].dtype();
        let tensor_cores = device != Device::Cpu && half != DType::F32 && inputs[1].dtype() == half;
        let mut i = 0;
        let grads = [(run64.1, run32.1), (run64.2, run32.2)].map(|(exact, naive)| {
            let dtype = if i == 0 { inputs[0].dtype() } else { DType::F32 };
            let scaled = |g: f64| g * f64::from(dloss);
            let exact: Vec<f64> = exact.into_iter().map(scaled).collect();
            let naive: Vec<f64> = naive.into_iter().map(|g| scaled(g.into())).collect();
            // |P - Y| sums to at most 2 in a row.
            let other = v[1 - i].iter().fold(0.0f64, |m, x| m.max(x.abs()));
            let terms = if i == 0 { 2.0 } else { labels.len() as f64 };
            let size = vec![other * terms * f64::from(dloss / denominator); exact.len()];
            // P - Y is rounded for the tensor cores (in bf16 divided by the denominator); and so is dx before it is scaled.
            let roundings = if tensor_cores { 1.0 } else { 0.0 };
            let again = if tensor_cores && dtype == half { 2.0 } else { 1.0 };
            let large: Vec<f64> = size.iter().map(|s| logit * s).collect();
            let tolerance = Tolerance::twice_naive(&stored(&naive, dtype), &exact)
                .plus(Tolerance::rounding(DType::F32, 2.0, &large))
                .plus(Tolerance::rounding(if tensor_cores { half } else { DType::F32 }, roundings, &size))
                .plus(Tolerance::rounding(dtype, again, &exact));
            i += 1;
            (exact, tolerance)
        });
        Expected { loss: (run64.0, of_loss), grads }
    }

    #[track_caller]
    fn check(&self, device: Device, x_type: DType, outcome: &Outcome) {
        assert_close(&format!("loss on {device}"), &outcome.output, &[self.loss.0], &self.loss.1);
        for (i, (exact, tolerance)) in self.grads.iter().enumerate() {
            assert_eq!(outcome.grad(i).dtype(), if i == 0 { x_type } else { DType::F32 });
            assert_close(&format!("{} on {device}", ["dx", "dW"][i]), outcome.grad(i), exact, tolerance);
        }
    }
}

proptest! {
    #![proptest_config(cases(40))]

    #[test]
    fn loss_and_gradients_match_the_oracle(
        (rows, dim, vocab) in (1usize..40, 1usize..40, 1usize..90),
        [x_type, w_type] in float_types::<2>(),
        denominator in 0.5f32..50.0,
        dloss in prop_oneof![Just(1.0f32), 0.1f32..3.0],
        seed in any::<u64>(),
    ) {
        let mut random = Random::new(seed);
        let inputs = [random.tensor(&[rows, dim], x_type, 1.0), random.tensor(&[vocab, dim], w_type, 0.5)];
        let (ids, chosen) = labels(&mut random, rows, vocab);
        on_each(|device| {
            let dloss_there = Tensor::scalar(dloss);
            let outcome = forward_backward_at(device, &inputs, &dloss_there, op(ids.clone(), denominator)).unwrap();
            Expected::new(device, &inputs, &chosen, denominator, dloss).check(device, x_type, &outcome);
        });
    }
}

/// Several chunks and tiles, rows that start on 16 bytes and rows that do not, a last chunk without a labelled row, and a vocabulary of more
/// than one tile of the softmax.
#[test]
fn chunks_and_tiles() {
    let mut random = Random::new(8);
    let (f32s, bf16s, f16s) = ([DType::F32; 2], [DType::BF16; 2], [DType::F16; 2]);
    let shapes = [
        (300, 24, 130, bf16s, 250),
        (300, 24, 130, f32s, 250),
        (200, 24, 130, f16s, 160),
        (130, 9, 140, f16s, 130),
        (140, 8, 9000, bf16s, 140),
        (130, 9, 8201, bf16s, 130),
        (130, 3, 8203, [DType::BF16, DType::F32], 130),
        (130, 3, 70, [DType::F16, DType::F32], 130),
        (260, 40, 70, [DType::F32, DType::BF16], 128),
        (131, 40, 70, [DType::F32, DType::F16], 128),
    ];
    for (rows, dim, vocab, [x_type, w_type], labelled) in shapes {
        let inputs = [random.tensor(&[rows, dim], x_type, 1.0), random.tensor(&[vocab, dim], w_type, 0.5)];
        let chosen: Vec<Option<usize>> =
            (0..rows).map(|t| (t < labelled && t % 7 != 3).then(|| random.below(vocab))).collect();
        let ids = chosen.iter().map(|l| l.map_or(IGNORE_LABEL, |l| l as u32)).collect();
        let ids = Tensor::from_u32(ids, &[rows]);
        let outcome =
            forward_backward_at(cuda(), &inputs, &Tensor::scalar(1.0), in_small_chunks(ids, 77.0)).unwrap();
        Expected::new(cuda(), &inputs, &chosen, 77.0, 1.0).check(cuda(), x_type, &outcome);
        assert_no_reports();
    }
}

#[test]
fn a_device_gives_the_same_bits_on_every_run_and_chunks_change_no_loss() {
    let mut random = Random::new(9);
    for dtype in FLOATS {
        let inputs = [random.tensor(&[290, 24], dtype, 1.0), random.tensor(&[150, 24], dtype, 0.5)];
        let (ids, _) = labels(&mut random, 290, 150);
        let dloss = Tensor::scalar(1.0);
        assert_repeatable(cuda(), &inputs, &dloss, Tape::recording, in_small_chunks(ids.clone(), 200.0));
        let small =
            forward_backward_at(cuda(), &inputs, &dloss, in_small_chunks(ids.clone(), 200.0)).unwrap();
        let whole = forward_backward_at(cuda(), &inputs, &dloss, op(ids, 200.0)).unwrap();
        assert_eq!(bits(&small.output), bits(&whole.output));
        assert_eq!(bits(small.grad(0)), bits(whole.grad(0)));
    }
}

/// The loss of a large batch, scaled up as who trains in f16 does: gradients that are not scaled would be below the smallest f16.
#[test]
fn gradients_in_f16_outlive_a_large_denominator() {
    let mut random = Random::new(10);
    let (rows, dim, vocab, many) = (37, 24, 50, 1e6);
    let inputs =
        [random.tensor(&[rows, dim], DType::F16, 1.0), random.tensor(&[vocab, dim], DType::F16, 0.5)];
    let (ids, chosen) = labels(&mut random, rows, vocab);
    on_each(|device| {
        let dloss = Tensor::scalar(many);
        let outcome = forward_backward_at(device, &inputs, &dloss, op(ids.clone(), many)).unwrap();
        let expected = Expected::new(device, &inputs, &chosen, many, many);
        expected.check(device, DType::F16, &outcome);
    });
}

#[test]
fn the_oracle_has_the_right_gradients() {
    let (rows, dim, vocab) = (4, 5, 7);
    let mut random = Random::new(1);
    let mut draw = |n: usize| -> Vec<f64> { (0..n).map(|_| random.normal()).collect() };
    let inputs = [draw(rows * dim), draw(vocab * dim)];
    let labels = [Some(3), None, Some(0), Some(6)];
    let run = |v: &[Vec<f64>]| reference::linear_cross_entropy(&v[0], &v[1], &labels, 2.5, (dim, vocab));
    let (_, dx, dw) = run(&inputs);
    check_oracle(&inputs, &[dx, dw], |v| run(v).0);
}

#[test]
fn several_chunks_give_the_same_bits_on_every_run_and_the_oracles_loss() {
    let (rows, dim, vocab) = (45, 24, 600_000);
    assert_eq!(chunk_rows(vocab, 32 << 20), 16, "the test is about more than one chunk");
    let mut random = Random::new(2);
    let inputs =
        [random.tensor(&[rows, dim], DType::F32, 1.0), random.tensor(&[vocab, dim], DType::BF16, 0.5)];
    let ids = random.ids(rows, vocab);
    assert_deterministic(&inputs, &Tensor::scalar(1.0), Tape::recording, op(ids.clone(), 45.0));

    // Against the same rows one by one.
    let tape = Tape::inference();
    let whole =
        op(ids.clone(), 45.0)(&tape, &inputs.clone().map(Var::constant)).unwrap().value().item().unwrap();
    let mut sum = 0.0;
    for t in 0..rows {
        let x = [inputs[0].rows(t, 1).unwrap(), inputs[1].clone()].map(Var::constant);
        sum += f64::from(op(ids.rows(t, 1).unwrap(), 45.0)(&tape, &x).unwrap().value().item().unwrap());
    }
    assert!((sum - f64::from(whole)).abs() <= 1e-6 * sum, "{sum} and {whole}");
}

#[test]
fn chunks_are_sized_by_bytes() {
    assert_eq!(chunk_rows(49152, 32 << 20), 170);
    assert_eq!(chunk_rows(32, 4096), 32);
    assert_eq!(chunk_rows(0, 1 << 10), 256);
    assert_eq!(chunk_rows(usize::MAX, 1), 16);
    // On a CUDA device, tiles of 128.
    assert_eq!(device_chunk_rows(49152, 256 << 20), 1280);
    assert_eq!(device_chunk_rows(128_256, 256 << 20), 512);
    assert_eq!(device_chunk_rows(50_257, 128 * 4 * 50_264), 128);
    assert_eq!(device_chunk_rows(50_257, 256 * 4 * 50_264), 256);
    assert_eq!(device_chunk_rows(50_257, 256 * 4 * 50_264 - 1), 128);
    assert_eq!(device_chunk_rows(0, 1 << 12), 128);
    assert_eq!(device_chunk_rows(usize::MAX, 1), 128);
}

#[test]
fn huge_logits_stay_finite() {
    let x = Tensor::from_f32(vec![1e4, -1e4], &[2, 1]);
    let w = Tensor::from_f32(vec![1e4, -1e4, 0.0], &[3, 1]);
    let labels = Tensor::from_u32(vec![0, 0], &[2]);
    on_each(|device| {
        let inputs = [x.clone(), w.clone()];
        let outcome =
            forward_backward_at(device, &inputs, &Tensor::scalar(1.0), op(labels.clone(), 2.0)).unwrap();
        // Row 0 is certain and right, row 1 certain and wrong: its loss is 2e8.
        assert_eq!(values(&outcome.output), [1e8]);
        assert_eq!(values(outcome.grad(0)), [0.0, -1e4]);
        assert_eq!(values(outcome.grad(1)), [5e3, -5e3, 0.0]);
    });
}

#[test]
fn a_logit_that_is_not_a_number_makes_the_loss_not_a_number() {
    for bad in [f32::NAN, f32::INFINITY] {
        let x = Tensor::from_f32(vec![1.0, bad], &[2, 1]);
        let w = Tensor::from_f32(vec![1.0, 2.0, 3.0], &[3, 1]);
        let labels = Tensor::from_u32(vec![0, 2], &[2]);
        on_each(|device| {
            let vars = [&x, &w].map(|t| Var::constant(t.to_device(device).unwrap()));
            let loss = op(labels.clone(), 1.0)(&Tape::inference(), &vars).unwrap();
            assert!(loss.value().item().unwrap().is_nan());
        });
    }
}

#[test]
fn no_labelled_row_gives_zero() {
    for rows in [0, 3] {
        for dtype in FLOATS {
            let inputs =
                [Random::new(4).tensor(&[rows, 2], dtype, 1.0), Random::new(5).tensor(&[4, 2], dtype, 1.0)];
            let labels = Tensor::from_u32(vec![IGNORE_LABEL; rows], &[rows]);
            on_each(|device| {
                let dloss = Tensor::scalar(1.0);
                let outcome = forward_backward_at(device, &inputs, &dloss, op(labels.clone(), 7.0)).unwrap();
                assert_eq!(values(&outcome.output), [0.0]);
                assert_eq!(values(outcome.grad(0)), vec![0.0; rows * 2]);
                assert_eq!(values(outcome.grad(1)), [0.0; 8]);
            });
        }
    }
}

#[test]
fn gradients_are_the_same_alone_or_together_and_without_any_the_loss_is() {
    let mut random = Random::new(6);
    let (ids, _) = labels(&mut random, 30, 50);
    for dtype in [DType::F32, DType::BF16] {
        let inputs = [random.tensor(&[30, 20], dtype, 1.0), random.tensor(&[50, 20], dtype, 1.0)];
        on_each(|device| {
            let run = |wanted: fn(usize) -> bool| {
                let op = op(ids.clone(), 20.0);
                run_at(device, Tape::recording(), &inputs, &Tensor::scalar(1.0), wanted, op).unwrap()
            };
            let both = run(|_| true);
            assert_eq!(bits(run(|i| i == 0).grad(0)), bits(both.grad(0)));
            assert_eq!(bits(run(|i| i == 1).grad(1)), bits(both.grad(1)));
            assert_eq!(bits(&run(|_| false).output), bits(&both.output));
        });
    }
}

#[test]
fn a_label_outside_the_vocabulary_on_a_device_makes_its_row_and_the_loss_not_a_number() {
    for dtype in [DType::F32, DType::BF16] {
        let inputs = [Random::new(1).tensor(&[3, 2], dtype, 1.0), Random::new(2).tensor(&[4, 2], dtype, 1.0)];
        let labels = Tensor::from_u32(vec![3, 4, IGNORE_LABEL], &[3]);
        let run = |i| {
            run_at(
                cuda(),
                Tape::recording(),
                &inputs,
                &Tensor::scalar(1.0),
                |j| i == j,
                op(labels.clone(), 2.0),
            )
        };
        let outcome = run(0).unwrap();
        assert!(values(&outcome.output)[0].is_nan());
        let dx = values(outcome.grad(0));
        assert!(dx[..2].iter().all(|x| x.is_finite()) && dx[2..4].iter().all(|x| x.is_nan()), "{dx:?}");
        assert_eq!(dx[4..], [0.0; 2]);
        assert!(values(run(1).unwrap().grad(1)).iter().all(|x| x.is_nan()));
        assert_no_reports();
    }
    let error = check_labels(&[0, IGNORE_LABEL, 4], 4).unwrap_err().to_string();
    assert_eq!(error, "linear_cross_entropy: label 4 at position 2 is outside the vocabulary of 4");
    check_labels(&[0, IGNORE_LABEL, 3], 4).unwrap();
}

#[test]
fn bad_labels_and_denominators_are_named() {
    let var = |shape: &[usize]| Var::constant(Tensor::zeros(shape, DType::F32));
    let (x, w) = (var(&[2, 3]), var(&[4, 3]));
    let run = |labels: Vec<u32>, denominator| {
        let n = labels.len();
        let labels = Tensor::from_u32(labels, &[n]);
        linear_cross_entropy(&Tape::inference(), &x, &w, &labels, denominator).unwrap_err().to_string()
    };
    assert_eq!(
        run(vec![3, 4], 1.0),
        "linear_cross_entropy: label 4 at position 1 is outside the vocabulary of 4"
    );
    assert_eq!(run(vec![1], 1.0), "linear_cross_entropy: labels [1] for x [2, 3]");
    for denominator in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        assert!(run(vec![1, 1], denominator).contains("number of tokens with loss"));
    }
    let floats = Tensor::zeros(&[2], DType::F32);
    assert!(linear_cross_entropy(&Tape::inference(), &x, &w, &floats, 1.0).is_err());
    // Labels that were left on the host.
    let there = [&x, &w].map(|v| Var::constant(v.value().to_device(cuda()).unwrap()));
    let labels = Tensor::from_u32(vec![1, 1], &[2]);
    let error = linear_cross_entropy(&Tape::inference(), &there[0], &there[1], &labels, 1.0).unwrap_err();
    assert!(error.to_string().contains("operands in two places"), "{error}");
}
