//! Ranges of columns: copies, so exact.

use proptest::prelude::*;
use warptune::autograd::{Tape, Var};
use warptune::ops::columns::columns;
use warptune::tensor::{DType, Tensor};

use super::{FLOATS, cases, float_type};
use crate::support::devices::{cuda, on_each};
use crate::support::gradcheck::{assert_deterministic, assert_repeatable, forward_backward_at};
use crate::support::random::Random;
use crate::support::values;

fn check(seed: u64, dtype: DType, rows: usize, [before, len, after]: [usize; 3]) {
    let cols = before + len + after;
    let mut random = Random::new(seed);
    let inputs = [random.tensor(&[rows, cols], dtype, 1.0)];
    let seed = random.tensor(&[rows, len], dtype, 1.0);
    on_each(|device| {
        let op = |tape: &Tape, v: &[Var]| columns(tape, &v[0], before, len);
        let outcome = forward_backward_at(device, &inputs, &seed, op).unwrap();
        assert_eq!(outcome.output.shape(), [rows, len]);
        let (x, y) = (values(&inputs[0]), values(&outcome.output));
        let (dx, dy) = (values(outcome.grad(0)), values(&seed));
        for (i, j) in (0..rows).flat_map(|i| (0..cols).map(move |j| (i, j))) {
            let inside = (before..before + len).contains(&j).then(|| i * len + j - before);
            assert_eq!(inside.map_or(0.0, |l| dy[l]), dx[i * cols + j]);
            if let Some(l) = inside {
                assert_eq!(y[l], x[i * cols + j]);
            }
        }
    });
}

proptest! {
    #![proptest_config(cases(24))]

    #[test]
    fn copies_the_range_and_pads_the_gradient(
        (rows, before, len, after) in (0usize..40, 0usize..30, 0usize..30, 0usize..30),
        dtype in float_type(),
        seed in any::<u64>(),
    ) {
        check(seed, dtype, rows, [before, len, after]);
    }
}

#[test]
fn ranges_that_are_aligned_to_16_bytes() {
    for dtype in FLOATS {
        check(2, dtype, 5, [16, 64, 8]);
        check(3, dtype, 3, [0, 2080, 2096]);
    }
}

#[test]
fn same_bits_on_every_run() {
    let mut random = Random::new(1);
    let (x, dy) = (random.tensor(&[200, 300], DType::F32, 1.0), random.tensor(&[200, 101], DType::F32, 1.0));
    let (inputs, op) = ([x], |tape: &Tape, v: &[Var]| columns(tape, &v[0], 99, 101));
    assert_deterministic(&inputs, &dy, Tape::recording, op);
    assert_repeatable(cuda(), &inputs, &dy, Tape::recording, op);
}

#[test]
fn a_range_outside_is_named() {
    let x = Var::constant(Tensor::zeros(&[2, 3], DType::F32));
    let error = columns(&Tape::inference(), &x, 2, 2).unwrap_err();
    assert_eq!(error.to_string(), "columns: columns 2..+2 of a matrix [2, 3]");
    assert!(columns(&Tape::inference(), &x, usize::MAX, 2).is_err());
}
