//! The linear layer with a 1-bit delta: against the base alone and the delta as a dense weight; and several deltas, against a dense weight each.

mod common;

use common::{compare, criterion, forward_backward, random};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use warptune::autograd::{Tape, Var};
use warptune::ops::epilogue::Epilogue;
use warptune::ops::lora_matmul::Segments;
use warptune::ops::matmul::matmul;
use warptune::ops::quantize::{Quantization, quantize};
use warptune::ops::sign_matmul::{SignBase, SignDelta, sign_matmul, sign_matmul_tenants};
use warptune::tensor::{DType, QuantKind, SignStack, SignTensor, Tensor};

/// A weight of a 7 B model.
const SIZE: usize = 4096;

fn delta(seed: u64) -> (SignTensor, Tensor) {
    let fine = random(seed, &[SIZE, SIZE], DType::F32);
    let base = vec![0.0; SIZE * SIZE];
    let (signs, scale) = SignTensor::from_difference(fine.as_f32().unwrap(), &base, [SIZE, SIZE]).unwrap();
    (signs, Tensor::from_f32(vec![scale], &[1]))
}

fn linear(c: &mut Criterion) {
    let tape = Tape::inference();
    let dense = random(2, &[SIZE, SIZE], DType::F32);
    let quantized = quantize(&dense, &Quantization::new(QuantKind::Nf4)).unwrap();
    let w = Var::constant(dense);
    let (signs, scale) = delta(1);
    let scale = Var::constant(scale);
    let delta = SignDelta { signs: &signs, scale: &scale };
    for rows in [1, 4, 16, 64, 256] {
        let x = Var::constant(random(3, &[rows, SIZE], DType::F32));
        for (name, base) in [("f32", SignBase::Dense(&w)), ("nf4", SignBase::Quantized(&quantized))] {
            compare(
                c,
                "sign_matmul (FLOP)",
                &format!("forward {rows}x{SIZE}x{SIZE}, {name} base"),
                Throughput::Elements((4 * rows * SIZE * SIZE) as u64),
                || drop(sign_matmul(&tape, &x, base, None, &delta, Epilogue::None).unwrap()),
                ("two dense f32 weights", || {
                    drop(matmul(&tape, &x, &w, None, Epilogue::None).unwrap());
                    drop(matmul(&tape, &x, &w, None, Epilogue::None).unwrap());
                }),
            );
        }
    }
}

fn training(c: &mut Criterion) {
    let w = random(4, &[SIZE, SIZE], DType::BF16);
    let (signs, scale) = delta(5);
    let rows = 256;
    let (x, dy) = (random(6, &[rows, SIZE], DType::BF16), random(7, &[rows, SIZE], DType::BF16));
    let inputs = [x, w, scale];
    compare(
        c,
        "sign_matmul (FLOP)",
        &format!("forward+backward {rows}x{SIZE}x{SIZE}/bf16"),
        Throughput::Elements((12 * rows * SIZE * SIZE) as u64),
        || {
            forward_backward(&inputs, &dy, |tape, v| {
                let delta = SignDelta { signs: &signs, scale: &v[2] };
                sign_matmul(tape, &v[0], SignBase::Dense(&v[1]), None, &delta, Epilogue::None).unwrap()
            });
        },
        ("the base alone", || {
            forward_backward(&inputs[..2], &dy, |tape, v| {
                matmul(tape, &v[0], &v[1], None, Epilogue::None).unwrap()
            });
        }),
    );
}

fn tenants(c: &mut Criterion) {
    const TENANTS: usize = 8;
    let tape = Tape::inference();
    let w = Var::constant(random(8, &[SIZE, SIZE], DType::BF16));
    let stack = SignStack::new(&(0..TENANTS as u64).map(delta).collect::<Vec<_>>()).unwrap();
    let x = random(9, &[TENANTS, SIZE], DType::BF16);
    let segments = Segments::new((0..TENANTS).map(|tenant| (1, Some(tenant))));
    let (all, rows): (Var, Vec<Var>) =
        (Var::constant(x.clone()), (0..TENANTS).map(|i| Var::constant(x.rows(i, 1).unwrap())).collect());
    compare(
        c,
        "sign_matmul (FLOP)",
        &format!("{TENANTS} tenants of a row, {SIZE}x{SIZE}/bf16"),
        Throughput::Elements((4 * TENANTS * SIZE * SIZE) as u64),
        || {
            let base = SignBase::Dense(&w);
            drop(sign_matmul_tenants(&tape, &all, base, None, &stack, &segments, Epilogue::None).unwrap());
        },
        ("a dense weight a tenant", || {
            for x in &rows {
                drop(matmul(&tape, x, &w, None, Epilogue::None).unwrap());
            }
        }),
    );
}

criterion_group! { name = benches; config = criterion(); targets = linear, training, tenants }
criterion_main!(benches);
