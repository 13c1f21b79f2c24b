//! Mean squared error.

use proptest::prelude::*;
use warptune::autograd::{Tape, Var};
use warptune::device::Device;
use warptune::ops::mse::mse;
use warptune::tensor::{DType, Tensor};

use super::cases;
use crate::reference::mse::mse as oracle;
use crate::support::devices::{cuda, on_each};
use crate::support::gradcheck::{assert_deterministic, assert_repeatable, check_oracle, forward_backward_at};
use crate::support::random::Random;
use crate::support::tolerance::{Tolerance, assert_close};
use crate::support::values;

fn op(denominator: f32) -> impl Fn(&Tape, &[Var]) -> warptune::Result<Var> {
    move |tape, v| mse(tape, &v[0], v[1].value(), denominator)
}

proptest! {
    #![proptest_config(cases(24))]

    #[test]
    fn loss_and_gradient_match_the_oracle(
        (rows, cols) in (0usize..60, 1usize..400),
        denominator in 0.5f64..1e6,
        seed in any::<u64>(),
    ) {
        let mut random = Random::new(seed);
        let shape = [rows, cols];
        let inputs = [random.tensor(&shape, DType::F32, 2.0), random.tensor(&shape, DType::F32, 2.0)];
        let denominator = denominator as f32;
        let (a, b) = (values(&inputs[0]), values(&inputs[1]));
        let (loss, da) = oracle(&a, &b, f64::from(denominator));
        let dloss = f64::from(random.normal() as f32);
        let seed = Tensor::scalar(dloss as f32);
        let da: Vec<f64> = da.iter().map(|x| x * dloss).collect();
        // Differences of cancelling numbers are exact to a rounding of their own size; 32 squares of a thread are summed in f32.
        let of_loss = Tolerance::rounding(DType::F32, 2.0 * 32.0 + 4.0, &[loss]);
        let of_da = Tolerance::rounding(DType::F32, 4.0, &da);
        on_each(|device| {
            let outcome = forward_backward_at(device, &inputs, &seed, op(denominator)).unwrap();
            assert_close("loss", &outcome.output, &[loss], &of_loss);
            assert_close("da", outcome.grad(0), &da, &of_da);
            assert!(outcome.grads[1].is_none());
        });
    }
}

#[test]
fn the_oracle_has_the_right_gradient() {
    let mut random = Random::new(1);
    let mut draw = |n: usize| -> Vec<f64> { (0..n).map(|_| random.normal()).collect() };
    let (a, b) = (draw(20), draw(20));
    check_oracle(std::slice::from_ref(&a), &[oracle(&a, &b, 7.0).1], |v| oracle(&v[0], &b, 7.0).0);
}

#[test]
fn same_bits_on_every_run() {
    let mut random = Random::new(2);
    let inputs = [random.tensor(&[97, 701], DType::F32, 2.0), random.tensor(&[97, 701], DType::F32, 2.0)];
    let seed = Tensor::scalar(1.5);
    assert_deterministic(&inputs, &seed, Tape::recording, op(97.0 * 701.0));
    assert_repeatable(cuda(), &inputs, &seed, Tape::recording, op(97.0 * 701.0));
}

/// Rows of a larger tensor begin anywhere.
#[test]
fn operands_that_are_not_aligned() {
    let whole = Random::new(3).tensor(&[40, 501], DType::F32, 1.0);
    on_each(|device| {
        let whole = whole.to_device(device).unwrap();
        let (a, b) = (whole.rows(1, 19).unwrap(), whole.rows(21, 19).unwrap());
        let loss = mse(&Tape::inference(), &Var::constant(a.clone()), &b, 10.0).unwrap();
        let host = |x: &Tensor| values(&x.to_device(Device::Cpu).unwrap());
        let (expected, _) = oracle(&host(&a), &host(&b), 10.0);
        let tolerance = Tolerance::rounding(DType::F32, 68.0, &[expected]);
        assert_close("loss", &loss.value().to_device(Device::Cpu).unwrap(), &[expected], &tolerance);
    });
}

#[test]
fn operands_that_do_not_fit_are_named() {
    let refuse = |a: &[usize], b: &[usize], dtype, denominator| {
        let (a, b) = (Var::constant(Tensor::zeros(a, dtype)), Tensor::zeros(b, DType::F32));
        mse(&Tape::inference(), &a, &b, denominator).unwrap_err().to_string()
    };
    assert_eq!(refuse(&[2, 3], &[3, 2], DType::F32, 1.0), "mse: [2, 3] against [3, 2]");
    assert_eq!(refuse(&[2], &[2], DType::BF16, 1.0), "mse: bf16 against f32, f32 expected");
    for bad in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        assert!(refuse(&[2], &[2], DType::F32, bad).contains("a mean over"));
    }
}
