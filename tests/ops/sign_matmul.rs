//! Linear layers with a 1-bit delta: against the product in f64 with W + a S.

use proptest::prelude::*;
use warptune::Error;
use warptune::autograd::{Gradients, Param, Tape, Var};
use warptune::device::Device;
use warptune::nn::{Adapter, Delta, Linear, Weight};
use warptune::ops::add::add;
use warptune::ops::epilogue::Epilogue;
use warptune::ops::gelu::{GeluKind, gelu};
use warptune::ops::quantize::{Quantization, dequantize, quantize};
use warptune::ops::sign_matmul::{SignBase, SignDelta, sign_matmul};
use warptune::ops::swiglu::swiglu;
use warptune::tensor::{DType, QuantKind, QuantizedTensor, SignTensor, Tensor};

use super::{cases, float_types, half_type};
use crate::reference::matmul::{product_magnitude, transposed};
use crate::reference::sign_matmul::{Shape, scaled, sign_linear, sign_linear_backward};
use crate::reference::{cast, stored};
use crate::support::devices::{assert_no_reports, cuda};
use crate::support::gradcheck::{
    Outcome, assert_deterministic, assert_repeatable, check_oracle, dot, forward_backward_at, run_at,
};
use crate::support::random::Random;
use crate::support::tolerance::{Tolerance, assert_close};
use crate::support::{bits, values};

/// What the delta is added to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Dense,
    Quantized,
    Product,
}

/// A layer and its operands.
struct Case {
    shape: Shape,
    kind: Kind,
    signs: SignTensor,
    quantized: QuantizedTensor,
    /// x; the weight, or the product, or what stands for neither; the scale; perhaps a bias.
    inputs: Vec<Tensor>,
    dy: Tensor,
}

pub fn signs(random: &mut Random, [n, k]: [usize; 2]) -> SignTensor {
    SignTensor::from_difference(&random.vec(n * k, 1.0), &vec![0.0; n * k], [n, k]).unwrap().0
}

/// The signs one by one.
pub fn ones(signs: &SignTensor) -> Vec<f64> {
    let [n, k] = *signs.shape();
    (0..n * k).map(|i| f64::from(signs.sign(i / k, i % k).unwrap())).collect()
}

impl Case {
    fn new(
        shape: Shape,
        kind: Kind,
        [x_type, w_type]: [DType; 2],
        (row_scales, with_bias): (bool, bool),
        seed: u64,
    ) -> Case {
        let ((m, k, n), mut random) = (shape, Random::new(seed));
        let dense = random.tensor(&[n, k], DType::F32, 0.3);
        let quantized = quantize(&dense, &Quantization::new(QuantKind::Nf4)).unwrap();
        let base = match kind {
            Kind::Dense => dense.to_dtype(w_type).unwrap(),
            Kind::Quantized => Tensor::zeros(&[1], DType::F32),
            Kind::Product => random.tensor(&[m, n], x_type, 1.0),
        };
        let mut inputs = vec![random.tensor(&[m, k], x_type, 1.0), base];
        // Of either sign: a scale may be trained to anything.
        inputs.push(random.tensor(&[if row_scales { n } else { 1 }], DType::F32, 0.3));
        if with_bias {
            inputs.push(random.tensor(&[n], DType::F32, 1.0));
        }
        let dy = random.tensor(&[m, n], x_type, 1.0);
        Case { shape, kind, signs: signs(&mut random, [n, k]), quantized, inputs, dy }
    }

    fn op(&self, device: Device) -> impl Fn(&Tape, &[Var]) -> warptune::Result<Var> {
        let (kind, signs) = (self.kind, self.signs.to_device(device).unwrap());
        let quantized = self.quantized.to_device(device).unwrap();
        move |tape, v| {
            let base = match kind {
                Kind::Dense => SignBase::Dense(&v[1]),
                Kind::Quantized => SignBase::Quantized(&quantized),
                Kind::Product => SignBase::Product(&v[1]),
            };
            let delta = SignDelta { signs: &signs, scale: &v[2] };
            sign_matmul(tape, &v[0], base, v.get(3), &delta, Epilogue::None)
        }
    }

    fn run(&self, device: Device) -> Outcome {
        let wanted = |i: usize| i != 1 || self.kind != Kind::Quantized;
        run_at(device, Tape::recording(), &self.inputs, &self.dy, wanted, self.op(device)).unwrap()
    }

    /// Runs it on a device and compares y and all gradients with the oracle.
    #[track_caller]
    fn check(&self, device: Device) {
        let (m, k, n) = self.shape;
        let x_type = self.dy.dtype();
        let mut v: Vec<Vec<f64>> = self.inputs.iter().map(values).collect();
        let addend = if self.kind == Kind::Product { std::mem::take(&mut v[1]) } else { vec![0.0; m * n] };
        v[1] = match self.kind {
            Kind::Dense => std::mem::take(&mut v[1]),
            // A CUDA device decodes to the type of x.
            Kind::Quantized => values(
                &dequantize(&self.quantized, if device == Device::Cpu { DType::F32 } else { x_type })
                    .unwrap(),
            ),
            Kind::Product => vec![0.0; n * k],
        };
        let f: Vec<Vec<f32>> = v.iter().map(|x| cast(x)).collect();
        let (s64, dy64) = (ones(&self.signs), values(&self.dy));
        let (s32, dy32) = (cast::<_, f32>(&s64), cast::<_, f32>(&dy64));
        let add = |mut y: Vec<f64>, addend: &[f64]| {
            y.iter_mut().zip(addend).for_each(|(y, z)| *y += z);
            y
        };
        let bias = v.get(3).map(|b| &b[..]);
        let exact = add(sign_linear(&v[0], &v[1], &s64, &v[2], bias, self.shape), &addend);
        let naive = sign_linear(&f[0], &f[1], &s32, &f[2], f.get(3).map(|b| &b[..]), self.shape);
        let naive = stored(&add(cast(&naive), &addend), x_type);
        let effective = |signs: &[f64]| {
            let abs = |x: &f64| x.abs();
            let delta = scaled(signs, &v[2], k);
            let sum = delta.iter().zip(&v[1]).map(|(d, w)| abs(d) + abs(w));
            sum.collect::<Vec<f64>>()
        };
        let size = add(
            product_magnitude(&v[0], &transposed(&effective(&s64), n, k), m, k, n),
            &addend.iter().map(|z| z.abs()).collect::<Vec<_>>(),
        );
        let tolerance = |naive: &[f64], exact: &[f64], size: &[f64], dtype: DType| {
            Tolerance::twice_naive(naive, exact)
                .plus(Tolerance::rounding(DType::F32, 4.0, size))
                .plus(Tolerance::rounding(dtype, 1.0, exact))
        };
        let outcome = self.run(device);
        assert_eq!(outcome.output.dtype(), x_type);
        assert_close("y", &outcome.output, &exact, &tolerance(&naive, &exact, &size, x_type));

        let [dx, dw, da, dbias] = sign_linear_backward(&v[0], &v[1], &s64, &v[2], &dy64, self.shape);
        let [naive_dx, naive_dw, naive_da, naive_dbias] =
            sign_linear_backward(&f[0], &f[1], &s32, &f[2], &dy32, self.shape);
        let size = product_magnitude(&dy64, &effective(&s64), m, n, k);
        let allowed = tolerance(&stored(&naive_dx, x_type), &dx, &size, x_type);
        // Scales of rows are pairs of 16 bits on tensor cores, right to 2^-16.
        let pairs = device != Device::Cpu && x_type != DType::F32 && self.inputs[2].numel() > 1;
        let allowed =
            allowed.plus(Tolerance::rounding(DType::BF16, if pairs { 1.0 / 256.0 } else { 0.0 }, &size));
        assert_eq!(outcome.grad(0).dtype(), x_type);
        assert_close("dx", outcome.grad(0), &dx, &allowed);
        match self.kind {
            Kind::Dense => {
                let size = product_magnitude(&transposed(&dy64, m, n), &v[0], n, m, k);
                let allowed = tolerance(&stored(&naive_dw, DType::F32), &dw, &size, DType::F32);
                assert_close("dW", outcome.grad(1), &dw, &allowed);
            }
            Kind::Product => assert!(bits(outcome.grad(1)) == bits(&self.dy)),
            Kind::Quantized => assert!(outcome.grads[1].is_none()),
        }
        let delta = product_magnitude(&v[0], &vec![1.0; n * k], m, k, n);
        let mut size = vec![0.0; da.len()];
        for (i, (dy, delta)) in dy64.iter().zip(&delta).enumerate() {
            size[if da.len() == 1 { 0 } else { i % n }] += dy.abs() * delta;
        }
        // A magnitude bounds the worst case, of which random sums are far: a part of it, and what a sum in order makes.
        assert_eq!((outcome.grad(2).dtype(), outcome.grad(2).shape()), (DType::F32, self.inputs[2].shape()));
        let allowed = tolerance(&stored(&naive_da, DType::F32), &da, &size, DType::F32);
        assert_close("da", outcome.grad(2), &da, &allowed);
        if self.inputs.len() > 3 {
            let size = product_magnitude(&vec![1.0; m], &dy64, 1, m, n);
            let allowed = tolerance(&stored(&naive_dbias, DType::F32), &dbias, &size, DType::F32);
            assert_close("dbias", outcome.grad(3), &dbias, &allowed);
        }
    }
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![2 => Just(Kind::Dense), 1 => Just(Kind::Quantized), 1 => Just(Kind::Product)]
}

/// Rows of whole words and others; a few rows, and more than a few.
fn shape() -> impl Strategy<Value = Shape> {
    let k = prop_oneof![1usize..150, (1usize..5).prop_map(|k| 128 * k), (1usize..9).prop_map(|k| 32 * k)];
    (1usize..40, k, 1usize..60)
}

/// A device, the CUDA device for a part of the cases.
fn device() -> impl Strategy<Value = Device> {
    prop_oneof![2 => Just(false), 1 => Just(true)].prop_map(|there| if there { cuda() } else { Device::Cpu })
}

proptest! {
    #![proptest_config(cases(80))]

    #[test]
    fn values_and_gradients_match_the_oracle(
        shape in shape(),
        kind in kind(),
        types in float_types(),
        how in any::<(bool, bool)>(),
        device in device(),
        seed in any::<u64>(),
    ) {
        Case::new(shape, kind, types, how, seed).check(device);
        assert_no_reports();
    }
}

/// More rows than the panels of the CPU's GEMM, more of the weight than its blocks, and one that is cut short in both.
#[test]
fn across_blocks_and_panels() {
    for (i, (shape, kind)) in [
        ((70, 1100, 300), Kind::Dense),
        ((1100, 96, 70), Kind::Product),
        ((16, 1024, 600), Kind::Quantized),
        ((3, 70_001, 5), Kind::Dense),
        ((40, 2053, 131), Kind::Quantized),
    ]
    .into_iter()
    .enumerate()
    {
        for dtype in [DType::F32, half_type(i)] {
            Case::new(shape, kind, [dtype; 2], (i % 2 == 0, true), i as u64).check(Device::Cpu);
        }
    }
}

#[test]
fn the_oracle_has_the_right_gradients() {
    let mut random = Random::new(2);
    let shape = (3, 5, 4);
    let s = ones(&signs(&mut random, [4, 5]));
    let dy: Vec<f64> = (0..12).map(|_| random.normal()).collect();
    for scales in [1, 4] {
        let inputs: Vec<Vec<f64>> =
            [15, 20, scales, 4].map(|n| (0..n).map(|_| random.normal()).collect()).to_vec();
        let grads = sign_linear_backward(&inputs[0], &inputs[1], &s, &inputs[2], &dy, shape);
        check_oracle(&inputs, &grads, |v| {
            dot(&sign_linear(&v[0], &v[1], &s, &v[2], Some(&v[3]), shape), &dy)
        });
    }
}

/// A row's bits do not depend on how many rows come with it, as long as these are few; and what pads a row's last word never counts.
#[test]
fn few_rows_do_not_depend_on_each_other() {
    let mut random = Random::new(3);
    let (k, n) = (331, 40);
    let s = signs(&mut random, [n, k]);
    let all = random.tensor(&[16, k], DType::F32, 1.0);
    let scale = Var::constant(Tensor::from_f32(vec![0.3], &[1]));
    let run = |first: usize, rows: usize| {
        let x = Var::constant(all.rows(first, rows).unwrap());
        let z = Var::constant(Tensor::zeros(&[rows, n], DType::F32));
        let delta = SignDelta { signs: &s, scale: &scale };
        let y = sign_matmul(&Tape::inference(), &x, SignBase::Product(&z), None, &delta, Epilogue::None);
        bits(y.unwrap().value())
    };
    let whole = run(0, 16);
    for (first, rows) in [(0, 1), (3, 2), (5, 3), (2, 4), (7, 9)] {
        assert!(run(first, rows) == whole[first * n..(first + rows) * n], "rows {first}..+{rows}");
    }
}

#[test]
fn same_bits_on_every_run_and_with_any_number_of_threads() {
    for (i, (shape, kind)) in
        [((2, 1024, 300), Kind::Dense), ((5, 77, 300), Kind::Quantized), ((300, 200, 90), Kind::Product)]
            .into_iter()
            .enumerate()
    {
        for dtype in [DType::F32, DType::BF16] {
            let mut case = Case::new(shape, kind, [dtype; 2], (i % 2 == 1, true), i as u64);
            if kind == Kind::Quantized {
                // Takes part in nothing, but gets a gradient of no shape otherwise.
                case.inputs[1] = Tensor::zeros(&[1], DType::F32);
            }
            assert_deterministic(&case.inputs, &case.dy, Tape::recording, case.op(Device::Cpu));
        }
    }
}

#[test]
fn empty_operands() {
    for device in [Device::Cpu, cuda()] {
        for (m, k, n) in [(0, 64, 8), (3, 64, 0), (3, 0, 8)] {
            for kind in [Kind::Dense, Kind::Quantized, Kind::Product] {
                for row_scales in [false, true] {
                    let case = Case::new((m, k, n), kind, [DType::F32; 2], (row_scales, false), 6);
                    let outcome = case.run(device);
                    assert_eq!(outcome.output.shape(), [m, n]);
                    if kind == Kind::Product {
                        assert!(bits(&outcome.output) == bits(&case.inputs[1]));
                    } else {
                        assert!(values(&outcome.output).iter().all(|&x| x == 0.0));
                    }
                    for i in [0, 2] {
                        assert_eq!(outcome.grad(i).shape(), case.inputs[i].shape());
                        assert!(values(outcome.grad(i)).iter().all(|&x| x == 0.0));
                    }
                }
            }
        }
    }
    assert_no_reports();
}

#[test]
fn operands_that_do_not_fit() {
    let mut random = Random::new(7);
    let s = signs(&mut random, [4, 6]);
    let mut refused = |x: &[usize], w: &[usize], scale: usize, bias: usize, kind: Kind| {
        let var = |random: &mut Random, shape: &[usize]| Var::constant(random.tensor(shape, DType::F32, 1.0));
        let (x, w, scale, bias) =
            (var(&mut random, x), var(&mut random, w), var(&mut random, &[scale]), var(&mut random, &[bias]));
        let base = if kind == Kind::Dense { SignBase::Dense(&w) } else { SignBase::Product(&w) };
        let delta = SignDelta { signs: &s, scale: &scale };
        let y = sign_matmul(&Tape::recording(), &x, base, Some(&bias), &delta, Epilogue::None);
        matches!(y, Err(Error::Shape { .. }))
    };
    assert!(!refused(&[3, 6], &[4, 6], 1, 4, Kind::Dense));
    assert!(!refused(&[3, 6], &[4, 6], 4, 4, Kind::Dense));
    assert!(!refused(&[3, 6], &[3, 4], 4, 4, Kind::Product));
    assert!(refused(&[3, 5], &[4, 5], 1, 4, Kind::Dense));
    assert!(refused(&[3, 6], &[5, 6], 1, 5, Kind::Dense));
    assert!(refused(&[3, 6], &[4, 6], 3, 4, Kind::Dense));
    assert!(refused(&[3, 6], &[4, 6], 1, 3, Kind::Dense));
    assert!(refused(&[3, 6], &[4, 6], 1, 4, Kind::Product));
    assert!(refused(&[3, 6], &[3, 4], 1, 3, Kind::Product));
    // A scale of 16 bits would not be trained well.
    let (x, w) = (
        Var::constant(Tensor::zeros(&[3, 6], DType::F32)),
        Var::constant(Tensor::zeros(&[4, 6], DType::F32)),
    );
    let scale = Var::constant(Tensor::zeros(&[1], DType::BF16));
    let delta = SignDelta { signs: &s, scale: &scale };
    let y = sign_matmul(&Tape::recording(), &x, SignBase::Dense(&w), None, &delta, Epilogue::None);
    assert!(matches!(y, Err(Error::DType { .. })));
}

/// A residual, a gate and GELU on the sums, and what the backward keeps of them.
#[test]
fn epilogues() {
    for (i, shape) in [(40, 96, 72), (5, 64, 40), (33, 50, 30)].into_iter().enumerate() {
        for (dtype, kind) in
            [(DType::F32, Kind::Dense), (half_type(i), Kind::Product), (half_type(i), Kind::Dense)]
        {
            let case = Case::new(shape, kind, [dtype; 2], (i == 1, true), 10 + i as u64);
            let operand = Random::new(i as u64).tensor(&[shape.0, shape.2], dtype, 1.0);
            let inputs: Vec<Tensor> = case.inputs.iter().cloned().chain([operand]).collect();
            for which in 0..3 {
                // Against the product followed by the op, which rounds once more.
                let run = |device: Device, fused: bool| {
                    let signs = case.signs.to_device(device).unwrap();
                    let op = |tape: &Tape, v: &[Var]| {
                        let base = match kind {
                            Kind::Product => SignBase::Product(&v[1]),
                            _ => SignBase::Dense(&v[1]),
                        };
                        let delta = SignDelta { signs: &signs, scale: &v[2] };
                        let product =
                            |epilogue| sign_matmul(tape, &v[0], base, Some(&v[3]), &delta, epilogue);
                        match (which, fused) {
                            (0, true) => product(Epilogue::Residual(&v[4])),
                            (0, false) => add(tape, &product(Epilogue::None)?, &v[4]),
                            (1, true) => product(Epilogue::SwiGlu(&v[4])),
                            (1, false) => swiglu(tape, &v[4], &product(Epilogue::None)?),
                            (_, true) => product(Epilogue::Gelu(GeluKind::Tanh)),
                            (_, false) => gelu(tape, &product(Epilogue::None)?, GeluKind::Tanh),
                        }
                    };
                    forward_backward_at(device, &inputs, &case.dy, op).unwrap()
                };
                for device in [Device::Cpu, cuda()] {
                    let (fused, apart) = (run(device, true), run(device, false));
                    let close = |name: &str, a: &Tensor, b: &Tensor, times: f64| {
                        let b = values(b);
                        let largest = b.iter().fold(0.0f64, |m, x| m.max(x.abs()));
                        assert_close(
                            name,
                            a,
                            &b,
                            &Tolerance::rounding(dtype, times, &vec![largest; b.len()]),
                        );
                    };
                    close("y", &fused.output, &apart.output, 4.0);
                    let operands: &[usize] = if which == 2 { &[0, 1, 3] } else { &[0, 1, 3, 4] };
                    for &input in operands {
                        close("gradient", fused.grad(input), apart.grad(input), 8.0);
                    }
                }
            }
        }
    }
    assert_no_reports();
}

/// On tensor cores: more than a tile of rows and columns, rows of whole words and others, few rows, each base, scales of either kind.
#[test]
fn tensor_core_tiles() {
    for (i, (shape, kind)) in [
        ((150, 160, 264), Kind::Dense),
        ((131, 288, 130), Kind::Quantized),
        ((40, 131, 67), Kind::Dense),
        ((129, 64, 31), Kind::Product),
        ((16, 640, 72), Kind::Quantized),
        ((1, 1184, 33), Kind::Dense),
        ((9, 96, 40), Kind::Product),
        ((17, 33, 5), Kind::Quantized),
        ((8, 2080, 40), Kind::Quantized),
        ((13, 1056, 70), Kind::Dense),
        ((20, 520, 136), Kind::Dense),
    ]
    .into_iter()
    .enumerate()
    {
        let case = Case::new(shape, kind, [half_type(i); 2], (i / 2 % 2 == 0, i % 3 == 0), i as u64);
        case.check(cuda());
        if i < 6 {
            assert_repeatable(cuda(), &case.inputs, &case.dy, Tape::recording, case.op(cuda()));
        }
    }
    assert_no_reports();
}

#[test]
fn operands_in_two_places() {
    let case = Case::new((2, 64, 8), Kind::Dense, [DType::F32; 2], (false, false), 8);
    let run = |device: Device, signs: Device| {
        run_at(device, Tape::recording(), &case.inputs, &case.dy, |_| true, case.op(signs)).map(|_| ())
    };
    assert!(run(Device::Cpu, Device::Cpu).is_ok());
    assert!(matches!(run(cuda(), Device::Cpu), Err(Error::Cuda { .. })));
    assert!(matches!(run(Device::Cpu, cuda()), Err(Error::Cuda { .. })));
}

/// A layer with a delta is the layer of W + a S; with an adapter beside it, their parts add up; and what is frozen gets no gradient.
#[test]
fn a_layer_with_a_delta_and_an_adapter() {
    let mut random = Random::new(9);
    let (m, k, n) = (5, 40, 24);
    let w = random.tensor(&[n, k], DType::F32, 0.3);
    let s = signs(&mut random, [n, k]);
    let weight = Param::new("w", w.clone());
    weight.set_trainable(false);
    let scale = Param::new("scale", Tensor::from_f32(vec![0.2], &[1]));
    let mut layer = Linear::new("layer", Weight::Dense(weight), None);
    let whole: Vec<f64> = values(&w).iter().zip(ones(&s)).map(|(w, s)| w + f64::from(0.2f32) * s).collect();
    let x = random.tensor(&[m, k], DType::F32, 1.0);
    let forward = |layer: &Linear| {
        let tape = Tape::recording();
        let y = layer.forward(&tape, &Var::constant(x.clone()), true).unwrap();
        let mut grads = Gradients::new();
        tape.backward_inputs(&y, Tensor::zeros(&[m, n], DType::F32), &[], &mut grads).unwrap();
        (values(y.value()), grads)
    };
    let close = |got: &[f64], w: &[f64]| {
        let exact = crate::reference::matmul::linear(&values(&x), w, None, m, k, n);
        got.iter().zip(&exact).for_each(|(a, b)| assert!((a - b).abs() < 1e-4, "{a} {b}"));
    };
    let misfit = Delta::new(signs(&mut random, [n, k + 1]), scale.clone());
    assert!(matches!(layer.set_delta(misfit), Err(Error::Model { .. })));
    layer.set_delta(Delta::new(s, scale.clone())).unwrap();
    let (y, grads) = forward(&layer);
    close(&y, &whole);
    assert!(grads.get(&scale).is_some());
    let [a, b] = [[3, k], [n, 3]].map(|shape| Param::new("factor", random.tensor(&shape, DType::F32, 0.5)));
    let ba = crate::reference::matmul::product(&values(&b.value()), &values(&a.value()), n, 3, k);
    layer.attach(Adapter { a: a.clone(), b, scale: 0.5, dropout: 0.0 }).unwrap();
    let sum: Vec<f64> = whole.iter().zip(&ba).map(|(w, d)| w + 0.5 * d).collect();
    let (y, grads) = forward(&layer);
    close(&y, &sum);
    assert!(grads.get(&scale).is_some() && grads.get(&a).is_some());
    assert!(layer.take_delta().is_some() && layer.delta().is_none());
}
