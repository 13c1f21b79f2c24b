//! Cutting columns out of a matrix (GPT-2's q, k and v), against a loop on one thread.

mod common;

use common::{TOKENS, compare, criterion, random};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use warptune::autograd::{Tape, Var};
use warptune::ops::columns::columns;
use warptune::tensor::DType;

fn cuts(c: &mut Criterion) {
    let (rows, width) = (4 * TOKENS, 768);
    let x = random(1, &[rows, 3 * width], DType::F32);
    let data = x.as_f32().unwrap();
    let plain = || {
        let cut = data.chunks(3 * width).flat_map(|row| row[width..2 * width].iter().copied());
        drop(std::hint::black_box(cut.collect::<Vec<f32>>()));
    };
    let var = Var::constant(x.clone());
    let ours = || drop(columns(&Tape::inference(), &var, width, width).unwrap());
    let bytes = Throughput::BytesDecimal((2 * rows * width * 4) as u64);
    compare(c, "columns", &format!("{width} of {rows}x{}", 3 * width), bytes, ours, ("a loop", plain));
}

criterion_group! { name = benches; config = criterion(); targets = cuts }
criterion_main!(benches);
