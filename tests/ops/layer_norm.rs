//! LayerNorm.

use proptest::prelude::*;
use warptune::autograd::{Gradients, Tape, Var};
use warptune::device::Device;
use warptune::ops::layer_norm::layer_norm;
use warptune::tensor::{DType, Tensor};

use super::{cases, float_types, half_type};
use crate::reference::layer_norm::{layer_norm as oracle, layer_norm_backward as oracle_backward};
use crate::reference::{cast, stored};
use crate::support::devices::{cuda, on_each};
use crate::support::gradcheck::{
    assert_deterministic, assert_repeatable, check_oracle, dot, forward_backward_at, run_at,
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
        [x_type, w_type] in float_types::<2>(),
        seed in any::<u64>(),
    ) {
        let mut random = Random::new(seed);
        let inputs = draw(&mut random, rows, d, x_type, w_type);
        let dy = random.tensor(&[rows, d], x_type, 1.0);
        let seed = dy;
        let v: Vec<Vec<f64>> = inputs.iter().map(values).collect();
        let dy = values(&seed);
        let f: Vec<Vec<f32>> = v.iter().map(|x| cast(x)).collect();
        let eps = f64::from(EPS);
        let y = oracle(&v[0], &v[1], &v[2], eps);
        let naive = stored(&oracle(&f[0], &f[1], &f[2], eps), x_type);
        // A rounding of the mean shifts a row whose spread is far smaller (down to sqrt(eps)): r <= 32.
        let large = |v: &[f64]| v.iter().fold(1.0, |m: f64, x| m.max(x.abs()));
        let size = vec![large(&v[0]) * large(&v[1]) * if d < 8 { 32.0 } else { 2.0 }; y.len()];
        let of_y = Tolerance::twice_naive(&naive, &y)
            .plus(Tolerance::rounding(DType::F32, 2.0, &size))
            .plus(Tolerance::rounding(x_type, 1.0, &y));

        let exact = oracle_backward(&v[0], &v[1], &dy, eps);
        let naive = oracle_backward(&f[0], &f[1], &cast::<_, f32>(&dy), eps);
        let row = size.first().copied().unwrap_or(0.0) * large(&dy);
        on_each(|device| {
            let outcome = forward_backward_at(device, &inputs, &seed, op).unwrap();
            assert_eq!(outcome.output.dtype(), x_type);
            assert_close(&format!("y on {device}"), &outcome.output, &y, &of_y);
            for (i, name) in ["dx", "dweight", "dbias"].into_iter().enumerate() {
                let dtype = if i == 0 { x_type } else { DType::F32 };
                let terms = if i == 0 { if d < 8 { 32.0 } else { 1.0 } } else { rows as f64 };
                let size = vec![row * terms; exact[i].len()];
                assert_eq!(outcome.grad(i).dtype(), dtype);
                assert_eq!(outcome.grad(i).shape(), inputs[i].shape());
                let tolerance = Tolerance::twice_naive(&stored(&naive[i], dtype), &exact[i])
                    .plus(Tolerance::rounding(DType::F32, 2.0, &size))
                    .plus(Tolerance::rounding(dtype, 1.0, &exact[i]));
                assert_close(&format!("{name} on {device}"), outcome.grad(i), &exact[i], &tolerance);
            }
        });
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
        assert_repeatable(cuda(), &inputs, &dy, Tape::recording, op);
    }
}

#[test]
fn gradients_nobody_wants_are_left_out_and_the_others_are_the_same() {
    let mut random = Random::new(3);
    let inputs = draw(&mut random, 5, 33, DType::F32, DType::BF16);
    let dy = random.tensor(&[5, 33], DType::F32, 1.0);
    on_each(|device| {
        let all = forward_backward_at(device, &inputs, &dy, op).unwrap();
        for wanted in 0..3 {
            let one = run_at(device, Tape::recording(), &inputs, &dy, |i| i == wanted, op).unwrap();
            assert_eq!(one.grads.iter().flatten().count(), 1);
            assert_eq!(values(one.grad(wanted)), values(all.grad(wanted)));
        }
    });
}

/// Rows that one warp keeps, that a block keeps and that are read again; rows that are not aligned; weight and bias of two
/// types.
#[test]
fn rows_of_all_lengths() {
    let mut random = Random::new(5);
    let cases = [(3, 5001, 0), (2, 9000, 0), (2, 4096, 0), (33, 128, 0), (40, 32, 1), (3, 72, 0)];
    for (case, (rows, d, skipped)) in cases.into_iter().enumerate() {
        for dtype in [DType::F32, half_type(case)] {
            let x = random.tensor(&[skipped + rows * d], dtype, 2.0);
            let w = random.tensor(&[d], DType::F32, 1.0);
            let b = random.tensor(&[d], half_type(case), 1.0);
            let dy = random.tensor(&[rows, d], dtype, 1.0);
            let run = |device: Device| {
                let (x, tape) = (x.to_device(device).unwrap(), Tape::recording());
                let x = x.rows(skipped, rows * d).unwrap().reshape(&[rows, d]).unwrap();
                let [w, b, dy] = [&w, &b, &dy].map(|x| x.to_device(device).unwrap());
                let [x, w, b] = [x, w, b].map(|x| tape.input(x));
                let y = layer_norm(&tape, &x, &w, &b, EPS).unwrap();
                let grads = tape.backward_inputs(&y, dy, &[&x, &w, &b], &mut Gradients::new()).unwrap();
                let all = std::iter::once(y.into_value()).chain(grads.into_iter().flatten());
                all.map(|x| x.to_device(Device::Cpu).unwrap()).collect::<Vec<_>>()
            };
            for ((name, host), there) in
                ["y", "dx", "dweight", "dbias"].into_iter().zip(run(Device::Cpu)).zip(run(cuda()))
            {
                let host = values(&host);
                let large = vec![host.iter().fold(0.0, |m: f64, x| m.max(x.abs())); host.len()];
                // Both are within the oracle's tolerance, each with an order of summation of its own.
                let tolerance = Tolerance::rounding(DType::F32, (d as f64).sqrt() + 8.0, &large)
                    .plus(Tolerance::rounding(there.dtype(), 2.0, &host));
                assert_close(name, &there, &host, &tolerance);
            }
        }
    }
    on_each(|_| {});
}

#[test]
fn a_large_mean_costs_no_accuracy() {
    let x: Vec<f32> = (0..64).map(|i| 4096.0 + (i % 2) as f32).collect();
    let affine = (Tensor::from_f32(vec![1.0; 64], &[64]), Tensor::zeros(&[64], DType::F32));
    let x = Tensor::from_f32(x, &[1, 64]);
    on_each(|device| {
        let [x, w, b] = [&x, &affine.0, &affine.1].map(|x| Var::constant(x.to_device(device).unwrap()));
        let y = layer_norm(&Tape::inference(), &x, &w, &b, 0.0).unwrap();
        assert!(values(y.value()).iter().all(|y| (y.abs() - 1.0).abs() < 1e-6));
    });
}

#[test]
fn no_rows_and_operands_that_do_not_fit() {
    let tape = Tape::inference();
    let var = |shape: &[usize]| Var::constant(Tensor::zeros(shape, DType::F32));
    let inputs = [&[0, 4][..], &[4], &[4]].map(|shape| Tensor::zeros(shape, DType::F32));
    on_each(|device| {
        let outcome = forward_backward_at(device, &inputs, &inputs[0], op).unwrap();
        assert_eq!((outcome.output.shape(), outcome.grad(0).shape()), (&[0, 4][..], &[0, 4][..]));
        assert_eq!([values(outcome.grad(1)), values(outcome.grad(2))], [[0.0; 4], [0.0; 4]]);
    });
    let error = layer_norm(&tape, &var(&[2, 4]), &var(&[4]), &var(&[3]), EPS).unwrap_err();
    assert_eq!(error.to_string(), "layer_norm: x [2, 4], weight [4] and bias [3] do not fit");
    assert!(layer_norm(&tape, &var(&[2, 0]), &var(&[0]), &var(&[0]), EPS).is_err());
}
