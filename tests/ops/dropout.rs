//! Dropout: the mask against Philox as its paper defines it.

use proptest::prelude::*;
use warptune::autograd::{Tape, Var};
use warptune::device::Device;
use warptune::ops::dropout::dropout;
use warptune::tensor::{DType, Tensor};

use super::{FLOATS, cases, float_type};
use crate::reference::dropout::mask;
use crate::support::devices::{assert_no_reports, cuda, on_each};
use crate::support::gradcheck::{assert_deterministic, assert_repeatable, run_at};
use crate::support::random::Random;
use crate::support::tolerance::{Tolerance, assert_close};
use crate::support::{bits, values};

proptest! {
    #![proptest_config(cases(24))]

    #[test]
    fn mask_and_gradient_match_the_oracle(
        (rows, cols) in (1usize..60, 1usize..300),
        dtype in float_type(),
        p in 0.01f32..0.95,
        (seed, step) in (any::<u64>(), 0u64..1 << 31),
    ) {
        let mut random = Random::new(seed);
        let x = random.tensor(&[rows, cols], dtype, 1.0);
        let dy = random.tensor(&[rows, cols], dtype, 1.0);
        // The second use on a tape draws from the second stream.
        let twice = |tape: &Tape, v: &[Var]| {
            dropout(tape, &v[0], p)?;
            dropout(tape, &v[0], p)
        };
        let keep = mask(seed, (step << 32) + 1, p, rows * cols);
        let inputs = std::slice::from_ref(&x);
        on_each(|device| {
            let outcome = run_at(device, Tape::training(seed, step), inputs, &dy, |_| true, twice).unwrap();
            for (name, ours, source) in [("y", &outcome.output, &x), ("dx", outcome.grad(0), &dy)] {
                let exact: Vec<f64> = values(source).iter().zip(&keep).map(|(x, k)| x * k).collect();
                // 1 - p, its inverse, the product, and the rounding to the type.
                let tolerance =
                    Tolerance::rounding(DType::F32, 4.0, &exact).plus(Tolerance::rounding(dtype, 1.0, &exact));
                assert_close(name, ours, &exact, &tolerance);
                assert!(values(ours).iter().zip(&exact).all(|(a, b)| (*a == 0.0) == (*b == 0.0)));
            }
        });
    }
}

#[test]
fn keeps_the_right_share() {
    let n = 100_000;
    let x = Var::constant(Tensor::from_f32(vec![1.0; n], &[n]));
    let y = values(dropout(&Tape::training(1, 0), &x, 0.3).unwrap().value());
    let kept = y.iter().filter(|&&v| v != 0.0).count() as f64;
    // Four standard deviations of a binomial.
    assert!((kept - 0.7 * n as f64).abs() < 4.0 * (0.21 * n as f64).sqrt(), "{kept} of {n} kept");
}

#[test]
fn same_bits_on_every_run() {
    let mut random = Random::new(2);
    let (x, dy) =
        (random.tensor(&[130, 517], DType::BF16, 1.0), random.tensor(&[130, 517], DType::BF16, 1.0));
    let (inputs, op) = ([x], |tape: &Tape, v: &[Var]| dropout(tape, &v[0], 0.2));
    assert_deterministic(&inputs, &dy, || Tape::training(3, 4), op);
    assert_repeatable(cuda(), &inputs, &dy, || Tape::training(3, 4), op);
}

#[test]
fn every_device_gives_the_same_bits() {
    let mut random = Random::new(4);
    for dtype in FLOATS {
        let (x, dy) = (random.tensor(&[1027], dtype, 1.0), random.tensor(&[1027], dtype, 1.0));
        let run = |device| {
            let op = |tape: &Tape, v: &[Var]| dropout(tape, &v[0], 0.4);
            run_at(device, Tape::training(5, 6), std::slice::from_ref(&x), &dy, |_| true, op).unwrap().bits()
        };
        assert_eq!(run(cuda()), run(Device::Cpu));
    }
    assert_no_reports();
}

#[test]
fn off_in_evaluation_on_nothing_and_for_p_zero() {
    let x = Var::constant(Random::new(3).tensor(&[3, 5], DType::F32, 1.0));
    for (tape, p) in [(Tape::inference(), 0.5), (Tape::recording(), 0.5), (Tape::training(1, 1), 0.0)] {
        assert_eq!(bits(dropout(&tape, &x, p).unwrap().value()), bits(x.value()));
    }
    let empty = Var::constant(Tensor::zeros(&[0, 5], DType::F32));
    assert_eq!(dropout(&Tape::training(1, 1), &empty, 0.5).unwrap().shape(), [0, 5]);
}

#[test]
fn probabilities_outside_the_range_are_refused() {
    let x = Var::constant(Tensor::zeros(&[1], DType::F32));
    for p in [-0.1, 1.0, 2.0, f32::NAN] {
        assert!(dropout(&Tape::training(1, 1), &x, p).is_err(), "p = {p}");
    }
}
