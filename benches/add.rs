//! The sum of two activations, against a loop on one thread.

mod common;

use common::{DIM, TOKENS, compare, criterion, random};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use warptune::autograd::{Tape, Var};
use warptune::ops::add::add;
use warptune::tensor::DType;

fn sums(c: &mut Criterion) {
    let shape = [8 * TOKENS, DIM];
    for dtype in [DType::F32, DType::BF16] {
        let (a, b) = (random(1, &shape, dtype), random(2, &shape, dtype));
        let (x, y) = (a.to_vec_f32().unwrap(), b.to_vec_f32().unwrap());
        let plain = || drop(std::hint::black_box(x.iter().zip(&y).map(|(a, b)| a + b).collect::<Vec<f32>>()));
        let bytes = Throughput::BytesDecimal((3 * a.numel() * dtype.size()) as u64);
        let (a, b) = (Var::constant(a), Var::constant(b));
        let ours = || drop(add(&Tape::inference(), &a, &b).unwrap());
        compare(c, "add", &format!("{}x{}/{dtype}", shape[0], shape[1]), bytes, ours, ("an f32 loop", plain));
    }
}

criterion_group! { name = benches; config = criterion(); targets = sums }
criterion_main!(benches);
