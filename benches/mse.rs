//! The squared distance of logits from constants, with its gradient, against a loop on one thread.

mod common;

use common::{compare, criterion, random};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use warptune::autograd::{Gradients, Tape};
use warptune::ops::mse::mse;
use warptune::tensor::DType;

fn distances(c: &mut Criterion) {
    // 128 tokens of a vocabulary of 32000.
    let shape = [128, 32_000];
    let (a, b) = (random(1, &shape, DType::F32), random(2, &shape, DType::F32));
    let (x, y) = (a.to_vec_f32().unwrap(), b.to_vec_f32().unwrap());
    let of = a.numel() as f32;
    let plain = || {
        let loss = x.iter().zip(&y).map(|(a, b)| (a - b) * (a - b)).sum::<f32>() / of;
        let da: Vec<f32> = x.iter().zip(&y).map(|(a, b)| 2.0 * (a - b) / of).collect();
        drop(std::hint::black_box((loss, da)));
    };
    let ours = || {
        let tape = Tape::recording();
        let input = tape.input(a.clone());
        let loss = mse(&tape, &input, &b, of).unwrap();
        let seed = loss.value().clone();
        drop(tape.backward_inputs(&loss, seed, &[&input], &mut Gradients::new()).unwrap());
    };
    let bytes = Throughput::BytesDecimal((5 * a.numel() * 4) as u64);
    compare(c, "mse", "128x32000", bytes, ours, ("an f32 loop", plain));
}

criterion_group! { name = benches; config = criterion(); targets = distances }
criterion_main!(benches);
