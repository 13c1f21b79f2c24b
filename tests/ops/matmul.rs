//! Linear layers.

use proptest::prelude::*;
use warptune::Error;
use warptune::autograd::{Tape, Var};
use warptune::ops::matmul::matmul;
use warptune::tensor::{DType, Tensor};

use super::{cases, float_type};
use crate::reference::matmul::{linear, linear_backward, product_magnitude, transposed};
use crate::reference::{cast, stored};
use crate::support::gradcheck::{assert_deterministic, check_oracle, dot, forward_backward};
use crate::support::random::Random;
use crate::support::tolerance::{Tolerance, assert_close};
use crate::support::values;

fn op(tape: &Tape, v: &[Var]) -> warptune::Result<Var> {
    matmul(tape, &v[0], &v[1], v.get(2))
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
        (x_type, w_type) in (float_type(), float_type()),
        with_bias in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let mut random = Random::new(seed);
        let mut inputs = vec![random.tensor(&[m, k], x_type, 1.0), random.tensor(&[n, k], w_type, 0.3)];
        if with_bias {
            inputs.push(random.tensor(&[n], w_type, 1.0));
        }
        let dy = random.tensor(&[m, n], x_type, 1.0);
        let outcome = forward_backward(&inputs, &dy, op).unwrap();

        let v: Vec<Vec<f64>> = inputs.iter().map(values).collect();
        let dy64 = values(&dy);
        let f: Vec<Vec<f32>> = v.iter().map(|x| cast(x)).collect();
        let oracle = linear(&v[0], &v[1], v.get(2).map(|b| &b[..]), m, k, n);
        let naive = stored(&linear(&f[0], &f[1], f.get(2).map(|b| &b[..]), m, k, n), x_type);
        let size = product_magnitude(&v[0], &transposed(&v[1], n, k), m, k, n);
        prop_assert_eq!(outcome.output.dtype(), x_type);
        assert_close("y", &outcome.output, &oracle, &tolerance(&naive, &oracle, &size, x_type));

        let exact = linear_backward(&v[0], &v[1], &dy64, m, k, n);
        let naive = linear_backward(&f[0], &f[1], &cast::<_, f32>(&dy64), m, k, n);
        let ones = vec![1.0; m];
        let sizes = [
            product_magnitude(&dy64, &v[1], m, n, k),
            product_magnitude(&transposed(&dy64, m, n), &v[0], n, m, k),
            product_magnitude(&ones, &dy64, 1, m, n),
        ];
        for (i, name) in ["dx", "dW", "dbias"].into_iter().enumerate().take(inputs.len()) {
            let dtype = if i == 0 { x_type } else { DType::F32 };
            prop_assert_eq!(outcome.grad(i).dtype(), dtype);
            prop_assert_eq!(outcome.grad(i).shape(), inputs[i].shape());
            let tolerance = tolerance(&stored(&naive[i], dtype), &exact[i], &sizes[i], dtype);
            assert_close(name, outcome.grad(i), &exact[i], &tolerance);
        }
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
    }
}

#[test]
fn no_rows() {
    let inputs = [
        Tensor::zeros(&[0, 3], DType::F32),
        Tensor::from_f32(vec![1.0; 6], &[2, 3]),
        Tensor::zeros(&[2], DType::F32),
    ];
    let outcome = forward_backward(&inputs, &Tensor::zeros(&[0, 2], DType::F32), op).unwrap();
    assert_eq!(outcome.output.shape(), [0, 2]);
    assert_eq!(outcome.grad(0).shape(), [0, 3]);
    assert_eq!(values(outcome.grad(1)), [0.0; 6]);
    assert_eq!(values(outcome.grad(2)), [0.0; 2]);
}

#[test]
fn operands_that_do_not_fit_are_named() {
    let tape = Tape::inference();
    let var = |shape: &[usize]| Var::constant(Tensor::zeros(shape, DType::F32));
    let error = matmul(&tape, &var(&[2, 3]), &var(&[4, 5]), None).unwrap_err();
    assert_eq!(error.to_string(), "matmul: x [2, 3] and weight [4, 5] ([out, in]) differ in 'in'");
    assert!(matmul(&tape, &var(&[2, 3]), &var(&[4, 3]), Some(&var(&[3]))).is_err());
    assert!(matmul(&tape, &var(&[6]), &var(&[4, 3]), None).is_err());
    let ids = Var::constant(Tensor::zeros(&[2, 3], DType::U32));
    assert!(matches!(matmul(&tape, &ids, &var(&[4, 3]), None), Err(Error::DType { op: "matmul", .. })));
}
