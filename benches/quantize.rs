//! 4-bit blocks: quantizing and dequantizing, and the linear layer with a weight in them, against the same with a dense weight.

mod common;

use common::{compare, criterion, forward_backward, random};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use warptune::autograd::{Gradients, Tape, Var};
use warptune::ops::epilogue::Epilogue;
use warptune::ops::lora_matmul::{Lora, lora_matmul, quantized_lora_matmul};
use warptune::ops::matmul::matmul;
use warptune::ops::quantize::{Quantization, dequantize, quantize};
use warptune::ops::quantized_matmul::quantized_matmul;
use warptune::tensor::{DType, QuantKind, Tensor};

/// A weight of a 7 B model.
const SIZE: usize = 4096;
const RANK: usize = 16;

fn blocks(c: &mut Criterion) {
    let elements = Throughput::Elements((SIZE * SIZE) as u64);
    let mut group = c.benchmark_group("quantize (elements)");
    group.throughput(elements.clone());
    for dtype in [DType::F32, DType::BF16] {
        let x = random(1, &[SIZE, SIZE], dtype);
        for kind in [QuantKind::Nf4, QuantKind::Fp4] {
            let how = Quantization::new(kind);
            group.bench_function(format!("{kind} {SIZE}x{SIZE}/{dtype}"), |b| {
                b.iter(|| quantize(&x, &how).unwrap());
            });
        }
        let quantized = quantize(&x, &Quantization::new(QuantKind::Nf4)).unwrap();
        group.bench_function(format!("dequantize nf4 {SIZE}x{SIZE}/{dtype}"), |b| {
            b.iter(|| dequantize(&quantized, dtype).unwrap());
        });
    }
    group.finish();
}

fn linear(c: &mut Criterion) {
    let dense = random(2, &[SIZE, SIZE], DType::F32);
    for double in [false, true] {
        let w = quantize(&dense, &Quantization { double, ..Quantization::new(QuantKind::Nf4) }).unwrap();
        let dense = dequantize(&w, DType::F32).unwrap();
        for rows in [1, 4, 16, 64, 256, 1024] {
            if double && rows > 16 {
                continue;
            }
            let x = Var::constant(random(3, &[rows, SIZE], DType::F32));
            let flop = Throughput::Elements((2 * rows * SIZE * SIZE) as u64);
            let name = format!("forward {rows}x{SIZE}x{SIZE}{}", if double { " double" } else { "" });
            let tape = Tape::inference();
            let weight = Var::constant(dense.clone());
            compare(
                c,
                "quantized_matmul (FLOP)",
                &name,
                flop,
                || drop(quantized_matmul(&tape, &x, &w, None, Epilogue::None).unwrap()),
                ("a dense f32 weight", || drop(matmul(&tape, &x, &weight, None, Epilogue::None).unwrap())),
            );
        }
    }
}

fn training(c: &mut Criterion) {
    let dense = random(4, &[SIZE, SIZE], DType::BF16);
    let w = quantize(&dense, &Quantization::new(QuantKind::Nf4)).unwrap();
    for (rows, dtype) in [(256, DType::F32), (1024, DType::F32), (256, DType::BF16)] {
        let x = random(5, &[rows, SIZE], dtype);
        let dy = random(6, &[rows, SIZE], dtype);
        let flop = Throughput::Elements((4 * rows * SIZE * SIZE) as u64);
        compare(
            c,
            "quantized_matmul (FLOP)",
            &format!("forward+backward {rows}x{SIZE}x{SIZE}/{dtype}"),
            flop,
            || {
                let op =
                    |tape: &Tape, v: &[Var]| quantized_matmul(tape, &v[0], &w, None, Epilogue::None).unwrap();
                forward_backward(std::slice::from_ref(&x), &dy, op);
            },
            ("dequantizing all of it in each direction", || {
                let op = |tape: &Tape, v: &[Var]| {
                    let dense = Var::constant(dequantize(&w, dtype).unwrap());
                    matmul(tape, &v[0], &dense, None, Epilogue::None).unwrap()
                };
                forward_backward(std::slice::from_ref(&x), &dy, op);
                std::hint::black_box(dequantize(&w, dtype).unwrap());
            }),
        );
        let (a, b) = (random(7, &[RANK, SIZE], DType::F32), random(8, &[SIZE, RANK], DType::F32));
        let step = |layer: &dyn Fn(&Tape, &[Var; 3]) -> Var| {
            let tape = Tape::training(1, 1);
            let v = [x.clone(), a.clone(), b.clone()].map(|x: Tensor| tape.input(x));
            let y = layer(&tape, &v);
            let wanted = [&v[0], &v[1], &v[2]];
            let grads = tape.backward_inputs(&y, dy.clone(), &wanted, &mut Gradients::new()).unwrap();
            std::hint::black_box(grads);
        };
        let weight = Var::constant(dense.to_dtype(dtype).unwrap());
        compare(
            c,
            "quantized_lora_matmul (FLOP)",
            &format!("forward+backward {rows}x{SIZE}x{SIZE} r={RANK}/{dtype}"),
            Throughput::Elements((2 * rows * (2 * SIZE * SIZE + 6 * RANK * SIZE)) as u64),
            || {
                step(&|tape, [x, a, b]| {
                    let lora = Lora { a, b, scale: 2.0, dropout: 0.0 };
                    quantized_lora_matmul(tape, x, &w, None, &lora, Epilogue::None).unwrap()
                })
            },
            ("a dense weight", || {
                step(&|tape, [x, a, b]| {
                    lora_matmul(
                        tape,
                        x,
                        &weight,
                        None,
                        &Lora { a, b, scale: 2.0, dropout: 0.0 },
                        Epilogue::None,
                    )
                    .unwrap()
                })
            }),
        );
    }
}

criterion_group! { name = benches; config = criterion(); targets = blocks, linear, training }
criterion_main!(benches);
