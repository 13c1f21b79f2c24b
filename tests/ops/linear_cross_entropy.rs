//! The fused head and loss.

use proptest::prelude::*;
use warptune::autograd::{Tape, Var};
use warptune::ops::linear_cross_entropy::{IGNORE_LABEL, chunk_rows, linear_cross_entropy};
use warptune::tensor::{DType, Tensor};

use super::{cases, float_type};
use crate::reference::linear_cross_entropy as reference;
use crate::reference::{cast, stored};
use crate::support::gradcheck::{assert_deterministic, check_oracle, forward_backward, forward_backward_on};
use crate::support::random::Random;
use crate::support::tolerance::{Tolerance, assert_close};
use crate::support::{bits, values};

fn op(labels: Tensor, denominator: f32) -> impl Fn(&Tape, &[Var]) -> warptune::Result<Var> {
    move |tape, v| linear_cross_entropy(tape, &v[0], &v[1], &labels, denominator)
}

/// Labels of which about a third carry no loss.
fn labels(random: &mut Random, rows: usize, vocab: usize) -> (Tensor, Vec<Option<usize>>) {
    let chosen: Vec<Option<usize>> =
        (0..rows).map(|_| (random.below(3) > 0).then(|| random.below(vocab))).collect();
    let ids = chosen.iter().map(|l| l.map_or(IGNORE_LABEL, |l| l as u32)).collect();
    (Tensor::from_u32(ids, &[rows]), chosen)
}

proptest! {
    #![proptest_config(cases(40))]

    #[test]
    fn loss_and_gradients_match_the_oracle(
        (rows, dim, vocab) in (1usize..40, 1usize..40, 1usize..90),
        (x_type, w_type) in (float_type(), float_type()),
        denominator in 0.5f32..50.0,
        dloss in prop_oneof![Just(1.0f32), 0.1f32..3.0],
        seed in any::<u64>(),
    ) {
        let mut random = Random::new(seed);
        let inputs = [random.tensor(&[rows, dim], x_type, 1.0), random.tensor(&[vocab, dim], w_type, 0.5)];
        let (ids, chosen) = labels(&mut random, rows, vocab);
        let outcome = forward_backward(&inputs, &Tensor::scalar(dloss), op(ids, denominator)).unwrap();

        let v = [values(&inputs[0]), values(&inputs[1])];
        let f: [Vec<f32>; 2] = [cast(&v[0]), cast(&v[1])];
        let run64 = reference::linear_cross_entropy(&v[0], &v[1], &chosen, denominator.into(), (dim, vocab));
        let run32 = reference::linear_cross_entropy(&f[0], &f[1], &chosen, denominator.into(), (dim, vocab));
        // A rounding of a logit is a relative error of its probability; the largest logit is at most this.
        let norm = |x: &[f64]| x.chunks(dim).map(|r| r.iter().map(|x| x * x).sum::<f64>().sqrt()).fold(0.0, f64::max);
        let logit = 1.0 + norm(&v[0]) * norm(&v[1]);
        let total = chosen.iter().flatten().count() as f64 * (logit + (vocab as f64).ln()) / f64::from(denominator);
        let tolerance = Tolerance::twice_naive(&stored(&[run32.0], DType::F32), &[run64.0])
            .plus(Tolerance::rounding(DType::F32, 2.0, &[total]));
        assert_close("loss", &outcome.output, &[run64.0], &tolerance);

        for (i, (exact, naive)) in [(run64.1, run32.1), (run64.2, run32.2)].into_iter().enumerate() {
            let dtype = if i == 0 { x_type } else { DType::F32 };
            let scaled = |g: f64| g * f64::from(dloss);
            let exact: Vec<f64> = exact.into_iter().map(scaled).collect();
            let naive: Vec<f64> = naive.into_iter().map(|g| scaled(g.into())).collect();
            // |P - Y| sums to at most 2 in a row.
            let other = v[1 - i].iter().fold(0.0f64, |m, x| m.max(x.abs()));
            let terms = if i == 0 { 2.0 } else { chosen.len() as f64 };
            let size = vec![logit * other * terms * f64::from(dloss / denominator); exact.len()];
            let tolerance = Tolerance::twice_naive(&stored(&naive, dtype), &exact)
                .plus(Tolerance::rounding(DType::F32, 2.0, &size))
                .plus(Tolerance::rounding(dtype, 1.0, &exact));
            prop_assert_eq!(outcome.grad(i).dtype(), dtype);
            assert_close(["dx", "dW"][i], outcome.grad(i), &exact, &tolerance);
        }
    }
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
}

#[test]
fn huge_logits_stay_finite() {
    let x = Tensor::from_f32(vec![1e4, -1e4], &[2, 1]);
    let w = Tensor::from_f32(vec![1e4, -1e4, 0.0], &[3, 1]);
    let labels = Tensor::from_u32(vec![0, 0], &[2]);
    let outcome = forward_backward(&[x, w], &Tensor::scalar(1.0), op(labels, 2.0)).unwrap();
    // Row 0 is certain and right, row 1 certain and wrong: its loss is 2e8.
    assert_eq!(values(&outcome.output), [1e8]);
    assert_eq!(values(outcome.grad(0)), [0.0, -1e4]);
    assert_eq!(values(outcome.grad(1)), [5e3, -5e3, 0.0]);
}

#[test]
fn a_logit_that_is_not_a_number_makes_the_loss_not_a_number() {
    let x = Tensor::from_f32(vec![1.0, f32::NAN], &[2, 1]);
    let w = Tensor::from_f32(vec![1.0, 2.0, 3.0], &[3, 1]);
    let labels = Tensor::from_u32(vec![0, 2], &[2]);
    let loss = op(labels, 1.0)(&Tape::inference(), &[x, w].map(Var::constant)).unwrap();
    assert!(loss.value().item().unwrap().is_nan());
}

#[test]
fn no_labelled_row_gives_zero() {
    for rows in [0, 3] {
        let inputs = [
            Random::new(4).tensor(&[rows, 2], DType::F32, 1.0),
            Random::new(5).tensor(&[4, 2], DType::F32, 1.0),
        ];
        let labels = Tensor::from_u32(vec![IGNORE_LABEL; rows], &[rows]);
        let outcome = forward_backward(&inputs, &Tensor::scalar(1.0), op(labels, 7.0)).unwrap();
        assert_eq!(values(&outcome.output), [0.0]);
        assert_eq!(values(outcome.grad(0)), vec![0.0; rows * 2]);
        assert_eq!(values(outcome.grad(1)), [0.0; 8]);
    }
}

#[test]
fn gradients_are_the_same_alone_or_together_and_without_any_the_loss_is() {
    let mut random = Random::new(6);
    let inputs = [random.tensor(&[30, 20], DType::F32, 1.0), random.tensor(&[50, 20], DType::F32, 1.0)];
    let (ids, _) = labels(&mut random, 30, 50);
    let run = |wanted: fn(usize) -> bool| {
        forward_backward_on(Tape::recording(), &inputs, &Tensor::scalar(1.0), wanted, op(ids.clone(), 20.0))
            .unwrap()
    };
    let both = run(|_| true);
    assert_eq!(bits(run(|i| i == 0).grad(0)), bits(both.grad(0)));
    assert_eq!(bits(run(|i| i == 1).grad(1)), bits(both.grad(1)));
    assert_eq!(bits(&run(|_| false).output), bits(&both.output));
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
}
