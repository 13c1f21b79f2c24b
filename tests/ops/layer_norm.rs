//! LayerNorm.

use proptest::prelude::*;
use warptune::autograd::{Tape, Var};
use warptune::ops::layer_norm::layer_norm;
use warptune::tensor::{DType, Tensor};

use super::{cases, float_type};
use crate::reference::layer_norm::{layer_norm as oracle, layer_norm_backward as oracle_backward};
use crate::reference::{cast, stored};
use crate::support::gradcheck::{
    assert_deterministic, check_oracle, dot, forward_backward, forward_backward_on,
};
use crate::support::random::Random;
use crate::support::tolerance::{Tolerance, assert_close};
use crate::support::values;

const EPS: f32 = 1e-3;

fn op(tape: &Tape, v: &[Var]) -> warptune::Result<Var> {
    layer_norm(tape, &v[0], &v[1], &v[2], EPS)
}

fn draw(random: &mut Random, rows: usize, d: usize, x_type: DType, w_type: DType) -> [Tensor; 3] {
    [
        random.tensor(&[rows, d], x_type, 2.0),
        random.tensor(&[d], w_type, 1.0),
        random.tensor(&[d], w_type, 1.0),
    ]
}

proptest! {
    #![proptest_config(cases(48))]

    #[test]
    fn values_and_gradients_match_the_oracle(
        (rows, d) in (1usize..60, 1usize..200),
        (x_type, w_type) in (float_type(), float_type()),
        seed in any::<u64>(),
    ) {
        let mut random = Random::new(seed);
        let inputs = draw(&mut random, rows, d, x_type, w_type);
        let dy = random.tensor(&[rows, d], x_type, 1.0);
        let outcome = forward_backward(&inputs, &dy, op).unwrap();
        prop_assert_eq!(outcome.output.dtype(), x_type);

        let v: Vec<Vec<f64>> = inputs.iter().map(values).collect();
        let dy = values(&dy);
        let f: Vec<Vec<f32>> = v.iter().map(|x| cast(x)).collect();
        let eps = f64::from(EPS);
        let y = oracle(&v[0], &v[1], &v[2], eps);
        let naive = stored(&oracle(&f[0], &f[1], &f[2], eps), x_type);
        // A rounding of the mean shifts a row whose spread is far smaller (down to sqrt(eps)): r <= 32.
        let large = |v: &[f64]| v.iter().fold(1.0, |m: f64, x| m.max(x.abs()));
        let size = vec![large(&v[0]) * large(&v[1]) * if d < 8 { 32.0 } else { 2.0 }; y.len()];
        let tolerance = Tolerance::twice_naive(&naive, &y)
            .plus(Tolerance::rounding(DType::F32, 2.0, &size))
            .plus(Tolerance::rounding(x_type, 1.0, &y));
        assert_close("y", &outcome.output, &y, &tolerance);

        let exact = oracle_backward(&v[0], &v[1], &dy, eps);
        let naive = oracle_backward(&f[0], &f[1], &cast::<_, f32>(&dy), eps);
        let row = size.first().copied().unwrap_or(0.0) * large(&dy);
        for (i, name) in ["dx", "dweight", "dbias"].into_iter().enumerate() {
            let dtype = if i == 0 { x_type } else { DType::F32 };
            let terms = if i == 0 { if d < 8 { 32.0 } else { 1.0 } } else { rows as f64 };
            let size = vec![row * terms; exact[i].len()];
            prop_assert_eq!(outcome.grad(i).dtype(), dtype);
            let tolerance = Tolerance::twice_naive(&stored(&naive[i], dtype), &exact[i])
                .plus(Tolerance::rounding(DType::F32, 2.0, &size))
                .plus(Tolerance::rounding(dtype, 1.0, &exact[i]));
            assert_close(name, outcome.grad(i), &exact[i], &tolerance);
        }
    }
}

#[test]
fn the_oracle_has_the_right_gradients() {
    let mut random = Random::new(1);
    let mut draw = |n: usize| -> Vec<f64> { (0..n).map(|_| random.normal()).collect() };
    let (inputs, dy) = ([draw(3 * 7), draw(7), draw(7)], draw(3 * 7));
    let grads = oracle_backward(&inputs[0], &inputs[1], &dy, 1e-2);
    check_oracle(&inputs, &grads, |v| dot(&oracle(&v[0], &v[1], &v[2], 1e-2), &dy));
}

#[test]
fn same_bits_on_every_run() {
    let mut random = Random::new(2);
    for dtype in [DType::F32, DType::BF16] {
        let inputs = draw(&mut random, 700, 96, dtype, DType::F32);
        let dy = random.tensor(&[700, 96], dtype, 1.0);
        assert_deterministic(&inputs, &dy, Tape::recording, op);
    }
}

#[test]
fn gradients_nobody_wants_are_left_out_and_the_others_are_the_same() {
    let mut random = Random::new(3);
    let inputs = draw(&mut random, 5, 33, DType::F32, DType::BF16);
    let dy = random.tensor(&[5, 33], DType::F32, 1.0);
    let all = forward_backward(&inputs, &dy, op).unwrap();
    for wanted in 0..3 {
        let one = forward_backward_on(Tape::recording(), &inputs, &dy, |i| i == wanted, op).unwrap();
        assert_eq!(one.grads.iter().flatten().count(), 1);
        assert_eq!(values(one.grad(wanted)), values(all.grad(wanted)));
    }
}

#[test]
fn a_large_mean_costs_no_accuracy() {
    let x: Vec<f32> = (0..64).map(|i| 4096.0 + (i % 2) as f32).collect();
    let affine = (Tensor::from_f32(vec![1.0; 64], &[64]), Tensor::zeros(&[64], DType::F32));
    let x = Var::constant(Tensor::from_f32(x, &[1, 64]));
    let (w, b) = (Var::constant(affine.0), Var::constant(affine.1));
    let y = layer_norm(&Tape::inference(), &x, &w, &b, 0.0).unwrap();
    assert!(values(y.value()).iter().all(|y| (y.abs() - 1.0).abs() < 1e-6));
}

#[test]
fn no_rows_and_operands_that_do_not_fit() {
    let tape = Tape::inference();
    let var = |shape: &[usize]| Var::constant(Tensor::zeros(shape, DType::F32));
    assert_eq!(layer_norm(&tape, &var(&[0, 4]), &var(&[4]), &var(&[4]), EPS).unwrap().shape(), [0, 4]);
    let error = layer_norm(&tape, &var(&[2, 4]), &var(&[4]), &var(&[3]), EPS).unwrap_err();
    assert_eq!(error.to_string(), "layer_norm: x [2, 4], weight [4] and bias [3] do not fit");
    assert!(layer_norm(&tape, &var(&[2, 0]), &var(&[0]), &var(&[0]), EPS).is_err());
}
