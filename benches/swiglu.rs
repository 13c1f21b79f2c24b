//! SwiGLU at SmolLM2-135M's MLP width, against plain loops on one core.

#![allow(clippy::unwrap_used)]

mod common;

use criterion::{Criterion, Throughput};
use warptune::ops::swiglu::swiglu;
use warptune::tensor::DType;

fn naive(gate: &[f32], up: &[f32], dy: &[f32]) -> [Vec<f32>; 3] {
    let mut out = [gate, gate, gate].map(|x| vec![0.0; x.len()]);
    for i in 0..gate.len() {
        let s = 1.0 / (1.0 + (-gate[i]).exp());
        out[0][i] = gate[i] * s * up[i];
        out[1][i] = dy[i] * up[i] * s * (1.0 + gate[i] * (1.0 - s));
        out[2][i] = dy[i] * gate[i] * s;
    }
    out
}

fn main() {
    let mut c = common::criterion();
    bench(&mut c, DType::F32);
    bench(&mut c, DType::BF16);
    c.final_summary();
}

fn bench(c: &mut Criterion, dtype: DType) {
    let shape = [common::TOKENS, common::HIDDEN];
    let inputs = [common::random(1, &shape, dtype), common::random(2, &shape, dtype)];
    let dy = common::random(3, &shape, dtype);
    let [gate, up, dy32] = [&inputs[0], &inputs[1], &dy].map(|t| t.to_vec_f32().unwrap());
    // Reads both operands and writes y; reads them and dy, and writes two gradients.
    let bytes = 8 * gate.len() * dtype.size();
    common::compare(
        c,
        "swiglu, GB/s",
        &format!("forward and backward {dtype} {shape:?}"),
        Throughput::Bytes(bytes as u64),
        || common::forward_backward(&inputs, &dy, |tape, v| swiglu(tape, &v[0], &v[1]).unwrap()),
        ("plain loops in f32", || {
            std::hint::black_box(naive(&gate, &up, &dy32));
        }),
    );
}
