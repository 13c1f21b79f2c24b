//! Dropout, against a random number drawn for each element by itself, on all threads.

mod common;

use common::{HIDDEN, TOKENS, compare, criterion, random};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rayon::prelude::*;
use warptune::autograd::{Tape, Var};
use warptune::device::philox::Philox;
use warptune::ops::dropout::dropout;
use warptune::tensor::DType;

fn masks(c: &mut Criterion) {
    for dtype in [DType::F32, DType::BF16] {
        let x = random(1, &[TOKENS, HIDDEN], dtype);
        let source = x.to_vec_f32().unwrap();
        let random = Philox { seed: 1, stream: 1 };
        let plain = || {
            let kept = |(i, x): (usize, &f32)| if random.uniform(i as u64) >= 0.1 { x / 0.9 } else { 0.0 };
            std::hint::black_box(source.par_iter().enumerate().map(kept).collect::<Vec<f32>>());
        };
        let x = Var::constant(x);
        let ours = || drop(dropout(&Tape::training(1, 1), &x, 0.1).unwrap());
        let elements = Throughput::Elements((TOKENS * HIDDEN) as u64);
        compare(
            c,
            "dropout",
            &format!("forward {TOKENS}x{HIDDEN}/{dtype}"),
            elements,
            ours,
            ("a number each", plain),
        );
    }
}

criterion_group! { name = benches; config = criterion(); targets = masks }
criterion_main!(benches);
