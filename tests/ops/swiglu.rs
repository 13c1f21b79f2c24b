//! SwiGLU.

use proptest::prelude::*;
use warptune::autograd::{Tape, Var};
use warptune::ops::swiglu::swiglu;
use warptune::tensor::{DType, Tensor};

use super::{cases, float_type};
use crate::reference::swiglu::{swiglu as oracle, swiglu_backward as oracle_backward};
use crate::support::devices::{cuda, on_each};
use crate::support::gradcheck::{
    assert_deterministic, assert_repeatable, check_oracle, dot, forward_backward_at,
};
use crate::support::random::Random;
use crate::support::tolerance::{Tolerance, assert_close};
use crate::support::values;

fn op(tape: &Tape, v: &[Var]) -> warptune::Result<Var> {
    swiglu(tape, &v[0], &v[1])
}

proptest! {
    #![proptest_config(cases(48))]

    #[test]
    fn values_and_gradients_match_the_oracle(
        (rows, cols) in (0usize..40, 0usize..90),
        dtype in float_type(),
        std in 0.5f64..30.0,
        seed in any::<u64>(),
    ) {
        let mut random = Random::new(seed);
        let shape = [rows, cols];
        let inputs = [random.tensor(&shape, dtype, std), random.tensor(&shape, dtype, 1.0)];
        let dy = random.tensor(&shape, dtype, 1.0);
        let seed = dy;
        let [gate, up, dy] = [values(&inputs[0]), values(&inputs[1]), values(&seed)];
        let y = oracle(&gate, &up);
        // e^x has 2 roundings, and one from its argument for each unit of |x|, which shows in the tail only. A sigmoid
        // below 3e-39 may be 0.
        let rounding = |exact: &[f64], factor: &dyn Fn(usize) -> f64| {
            let size: Vec<f64> = (0..exact.len()).map(|i| 1e-29 + factor(i) * (1.0 + gate[i].abs().min(88.0))).collect();
            Tolerance::rounding(DType::F32, 4.0, &size).plus(Tolerance::rounding(dtype, 1.0, exact))
        };
        let [dgate, dup] = oracle_backward(&gate, &up, &dy);
        on_each(|device| {
            let outcome = forward_backward_at(device, &inputs, &seed, op).unwrap();
            assert_close("y", &outcome.output, &y, &rounding(&y, &|i| y[i]));
            // 1 - sigmoid cancels: an absolute error of one rounding of dy up.
            let of_dgate = rounding(&dgate, &|i| dgate[i].abs() + (dy[i] * up[i]).abs());
            assert_close("dgate", outcome.grad(0), &dgate, &of_dgate);
            assert_close("dup", outcome.grad(1), &dup, &rounding(&dup, &|i| dup[i]));
        });
    }
}

#[test]
fn the_oracle_has_the_right_gradients() {
    let mut random = Random::new(1);
    let mut draw = |n: usize| -> Vec<f64> { (0..n).map(|_| random.normal()).collect() };
    let (inputs, dy) = ([draw(20), draw(20)], draw(20));
    let grads = oracle_backward(&inputs[0], &inputs[1], &dy);
    check_oracle(&inputs, &grads, |v| dot(&oracle(&v[0], &v[1]), &dy));
}

#[test]
fn same_bits_on_every_run() {
    let mut random = Random::new(2);
    for dtype in [DType::F32, DType::BF16] {
        let inputs = [random.tensor(&[97, 701], dtype, 2.0), random.tensor(&[97, 701], dtype, 2.0)];
        let dy = random.tensor(&[97, 701], dtype, 1.0);
        assert_deterministic(&inputs, &dy, Tape::recording, op);
        assert_repeatable(cuda(), &inputs, &dy, Tape::recording, op);
    }
}

#[test]
fn an_element_does_not_depend_on_its_place() {
    let mut random = Random::new(5);
    let (gate, up) = (random.vec(57, 3.0), random.vec(57, 1.0));
    let run = |gate: &[f32], up: &[f32]| {
        let var = |x: &[f32]| Var::constant(Tensor::from_f32(x.to_vec(), &[x.len()]));
        values(swiglu(&Tape::inference(), &var(gate), &var(up)).unwrap().value())
    };
    let all = run(&gate, &up);
    for i in 0..57 {
        assert_eq!(run(&gate[i..i + 1], &up[i..i + 1]), all[i..i + 1]);
    }
}

#[test]
fn extreme_gates() {
    let gate =
        Tensor::from_f32(vec![-1e30, -200.0, -88.5, -87.5, 0.0, 87.5, 88.5, 200.0, 1e30, f32::NAN], &[10]);
    let up = Tensor::from_f32(vec![1.0; 10], &[10]);
    let inputs = [gate, up];
    on_each(|device| {
        let outcome = forward_backward_at(device, &inputs, &inputs[1], op).unwrap();
        let (gate, y) = (values(&inputs[0]), values(&outcome.output));
        let (dgate, dup) = (values(outcome.grad(0)), values(outcome.grad(1)));
        for i in 0..9 {
            let positive = gate[i].max(0.0);
            assert!((y[i] - positive).abs() <= 1e-30, "silu({}) is {}", gate[i], y[i]);
            assert!((dup[i] - positive).abs() <= 1e-30);
            let slope = if i == 4 { 0.5 } else { f64::from(gate[i] > 0.0) };
            assert!((dgate[i] - slope).abs() <= 1e-30, "silu'({}) is {}", gate[i], dgate[i]);
        }
        assert!(y[9].is_nan() && dgate[9].is_nan() && dup[9].is_nan());
    });
}

#[test]
fn operands_that_differ_are_named() {
    let tape = Tape::inference();
    let var = |shape: &[usize], dtype| Var::constant(Tensor::zeros(shape, dtype));
    let error = swiglu(&tape, &var(&[2, 3], DType::F32), &var(&[3, 2], DType::F32)).unwrap_err();
    assert_eq!(error.to_string(), "swiglu: gate [2, 3] and up [3, 2] differ in shape");
    let error = swiglu(&tape, &var(&[2, 3], DType::F32), &var(&[2, 3], DType::BF16)).unwrap_err();
    assert_eq!(error.to_string(), "swiglu: gate f32 and up bf16 differ in type");
}
