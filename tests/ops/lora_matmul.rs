//! Linear layers with an adapter.

use proptest::prelude::*;
use warptune::Error;
use warptune::autograd::{Tape, Var};
use warptune::ops::lora_matmul::{Lora, lora_matmul};
use warptune::ops::matmul::matmul;
use warptune::tensor::{DType, Tensor};

use super::{cases, float_type};
use crate::reference::lora_matmul::{Shape, lora, lora_backward};
use crate::reference::{cast, dropout, stored};
use crate::support::gradcheck::{assert_deterministic, check_oracle, dot, forward_backward_on};
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

/// Sums of absolute values, found by putting absolute values into the oracle itself.
fn magnitudes(v: &[Vec<f64>], keep: &[f64], scale: f64, dy: &[f64], s: &Shape) -> (Vec<f64>, [Vec<f64>; 5]) {
    let abs = |x: &[f64]| -> Vec<f64> { x.iter().map(|x| x.abs()).collect() };
    let v: Vec<Vec<f64>> = v.iter().map(|x| abs(x)).collect();
    (lora(&v, keep, scale.abs(), s), lora_backward(&v, keep, scale.abs(), &abs(dy), s))
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
        let outcome =
            forward_backward_on(Tape::training(SEED, STEP), &inputs, &dy, |_| true, op(scale, p)).unwrap();

        let v: Vec<Vec<f64>> = inputs.iter().map(values).collect();
        let f: Vec<Vec<f32>> = v.iter().map(|x| cast(x)).collect();
        let dy = values(&dy);
        let keep = if p > 0.0 { dropout::mask(SEED, STEP << 32, p, m * k) } else { vec![1.0; m * k] };
        let keep32: Vec<f32> = cast(&keep);
        let scale = f64::from(scale);
        let (y_size, sizes) = magnitudes(&v, &keep, scale, &dy, &s);
        let tolerance = |naive: &[f32], exact: &[f64], size: &[f64], dtype| {
            Tolerance::twice_naive(&stored(naive, dtype), exact)
                .plus(Tolerance::rounding(DType::F32, 4.0, size))
                .plus(Tolerance::rounding(dtype, 1.0, exact))
        };
        let exact = lora(&v, &keep, scale, &s);
        prop_assert_eq!(outcome.output.dtype(), x_type);
        assert_close("y", &outcome.output, &exact, &tolerance(&lora(&f, &keep32, scale, &s), &exact, &y_size, x_type));

        let exact = lora_backward(&v, &keep, scale, &dy, &s);
        let naive = lora_backward(&f, &keep32, scale, &cast::<_, f32>(&dy), &s);
        for (i, name) in ["dx", "dW", "dA", "dB", "dbias"].into_iter().enumerate().take(inputs.len()) {
            let dtype = if i == 0 { x_type } else { DType::F32 };
            prop_assert_eq!(outcome.grad(i).dtype(), dtype);
            assert_close(name, outcome.grad(i), &exact[i], &tolerance(&naive[i], &exact[i], &sizes[i], dtype));
        }
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
    }
}

#[test]
fn frozen_parts_get_no_gradient_and_change_none_of_the_others() {
    let s = Shape { m: 9, k: 20, n: 11, r: 4 };
    let inputs = inputs(&s, DType::F32, DType::BF16, DType::F32, true, 5);
    let dy = Random::new(6).tensor(&[s.m, s.n], DType::F32, 1.0);
    let run = |wanted: fn(usize) -> bool| {
        forward_backward_on(Tape::training(SEED, STEP), &inputs, &dy, wanted, op(2.0, 0.2)).unwrap()
    };
    let all = run(|_| true);
    for wanted in
        [|i| i == 0, |i| i == 2, |i| i == 3, |i| i == 2 || i == 3, |i| i == 4] as [fn(usize) -> bool; 5]
    {
        let some = run(wanted);
        for i in 0..inputs.len() {
            let expected = wanted(i).then(|| bits(all.grad(i)));
            assert_eq!(some.grads[i].as_ref().map(bits), expected, "gradient of input {i}");
        }
    }
}

#[test]
fn dropout_is_off_in_evaluation_and_b_zero_gives_the_base_layer() {
    let s = Shape { m: 6, k: 33, n: 17, r: 4 };
    let mut inputs = inputs(&s, DType::F32, DType::F32, DType::F32, false, 7);
    let vars = |inputs: &[Tensor]| -> Vec<Var> { inputs.iter().cloned().map(Var::constant).collect() };
    let with = |p| bits(op(2.0, p)(&Tape::inference(), &vars(&inputs)).unwrap().value());
    assert_eq!(with(0.5), with(0.0));
    inputs[3] = Tensor::zeros(&[s.n, s.r], DType::F32);
    let v = vars(&inputs);
    let adapted = op(2.0, 0.0)(&Tape::inference(), &v).unwrap();
    assert_eq!(bits(adapted.value()), bits(matmul(&Tape::inference(), &v[0], &v[1], None).unwrap().value()));
}

#[test]
fn no_rows() {
    let s = Shape { m: 0, k: 5, n: 4, r: 2 };
    let inputs = inputs(&s, DType::F32, DType::F32, DType::F32, true, 8);
    let dy = Tensor::zeros(&[0, 4], DType::F32);
    let tape = Tape::training(SEED, STEP);
    let outcome = forward_backward_on(tape, &inputs, &dy, |_| true, op(2.0, 0.1)).unwrap();
    assert_eq!(outcome.output.shape(), [0, 4]);
    assert_eq!(outcome.grad(0).shape(), [0, 5]);
    for i in 1..5 {
        assert!(values(outcome.grad(i)).iter().all(|&g| g == 0.0));
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
