//! Linear layers with a weight in 4-bit blocks. Two errors are told apart: the kernel's, against the product in f64 with what the codes stand
//! for (tight), and the quantization's, against the product with the weight that was quantized.

use proptest::prelude::*;
use warptune::Error;
use warptune::autograd::{Tape, Var};
use warptune::device::Device;
use warptune::ops::lora_matmul::{Lora, quantized_lora_matmul};
use warptune::ops::quantize::{Quantization, dequantize, quantize};
use warptune::ops::quantized_matmul::quantized_matmul;
use warptune::tensor::{DType, QuantKind, QuantizedTensor, Tensor};

use super::{cases, float_type};
use crate::reference::lora_matmul::{Shape, lora, lora_backward};
use crate::reference::matmul::{linear, linear_backward, product_magnitude, transposed};
use crate::reference::{cast, dropout, stored};
use crate::support::devices::cuda;
use crate::support::gradcheck::{assert_deterministic, forward_backward_on, run_at};
use crate::support::random::Random;
use crate::support::tolerance::{Tolerance, assert_close};
use crate::support::values;

const SEED: u64 = 11;
const STEP: u64 = 5;

fn op(w: &QuantizedTensor) -> impl Fn(&Tape, &[Var]) -> warptune::Result<Var> {
    move |tape, v| quantized_matmul(tape, &v[0], w, v.get(1))
}

/// On x, A, B and perhaps a bias.
fn lora_op(w: &QuantizedTensor, scale: f32, dropout: f32) -> impl Fn(&Tape, &[Var]) -> warptune::Result<Var> {
    move |tape, v| {
        quantized_lora_matmul(tape, &v[0], w, v.get(3), &Lora { a: &v[1], b: &v[2], scale, dropout })
    }
}

fn weight(random: &mut Random, shape: [usize; 2], how: &Quantization) -> (Tensor, QuantizedTensor, Vec<f64>) {
    let dense = random.tensor(&shape, DType::F32, 0.3);
    let quantized = quantize(&dense, how).unwrap();
    let meant = values(&dequantize(&quantized, DType::F32).unwrap());
    (dense, quantized, meant)
}

fn how() -> impl Strategy<Value = Quantization> {
    let kind = prop_oneof![Just(QuantKind::Nf4), Just(QuantKind::Fp4)];
    let block = (5u32..13).prop_map(|p| 1usize << p);
    (kind, block, any::<bool>()).prop_map(|(kind, block, double)| Quantization { kind, block, double })
}

/// Rows of whole registers, and others: both kinds of a few rows times a weight; and more than a few.
fn shape() -> impl Strategy<Value = (usize, usize, usize)> {
    let k = prop_oneof![1usize..150, (1usize..5).prop_map(|k| 128 * k), (1usize..5).prop_map(|k| 64 * k)];
    (1usize..40, k, 1usize..60)
}

/// Twice a plain f32 implementation's error, and the roundings of each term: of its scale, and in the sums.
fn tolerance(naive: &[f64], oracle: &[f64], magnitude: &[f64], dtype: DType) -> Tolerance {
    Tolerance::twice_naive(naive, oracle)
        .plus(Tolerance::rounding(DType::F32, 4.0, magnitude))
        .plus(Tolerance::rounding(dtype, 1.0, oracle))
}

proptest! {
    #![proptest_config(cases(60))]

    #[test]
    fn values_and_gradients_match_the_decoded_weight(
        (m, k, n) in shape(),
        (x_type, how) in (float_type(), how()),
        with_bias in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let mut random = Random::new(seed);
        let (_, w, meant) = weight(&mut random, [n, k], &how);
        let mut inputs = vec![random.tensor(&[m, k], x_type, 1.0)];
        if with_bias {
            inputs.push(random.tensor(&[n], DType::F32, 1.0));
        }
        let dy = random.tensor(&[m, n], x_type, 1.0);
        let v: Vec<Vec<f64>> = inputs.iter().map(values).collect();
        let f: Vec<Vec<f32>> = v.iter().map(|x| cast(x)).collect();
        let (dy64, w32) = (values(&dy), cast::<_, f32>(&meant));
        let bias = v.get(1).map(|b| &b[..]);
        let exact = linear(&v[0], &meant, bias, m, k, n);
        let naive = stored(&linear(&f[0], &w32, f.get(1).map(|b| &b[..]), m, k, n), x_type);
        let size = product_magnitude(&v[0], &transposed(&meant, n, k), m, k, n);
        let outcome =
            forward_backward_on(Tape::recording(), &inputs, &dy, |_| true, op(&w)).unwrap();
        prop_assert_eq!(outcome.output.dtype(), x_type);
        assert_close("y", &outcome.output, &exact, &tolerance(&naive, &exact, &size, x_type));

        let [dx, _, dbias] = linear_backward(&v[0], &meant, &dy64, m, k, n);
        let [naive, _, naive_bias] = linear_backward(&f[0], &w32, &cast::<_, f32>(&dy64), m, k, n);
        let size = product_magnitude(&dy64, &meant, m, n, k);
        prop_assert_eq!(outcome.grad(0).dtype(), x_type);
        assert_close("dx", outcome.grad(0), &dx, &tolerance(&stored(&naive, x_type), &dx, &size, x_type));
        if with_bias {
            let size = product_magnitude(&vec![1.0; m], &dy64, 1, m, n);
            let naive = stored(&naive_bias, DType::F32);
            assert_close("dbias", outcome.grad(1), &dbias, &tolerance(&naive, &dbias, &size, DType::F32));
        }
    }

    #[test]
    fn with_an_adapter_too(
        (m, k, n) in shape(),
        r in 1usize..20,
        (x_type, a_type, how) in (float_type(), float_type(), how()),
        with_bias in any::<bool>(),
        p in prop_oneof![Just(0.0f32), 0.05f32..0.6],
        scale in 0.1f32..4.0,
        seed in any::<u64>(),
    ) {
        let s = Shape { m, k, n, r };
        let mut random = Random::new(seed);
        let (_, w, meant) = weight(&mut random, [n, k], &how);
        let mut inputs = vec![
            random.tensor(&[m, k], x_type, 1.0),
            random.tensor(&[r, k], a_type, 0.5),
            random.tensor(&[n, r], a_type, 0.5),
        ];
        if with_bias {
            inputs.push(random.tensor(&[n], DType::F32, 1.0));
        }
        let dy = random.tensor(&[m, n], x_type, 1.0);
        // The oracle's order: x, w, a, b, bias.
        let mut v: Vec<Vec<f64>> = inputs.iter().map(values).collect();
        v.insert(1, meant);
        let f: Vec<Vec<f32>> = v.iter().map(|x| cast(x)).collect();
        let keep = if p > 0.0 { dropout::mask(SEED, STEP << 32, p, m * k) } else { vec![1.0; m * k] };
        let (scale64, dy64) = (f64::from(scale), values(&dy));
        let exact = lora(&v, &keep, scale64, &s);
        let naive = stored(&lora(&f, &cast::<_, f32>(&keep), scale64, &s), x_type);
        let abs = |x: &Vec<f64>| x.iter().map(|x| x.abs()).collect::<Vec<f64>>();
        let absolute: Vec<Vec<f64>> = v.iter().map(abs).collect();
        let size = lora(&absolute, &keep, scale64, &s);
        let tape = Tape::training(SEED, STEP);
        let outcome = forward_backward_on(tape, &inputs, &dy, |_| true, lora_op(&w, scale, p)).unwrap();
        assert_close("y", &outcome.output, &exact, &tolerance(&naive, &exact, &size, x_type));

        let exact = lora_backward(&v, &keep, scale64, &dy64, &s);
        let naive = lora_backward(&f, &cast::<_, f32>(&keep), scale64, &cast::<_, f32>(&dy64), &s);
        let sizes = lora_backward(&absolute, &keep, scale64, &abs(&dy64), &s);
        for (i, (of, name)) in [(0, "dx"), (2, "dA"), (3, "dB"), (4, "dbias")].into_iter().enumerate() {
            if i == inputs.len() {
                break;
            }
            let dtype = if i == 0 { x_type } else { DType::F32 };
            prop_assert_eq!(outcome.grad(i).dtype(), dtype);
            let tolerance = tolerance(&stored(&naive[of], dtype), &exact[of], &sizes[of], dtype);
            assert_close(name, outcome.grad(i), &exact[of], &tolerance);
        }
    }
}

/// More rows than the panels of the GEMM, and more of the weight than its blocks.
#[test]
fn across_blocks_and_panels() {
    let mut random = Random::new(3);
    for (m, k, n, how) in [
        (70, 1100, 300, Quantization::new(QuantKind::Nf4)),
        (1100, 96, 70, Quantization::new(QuantKind::Fp4)),
        (16, 1024, 600, Quantization { kind: QuantKind::Nf4, block: 64, double: false }),
        (3, 70_000, 5, Quantization::new(QuantKind::Nf4)),
    ] {
        let (_, w, meant) = weight(&mut random, [n, k], &how);
        for dtype in [DType::F32, DType::BF16] {
            let x = random.tensor(&[m, k], dtype, 1.0);
            let dy = random.tensor(&[m, n], dtype, 1.0);
            let (x64, dy64) = (values(&x), values(&dy));
            let outcome = forward_backward_on(Tape::recording(), &[x], &dy, |_| true, op(&w)).unwrap();
            let exact = linear(&x64, &meant, None, m, k, n);
            let size = product_magnitude(&x64, &transposed(&meant, n, k), m, k, n);
            let roundings = |terms: usize, size: &[f64], exact: &[f64]| {
                Tolerance::rounding(DType::F32, (terms as f64).sqrt().max(8.0), size)
                    .plus(Tolerance::rounding(dtype, 1.0, exact))
            };
            assert_close("y", &outcome.output, &exact, &roundings(k, &size, &exact));
            let [dx, _, _] = linear_backward(&x64, &meant, &dy64, m, k, n);
            let size = product_magnitude(&dy64, &meant, m, n, k);
            assert_close("dx", outcome.grad(0), &dx, &roundings(n, &size, &dx));
        }
    }
}

/// y - y_dense has the variance that the format's error promises: k times that of a weight's error.
#[test]
fn the_quantization_error() {
    let mut random = Random::new(4);
    let (m, k, n) = (64, 512, 256);
    for (double, kind) in [(false, QuantKind::Nf4), (true, QuantKind::Nf4), (true, QuantKind::Fp4)] {
        let (dense, w, meant) = weight(&mut random, [n, k], &Quantization { kind, block: 64, double });
        let x = random.tensor(&[m, k], DType::F32, 1.0);
        let tape = Tape::inference();
        let y = values(quantized_matmul(&tape, &Var::constant(x.clone()), &w, None).unwrap().value());
        let dense = values(&dense);
        let exact = linear(&values(&x), &dense, None, m, k, n);
        let mean_square =
            |x: &mut dyn Iterator<Item = f64>, n: usize| x.map(|x| x * x).sum::<f64>() / n as f64;
        let of_y = mean_square(&mut y.iter().zip(&exact).map(|(a, b)| a - b), y.len());
        let of_w = mean_square(&mut meant.iter().zip(&dense).map(|(a, b)| a - b), dense.len());
        // 16384 elements of which each x is in 256: within a few percent.
        assert!((of_y / (k as f64 * of_w) - 1.0).abs() < 0.1, "{kind}: {of_y} {of_w}");
        // NF4's promise is 0.0094 of the weights' variance; FP4's is about 1.5 times that.
        let relative = of_w / mean_square(&mut dense.iter().copied(), dense.len());
        let expected = if kind == QuantKind::Nf4 { 0.008..0.0105 } else { 0.0105..0.02 };
        assert!(expected.contains(&relative), "{kind}: {relative}");
    }
}

#[test]
fn same_bits_on_every_run_and_with_any_number_of_threads() {
    let mut random = Random::new(5);
    for (m, k, n) in [(2, 1024, 300), (5, 77, 300), (130, 200, 90)] {
        let (_, w, _) = weight(&mut random, [n, k], &Quantization::new(QuantKind::Nf4));
        for dtype in [DType::F32, DType::BF16] {
            let inputs = [
                random.tensor(&[m, k], dtype, 1.0),
                random.tensor(&[8, k], DType::F32, 1.0),
                random.tensor(&[n, 8], DType::F32, 1.0),
            ];
            let dy = random.tensor(&[m, n], dtype, 1.0);
            assert_deterministic(&inputs[..1], &dy, Tape::recording, op(&w));
            assert_deterministic(&inputs, &dy, || Tape::training(SEED, STEP), lora_op(&w, 2.0, 0.3));
        }
    }
}

#[test]
fn empty_operands() {
    let mut random = Random::new(6);
    for (m, k, n) in [(0, 64, 8), (3, 64, 0), (3, 0, 8)] {
        let (_, w, _) = weight(&mut random, [n, k], &Quantization::new(QuantKind::Nf4));
        let x = random.tensor(&[m, k], DType::F32, 1.0);
        let dy = random.tensor(&[m, n], DType::F32, 1.0);
        let outcome = forward_backward_on(Tape::recording(), &[x], &dy, |_| true, op(&w)).unwrap();
        assert_eq!(outcome.output.shape(), [m, n]);
        assert!(values(&outcome.output).iter().chain(&values(outcome.grad(0))).all(|&x| x == 0.0));
    }
}

#[test]
fn operands_that_do_not_fit() {
    let mut random = Random::new(7);
    let (_, w, _) = weight(&mut random, [4, 6], &Quantization::new(QuantKind::Nf4));
    let mut refused = |x: &[usize], a: &[usize], b: &[usize], bias: usize| {
        let tape = Tape::recording();
        let var = |random: &mut Random, shape: &[usize]| Var::constant(random.tensor(shape, DType::F32, 1.0));
        let (x, bias) = (var(&mut random, x), var(&mut random, &[bias]));
        let (a, b) = (var(&mut random, a), var(&mut random, b));
        let lora = Lora { a: &a, b: &b, scale: 1.0, dropout: 0.0 };
        let with = quantized_lora_matmul(&tape, &x, &w, Some(&bias), &lora).map(|_| ());
        let without = quantized_matmul(&tape, &x, &w, Some(&bias)).map(|_| ());
        [with, without].map(|r| matches!(r, Err(Error::Shape { .. })))
    };
    assert_eq!(refused(&[3, 6], &[2, 6], &[4, 2], 4), [false, false]);
    assert_eq!(refused(&[3, 5], &[2, 5], &[4, 2], 4), [true, true]);
    assert_eq!(refused(&[3, 6], &[2, 6], &[4, 2], 3), [true, true]);
    assert_eq!(refused(&[3, 6], &[2, 5], &[4, 2], 4), [true, false]);
    assert_eq!(refused(&[3, 6], &[2, 6], &[4, 3], 4), [true, false]);
}

#[test]
fn on_a_cuda_device_it_is_refused_by_name() {
    let mut random = Random::new(8);
    let (_, w, _) = weight(&mut random, [64, 128], &Quantization::new(QuantKind::Nf4));
    let there = w.to_device(cuda()).unwrap();
    assert_eq!(there.device(), cuda());
    let back = there.to_device(Device::Cpu).unwrap();
    assert_eq!(back.codes().as_u8().unwrap(), w.codes().as_u8().unwrap());
    let (x, dy) = (random.tensor(&[2, 128], DType::F32, 1.0), random.tensor(&[2, 64], DType::F32, 1.0));
    let run = |w: &QuantizedTensor| {
        run_at(cuda(), Tape::recording(), std::slice::from_ref(&x), &dy, |_| true, op(w)).map(|_| ())
    };
    let error = run(&there).unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    assert!(error.to_string().contains("quantized_matmul"), "{error}");
    // Operands in two places.
    assert!(matches!(run(&w), Err(Error::Cuda { .. })));
}
