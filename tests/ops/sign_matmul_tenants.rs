//! Several 1-bit deltas in one batch: each against the product in f64, and against itself alone.

use warptune::Error;
use warptune::autograd::{Tape, Var};
use warptune::device::Device;
use warptune::ops::epilogue::Epilogue;
use warptune::ops::lora_matmul::{LoraStack, Segments, lora_matmul_segmented};
use warptune::ops::quantize::{Quantization, dequantize, quantize};
use warptune::ops::sign_matmul::{SignBase, sign_matmul_tenants};
use warptune::tensor::{DType, QuantKind, QuantizedTensor, SignStack, SignTensor, Tensor};

use super::half_type;
use super::sign_matmul::{Kind, ones, signs};
use crate::reference::matmul::{product_magnitude, transposed};
use crate::reference::sign_matmul::{scaled, sign_linear};
use crate::reference::{cast, stored};
use crate::support::devices::{assert_no_reports, cuda};
use crate::support::random::Random;
use crate::support::tolerance::{Tolerance, assert_close};
use crate::support::{bits, values};

/// Runs of rows: how many, and of which delta.
type Runs<'a> = &'a [(usize, Option<usize>)];

/// A layer that serves several deltas.
struct Tenants {
    kind: Kind,
    base: Tensor,
    quantized: QuantizedTensor,
    deltas: Vec<(SignTensor, Tensor)>,
    bias: Tensor,
}

impl Tenants {
    fn new(
        [n, k]: [usize; 2],
        kind: Kind,
        dtype: DType,
        deltas: usize,
        row_scales: bool,
        seed: u64,
    ) -> Tenants {
        let mut random = Random::new(seed);
        let dense = random.tensor(&[n, k], DType::F32, 0.3);
        let scales = if row_scales { n } else { 1 };
        let deltas = (0..deltas)
            .map(|_| (signs(&mut random, [n, k]), random.tensor(&[scales], DType::F32, 0.3)))
            .collect();
        Tenants {
            kind,
            quantized: quantize(&dense, &Quantization::new(QuantKind::Nf4)).unwrap(),
            base: dense.to_dtype(dtype).unwrap(),
            deltas,
            bias: random.tensor(&[n], DType::F32, 1.0),
        }
    }

    /// y of rows x; with a product as the base, that is zeros.
    fn run(&self, device: Device, x: &Tensor, runs: Runs<'_>) -> Tensor {
        let there = |x: &Tensor| Var::constant(x.to_device(device).unwrap());
        let n = self.bias.numel();
        let (w, z) = (there(&self.base), there(&Tensor::zeros(&[x.shape()[0], n], x.dtype())));
        let quantized = self.quantized.to_device(device).unwrap();
        let base = match self.kind {
            Kind::Dense => SignBase::Dense(&w),
            Kind::Quantized => SignBase::Quantized(&quantized),
            Kind::Product => SignBase::Product(&z),
        };
        let on = |(signs, scale): &(SignTensor, Tensor)| {
            (signs.to_device(device).unwrap(), scale.to_device(device).unwrap())
        };
        let stack = SignStack::new(&self.deltas.iter().map(on).collect::<Vec<_>>()).unwrap();
        let (bias, segments) = (there(&self.bias), Segments::new(runs.iter().copied()));
        let tape = Tape::inference();
        let y = sign_matmul_tenants(&tape, &there(x), base, Some(&bias), &stack, &segments, Epilogue::None);
        let y = y.unwrap().into_value();
        assert_eq!(y.device(), device);
        y.to_device(Device::Cpu).unwrap()
    }

    /// Compares a batch with the oracle, run by run, and each run with itself alone, bit for bit.
    #[track_caller]
    fn check(&self, device: Device, x: &Tensor, runs: Runs<'_>, alone: bool) {
        let (k, n, dtype) = (x.shape()[1], self.bias.numel(), x.dtype());
        let w = match self.kind {
            Kind::Dense => values(&self.base),
            Kind::Quantized => values(
                &dequantize(&self.quantized, if device == Device::Cpu { DType::F32 } else { dtype }).unwrap(),
            ),
            Kind::Product => vec![0.0; n * k],
        };
        let y = self.run(device, x, runs);
        assert_eq!(y.dtype(), dtype);
        let mut first = 0;
        for &(rows, delta) in runs {
            let (x, y) = (x.rows(first, rows).unwrap(), y.rows(first, rows).unwrap());
            let (s, scale) = match delta {
                Some(delta) => (ones(&self.deltas[delta].0), values(&self.deltas[delta].1)),
                None => (vec![1.0; n * k], vec![0.0]),
            };
            let (x64, bias, shape) = (values(&x), values(&self.bias), (rows, k, n));
            let exact = sign_linear(&x64, &w, &s, &scale, Some(&bias), shape);
            let naive = sign_linear::<f32>(
                &cast(&x64),
                &cast(&w),
                &cast(&s),
                &cast(&scale),
                Some(&cast(&bias)),
                shape,
            );
            let whole: Vec<f64> =
                scaled(&s, &scale, k).iter().zip(&w).map(|(a, w)| a.abs() + w.abs()).collect();
            let size = product_magnitude(&x64, &transposed(&whole, n, k), rows, k, n);
            let allowed = Tolerance::twice_naive(&stored(&naive, dtype), &exact)
                .plus(Tolerance::rounding(DType::F32, 4.0, &size))
                .plus(Tolerance::rounding(dtype, 1.0, &exact));
            assert_close("y", &y, &exact, &allowed);
            if alone {
                assert!(
                    bits(&self.run(device, &x, &[(rows, delta)])) == bits(&y),
                    "run of {rows} from {first}"
                );
            }
            first += rows;
        }
    }
}

/// Runs of one row and of many, deltas that come twice or never, rows without one; each base, scales of either kind, rows that are aligned and
/// others. On the CPU a row's bits never depend on the others, on a device while both batches are few rows, or both are many.
#[test]
fn tenants_are_what_each_is_alone() {
    let few: Runs<'_> = &[(1, Some(2)), (3, None), (2, Some(0)), (1, Some(2)), (5, Some(1))];
    let many: Runs<'_> = &[(20, Some(1)), (17, None), (130, Some(3)), (33, Some(0))];
    let mixed: Runs<'_> =
        &[(2, Some(1)), (17, Some(0)), (1, Some(3)), (40, None), (16, Some(1)), (1, Some(0))];
    let shapes = [[40, 96], [66, 131], [136, 288], [33, 520]];
    for (i, kind) in [Kind::Dense, Kind::Quantized, Kind::Product, Kind::Dense].into_iter().enumerate() {
        for (j, dtype) in [DType::F32, half_type(i)].into_iter().enumerate() {
            let layer = Tenants::new(shapes[i], kind, dtype, 4, (i + j) % 2 == 0, i as u64);
            for runs in [few, many, mixed] {
                let rows = runs.iter().map(|run| run.0).sum();
                let x = Random::new(i as u64).tensor(&[rows, shapes[i][1]], dtype, 1.0);
                layer.check(Device::Cpu, &x, runs, true);
                // The larger shapes once.
                if runs.len() < 6 || i < 2 {
                    layer.check(cuda(), &x, runs, runs.len() < 6);
                }
            }
        }
    }
    assert_no_reports();
}

/// Adapters and deltas in one batch: the product of the rows with adapters is the base of the deltas.
#[test]
fn adapters_and_deltas_in_one_batch() {
    let mut random = Random::new(12);
    let (k, n, rank, rows) = (64, 40, 4, 9);
    let x = random.tensor(&[rows, k], DType::F32, 1.0);
    let w = random.tensor(&[n, k], DType::F32, 0.3);
    let (a, b) =
        (random.tensor(&[2, rank, k], DType::F32, 0.3), random.tensor(&[2, n, rank], DType::F32, 0.3));
    let delta = (signs(&mut random, [n, k]), Tensor::from_f32(vec![0.2], &[1]));
    for device in [Device::Cpu, cuda()] {
        let there = |x: &Tensor| Var::constant(x.to_device(device).unwrap());
        let scales = Tensor::from_f32(vec![1.0, 0.5], &[2]).to_device(device).unwrap();
        let (x_there, w, a, b) = (there(&x), there(&w), there(&a), there(&b));
        let loras = LoraStack { a: &a, b: &b, scales: &scales, dropout: 0.0 };
        let tape = Tape::inference();
        let adapted = |runs: Runs<'_>| {
            let segments = Segments::new(runs.iter().copied());
            lora_matmul_segmented(&tape, &x_there, &w, None, &loras, &segments, Epilogue::None).unwrap()
        };
        let z = adapted(&[(3, Some(1)), (4, None), (2, Some(0))]);
        let on = (delta.0.to_device(device).unwrap(), delta.1.to_device(device).unwrap());
        let stack = SignStack::new(&[on]).unwrap();
        let segments = Segments::new([(3, None), (3, Some(0)), (3, None)]);
        let y = sign_matmul_tenants(
            &tape,
            &x_there,
            SignBase::Product(&z),
            None,
            &stack,
            &segments,
            Epilogue::None,
        );
        let (y, z) = (values(y.unwrap().value()), values(z.value()));
        let added =
            crate::reference::matmul::product(&values(&x), &transposed(&ones(&delta.0), n, k), rows, k, n);
        for (i, ((y, z), added)) in y.iter().zip(&z).zip(&added).enumerate() {
            // Rows without a delta are as they were.
            let expected = if (3..6).contains(&(i / n)) { z + f64::from(0.2f32) * added } else { *z };
            assert!((y - expected).abs() <= 1e-5 * (1.0 + expected.abs()), "{device:?} {i}: {y} {expected}");
        }
    }
    assert_no_reports();
}

#[test]
fn tenants_that_do_not_fit() {
    let mut random = Random::new(13);
    let s = signs(&mut random, [4, 6]);
    let one = |scale: usize, dtype: DType| (s.clone(), Tensor::zeros(&[scale], dtype));
    assert!(matches!(SignStack::new(&[]), Err(Error::Shape { .. })));
    assert!(matches!(SignStack::new(&[one(1, DType::F32), one(4, DType::F32)]), Err(Error::Shape { .. })));
    assert!(matches!(SignStack::new(&[one(3, DType::F32)]), Err(Error::Shape { .. })));
    assert!(matches!(SignStack::new(&[one(1, DType::BF16)]), Err(Error::DType { .. })));
    let other = (signs(&mut random, [4, 7]), Tensor::zeros(&[1], DType::F32));
    assert!(matches!(SignStack::new(&[one(1, DType::F32), other]), Err(Error::Shape { .. })));
    let stack = SignStack::new(&[one(1, DType::F32), one(1, DType::F32)]).unwrap();
    assert_eq!((stack.len(), stack.shape(), stack.bytes()), (2, &[4, 6], 2 * 16 + 8));
    assert_eq!(stack.get(1).unwrap().0.sign(3, 5).unwrap(), s.sign(3, 5).unwrap());
    assert!(stack.get(2).is_err());
    let run = |runs: Runs<'_>, tape: Tape, x: Var| {
        let w = Var::constant(Tensor::zeros(&[4, 6], DType::F32));
        let segments = Segments::new(runs.iter().copied());
        sign_matmul_tenants(&tape, &x, SignBase::Dense(&w), None, &stack, &segments, Epilogue::None)
    };
    let x = || Var::constant(Tensor::zeros(&[3, 6], DType::F32));
    assert!(run(&[(3, Some(1))], Tape::inference(), x()).is_ok());
    assert!(matches!(run(&[(2, Some(1))], Tape::inference(), x()), Err(Error::Shape { .. })));
    assert!(matches!(run(&[(3, Some(2))], Tape::inference(), x()), Err(Error::Shape { .. })));
    let tape = Tape::recording();
    let x = tape.input(Tensor::zeros(&[3, 6], DType::F32));
    assert!(matches!(run(&[(3, Some(1))], tape, x), Err(Error::NoBackward { .. })));
}
