//! GELU, both kinds.

use proptest::prelude::*;
use warptune::autograd::{Tape, Var};
use warptune::ops::gelu::{GeluKind, gelu};
use warptune::tensor::{DType, Tensor};

use super::{cases, float_type};
use crate::reference::gelu::{gelu_erf, gelu_tanh};
use crate::support::devices::{cuda, on_each};
use crate::support::gradcheck::{
    assert_deterministic, assert_repeatable, check_oracle, dot, forward_backward_at,
};
use crate::support::random::Random;
use crate::support::tolerance::{Tolerance, assert_close};
use crate::support::values;

fn oracle(kind: GeluKind, x: f64) -> (f64, f64) {
    match kind {
        GeluKind::Erf => gelu_erf(x),
        GeluKind::Tanh => gelu_tanh(x),
    }
}

/// What is below one rounding of this (1e-36) may come out as 0.
const FLUSHED: f64 = 2e-29;

fn check(kind: GeluKind, x: &Tensor, dy: &Tensor) {
    let (inputs, seed, dtype) = (std::slice::from_ref(x), dy, x.dtype());
    let (x, dy) = (values(x), values(dy));
    let y: Vec<f64> = x.iter().map(|&x| oracle(kind, x).0).collect();
    let dx: Vec<f64> = x.iter().zip(&dy).map(|(&x, dy)| dy * oracle(kind, x).1).collect();
    // The distribution function is found within 1e-6 of itself (17 roundings), and its exponent's own rounding adds
    // one for each unit: x^2 / 2, or the cubic of the tanh form.
    let exponent = |x: f64| match kind {
        GeluKind::Erf => x * x,
        GeluKind::Tanh => 2.0 * x.abs() + 0.2 * x.abs().powi(3),
    };
    let spread = |x: f64| 20.0 + 4.0 * exponent(x).min(100.0);
    let size: Vec<f64> = x.iter().zip(&y).map(|(&x, y)| FLUSHED + y.abs() * spread(x)).collect();
    let of_y = Tolerance::rounding(DType::F32, 1.0, &size).plus(Tolerance::rounding(dtype, 1.0, &y));
    // The derivative cancels where it crosses zero, and 1 - sigmoid at large x: both against the terms' size.
    let size: Vec<f64> = x
        .iter()
        .zip(&dy)
        .map(|(&x, dy)| {
            FLUSHED + dy.abs() * (spread(x) * (oracle(kind, x).1.abs() + 0.2 * (1.0 + x.abs()))).min(1e3)
        })
        .collect();
    let of_dx = Tolerance::rounding(DType::F32, 1.0, &size).plus(Tolerance::rounding(dtype, 1.0, &dx));
    on_each(|device| {
        let outcome = forward_backward_at(device, inputs, seed, |tape, v| gelu(tape, &v[0], kind)).unwrap();
        assert_close("y", &outcome.output, &y, &of_y);
        assert_close("dx", outcome.grad(0), &dx, &of_dx);
    });
}

proptest! {
    #![proptest_config(cases(48))]

    #[test]
    fn values_and_gradients_match_the_oracle(
        (rows, cols) in (0usize..40, 0usize..90),
        dtype in float_type(),
        kind in prop_oneof![Just(GeluKind::Erf), Just(GeluKind::Tanh)],
        std in 0.5f64..6.0,
        seed in any::<u64>(),
    ) {
        let mut random = Random::new(seed);
        let (x, dy) = (random.tensor(&[rows, cols], dtype, std), random.tensor(&[rows, cols], dtype, 1.0));
        check(kind, &x, &dy);
    }
}

#[test]
fn a_fine_grid_over_the_whole_range() {
    let x: Vec<f32> = (-13_000..13_000).map(|i| i as f32 / 1000.0).collect();
    let x = Tensor::from_f32(x, &[26_000]);
    let dy = Tensor::from_f32(vec![1.0; 26_000], &[26_000]);
    check(GeluKind::Erf, &x, &dy);
    check(GeluKind::Tanh, &x, &dy);
}

/// Values of torch.nn.functional.gelu in f64.
#[test]
fn the_oracle_agrees_with_torch() {
    let x: [f64; 9] = [-5.5, -3.0, -1.0, -0.1, 0.0, 0.1, 1.0, 3.0, 5.5];
    let erf = [
        -1.0444259362918373e-07,
        -0.00404969409489031,
        -0.15865525393145702,
        -0.0460172162722971,
        0.0,
        0.053982783727702904,
        0.841344746068543,
        2.99595030590511,
        5.499999895557407,
    ];
    let tanh = [
        -5.927640267522349e-09,
        -0.0036373920817729943,
        -0.15880800939172324,
        -0.04601724895456484,
        0.0,
        0.053982751045435165,
        0.8411919906082768,
        2.996362607918227,
        5.499999994072359,
    ];
    for i in 0..x.len() {
        assert!(
            (gelu_erf(x[i]).0 - erf[i]).abs() <= 1e-14,
            "erf at {}: {:e}",
            x[i],
            gelu_erf(x[i]).0 - erf[i]
        );
        assert!((gelu_tanh(x[i]).0 - tanh[i]).abs() <= 1e-14, "tanh at {}", x[i]);
    }
}

#[test]
fn the_oracle_has_the_right_gradients() {
    let mut random = Random::new(1);
    let mut draw = |n: usize| -> Vec<f64> { (0..n).map(|_| 2.0 * random.normal()).collect() };
    let (x, dy) = (draw(40), draw(40));
    for kind in [GeluKind::Erf, GeluKind::Tanh] {
        let grad = x.iter().zip(&dy).map(|(&x, dy)| dy * oracle(kind, x).1).collect();
        let f = |v: &[Vec<f64>]| dot(&v[0].iter().map(|&x| oracle(kind, x).0).collect::<Vec<_>>(), &dy);
        check_oracle(std::slice::from_ref(&x), &[grad], f);
    }
}

#[test]
fn extreme_values() {
    for kind in [GeluKind::Erf, GeluKind::Tanh] {
        let x = Tensor::from_f32(vec![-1e30, -200.0, 200.0, 1e30, f32::NAN], &[5]);
        let dy = Tensor::from_f32(vec![1.0; 5], &[5]);
        let inputs = [x];
        on_each(|device| {
            let outcome =
                forward_backward_at(device, &inputs, &dy, |tape, v| gelu(tape, &v[0], kind)).unwrap();
            let (y, dx) = (values(&outcome.output), values(outcome.grad(0)));
            assert_eq!(y[..4], [0.0, 0.0, 200.0, f64::from(1e30f32)], "{kind:?}");
            assert_eq!(dx[..4], [0.0, 0.0, 1.0, 1.0], "{kind:?}");
            assert!(y[4].is_nan() && dx[4].is_nan());
        });
    }
}

#[test]
fn same_bits_on_every_run() {
    let mut random = Random::new(2);
    let (x, dy) = (random.tensor(&[97, 701], DType::BF16, 2.0), random.tensor(&[97, 701], DType::BF16, 1.0));
    for kind in [GeluKind::Erf, GeluKind::Tanh] {
        let op = move |tape: &Tape, v: &[Var]| gelu(tape, &v[0], kind);
        assert_deterministic(std::slice::from_ref(&x), &dy, Tape::recording, op);
        assert_repeatable(cuda(), std::slice::from_ref(&x), &dy, Tape::recording, op);
    }
}
