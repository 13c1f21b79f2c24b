//! The tape: what it records, what it refuses, and where gradients go. The ops here are made for the test.

use std::cell::RefCell;
use std::rc::Rc;

use warptune::autograd::{Gradients, Param, Tape, Var};
use warptune::device::Device;
use warptune::ops::linear_cross_entropy::linear_cross_entropy;
use warptune::tensor::{DType, Tensor};
use warptune::{Error, Result};

use crate::support::devices::{assert_no_reports, cuda};
use crate::support::random::Random;

fn vector(values: &[f32]) -> Tensor {
    Tensor::from_f32(values.to_vec(), &[values.len()])
}

/// y = x * factor, element by element, where both may carry gradients.
fn multiply(tape: &Tape, x: &Var, factor: &Var) -> Result<Var> {
    let product = |a: &Tensor, b: &Tensor| -> Result<Tensor> {
        let both = a.as_f32()?.iter().zip(b.as_f32()?);
        Ok(Tensor::from_f32(both.map(|(a, b)| a * b).collect(), a.shape()))
    };
    let (x_value, factor_value) = (x.value().clone(), factor.value().clone());
    let y = product(&x_value, &factor_value)?;
    tape.record("multiply", &[x, factor], y, move |dy, g| {
        if g.needs(0) {
            g.give(0, product(&dy, &factor_value)?)?;
        }
        if g.needs(1) {
            g.give(1, product(&dy, &x_value)?)?;
        }
        Ok(())
    })
}

/// The sum of all elements.
fn total(tape: &Tape, x: &Var) -> Result<Var> {
    let shape = x.shape().to_vec();
    let sum = Tensor::scalar(x.value().as_f32()?.iter().sum());
    tape.record("total", &[x], sum, move |dy, g| {
        let n = shape.iter().product();
        g.give(0, Tensor::from_f32(vec![dy.item()?; n], &shape))
    })
}

/// y = x with a random half of the elements dropped.
fn drop_half(tape: &Tape, x: &Var) -> Result<Var> {
    let mask: Vec<f32> = match tape.next_dropout() {
        Some(random) => (0..x.value().numel() as u64).map(|i| f32::from(random.uniform(i) < 0.5)).collect(),
        None => vec![1.0; x.value().numel()],
    };
    multiply(tape, x, &Var::constant(vector(&mask)))
}

#[test]
fn gradients_of_a_value_used_twice_are_summed() {
    let w = Param::new("w", vector(&[2.0, -3.0]));
    let tape = Tape::recording();
    let x = tape.param(&w);
    let again = tape.param(&w);
    let loss = total(&tape, &multiply(&tape, &x, &again).unwrap()).unwrap();
    let mut grads = Gradients::new();
    tape.backward(&loss, &mut grads).unwrap();
    assert_eq!(grads.get(&w).unwrap().as_f32().unwrap(), [4.0, -6.0]);
}

#[test]
fn gradients_of_two_backwards_are_summed() {
    let w = Param::new("w", vector(&[1.0, 2.0]));
    let mut grads = Gradients::new();
    for scale in [3.0, 5.0] {
        let tape = Tape::recording();
        let y = multiply(&tape, &tape.param(&w), &Var::constant(vector(&[scale, scale]))).unwrap();
        let loss = total(&tape, &y).unwrap();
        tape.backward(&loss, &mut grads).unwrap();
    }
    assert_eq!(grads.get(&w).unwrap().as_f32().unwrap(), [8.0, 8.0]);
}

/// y = 2 x, whose backward takes what has arrived of dx, and gives its sum with its own.
fn double_into_what_arrived(tape: &Tape, x: &Var, arrived: &Rc<RefCell<Vec<Option<f32>>>>) -> Result<Var> {
    let twice = |v: &Tensor| -> Result<Vec<f32>> { Ok(v.as_f32()?.iter().map(|x| 2.0 * x).collect()) };
    let (y, arrived) = (vector(&twice(x.value())?), Rc::clone(arrived));
    tape.record("double", &[x], y, move |dy, g| {
        assert!(g.take(0, DType::BF16).is_none());
        let before = g.take(0, DType::F32);
        assert!(g.take(0, DType::F32).is_none() && g.take(1, DType::F32).is_none());
        arrived.borrow_mut().push(before.as_ref().map(|x| x.as_f32().unwrap()[0]));
        let mut dx = vector(&twice(&dy)?);
        if let Some(before) = before {
            dx.add_assign(&before)?;
        }
        g.give(0, dx)
    })
}

#[test]
fn an_op_can_take_what_has_arrived() {
    let arrived = Rc::default();
    let tape = Tape::recording();
    let x = tape.input(vector(&[3.0, -1.0]));
    // (2 x * x) * 2 x: the first product is walked before both doubles, and gives x its share.
    let a = double_into_what_arrived(&tape, &x, &arrived).unwrap();
    let b = double_into_what_arrived(&tape, &x, &arrived).unwrap();
    let product = multiply(&tape, &b, &x).unwrap();
    let loss = total(&tape, &multiply(&tape, &product, &a).unwrap()).unwrap();
    let seed = Tensor::scalar(1.0);
    let grads = tape.backward_inputs(&loss, seed, &[&x], &mut Gradients::new()).unwrap();
    // The derivative is 12 x^2: 4 x^2 through the product's x, then as much through each double.
    assert_eq!(grads[0].as_ref().unwrap().as_f32().unwrap(), [12.0 * 9.0, 12.0]);
    assert_eq!(*arrived.borrow(), [Some(36.0), Some(72.0)]);
}

#[test]
fn an_op_without_backward_is_refused_at_the_forward() {
    let w = Param::new("w", vector(&[1.0]));
    let tape = Tape::recording();
    let x = tape.param(&w);
    let refused = tape.record_inference_only("argmax", &[&x], vector(&[0.0]));
    assert!(matches!(refused, Err(Error::NoBackward { op: "argmax" })), "{refused:?}");
    // Where no gradient would flow, it is welcome: on a constant, on a frozen parameter, on a tape that does not record.
    w.set_trainable(false);
    for (tape, x) in [(Tape::recording(), Var::constant(vector(&[1.0]))), (Tape::inference(), tape.param(&w))]
    {
        assert!(tape.record_inference_only("argmax", &[&x], vector(&[0.0])).is_ok());
    }
}

#[test]
fn frozen_parameters_get_no_gradient_and_missing_ones_are_named() {
    let used = Param::new("used", vector(&[1.0]));
    let frozen = Param::new("frozen", vector(&[2.0]));
    let forgotten = Param::new("forgotten", vector(&[3.0]));
    frozen.set_trainable(false);
    let tape = Tape::recording();
    let loss = total(&tape, &multiply(&tape, &tape.param(&used), &tape.param(&frozen)).unwrap()).unwrap();
    let mut grads = Gradients::new();
    tape.backward(&loss, &mut grads).unwrap();
    assert!(grads.get(&frozen).is_none());
    assert_eq!(grads.missing([&used, &frozen, &forgotten]), ["forgotten"]);
}

#[test]
fn a_loss_that_depends_on_nothing_is_an_error() {
    let tape = Tape::recording();
    let loss = total(&tape, &Var::constant(vector(&[1.0]))).unwrap();
    assert!(tape.backward(&loss, &mut Gradients::new()).is_err());
}

#[test]
fn a_value_of_another_tape_is_an_error() {
    let (one, other) = (Tape::recording(), Tape::recording());
    let x = one.input(vector(&[1.0]));
    assert!(total(&other, &x).is_err());
}

/// A small computation with dropout, with or without checkpointing: loss, gradient of the input, of the parameter.
fn region(checkpointed: bool) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let w = Param::new("w", vector(&(0..64).map(|i| i as f32 - 20.0).collect::<Vec<_>>()));
    let tape = Tape::training(7, 3);
    let x = tape.input(vector(&[1.5; 64]));
    let before = drop_half(&tape, &x).unwrap();
    let inside = {
        let w = w.clone();
        move |tape: &Tape, inputs: &[Var]| drop_half(tape, &multiply(tape, &inputs[0], &tape.param(&w))?)
    };
    let y = if checkpointed {
        tape.checkpoint(&[&before], inside).unwrap()
    } else {
        inside(&tape, std::slice::from_ref(&before)).unwrap()
    };
    let loss =
        total(&tape, &drop_half(&tape, &multiply(&tape, &y, &tape.param(&w)).unwrap()).unwrap()).unwrap();
    let mut grads = Gradients::new();
    let seed = Tensor::scalar(1.0);
    let dx = tape.backward_inputs(&loss, seed, &[&x], &mut grads).unwrap();
    let numbers = |t: &Tensor| t.as_f32().unwrap().to_vec();
    (numbers(loss.value()), numbers(dx[0].as_ref().unwrap()), numbers(grads.get(&w).unwrap()))
}

#[test]
fn checkpointing_changes_no_bit_also_with_dropout() {
    let plain = region(false);
    assert!(plain.1.contains(&0.0) && plain.1.iter().any(|&g| g != 0.0), "dropout drops some: {:?}", plain.1);
    assert_eq!(plain, region(true));
}

#[test]
fn checkpointing_reaches_parameters_although_no_input_requires_a_gradient() {
    let w = Param::new("w", vector(&[2.0]));
    let tape = Tape::recording();
    let inside = {
        let w = w.clone();
        move |tape: &Tape, inputs: &[Var]| multiply(tape, &inputs[0], &tape.param(&w))
    };
    let y = tape.checkpoint(&[&Var::constant(vector(&[5.0]))], inside).unwrap();
    let loss = total(&tape, &y).unwrap();
    let mut grads = Gradients::new();
    tape.backward(&loss, &mut grads).unwrap();
    assert_eq!(grads.get(&w).unwrap().as_f32().unwrap(), [5.0]);
}

#[test]
fn the_first_non_finite_value_is_named_with_its_place() {
    let w = Param::new("w", vector(&[f32::MAX]));
    let tape = Tape::recording().checking_finite();
    let outer = tape.scope("layers.3");
    let inner = tape.scope("mlp");
    let refused = multiply(&tape, &tape.param(&w), &Var::constant(vector(&[10.0]))).unwrap_err().to_string();
    drop(inner);
    drop(outer);
    assert!(refused.contains("'multiply'") && refused.contains("layers.3.mlp"), "{refused}");
}

#[test]
fn a_non_finite_gradient_is_named_with_its_parameter() {
    let w = Param::new("model.w", vector(&[0.0]));
    let tape = Tape::recording().checking_finite();
    let x = tape.param(&w);
    let infinite_slope =
        tape.record("sqrt", &[&x], vector(&[0.0]), |_, g| g.give(0, vector(&[f32::INFINITY])));
    let loss = total(&tape, &infinite_slope.unwrap()).unwrap();
    let refused = tape.backward(&loss, &mut Gradients::new()).unwrap_err().to_string();
    assert!(refused.contains("model.w"), "{refused}");
}

#[test]
fn a_loss_on_a_device_gives_gradients_there() {
    let mut random = Random::new(7);
    let values = [random.tensor(&[5, 8], DType::F32, 1.0), random.tensor(&[11, 8], DType::F32, 1.0)];
    let labels = random.ids(5, 11);
    let run = |device: Device| {
        let there = |x: &Tensor| x.to_device(device).unwrap();
        let params = [0, 1].map(|i| Param::new(format!("p{i}"), there(&values[i])));
        let tape = Tape::recording();
        let [x, w] = [0, 1].map(|i| tape.param(&params[i]));
        let loss = linear_cross_entropy(&tape, &x, &w, &there(&labels), 5.0).unwrap();
        let mut gradients = Gradients::new();
        tape.backward(&loss, &mut gradients).unwrap();
        params.map(|p| {
            let grad = gradients.get(&p).unwrap();
            assert_eq!(grad.device(), device);
            crate::support::values(grad)
        })
    };
    let (here, there) = (run(Device::Cpu), run(cuda()));
    for (here, there) in here.iter().flatten().zip(there.iter().flatten()) {
        // Both are sums of 11 products of numbers below 4.
        let allowed = DType::F32.unit_roundoff() * 2.0 * 11.0 * 4.0;
        assert!((here - there).abs() <= allowed, "{here} and {there}");
    }
    assert_no_reports();
}
