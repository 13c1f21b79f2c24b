//! Sum of activations.

use proptest::prelude::*;
use warptune::autograd::{Tape, Var};
use warptune::ops::add::add;
use warptune::tensor::{DType, Tensor};

use super::{cases, float_type};
use crate::reference::stored;
use crate::support::devices::{cuda, on_each};
use crate::support::gradcheck::{assert_deterministic, assert_repeatable, forward_backward_at};
use crate::support::random::Random;
use crate::support::{bits, values};

fn op(tape: &Tape, v: &[Var]) -> warptune::Result<Var> {
    add(tape, &v[0], &v[1])
}

proptest! {
    #![proptest_config(cases(24))]

    #[test]
    fn is_the_rounded_sum_and_passes_the_gradient_on(
        (rows, cols) in (0usize..50, 1usize..50),
        dtype in float_type(),
        seed in any::<u64>(),
    ) {
        let mut random = Random::new(seed);
        let inputs = [random.tensor(&[rows, cols], dtype, 1.0), random.tensor(&[rows, cols], dtype, 1.0)];
        let dy = random.tensor(&[rows, cols], dtype, 1.0);
        let sums: Vec<f64> = values(&inputs[0]).iter().zip(values(&inputs[1])).map(|(a, b)| a + b).collect();
        // An f32 sum of two bf16 numbers may itself be rounded, then twice in all.
        let once: Vec<f32> = sums.iter().map(|&x| x as f32).collect();
        on_each(|device| {
            let outcome = forward_backward_at(device, &inputs, &dy, op).unwrap();
            assert_eq!(values(&outcome.output), stored(&once, dtype));
            assert_eq!(bits(outcome.grad(0)), bits(&dy));
            assert_eq!(bits(outcome.grad(1)), bits(&dy));
        });
    }
}

#[test]
fn a_value_added_to_itself_gets_twice_the_gradient() {
    let x = Random::new(1).tensor(&[40, 7], DType::F32, 1.0);
    let dy = Random::new(2).tensor(&[40, 7], DType::F32, 1.0);
    let twice: Vec<f64> = values(&dy).iter().map(|g| 2.0 * g).collect();
    on_each(|device| {
        let inputs = std::slice::from_ref(&x);
        let double = |tape: &Tape, v: &[Var]| add(tape, &v[0], &v[0]);
        let outcome = forward_backward_at(device, inputs, &dy, double).unwrap();
        assert_eq!(values(outcome.grad(0)), twice);
    });
}

#[test]
fn same_bits_on_every_run() {
    let mut random = Random::new(3);
    let mut draw = || random.tensor(&[300, 113], DType::BF16, 1.0);
    let (inputs, dy) = ([draw(), draw()], draw());
    assert_deterministic(&inputs, &dy, Tape::recording, op);
    assert_repeatable(cuda(), &inputs, &dy, Tape::recording, op);
}

#[test]
fn operands_that_do_not_fit_are_named() {
    let var = |shape: &[usize], dtype| Var::constant(Tensor::zeros(shape, dtype));
    let refuse = |a: Var, b: Var| add(&Tape::inference(), &a, &b).unwrap_err().to_string();
    assert_eq!(refuse(var(&[2, 3], DType::F32), var(&[3, 2], DType::F32)), "add: [2, 3] + [3, 2]");
    assert_eq!(refuse(var(&[2], DType::F32), var(&[2], DType::BF16)), "add: f32 + bf16, one type expected");
    assert!(refuse(var(&[2], DType::U32), var(&[2], DType::U32)).contains("u32"));
}
