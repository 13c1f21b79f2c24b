//! Linear layers: training shapes, and decoding (one to four rows), against plain loops over all threads.

mod common;

use common::{DIM, HIDDEN, TOKENS, VOCAB, compare, criterion, forward_backward, random};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rayon::prelude::*;
use warptune::autograd::{Tape, Var};
use warptune::ops::add::add;
use warptune::ops::epilogue::Epilogue;
use warptune::ops::gelu::{GeluKind, gelu};
use warptune::ops::matmul::matmul;
use warptune::ops::swiglu::swiglu;
use warptune::tensor::DType;

/// y = x W^T, a row of y a task, the inner loop over the weight's columns so that it vectorises.
fn plain(x: &[f32], w: &[f32], k: usize, n: usize, y: &mut [f32]) {
    y.par_chunks_mut(n).zip(x.par_chunks(k)).for_each(|(y, x)| {
        for (y, w) in y.iter_mut().zip(w.chunks(k)) {
            let mut lanes = [0.0; 16];
            for (x, w) in x.chunks_exact(16).zip(w.chunks_exact(16)) {
                lanes.iter_mut().zip(x).zip(w).for_each(|((s, x), w)| *s += x * w);
            }
            *y = lanes.iter().sum();
        }
    });
}

fn forward(c: &mut Criterion) {
    let shapes = [
        (TOKENS, DIM, HIDDEN),
        (TOKENS, HIDDEN, DIM),
        (TOKENS, DIM, 192),
        (1, DIM, HIDDEN),
        (1, DIM, VOCAB),
        (4, DIM, VOCAB),
    ];
    for (m, k, n) in shapes {
        let x = random(1, &[m, k], DType::F32);
        let w = random(2, &[n, k], DType::F32);
        let mut y = vec![0.0; m * n];
        for dtype in [DType::F32, DType::BF16] {
            let (xv, wv) =
                (Var::constant(x.to_dtype(dtype).unwrap()), Var::constant(w.to_dtype(dtype).unwrap()));
            // Decoding reads the weight once: that is what bounds it.
            let throughput = match m {
                1..=4 => Throughput::Bytes((n * k * dtype.size()) as u64),
                _ => Throughput::Elements((2 * m * n * k) as u64),
            };
            let name = format!("{m}x{k}x{n}/{dtype}");
            let ours = || drop(matmul(&Tape::inference(), &xv, &wv, None, Epilogue::None).unwrap());
            let (x, w) = (x.as_f32().unwrap(), w.as_f32().unwrap());
            compare(
                c,
                "matmul (FLOP)",
                &name,
                throughput,
                ours,
                ("plain f32 loops", || plain(x, w, k, n, &mut y)),
            );
        }
    }
}

fn backward(c: &mut Criterion) {
    for dtype in [DType::F32, DType::BF16] {
        let inputs = [random(1, &[TOKENS, DIM], dtype), random(2, &[HIDDEN, DIM], dtype)];
        let dy = random(3, &[TOKENS, HIDDEN], dtype);
        let ours = || {
            forward_backward(&inputs, &dy, |tape, v| {
                matmul(tape, &v[0], &v[1], None, Epilogue::None).unwrap()
            })
        };
        let (x, w) = (inputs[0].to_vec_f32().unwrap(), inputs[1].to_vec_f32().unwrap());
        let mut y = vec![0.0; TOKENS * HIDDEN];
        // Three products of the same size: y, dx and dW.
        let baseline = || (0..3).for_each(|_| plain(&x, &w, DIM, HIDDEN, &mut y));
        let throughput = Throughput::Elements((6 * TOKENS * DIM * HIDDEN) as u64);
        let name = format!("forward+backward {TOKENS}x{DIM}x{HIDDEN}/{dtype}");
        compare(c, "matmul (FLOP)", &name, throughput, ours, ("plain f32 loops", baseline));
    }
}

/// An epilogue against the op alone, after the product: forward and backward.
fn epilogues(c: &mut Criterion) {
    for dtype in [DType::F32, DType::BF16] {
        let weight = random(2, &[HIDDEN, DIM], dtype);
        let inputs = [random(1, &[TOKENS, DIM], dtype), weight, random(3, &[TOKENS, HIDDEN], dtype)];
        let dy = random(4, &[TOKENS, HIDDEN], dtype);
        let throughput = || Throughput::Elements((6 * TOKENS * DIM * HIDDEN) as u64);
        let mut bench = |name: &str, fused: fn(&Tape, &[Var]) -> Var, separate: fn(&Tape, &[Var]) -> Var| {
            compare(
                c,
                "matmul with an epilogue (FLOP)",
                &format!("{name} {TOKENS}x{DIM}x{HIDDEN}/{dtype}"),
                throughput(),
                || forward_backward(&inputs, &dy, fused),
                ("two ops", || forward_backward(&inputs, &dy, separate)),
            );
        };
        fn product(tape: &Tape, v: &[Var], epilogue: Epilogue<'_>) -> Var {
            matmul(tape, &v[0], &v[1], None, epilogue).unwrap()
        }
        bench(
            "residual",
            |tape, v| product(tape, v, Epilogue::Residual(&v[2])),
            |tape, v| add(tape, &v[2], &product(tape, v, Epilogue::None)).unwrap(),
        );
        bench(
            "gelu",
            |tape, v| product(tape, v, Epilogue::Gelu(GeluKind::Tanh)),
            |tape, v| gelu(tape, &product(tape, v, Epilogue::None), GeluKind::Tanh).unwrap(),
        );
        bench(
            "swiglu",
            |tape, v| product(tape, v, Epilogue::SwiGlu(&v[2])),
            |tape, v| swiglu(tape, &v[2], &product(tape, v, Epilogue::None)).unwrap(),
        );
    }
}

criterion_group! { name = benches; config = criterion(); targets = forward, backward, epilogues }
criterion_main!(benches);
