//! Rotary embedding of SmolLM2-135M's queries, against plain loops on one core.

#![allow(clippy::unwrap_used)]

mod common;

use criterion::{Criterion, Throughput};
use warptune::autograd::{Tape, Var};
use warptune::ops::rope::{RopePairing, RopeScaling, RopeTable, rope, rope_both};
use warptune::tensor::{DType, Tensor};

const HEAD_DIM: usize = 64;

fn naive(x: &[f32], positions: &[u32], frequencies: &[f32], sign: f32) -> Vec<f32> {
    let mut y = vec![0.0; x.len()];
    let half = HEAD_DIM / 2;
    for (t, &position) in positions.iter().enumerate() {
        for head in (t * common::DIM..(t + 1) * common::DIM).step_by(HEAD_DIM) {
            for i in 0..half {
                let (sin, cos) = (sign * position as f32 * frequencies[i]).sin_cos();
                y[head + i] = x[head + i] * cos - x[head + half + i] * sin;
                y[head + half + i] = x[head + half + i] * cos + x[head + i] * sin;
            }
        }
    }
    y
}

fn main() {
    let mut c = common::criterion();
    for pairing in [RopePairing::Half, RopePairing::Interleaved] {
        bench(&mut c, pairing, DType::F32);
        bench(&mut c, pairing, DType::BF16);
    }
    for dtype in [DType::F32, DType::BF16] {
        together(&mut c, dtype);
    }
    c.final_summary();
}

fn bench(c: &mut Criterion, pairing: RopePairing, dtype: DType) {
    let shape = [common::TOKENS, common::DIM];
    let inputs = [common::random(1, &shape, dtype)];
    let dy = common::random(2, &shape, dtype);
    let [x, dy32] = [&inputs[0], &dy].map(|t| t.to_vec_f32().unwrap());
    let ids: Vec<u32> = (0..common::TOKENS as u32).map(|i| i % 256).collect();
    let positions = Tensor::from_u32(ids.clone(), &[common::TOKENS]);
    let table = RopeTable::new(HEAD_DIM, 1e5, RopeScaling::None, pairing).unwrap();
    // Reads x and writes y; reads dy and writes dx.
    let bytes = 4 * x.len() * dtype.size();
    common::compare(
        c,
        "rope, GB/s",
        &format!("forward and backward {pairing:?} {dtype} {shape:?}"),
        Throughput::Bytes(bytes as u64),
        || {
            common::forward_backward(&inputs, &dy, |tape, v| {
                rope(tape, &v[0], &positions, &table, HEAD_DIM).unwrap()
            });
        },
        ("plain loops in f32", || {
            std::hint::black_box(naive(&x, &ids, &table.inverse_frequencies, 1.0));
            std::hint::black_box(naive(&dy32, &ids, &table.inverse_frequencies, -1.0));
        }),
    );
}

/// Queries and keys together against one after the other.
fn together(c: &mut Criterion, dtype: DType) {
    let (rows, kv) = (common::TOKENS, common::DIM / 3);
    let inputs = [common::random(1, &[rows, common::DIM], dtype), common::random(2, &[rows, kv], dtype)];
    let positions = Tensor::from_u32((0..rows as u32).map(|i| i % 256).collect(), &[rows]);
    let table = RopeTable::new(HEAD_DIM, 1e5, RopeScaling::None, RopePairing::Half).unwrap();
    let vars = inputs.map(Var::constant);
    let tape = Tape::inference();
    common::compare(
        c,
        "rope, GB/s",
        &format!("forward, queries and keys {dtype}"),
        Throughput::Bytes((2 * rows * (common::DIM + kv) * dtype.size()) as u64),
        || drop(rope_both(&tape, &vars[0], &vars[1], &positions, &table, HEAD_DIM).unwrap()),
        ("one after the other", || {
            vars.iter().for_each(|x| drop(rope(&tape, x, &positions, &table, HEAD_DIM).unwrap()));
        }),
    );
}
