//! Linear layers with a weight in 4-bit blocks. Two errors are told apart: the kernel's, against the product in f64 with what the codes stand
//! for (tight), and the quantization's, against the product with the weight that was quantized.

use proptest::prelude::*;
use warptune::Error;
use warptune::autograd::{Tape, Var};
use warptune::device::Device;
use warptune::ops::add::add;
use warptune::ops::epilogue::Epilogue;
use warptune::ops::gelu::{GeluKind, gelu};
use warptune::ops::lora_matmul::{Lora, quantized_lora_matmul};
use warptune::ops::quantize::{Quantization, dequantize, quantize};
use warptune::ops::quantized_matmul::quantized_matmul;
use warptune::ops::swiglu::swiglu;
use warptune::tensor::{DType, QuantKind, QuantizedTensor, Tensor};

use super::{cases, float_type, half_type};
use crate::reference::lora_matmul::{Shape, lora, lora_backward};
use crate::reference::matmul::{linear, linear_backward, product_magnitude, transposed};
use crate::reference::{cast, dropout, stored};
use crate::support::devices::{assert_no_reports, cuda, multiprocessors};
use crate::support::gradcheck::{
    assert_deterministic, assert_repeatable, forward_backward_at, forward_backward_on, run_at,
};
use crate::support::random::Random;
use crate::support::tolerance::{Tolerance, assert_close};
use crate::support::values;

const SEED: u64 = 11;
const STEP: u64 = 5;

fn op(w: &QuantizedTensor) -> impl Fn(&Tape, &[Var]) -> warptune::Result<Var> {
    move |tape, v| quantized_matmul(tape, &v[0], w, v.get(1), Epilogue::None)
}

/// On x, A, B and perhaps a bias.
fn lora_op(w: &QuantizedTensor, scale: f32, dropout: f32) -> impl Fn(&Tape, &[Var]) -> warptune::Result<Var> {
    move |tape, v| {
        let lora = Lora { a: &v[1], b: &v[2], scale, dropout };
        quantized_lora_matmul(tape, &v[0], w, v.get(3), &lora, Epilogue::None)
    }
}

fn weight(random: &mut Random, shape: [usize; 2], how: &Quantization) -> (Tensor, QuantizedTensor, Vec<f64>) {
    let dense = random.tensor(&shape, DType::F32, 0.3);
    let quantized = quantize(&dense, how).unwrap();
    let meant = values(&dequantize(&quantized, DType::F32).unwrap());
    (dense, quantized, meant)
}

/// What the weight is for a device that multiplies in `dtype`: a CUDA device decodes to the type of x.
fn decoded(device: Device, w: &QuantizedTensor, dtype: DType) -> Vec<f64> {
    values(&dequantize(w, if device == Device::Cpu { DType::F32 } else { dtype }).unwrap())
}

/// A device, the CUDA device for a part of the cases.
fn device() -> impl Strategy<Value = Device> {
    prop_oneof![2 => Just(false), 1 => Just(true)].prop_map(|there| if there { cuda() } else { Device::Cpu })
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
        device in device(),
        seed in any::<u64>(),
    ) {
        let mut random = Random::new(seed);
        let (_, w, _) = weight(&mut random, [n, k], &how);
        let meant = decoded(device, &w, x_type);
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
            forward_backward_at(device, &inputs, &dy, op(&w.to_device(device).unwrap())).unwrap();
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
        assert_no_reports();
    }

    #[test]
    fn with_an_adapter_too(
        (m, k, n) in shape(),
        r in 1usize..20,
        (x_type, a_type, how) in (float_type(), float_type(), how()),
        with_bias in any::<bool>(),
        p in prop_oneof![Just(0.0f32), 0.05f32..0.6],
        scale in 0.1f32..4.0,
        device in device(),
        seed in any::<u64>(),
    ) {
        let s = Shape { m, k, n, r };
        let mut random = Random::new(seed);
        let (_, w, _) = weight(&mut random, [n, k], &how);
        let meant = decoded(device, &w, x_type);
        // bf16 and f16 do not meet on a CUDA device.
        let a_type = if device == Device::Cpu || a_type == DType::F32 { a_type } else { x_type };
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
        // Tensor cores have u, v and the factors as pairs, each right to 2^-16, as tests/ops/lora_matmul.rs says.
        let pairs = device != Device::Cpu && x_type != DType::F32;
        let mut bare = absolute.clone();
        bare[1].fill(0.0);
        bare.get_mut(4).into_iter().for_each(|bias| bias.fill(0.0));
        let of_pairs = |size: &[f64]| Tolerance::rounding(DType::BF16, if pairs { 4.0 / 256.0 } else { 0.0 }, size);
        let tape = Tape::training(SEED, STEP);
        let there = w.to_device(device).unwrap();
        let outcome = run_at(device, tape, &inputs, &dy, |_| true, lora_op(&there, scale, p)).unwrap();
        let allowed = tolerance(&naive, &exact, &size, x_type);
        let allowed = allowed.plus(of_pairs(&lora(&bare, &keep, scale64, &s)));
        assert_close("y", &outcome.output, &exact, &allowed);

        let exact = lora_backward(&v, &keep, scale64, &dy64, &s);
        let naive = lora_backward(&f, &cast::<_, f32>(&keep), scale64, &cast::<_, f32>(&dy64), &s);
        let sizes = lora_backward(&absolute, &keep, scale64, &abs(&dy64), &s);
        let bare = lora_backward(&bare, &keep, scale64, &abs(&dy64), &s);
        for (i, (of, name)) in [(0, "dx"), (2, "dA"), (3, "dB"), (4, "dbias")].into_iter().enumerate() {
            if i == inputs.len() {
                break;
            }
            let dtype = if i == 0 { x_type } else { DType::F32 };
            prop_assert_eq!(outcome.grad(i).dtype(), dtype);
            let tolerance = tolerance(&stored(&naive[of], dtype), &exact[of], &sizes[of], dtype);
            assert_close(name, outcome.grad(i), &exact[of], &tolerance.plus(of_pairs(&bare[of])));
        }
        assert_no_reports();
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
        let y = values(
            quantized_matmul(&tape, &Var::constant(x.clone()), &w, None, Epilogue::None).unwrap().value(),
        );
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
        let with = quantized_lora_matmul(&tape, &x, &w, Some(&bias), &lora, Epilogue::None).map(|_| ());
        let without = quantized_matmul(&tape, &x, &w, Some(&bias), Epilogue::None).map(|_| ());
        [with, without].map(|r| matches!(r, Err(Error::Shape { .. })))
    };
    assert_eq!(refused(&[3, 6], &[2, 6], &[4, 2], 4), [false, false]);
    assert_eq!(refused(&[3, 5], &[2, 5], &[4, 2], 4), [true, true]);
    assert_eq!(refused(&[3, 6], &[2, 6], &[4, 2], 3), [true, true]);
    assert_eq!(refused(&[3, 6], &[2, 5], &[4, 2], 4), [true, false]);
    assert_eq!(refused(&[3, 6], &[2, 6], &[4, 3], 4), [true, false]);
}

/// On tensor cores: more than a tile of rows and columns, rows of whole groups and others, few rows, blocks of every size, adapters with a
/// rank of several steps, an odd number of elements in all, and both directions; the same bits each time.
#[test]
fn tensor_core_tiles() {
    let mut random = Random::new(9);
    let blocks = |block, double| Quantization { kind: QuantKind::Nf4, block, double };
    for (i, (m, k, n, how)) in [
        (150, 160, 264, blocks(64, true)),
        (131, 288, 130, blocks(32, false)),
        (40, 131, 67, blocks(64, true)),
        (129, 64, 31, blocks(4096, true)),
        (16, 640, 72, blocks(64, true)),
        (1, 1184, 33, blocks(128, false)),
        (9, 96, 40, Quantization::new(QuantKind::Fp4)),
        (17, 33, 5, Quantization::new(QuantKind::Fp4)),
    ]
    .into_iter()
    .enumerate()
    {
        check_tiles(&mut random, i, [m, k, n], &how);
    }
}

/// y and dx of case `i` against the oracle; with adapters, the same bits each time.
fn check_tiles(random: &mut Random, i: usize, [m, k, n]: [usize; 3], how: &Quantization) {
    let dtype = half_type(i);
    let (_, w, _) = weight(random, [n, k], how);
    let there = w.to_device(cuda()).unwrap();
    let meant = decoded(cuda(), &w, dtype);
    let (x, dy) = (random.tensor(&[m, k], dtype, 1.0), random.tensor(&[m, n], dtype, 1.0));
    let (x64, dy64) = (values(&x), values(&dy));
    let outcome = forward_backward_at(cuda(), std::slice::from_ref(&x), &dy, op(&there)).unwrap();
    let exact = linear(&x64, &meant, None, m, k, n);
    let naive = stored(&linear(&cast(&x64), &cast::<_, f32>(&meant), None, m, k, n), dtype);
    let size = product_magnitude(&x64, &transposed(&meant, n, k), m, k, n);
    assert_close("y", &outcome.output, &exact, &tolerance(&naive, &exact, &size, dtype));
    let [dx, _, _] = linear_backward(&x64, &meant, &dy64, m, k, n);
    let [naive, _, _] =
        linear_backward(&cast(&x64), &cast::<_, f32>(&meant), &cast::<_, f32>(&dy64), m, k, n);
    let size = product_magnitude(&dy64, &meant, m, n, k);
    assert_close("dx", outcome.grad(0), &dx, &tolerance(&stored(&naive, dtype), &dx, &size, dtype));

    let rank = [8, 40][i % 2];
    let inputs = [x, random.tensor(&[rank, k], DType::F32, 1.0), random.tensor(&[n, rank], DType::F32, 1.0)];
    let dropout = [0.3, 0.0][i / 2 % 2];
    assert_repeatable(cuda(), &inputs, &dy, || Tape::training(SEED, STEP), lora_op(&there, 2.0, dropout));
    assert_no_reports();
}

/// Tiles that do not fill the device, forward and for dx: a little more than a wave, and pieces that end in one tile and begin in the next
/// (tests/ops/stream_k.rs); a single tile; rows of whole groups and others; blocks that pieces do not begin with.
#[test]
fn tiles_in_pieces() {
    let mut random = Random::new(12);
    let blocks = |block, double| Quantization { kind: QuantKind::Nf4, block, double };
    let slots = 2 * multiprocessors();
    let (more, less) = (slots * 128 + 96, slots * 3 / 5 * 128);
    for (i, (shape, how)) in [
        ([18, 1312, more], blocks(64, true)),
        ([20, more, 1312], blocks(256, true)),
        ([18, 1600, less], blocks(64, true)),
        ([17, less, 1600], blocks(32, false)),
        ([17, less - 9, 1571], Quantization::new(QuantKind::Fp4)),
        ([40, 1101, 67], blocks(64, true)),
        ([9, 67, 1088], blocks(64, true)),
    ]
    .into_iter()
    .enumerate()
    {
        check_tiles(&mut random, i, shape, &how);
    }
}

/// The same with adapters, a mask and epilogues, and in f32: what the oracle says to within what pairs of 16 bits do (see above).
#[test]
fn adapters_of_tiles_in_pieces() {
    let mut random = Random::new(13);
    for (i, ([m, k, n], dtype)) in [
        ([20, 1056, 72], half_type(0)),
        ([140, 72, 1056], half_type(1)),
        ([33, 1061, 70], half_type(1)),
        ([20, 1040, 70], DType::F32),
        ([20, 70, 1040], DType::F32),
    ]
    .into_iter()
    .enumerate()
    {
        let (_, w, _) = weight(&mut random, [n, k], &Quantization::new(QuantKind::Nf4));
        let inputs = [
            random.tensor(&[m, k], dtype, 1.0),
            random.tensor(&[4, k], DType::F32, 0.3),
            random.tensor(&[n, 4], DType::F32, 0.3),
            random.tensor(&[n], DType::F32, 1.0),
        ];
        let dy = random.tensor(&[m, n], dtype, 1.0);
        let p = [0.3, 0.0][i % 2];
        let s = Shape { m, k, n, r: 4 };
        let keep = if p > 0.0 { dropout::mask(SEED, STEP << 32, p, m * k) } else { vec![1.0; m * k] };
        let meant = decoded(cuda(), &w, dtype);
        let [x, a, b, bias] = [0, 1, 2, 3].map(|i| values(&inputs[i]));
        let abs = |x: &[f64]| -> Vec<f64> { x.iter().map(|x| x.abs()).collect() };
        let v = [x, meant, a, b, bias];
        let absolute: Vec<Vec<f64>> = v.iter().map(|x| abs(x)).collect();
        let there = w.to_device(cuda()).unwrap();
        let tape = Tape::training(SEED, STEP);
        let outcome = run_at(cuda(), tape, &inputs, &dy, |_| true, lora_op(&there, 1.5, p)).unwrap();
        // Sums of k or n terms in any order, and pairs right to 2^-16.
        let allowed = |size: &[f64], exact: &[f64], terms: usize| {
            let pairs = if dtype == DType::F32 { 0.0 } else { 4.0 / 256.0 };
            Tolerance::rounding(DType::F32, terms as f64, size)
                .plus(Tolerance::rounding(DType::BF16, pairs, size))
                .plus(Tolerance::rounding(dtype, 1.0, exact))
        };
        let exact = lora(&v, &keep, 1.5, &s);
        assert_close("y", &outcome.output, &exact, &allowed(&lora(&absolute, &keep, 1.5, &s), &exact, k));
        let exact = lora_backward(&v, &keep, 1.5, &values(&dy), &s);
        let sizes = lora_backward(&absolute, &keep, 1.5, &abs(&values(&dy)), &s);
        assert_close("dx", outcome.grad(0), &exact[0], &allowed(&sizes[0], &exact[0], n));
        assert_no_reports();
    }
}

/// A residual, a gate and GELU on the sums, and what the backward keeps of them.
#[test]
fn epilogues() {
    let mut random = Random::new(10);
    for (i, (m, k, n)) in [(40, 96, 72), (5, 64, 40), (33, 50, 30)].into_iter().enumerate() {
        for dtype in [DType::F32, half_type(i)] {
            let (_, w, _) = weight(&mut random, [n, k], &Quantization::new(QuantKind::Nf4));
            let inputs = [
                random.tensor(&[m, k], dtype, 1.0),
                random.tensor(&[m, n], dtype, 1.0),
                random.tensor(&[4, k], DType::F32, 0.3),
                random.tensor(&[n, 4], DType::F32, 0.3),
            ];
            let dy = random.tensor(&[m, n], dtype, 1.0);
            for kind in 0..3 {
                // Against the product followed by the op, which rounds once more.
                let run = |device: Device, fused: bool| {
                    let w = w.to_device(device).unwrap();
                    let op = |tape: &Tape, v: &[Var]| {
                        let lora = Lora { a: &v[2], b: &v[3], scale: 1.5, dropout: 0.0 };
                        let product =
                            |epilogue| quantized_lora_matmul(tape, &v[0], &w, None, &lora, epilogue);
                        match (kind, fused) {
                            (0, true) => product(Epilogue::Residual(&v[1])),
                            (0, false) => add(tape, &product(Epilogue::None)?, &v[1]),
                            (1, true) => product(Epilogue::SwiGlu(&v[1])),
                            (1, false) => swiglu(tape, &v[1], &product(Epilogue::None)?),
                            (_, true) => product(Epilogue::Gelu(GeluKind::Tanh)),
                            (_, false) => gelu(tape, &product(Epilogue::None)?, GeluKind::Tanh),
                        }
                    };
                    forward_backward_at(device, &inputs, &dy, op).unwrap()
                };
                for device in [Device::Cpu, cuda()] {
                    let (fused, apart) = (run(device, true), run(device, false));
                    let close = |name: &str, a: &Tensor, b: &Tensor, times: f64| {
                        let b = values(b);
                        let largest = b.iter().fold(0.0f64, |m, x| m.max(x.abs()));
                        let size = vec![largest; b.len()];
                        assert_close(name, a, &b, &Tolerance::rounding(dtype, times, &size));
                    };
                    close("y", &fused.output, &apart.output, 4.0);
                    let operands: &[usize] = if kind == 2 { &[0, 2, 3] } else { &[0, 1, 2, 3] };
                    for &input in operands {
                        close("gradient", fused.grad(input), apart.grad(input), 8.0);
                    }
                }
            }
        }
    }
    assert_no_reports();
}

#[test]
fn operands_in_two_places() {
    let mut random = Random::new(8);
    let (_, w, _) = weight(&mut random, [64, 128], &Quantization::new(QuantKind::Nf4));
    let there = w.to_device(cuda()).unwrap();
    assert_eq!(there.device(), cuda());
    let back = there.to_device(Device::Cpu).unwrap();
    assert_eq!(back.codes().as_u8().unwrap(), w.codes().as_u8().unwrap());
    let (x, dy) = (random.tensor(&[2, 128], DType::F32, 1.0), random.tensor(&[2, 64], DType::F32, 1.0));
    let run = |device: Device, w: &QuantizedTensor| {
        run_at(device, Tape::recording(), std::slice::from_ref(&x), &dy, |_| true, op(w)).map(|_| ())
    };
    assert!(matches!(run(cuda(), &w), Err(Error::Cuda { .. })));
    assert!(matches!(run(Device::Cpu, &there), Err(Error::Cuda { .. })));
}
