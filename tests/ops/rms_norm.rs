//! RMSNorm.

use proptest::prelude::*;
use warptune::autograd::{Tape, Var};
use warptune::ops::add::add;
use warptune::ops::rms_norm::{add_rms_norm, rms_norm};
use warptune::tensor::{DType, Tensor};

use super::{cases, float_types, half_type};
use crate::reference::rms_norm::{rms_norm as oracle, rms_norm_backward as oracle_backward};
use crate::reference::{cast, stored};
use crate::support::devices::{cuda, on_each};
use crate::support::gradcheck::{
    assert_deterministic, assert_repeatable, check_oracle, dot, forward_backward_at, run_at,
};
use crate::support::random::Random;
use crate::support::tolerance::{Tolerance, assert_close};
use crate::support::{bits, values};

const EPS: f32 = 1e-5;

fn op(tape: &Tape, v: &[Var]) -> warptune::Result<Var> {
    rms_norm(tape, &v[0], &v[1], EPS)
}

fn draw(
    random: &mut Random,
    rows: usize,
    groups: usize,
    d: usize,
    x_type: DType,
    w_type: DType,
) -> [Tensor; 2] {
    [random.tensor(&[rows, groups * d], x_type, 2.0), random.tensor(&[d], w_type, 1.0)]
}

proptest! {
    #![proptest_config(cases(48))]

    #[test]
    fn values_and_gradients_match_the_oracle(
        (rows, groups, d) in (1usize..60, 1usize..4, 1usize..200),
        [x_type, w_type] in float_types::<2>(),
        seed in any::<u64>(),
    ) {
        let mut random = Random::new(seed);
        let inputs = draw(&mut random, rows, groups, d, x_type, w_type);
        let dy = random.tensor(&[rows, groups * d], x_type, 1.0);
        let seed = dy;
        let [x, w, dy] = [values(&inputs[0]), values(&inputs[1]), values(&seed)];
        let (x32, w32, dy32) = (cast::<_, f32>(&x), cast::<_, f32>(&w), cast::<_, f32>(&dy));
        let eps = f64::from(EPS);
        let y = oracle(&x, &w, eps);
        let naive = stored(&oracle(&x32, &w32, eps), x_type);
        // The mean of the squares, its root, and the two products: a few roundings of the result, whatever the naive one got.
        let of_y = Tolerance::twice_naive(&naive, &y)
            .plus(Tolerance::rounding(DType::F32, 6.0, &y))
            .plus(Tolerance::rounding(x_type, 1.0, &y));

        let exact = oracle_backward(&x, &w, &dy, eps);
        let naive = oracle_backward(&x32, &w32, &dy32, eps);
        // What is added up: |dy w| r and the pull towards x, at most as large; dweight sums over groups.
        let r = 1.0 / (x.iter().map(|x| x * x).fold(f64::INFINITY, f64::min) + eps).sqrt();
        let large = |v: &[f64]| v.iter().fold(0.0, |m: f64, x| m.max(x.abs()));
        let terms = [large(&exact[0]), large(&dy) * large(&x) * r.min(2.0) * (rows * groups) as f64];
        on_each(|device| {
            let outcome = forward_backward_at(device, &inputs, &seed, op).unwrap();
            assert_eq!(outcome.output.dtype(), x_type);
            assert_close("y", &outcome.output, &y, &of_y);
            for (i, (name, dtype)) in [("dx", x_type), ("dweight", DType::F32)].into_iter().enumerate() {
                assert_eq!(outcome.grad(i).dtype(), dtype);
                let size = vec![terms[i]; exact[i].len()];
                let tolerance = Tolerance::twice_naive(&stored(&naive[i], dtype), &exact[i])
                    .plus(Tolerance::rounding(DType::F32, 2.0, &size))
                    .plus(Tolerance::rounding(dtype, 1.0, &exact[i]));
                assert_close(name, outcome.grad(i), &exact[i], &tolerance);
            }
        });
    }
}

#[test]
fn the_oracle_has_the_right_gradients() {
    let mut random = Random::new(1);
    let mut draw = |n: usize| -> Vec<f64> { (0..n).map(|_| random.normal()).collect() };
    let (inputs, dy) = ([draw(3 * 7), draw(7)], draw(3 * 7));
    let grads = oracle_backward(&inputs[0], &inputs[1], &dy, 1e-2);
    check_oracle(&inputs, &grads, |v| dot(&oracle(&v[0], &v[1], 1e-2), &dy));
}

#[test]
fn same_bits_on_every_run() {
    let mut random = Random::new(2);
    for dtype in [DType::F32, DType::BF16] {
        let inputs = draw(&mut random, 333, 3, 64, dtype, DType::F32);
        let dy = random.tensor(&[333, 192], dtype, 1.0);
        assert_deterministic(&inputs, &dy, Tape::recording, op);
        assert_repeatable(cuda(), &inputs, &dy, Tape::recording, op);
    }
}

#[test]
fn gradients_nobody_wants_are_left_out_and_the_other_is_the_same() {
    let mut random = Random::new(3);
    let inputs = draw(&mut random, 5, 1, 33, DType::F32, DType::BF16);
    let dy = random.tensor(&[5, 33], DType::F32, 1.0);
    on_each(|device| {
        let both = forward_backward_at(device, &inputs, &dy, op).unwrap();
        for wanted in 0..2 {
            let one = run_at(device, Tape::recording(), &inputs, &dy, |i| i == wanted, op).unwrap();
            assert!(one.grads[1 - wanted].is_none());
            assert_eq!(values(one.grad(wanted)), values(both.grad(wanted)));
        }
    });
}

#[test]
fn a_norm_for_each_head_is_the_norm_of_the_heads_as_rows() {
    let mut random = Random::new(4);
    let [x, w] = draw(&mut random, 6, 3, 20, DType::F32, DType::F32);
    on_each(|device| {
        let tape = Tape::inference();
        let (x, w) = (x.to_device(device).unwrap(), Var::constant(w.to_device(device).unwrap()));
        let rows = Var::constant(x.reshape(&[18, 20]).unwrap());
        let heads = rms_norm(&tape, &Var::constant(x), &w, EPS).unwrap();
        let rows = rms_norm(&tape, &rows, &w, EPS).unwrap();
        assert_eq!(values(heads.value()), values(rows.value()));
    });
}

/// x = a + b and its norm, in one go: the bits of `add` and `rms_norm`, for rows that stay in registers and rows that do not, groups,
/// operands that are not aligned.
#[test]
fn a_sum_and_its_norm_are_those_of_two_ops() {
    let mut random = Random::new(7);
    let cases = [(9, 3, 20, 0), (2, 1, 5001, 0), (2, 1, 9000, 0), (40, 1, 32, 1), (0, 1, 8, 0)];
    for (case, (rows, groups, d, skipped)) in cases.into_iter().enumerate() {
        let half = half_type(case);
        for (x_type, w_type) in [(DType::F32, half), (half, half), (half, DType::F32)] {
            let shape = [rows, groups * d];
            let a = random.tensor(&[skipped + rows * groups * d], x_type, 2.0);
            let (b, w) = (random.tensor(&shape, x_type, 1.0), random.tensor(&[d], w_type, 1.0));
            on_each(|device| {
                let [a, b, w] = [&a, &b, &w].map(|x| x.to_device(device).unwrap());
                let a = a.rows(skipped, rows * groups * d).unwrap().reshape(&shape).unwrap();
                let [a, b, w] = [a, b, w].map(Var::constant);
                let tape = Tape::inference();
                let (x, y) = add_rms_norm(&tape, &a, &b, &w, EPS).unwrap();
                let sum = add(&tape, &a, &b).unwrap();
                let norm = rms_norm(&tape, &sum, &w, EPS).unwrap();
                assert_eq!(bits(x.value()), bits(sum.value()));
                if skipped == 0 {
                    assert_eq!(bits(y.value()), bits(norm.value()), "{rows} rows of {groups} x {d} {x_type}");
                } else {
                    // The sum itself is aligned, so that its norm is added up in another order.
                    let norm = values(norm.value());
                    let tolerance = Tolerance::rounding(DType::F32, d as f64, &norm)
                        .plus(Tolerance::rounding(x_type, 2.0, &norm));
                    assert_close("y", y.value(), &norm, &tolerance);
                }
            });
        }
    }
}

/// A residual block: the gradient that reaches the sum past the norm and the one through it, together.
#[test]
fn gradients_of_the_residual_stream() {
    let mut random = Random::new(8);
    let block = |tape: &Tape, v: &[Var]| {
        let (x, y) = add_rms_norm(tape, &v[0], &v[1], &v[2], EPS)?;
        add(tape, &x, &y)
    };
    // The same without the sum: x is used by the norm and past it.
    let stream = |tape: &Tape, v: &[Var]| add(tape, &v[0], &rms_norm(tape, &v[0], &v[2], EPS)?);
    for (case, (rows, d)) in [(7, 40), (3, 33), (2, 4096)].into_iter().enumerate() {
        let half = half_type(case);
        for (dtype, w_type) in [(DType::F32, DType::F32), (half, half), (half, DType::F32)] {
            let mut draw = |shape: &[usize], dtype| random.tensor(shape, dtype, 1.0);
            let inputs = [draw(&[rows, d], dtype), draw(&[rows, d], dtype), draw(&[d], w_type)];
            let dy = draw(&[rows, d], dtype);
            let [a, b, w, dy64] = [&inputs[0], &inputs[1], &inputs[2], &dy].map(values);
            let sum: Vec<f64> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
            for (with_sum, x) in [(true, stored(&sum, dtype)), (false, a)] {
                let [dx, dw] = oracle_backward(&x, &w, &dy64, f64::from(EPS));
                let exact: Vec<f64> = dx.iter().zip(&dy64).map(|(dx, dy)| dx + dy).collect();
                // The norm's own gradient has d terms, each below this; on the CPU it is rounded before the sum is.
                let large = |v: &[f64]| v.iter().fold(0.0, |m: f64, x| m.max(x.abs()));
                let terms = vec![large(&dx).max(large(&dy64)) * 2.0; dx.len()];
                let tolerance = Tolerance::rounding(DType::F32, (d as f64).sqrt() + 8.0, &terms)
                    .plus(Tolerance::rounding(dtype, 1.0, &exact))
                    .plus(Tolerance::rounding(dtype, 1.0, &dx));
                let of_dw = vec![large(&dw).max(large(&x) * large(&dy64) * rows as f64); d];
                let of_dw = Tolerance::rounding(DType::F32, 8.0, &of_dw);
                on_each(|device| {
                    let op: &dyn Fn(&Tape, &[Var]) -> warptune::Result<Var> =
                        if with_sum { &block } else { &stream };
                    let outcome = run_at(device, Tape::recording(), &inputs, &dy, |_| true, op).unwrap();
                    for i in 0..if with_sum { 2 } else { 1 } {
                        assert_eq!(outcome.grad(i).dtype(), dtype);
                        assert_close(&format!("d{i} on {device}"), outcome.grad(i), &exact, &tolerance);
                    }
                    assert_close(&format!("dweight on {device}"), outcome.grad(2), &dw, &of_dw);
                });
                assert_repeatable(cuda(), &inputs, &dy, Tape::recording, block);
            }
        }
    }
}

#[test]
fn extreme_rows() {
    on_each(|device| {
        let var = |data: Vec<f32>, shape: &[usize]| {
            Var::constant(Tensor::from_f32(data, shape).to_device(device).unwrap())
        };
        let w = var(vec![1.0; 4], &[4]);
        let norm = |x: Vec<f32>| {
            let rows = x.len() / 4;
            values(rms_norm(&Tape::inference(), &var(x, &[rows, 4]), &w, EPS).unwrap().value())
        };
        assert!(norm(vec![]).is_empty());
        assert_eq!(norm(vec![0.0; 4]), [0.0; 4]);
        // Squares of 1e18 are far inside the range of f32.
        assert!(norm(vec![1e18, -1e18, 1e18, -1e18]).iter().all(|x| (x.abs() - 1.0).abs() < 1e-6));
        assert!(norm(vec![f32::NAN, 1.0, 1.0, 1.0]).iter().all(|x| x.is_nan()));
    });
}

#[test]
fn rows_too_long_for_registers_and_rows_that_are_not_aligned() {
    let mut random = Random::new(6);
    // Of 5001 elements a block keeps 4 x 256 forward; 4096 in packs are more than it keeps backward.
    let cases = [(2, 5001, 0), (2, 4096, 0), (40, 32, 1), (3, 72, 0)];
    for (case, (rows, d, skipped)) in cases.into_iter().enumerate() {
        for dtype in [DType::F32, half_type(case)] {
            let x = random.tensor(&[rows * d + skipped], dtype, 2.0);
            let (w, dy) = (random.tensor(&[d], DType::F32, 1.0), random.tensor(&[rows, d], dtype, 1.0));
            let run = |device| {
                let part = |tape: &Tape, v: &[Var]| {
                    let x = v[0].value().rows(skipped, rows * d)?.reshape(&[rows, d])?;
                    rms_norm(tape, &Var::constant(x), &v[1], EPS)
                };
                let outcome =
                    run_at(device, Tape::recording(), &[x.clone(), w.clone()], &dy, |i| i == 1, part)
                        .unwrap();
                let whole = x.rows(skipped, rows * d).unwrap().reshape(&[rows, d]).unwrap();
                let inner = forward_backward_at(device, &[whole, w.clone()], &dy, op).unwrap();
                [outcome.output, outcome.grads[1].clone().unwrap(), inner.grad(0).clone()]
            };
            let (host, there) = (run(warptune::device::Device::Cpu), run(cuda()));
            for ((name, host), there) in ["y", "dweight", "dx"].into_iter().zip(host).zip(there) {
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
fn operands_that_do_not_fit_are_named() {
    let tape = Tape::inference();
    let var = |shape: &[usize]| Var::constant(Tensor::zeros(shape, DType::F32));
    let error = rms_norm(&tape, &var(&[2, 10]), &var(&[4]), EPS).unwrap_err();
    assert_eq!(error.to_string(), "rms_norm: x [2, 10]: its columns are not groups of the weight's 4");
    assert!(rms_norm(&tape, &var(&[2, 10]), &var(&[0]), EPS).is_err());
    on_each(|device| {
        let there = |shape: &[usize]| Var::constant(Tensor::zeros_on(device, shape, DType::F32).unwrap());
        let error = add_rms_norm(&tape, &there(&[2, 8]), &there(&[4, 4]), &there(&[4]), EPS).unwrap_err();
        assert_eq!(error.to_string(), "add: [2, 8] + [4, 4]");
        let error = add_rms_norm(&tape, &there(&[2, 6]), &there(&[2, 6]), &there(&[4]), EPS).unwrap_err();
        assert!(error.to_string().contains("not groups of the weight's 4"), "{error}");
    });
    assert!(rms_norm(&tape, &var(&[10]), &var(&[10]), EPS).is_err());
    assert!(rms_norm(&tape, &Var::constant(Tensor::zeros(&[2, 4], DType::U32)), &var(&[4]), EPS).is_err());
}
