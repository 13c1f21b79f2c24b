//! Embedding rows and the table's gradient, against loops on one thread.

mod common;

use common::{DIM, TOKENS, VOCAB, compare, criterion, forward_backward, ids, random};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use warptune::autograd::{Tape, Var};
use warptune::ops::embedding::embedding;
use warptune::tensor::DType;

fn rows(c: &mut Criterion) {
    let tokens = 8 * TOKENS;
    let ids = ids(1, tokens, VOCAB);
    let table = random(2, &[VOCAB, DIM], DType::F32);
    let (id, data) = (ids.as_u32().unwrap(), table.as_f32().unwrap());
    let plain = || {
        let mut out = vec![0.0; tokens * DIM];
        for (row, &id) in out.chunks_mut(DIM).zip(id) {
            row.copy_from_slice(&data[id as usize * DIM..][..DIM]);
        }
        std::hint::black_box(out);
    };
    let constant = Var::constant(table.clone());
    let ours = || drop(embedding(&Tape::inference(), &ids, &constant, DType::F32).unwrap());
    let bytes = |n: usize| Throughput::BytesDecimal((n * DIM * 4) as u64);
    compare(c, "embedding", &format!("forward {tokens}x{DIM}"), bytes(2 * tokens), ours, ("a loop", plain));

    let dy = random(3, &[tokens, DIM], DType::F32);
    let inputs = [table.clone()];
    let ours = || forward_backward(&inputs, &dy, |tape, v| embedding(tape, &ids, &v[0], DType::F32).unwrap());
    let plain_backward = || {
        plain();
        let mut grad = vec![0.0; VOCAB * DIM];
        for (dy, &id) in dy.as_f32().unwrap().chunks(DIM).zip(id) {
            grad[id as usize * DIM..].iter_mut().zip(dy).for_each(|(g, d)| *g += d);
        }
        std::hint::black_box(grad);
    };
    let name = format!("forward+backward {tokens}x{DIM}");
    compare(c, "embedding", &name, bytes(5 * tokens + VOCAB), ours, ("a loop", plain_backward));
}

criterion_group! { name = benches; config = criterion(); targets = rows }
criterion_main!(benches);
