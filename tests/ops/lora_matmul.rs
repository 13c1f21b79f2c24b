//! Linear layers with an adapter.

use proptest::prelude::*;
use warptune::Error;
use warptune::autograd::{Tape, Var};
use warptune::ops::lora_matmul::{Lora, lora_matmul};
use warptune::ops::matmul::matmul;
use warptune::tensor::{DType, Tensor};

use super::{cases, float_type};
use crate::reference::lora_matmul::{Shape, lora, lora_backward};
use crate::reference::matmul::{product_magnitude, transposed};
use crate::reference::{cast, dropout, stored};
use crate::support::devices::{assert_no_reports, cuda, on_each};
use crate::support::gradcheck::{
    Outcome, assert_deterministic, assert_repeatable, check_oracle, dot, run_at,
};
use crate::support::random::Random;
use crate::support::tolerance::{Tolerance, assert_close};
use crate::support::{bits, values};

const SEED: u64 = 11;
const STEP: u64 = 5;

fn op(scale: f32, dropout: f32) -> impl Fn(&Tape, &[Var]) -> warptune::Result<Var> {
    move |tape, v| lora_matmul(tape, &v[0], &v[1], v.get(4), &Lora { a: &v[2], b: &v[3], scale, dropout })
}

fn inputs(s: &Shape, x_type: DType, w_type: DType, a_type: DType, bias: bool, seed: u64) -> Vec<Tensor> {
    let mut random = Random::new(seed);
    let mut inputs = vec![
        random.tensor(&[s.m, s.k], x_type, 1.0),
        random.tensor(&[s.n, s.k], w_type, 0.3),
        random.tensor(&[s.r, s.k], a_type, 0.5),
        random.tensor(&[s.n, s.r], a_type, 0.5),
    ];
    if bias {
        inputs.push(random.tensor(&[s.n], w_type, 1.0));
    }
    inputs
}

/// Sums of absolute values, found by putting absolute values into the oracle itself: those of y, and those of the gradients.
fn magnitudes(v: &[Vec<f64>], keep: &[f64], scale: f64, dy: &[f64], s: &Shape) -> (Vec<f64>, [Vec<f64>; 5]) {
    let abs = |x: &[f64]| -> Vec<f64> { x.iter().map(|x| x.abs()).collect() };
    let v: Vec<Vec<f64>> = v.iter().map(|x| abs(x)).collect();
    (lora(&v, keep, scale.abs(), s), lora_backward(&v, keep, scale.abs(), &abs(dy), s))
}

/// What a device may make of `inputs`, with everything required a gradient of.
struct Expected {
    values: Vec<Vec<f64>>,
    tolerances: Vec<Tolerance>,
    /// What is allowed more where u and v, and the factors, are pairs of bf16: each pair is right to 2^-16, and the product of two
    /// low parts, as small, is left out.
    of_pairs: Vec<Tolerance>,
    types: Vec<DType>,
}

const NAMES: [&str; 6] = ["y", "dx", "dW", "dA", "dB", "dbias"];

impl Expected {
    fn new(inputs: &[Tensor], dy: &Tensor, p: f32, scale: f32, s: &Shape) -> Expected {
        let v: Vec<Vec<f64>> = inputs.iter().map(values).collect();
        let f: Vec<Vec<f32>> = v.iter().map(|x| cast(x)).collect();
        let x_type = dy.dtype();
        let dy = values(dy);
        let n = s.m * s.k;
        let keep = if p > 0.0 { dropout::mask(SEED, STEP << 32, p, n) } else { vec![1.0; n] };
        let (keep32, dy32): (Vec<f32>, Vec<f32>) = (cast(&keep), cast(&dy));
        let scale = f64::from(scale);
        let all = |(y, grads): (Vec<f64>, [Vec<f64>; 5])| -> Vec<Vec<f64>> {
            std::iter::once(y).chain(grads.into_iter().take(inputs.len())).collect()
        };
        let exact = all((lora(&v, &keep, scale, s), lora_backward(&v, &keep, scale, &dy, s)));
        let sizes = all(magnitudes(&v, &keep, scale, &dy, s));
        let mut adapter = v.clone();
        adapter[1].fill(0.0);
        adapter.truncate(4);
        let adapter_sizes = all(magnitudes(&adapter, &keep, scale, &dy, s));
        let naive =
            [lora(&f, &keep32, scale, s)].into_iter().chain(lora_backward(&f, &keep32, scale, &dy32, s));
        let types: Vec<DType> = (0..exact.len()).map(|i| if i < 2 { x_type } else { DType::F32 }).collect();
        let tolerances = naive.zip(exact.iter().zip(&sizes)).zip(&types);
        let tolerances = tolerances
            .map(|((naive, (exact, size)), &dtype)| {
                Tolerance::twice_naive(&stored(&naive, dtype), exact)
                    .plus(Tolerance::rounding(DType::F32, 4.0, size))
                    .plus(Tolerance::rounding(dtype, 1.0, exact))
            })
            .collect();
        let of_pairs = adapter_sizes.iter().enumerate().map(|(i, size)| match i {
            2 | 5 => Tolerance::rounding(DType::F32, 0.0, size),
            _ => Tolerance::rounding(DType::BF16, 4.0 / 256.0, size),
        });
        Expected { of_pairs: of_pairs.collect(), values: exact, tolerances, types }
    }

    #[track_caller]
    fn check(&self, outcome: &Outcome, pairs: bool) {
        for (i, name) in NAMES.into_iter().enumerate().take(self.values.len()) {
            let result = if i == 0 { &outcome.output } else { outcome.grad(i - 1) };
            assert_eq!(result.dtype(), self.types[i], "{name}");
            let mut tolerance = self.tolerances[i].clone();
            if pairs {
                tolerance = tolerance.plus(self.of_pairs[i].clone());
            }
            assert_close(name, result, &self.values[i], &tolerance);
        }
    }
}

proptest! {
    #![proptest_config(cases(40))]

    #[test]
    fn values_and_gradients_match_the_oracle(
        (m, k, n, r) in (1usize..40, 1usize..50, 1usize..40, 1usize..20),
        (x_type, w_type, a_type) in (float_type(), float_type(), float_type()),
        bias in any::<bool>(),
        p in prop_oneof![Just(0.0f32), 0.05f32..0.6],
        scale in 0.1f32..4.0,
        seed in any::<u64>(),
    ) {
        let s = Shape { m, k, n, r };
        let inputs = inputs(&s, x_type, w_type, a_type, bias, seed);
        let dy = Random::new(!seed).tensor(&[m, n], x_type, 1.0);
        let expected = Expected::new(&inputs, &dy, p, scale, &s);
        on_each(|device| {
            let tape = Tape::training(SEED, STEP);
            let outcome = run_at(device, tape, &inputs, &dy, |_| true, op(scale, p)).unwrap();
            expected.check(&outcome, device == cuda());
        });
    }
}

/// On tensor cores: more than a tile of rows, columns and rank, parts of every long sum, rows that start on 16 bytes and rows that
/// do not, with a mask and without, factors of both types, and a handful of rows.
#[test]
fn tensor_core_tiles() {
    let shapes = [
        (Shape { m: 150, k: 136, n: 264, r: 16 }, 0.3, DType::F32),
        (Shape { m: 545, k: 520, n: 72, r: 40 }, 0.0, DType::F32),
        (Shape { m: 523, k: 536, n: 136, r: 29 }, 0.2, DType::F32),
        (Shape { m: 131, k: 531, n: 67, r: 36 }, 0.1, DType::F32),
        (Shape { m: 40, k: 96, n: 80, r: 136 }, 0.1, DType::F32),
        (Shape { m: 70, k: 100, n: 129, r: 33 }, 0.0, DType::BF16),
        (Shape { m: 60, k: 64, n: 96, r: 64 }, 0.4, DType::BF16),
        (Shape { m: 1, k: 1024, n: 128, r: 8 }, 0.0, DType::F32),
        (Shape { m: 16, k: 600, n: 40, r: 1 }, 0.0, DType::BF16),
    ];
    for (i, (s, p, a_type)) in shapes.into_iter().enumerate() {
        let inputs = inputs(&s, DType::BF16, DType::BF16, a_type, i % 2 == 0, i as u64);
        let dy = Random::new(!(i as u64)).tensor(&[s.m, s.n], DType::BF16, 1.0);
        let expected = Expected::new(&inputs, &dy, p, 1.5, &s);
        let tape = Tape::training(SEED, STEP);
        let outcome = run_at(cuda(), tape, &inputs, &dy, |_| true, op(1.5, p)).unwrap();
        expected.check(&outcome, true);
        assert_no_reports();
    }
}

/// The same on the ordinary cores, for operands of which one at least is f32.
#[test]
fn ordinary_core_tiles() {
    let shapes = [
        (Shape { m: 140, k: 270, n: 70, r: 72 }, 0.3, DType::F32, DType::F32),
        (Shape { m: 530, k: 65, n: 66, r: 5 }, 0.2, DType::F32, DType::BF16),
        (Shape { m: 64, k: 515, n: 64, r: 64 }, 0.0, DType::BF16, DType::F32),
    ];
    for (i, (s, p, x_type, w_type)) in shapes.into_iter().enumerate() {
        let inputs = inputs(&s, x_type, w_type, DType::F32, true, i as u64);
        let dy = Random::new(!(i as u64)).tensor(&[s.m, s.n], x_type, 1.0);
        let expected = Expected::new(&inputs, &dy, p, 0.7, &s);
        let tape = Tape::training(SEED, STEP);
        expected.check(&run_at(cuda(), tape, &inputs, &dy, |_| true, op(0.7, p)).unwrap(), false);
        assert_no_reports();
    }
}

#[test]
fn the_oracle_has_the_right_gradients() {
    let s = Shape { m: 3, k: 5, n: 4, r: 2 };
    let inputs: Vec<Vec<f64>> =
        inputs(&s, DType::F32, DType::F32, DType::F32, true, 1).iter().map(values).collect();
    let dy = values(&Random::new(2).tensor(&[s.m, s.n], DType::F32, 1.0));
    let keep = dropout::mask(1, 2, 0.3, s.m * s.k);
    assert!(keep.contains(&0.0));
    let grads = lora_backward(&inputs, &keep, 1.7, &dy, &s);
    check_oracle(&inputs, &grads, |v| dot(&lora(v, &keep, 1.7, &s), &dy));
}

#[test]
fn same_bits_on_every_run() {
    let s = Shape { m: 67, k: 130, n: 95, r: 8 };
    for dtype in [DType::F32, DType::BF16] {
        let inputs = inputs(&s, dtype, dtype, DType::F32, true, 3);
        let dy = Random::new(4).tensor(&[s.m, s.n], dtype, 1.0);
        assert_deterministic(&inputs, &dy, || Tape::training(SEED, STEP), op(2.0, 0.1));
        assert_repeatable(cuda(), &inputs, &dy, || Tape::training(SEED, STEP), op(2.0, 0.1));
    }
}

#[test]
fn frozen_parts_get_no_gradient_and_change_none_of_the_others() {
    let s = Shape { m: 9, k: 20, n: 11, r: 4 };
    for dtype in [DType::F32, DType::BF16] {
        let inputs = inputs(&s, dtype, DType::BF16, DType::F32, true, 5);
        let dy = Random::new(6).tensor(&[s.m, s.n], dtype, 1.0);
        on_each(|device| {
            let run = |wanted: fn(usize) -> bool| {
                let tape = Tape::training(SEED, STEP);
                run_at(device, tape, &inputs, &dy, wanted, op(2.0, 0.2)).unwrap()
            };
            let all = run(|_| true);
            for wanted in [|i| i == 0, |i| i == 2, |i| i == 3, |i| i == 2 || i == 3, |i| i == 4]
                as [fn(usize) -> bool; 5]
            {
                let some = run(wanted);
                for i in 0..inputs.len() {
                    let expected = wanted(i).then(|| bits(all.grad(i)));
                    assert_eq!(some.grads[i].as_ref().map(bits), expected, "gradient of input {i}");
                }
            }
        });
    }
}

#[test]
fn dropout_is_off_in_evaluation_and_b_zero_gives_the_base_layer() {
    let s = Shape { m: 6, k: 33, n: 17, r: 4 };
    for dtype in [DType::F32, DType::BF16] {
        let mut inputs = inputs(&s, dtype, dtype, DType::F32, false, 7);
        inputs[3] = Tensor::zeros(&[s.n, s.r], DType::F32);
        on_each(|device| {
            let v: Vec<Var> = inputs.iter().map(|x| Var::constant(x.to_device(device).unwrap())).collect();
            let tape = Tape::inference();
            let with = |p| bits(op(2.0, p)(&tape, &v).unwrap().value());
            assert_eq!(with(0.5), with(0.0));
            let base = matmul(&tape, &v[0], &v[1], None).unwrap();
            let adapted = op(2.0, 0.0)(&tape, &v).unwrap();
            if device == cuda() {
                // Two kernels: their sums may go in two orders.
                let base = values(base.value());
                let [x, w] = [values(&inputs[0]), values(&inputs[1])];
                let size = product_magnitude(&x, &transposed(&w, s.n, s.k), s.m, s.k, s.n);
                let tolerance = Tolerance::rounding(DType::F32, s.k as f64, &size)
                    .plus(Tolerance::rounding(dtype, 2.0, &base));
                assert_close("y", adapted.value(), &base, &tolerance);
            } else {
                assert_eq!(bits(adapted.value()), bits(base.value()));
            }
        });
    }
}

#[test]
fn no_rows() {
    let s = Shape { m: 0, k: 5, n: 4, r: 2 };
    for dtype in [DType::F32, DType::BF16] {
        let inputs = inputs(&s, dtype, dtype, DType::F32, true, 8);
        let dy = Tensor::zeros(&[0, 4], dtype);
        on_each(|device| {
            let tape = Tape::training(SEED, STEP);
            let outcome = run_at(device, tape, &inputs, &dy, |_| true, op(2.0, 0.1)).unwrap();
            assert_eq!(outcome.output.shape(), [0, 4]);
            assert_eq!(outcome.grad(0).shape(), [0, 5]);
            for i in 1..5 {
                assert!(values(outcome.grad(i)).iter().all(|&g| g == 0.0));
            }
        });
    }
}

#[test]
fn operands_that_do_not_fit_are_named() {
    let var = |shape: &[usize]| Var::constant(Tensor::zeros(shape, DType::F32));
    let (x, w) = (var(&[2, 3]), var(&[4, 3]));
    let run = |a: &[usize], b: &[usize], dropout| {
        let (a, b) = (var(a), var(b));
        lora_matmul(&Tape::training(1, 1), &x, &w, None, &Lora { a: &a, b: &b, scale: 1.0, dropout })
            .unwrap_err()
    };
    assert_eq!(
        run(&[2, 5], &[4, 2], 0.0).to_string(),
        "lora_matmul: A [2, 5] and B [4, 2] for a weight [4, 3]: expected A [r, 3] and B [4, r]"
    );
    assert!(matches!(run(&[2, 3], &[4, 3], 0.0), Error::Shape { .. }));
    assert!(run(&[2, 3], &[4, 2], 1.0).to_string().contains("0 <= p < 1"));
    assert!(run(&[2, 3], &[4, 2], f32::NAN).to_string().contains("0 <= p < 1"));
}
