//! Linear layers.

use proptest::prelude::*;
use warptune::Error;
use warptune::autograd::{Tape, Var};
use warptune::ops::epilogue::Epilogue;
use warptune::ops::matmul::matmul;
use warptune::tensor::{DType, Tensor};

use super::{cases, float_types, half_type};
use crate::reference::matmul::{linear, linear_backward, product_magnitude, transposed};
use crate::reference::{cast, stored};
use crate::support::devices::{cuda, on_each};
use crate::support::gradcheck::{
    assert_deterministic, assert_repeatable, check_oracle, dot, forward_backward_at,
};
use crate::support::random::Random;
use crate::support::tolerance::{Tolerance, assert_close};
use crate::support::{bits, values};

fn op(tape: &Tape, v: &[Var]) -> warptune::Result<Var> {
    matmul(tape, &v[0], &v[1], v.get(2), Epilogue::None)
}

/// Twice a plain f32 implementation's error, and two roundings of the sums' terms.
fn tolerance(naive: &[f64], oracle: &[f64], magnitude: &[f64], dtype: DType) -> Tolerance {
    Tolerance::twice_naive(naive, oracle)
        .plus(Tolerance::rounding(DType::F32, 2.0, magnitude))
        .plus(Tolerance::rounding(dtype, 1.0, oracle))
}

proptest! {
    #![proptest_config(cases(40))]

    #[test]
    fn values_and_gradients_match_the_oracle(
        (m, k, n) in (1usize..50, 1usize..60, 1usize..50),
        [x_type, w_type] in float_types::<2>(),
        with_bias in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let mut random = Random::new(seed);
        let mut inputs = vec![random.tensor(&[m, k], x_type, 1.0), random.tensor(&[n, k], w_type, 0.3)];
        if with_bias {
            inputs.push(random.tensor(&[n], w_type, 1.0));
        }
        let dy = random.tensor(&[m, n], x_type, 1.0);

        let v: Vec<Vec<f64>> = inputs.iter().map(values).collect();
        let dy64 = values(&dy);
        let f: Vec<Vec<f32>> = v.iter().map(|x| cast(x)).collect();
        let oracle = linear(&v[0], &v[1], v.get(2).map(|b| &b[..]), m, k, n);
        let naive = stored(&linear(&f[0], &f[1], f.get(2).map(|b| &b[..]), m, k, n), x_type);
        let size = product_magnitude(&v[0], &transposed(&v[1], n, k), m, k, n);
        let tolerance_y = tolerance(&naive, &oracle, &size, x_type);

        let exact = linear_backward(&v[0], &v[1], &dy64, m, k, n);
        let naive = linear_backward(&f[0], &f[1], &cast::<_, f32>(&dy64), m, k, n);
        let ones = vec![1.0; m];
        let sizes = [
            product_magnitude(&dy64, &v[1], m, n, k),
            product_magnitude(&transposed(&dy64, m, n), &v[0], n, m, k),
            product_magnitude(&ones, &dy64, 1, m, n),
        ];
        on_each(|device| {
            let outcome = forward_backward_at(device, &inputs, &dy, op).unwrap();
            assert_eq!(outcome.output.dtype(), x_type);
            assert_close(&format!("y on {device}"), &outcome.output, &oracle, &tolerance_y);
            for (i, name) in ["dx", "dW", "dbias"].into_iter().enumerate().take(inputs.len()) {
                let dtype = if i == 0 { x_type } else { DType::F32 };
                assert_eq!(outcome.grad(i).dtype(), dtype);
                assert_eq!(outcome.grad(i).shape(), inputs[i].shape());
                let tolerance = tolerance(&stored(&naive[i], dtype), &exact[i], &sizes[i], dtype);
                assert_close(&format!("{name} on {device}"), outcome.grad(i), &exact[i], &tolerance);
            }
        });
    }
}

#[test]
fn the_oracle_has_the_right_gradients() {
    let (m, k, n) = (3, 5, 4);
    let mut random = Random::new(1);
    let mut draw = |n: usize| -> Vec<f64> { (0..n).map(|_| random.normal()).collect() };
    let inputs = [draw(m * k), draw(n * k), draw(n)];
    let dy = draw(m * n);
    let grads = linear_backward(&inputs[0], &inputs[1], &dy, m, k, n);
    check_oracle(&inputs, &grads, |v| dot(&linear(&v[0], &v[1], Some(&v[2]), m, k, n), &dy));
}

#[test]
fn same_bits_on_every_run() {
    let mut random = Random::new(2);
    for dtype in [DType::F32, DType::BF16] {
        let inputs = [
            random.tensor(&[67, 130], dtype, 1.0),
            random.tensor(&[95, 130], dtype, 1.0),
            random.tensor(&[95], dtype, 1.0),
        ];
        let dy = random.tensor(&[67, 95], dtype, 1.0);
        assert_deterministic(&inputs, &dy, Tape::recording, op);
        assert_repeatable(cuda(), &inputs, &dy, Tape::recording, op);
    }
}

/// Any order of `terms` sums in f32, and the result's own rounding.
fn bound(size: &[f64], terms: usize, exact: &[f64], dtype: DType) -> Tolerance {
    Tolerance::rounding(DType::F32, terms as f64, size).plus(Tolerance::rounding(dtype, 1.0, exact))
}

/// Several blocks of the tensor core kernel, rows that start on 16 bytes and rows that do not, inner dimensions of less than
/// the ring of its stages holds and of more.
#[test]
fn tensor_core_tiles() {
    let mut random = Random::new(3);
    let cases = [(130, 64, 136), (257, 200, 128), (70, 33, 135), (128, 24, 264), (33, 140, 71)];
    for (case, (m, k, n)) in cases.into_iter().enumerate() {
        let half = half_type(case);
        let inputs = [random.tensor(&[m, k], half, 1.0), random.tensor(&[n, k], half, 1.0)];
        let dy = random.tensor(&[m, n], half, 1.0);
        let [x, w, dy64] = [values(&inputs[0]), values(&inputs[1]), values(&dy)];
        let outcome = forward_backward_at(cuda(), &inputs, &dy, op).unwrap();
        let oracle = linear(&x, &w, None, m, k, n);
        let size = product_magnitude(&x, &transposed(&w, n, k), m, k, n);
        assert_close("y", &outcome.output, &oracle, &bound(&size, k, &oracle, half));
        let exact = linear_backward(&x, &w, &dy64, m, k, n);
        let size = product_magnitude(&dy64, &w, m, n, k);
        assert_close("dx", outcome.grad(0), &exact[0], &bound(&size, n, &exact[0], half));
        let size = product_magnitude(&transposed(&dy64, m, n), &x, n, m, k);
        assert_close("dW", outcome.grad(1), &exact[1], &bound(&size, m, &exact[1], DType::F32));
        crate::support::devices::assert_no_reports();
    }
}

/// A long inner dimension and few tiles: k is split between blocks, forward, for dx and for dW, with a bias that is added once.
#[test]
fn split_inner_dimensions() {
    let mut random = Random::new(4);
    // y of the first, dx of the second and dW of the third are split; the fourth is not aligned, and its parts end in a tile.
    let cases =
        [(20, 1056, 40), (24, 48, 1032), (1030, 40, 24), (33, 1111, 9), (21, 1040, 24), (18, 1061, 9)];
    for (case, (m, k, n)) in cases.into_iter().enumerate() {
        let half = half_type(case);
        let mut draw = |shape: &[usize]| random.tensor(shape, half, 1.0);
        let (inputs, dy) = ([draw(&[m, k]), draw(&[n, k]), draw(&[n])], draw(&[m, n]));
        let [x, w, b] = [0, 1, 2].map(|i| values(&inputs[i]));
        let dy64 = values(&dy);
        let outcome = forward_backward_at(cuda(), &inputs, &dy, op).unwrap();
        let oracle = linear(&x, &w, Some(&b), m, k, n);
        let size = product_magnitude(&x, &transposed(&w, n, k), m, k, n);
        assert_close("y", &outcome.output, &oracle, &bound(&size, k + 1, &oracle, half));
        let exact = linear_backward(&x, &w, &dy64, m, k, n);
        let size = product_magnitude(&dy64, &w, m, n, k);
        assert_close("dx", outcome.grad(0), &exact[0], &bound(&size, n, &exact[0], half));
        let size = product_magnitude(&transposed(&dy64, m, n), &x, n, m, k);
        assert_close("dW", outcome.grad(1), &exact[1], &bound(&size, m, &exact[1], DType::F32));
        assert_repeatable(cuda(), &inputs, &dy, Tape::recording, op);
        crate::support::devices::assert_no_reports();
    }
}

/// Up to 16 rows, as in decoding: all types, inner dimensions of a part of a step, of some steps and of more than all warps'
/// steps together, several blocks of columns with a last one that is not full, rows that start on 16 bytes and rows that do not.
#[test]
fn few_rows() {
    let mut random = Random::new(5);
    let shapes = [(1, 40), (7, 72), (32, 8), (33, 264), (70, 1100), (40, 33), (5, 1), (65, 327), (96, 600)];
    for (case, m) in [1, 2, 3, 4, 5, 8, 9, 13, 16].into_iter().enumerate() {
        for (i, (n, k)) in [shapes[case], shapes[(case + 4) % 9]].into_iter().enumerate() {
            // Every kernel for few rows meets both.
            let half = half_type(case / 2 + i);
            for (x_type, w_type) in
                [(DType::F32, DType::F32), (DType::F32, half), (half, DType::F32), (half, half)]
            {
                let inputs = [
                    random.tensor(&[m, k], x_type, 1.0),
                    random.tensor(&[n, k], w_type, 1.0),
                    random.tensor(&[n], DType::F32, 1.0),
                ];
                let [x, w, b] = [0, 1, 2].map(|i| values(&inputs[i]));
                let vars = inputs.map(|x| Var::constant(x.to_device(cuda()).unwrap()));
                let y =
                    matmul(&Tape::inference(), &vars[0], &vars[1], Some(&vars[2]), Epilogue::None).unwrap();
                let oracle = linear(&x, &w, Some(&b), m, k, n);
                let size = product_magnitude(&x, &transposed(&w, n, k), m, k, n);
                let name = format!("{m} x {k} {x_type} times {n} x {k} {w_type}");
                assert_eq!(y.dtype(), x_type);
                assert_close(&name, y.value(), &oracle, &bound(&size, k + 1, &oracle, x_type));
            }
        }
    }
    crate::support::devices::assert_no_reports();
}

/// What a sequence is told does not depend on which others are decoded beside it.
#[test]
fn few_rows_have_the_bits_of_each_alone() {
    let mut random = Random::new(6);
    for (x_type, w_type) in [
        (DType::F32, DType::F32),
        (DType::F32, DType::BF16),
        (DType::BF16, DType::F32),
        (DType::BF16, DType::BF16),
        (DType::F32, DType::F16),
        (DType::F16, DType::F32),
        (DType::F16, DType::F16),
    ] {
        for k in [360, 75] {
            let x = random.tensor(&[16, k], x_type, 1.0).to_device(cuda()).unwrap();
            let w = random.tensor(&[40, k], w_type, 1.0).to_device(cuda()).unwrap();
            let y = |from: usize, rows: usize| {
                let x = Var::constant(x.rows(from, rows).unwrap());
                bits(
                    matmul(&Tape::inference(), &x, &Var::constant(w.clone()), None, Epilogue::None)
                        .unwrap()
                        .value(),
                )
            };
            let all = y(0, 16);
            for (from, rows) in [(0, 1), (15, 1), (3, 2), (7, 4), (4, 7), (8, 8), (1, 11)] {
                assert_eq!(y(from, rows), all[from * 40..][..rows * 40], "rows {from}..+{rows} of {k}");
            }
        }
    }
    crate::support::devices::assert_no_reports();
}

/// f16 ends at 65504: what is larger becomes infinite, as it does in PyTorch, and nothing else changes.
#[test]
fn products_beyond_f16_are_infinite() {
    for (m, k) in [(3, 64), (40, 64), (40, 33)] {
        let x = Tensor::from_f32(vec![32.0; m * k], &[m, k]).to_dtype(DType::F16).unwrap();
        // 32 * 32 * 64 is 65536; 65504 + 16 is the first that rounds to it.
        let w: Vec<f32> = (0..3 * k).map(|i| [32.0, 1.0, -32.0][i / k] * 64.0 / k as f32).collect();
        let w = Tensor::from_f32(w, &[3, k]).to_dtype(DType::F16).unwrap();
        on_each(|device| {
            let [x, w] = [&x, &w].map(|x| Var::constant(x.to_device(device).unwrap()));
            let y = values(matmul(&Tape::inference(), &x, &w, None, Epilogue::None).unwrap().value());
            for row in y.chunks(3) {
                assert_eq!([row[0], row[2]], [f64::INFINITY, f64::NEG_INFINITY]);
                assert!((row[1] - 2048.0).abs() <= 2.0, "{}", row[1]);
            }
        });
    }
}

#[test]
fn no_rows() {
    let inputs = [
        Tensor::zeros(&[0, 3], DType::F32),
        Tensor::from_f32(vec![1.0; 6], &[2, 3]),
        Tensor::zeros(&[2], DType::F32),
    ];
    let dy = Tensor::zeros(&[0, 2], DType::F32);
    on_each(|device| {
        let outcome = forward_backward_at(device, &inputs, &dy, op).unwrap();
        assert_eq!(outcome.output.shape(), [0, 2]);
        assert_eq!(outcome.grad(0).shape(), [0, 3]);
        assert_eq!(values(outcome.grad(1)), [0.0; 6]);
        assert_eq!(values(outcome.grad(2)), [0.0; 2]);
    });
}

#[test]
fn operands_that_do_not_fit_are_named() {
    let tape = Tape::inference();
    let var = |shape: &[usize]| Var::constant(Tensor::zeros(shape, DType::F32));
    let error = matmul(&tape, &var(&[2, 3]), &var(&[4, 5]), None, Epilogue::None).unwrap_err();
    assert_eq!(error.to_string(), "matmul: x [2, 3] and weight [4, 5] ([out, in]) differ in 'in'");
    assert!(matmul(&tape, &var(&[2, 3]), &var(&[4, 3]), Some(&var(&[3])), Epilogue::None).is_err());
    assert!(matmul(&tape, &var(&[6]), &var(&[4, 3]), None, Epilogue::None).is_err());
    let there =
        [DType::BF16, DType::F16].map(|t| Var::constant(Tensor::zeros_on(cuda(), &[4, 3], t).unwrap()));
    let error = matmul(&tape, &there[0], &there[1], None, Epilogue::None).unwrap_err().to_string();
    assert_eq!(error, "matmul: bf16 times f16 has no CUDA kernel");
    let ids = Var::constant(Tensor::zeros(&[2, 3], DType::U32));
    assert!(matches!(
        matmul(&tape, &ids, &var(&[4, 3]), None, Epilogue::None),
        Err(Error::DType { op: "matmul", .. })
    ));
}
