//! GELU at GPT-2's MLP width, against plain loops on one core.

#![allow(clippy::unwrap_used)]

mod common;

use criterion::{Criterion, Throughput};
use warptune::ops::gelu::{GeluKind, gelu};
use warptune::tensor::DType;

const WIDTH: usize = 3072;

/// The tanh form; std has no error function to compare the other with.
fn naive(x: &[f32], dy: &[f32]) -> [Vec<f32>; 2] {
    let mut out = [vec![0.0; x.len()], vec![0.0; x.len()]];
    for i in 0..x.len() {
        let t = (0.797_884_6 * (x[i] + 0.044715 * x[i].powi(3))).tanh();
        out[0][i] = 0.5 * x[i] * (1.0 + t);
        let slope = 0.797_884_6 * (1.0 + 3.0 * 0.044715 * x[i] * x[i]);
        out[1][i] = dy[i] * 0.5 * (1.0 + t + x[i] * (1.0 - t * t) * slope);
    }
    out
}

fn main() {
    let mut c = common::criterion();
    for kind in [GeluKind::Tanh, GeluKind::Erf] {
        bench(&mut c, kind, DType::F32);
        bench(&mut c, kind, DType::BF16);
    }
    c.final_summary();
}

fn bench(c: &mut Criterion, kind: GeluKind, dtype: DType) {
    let shape = [common::TOKENS, WIDTH];
    let inputs = [common::random(1, &shape, dtype)];
    let dy = common::random(2, &shape, dtype);
    let [x, dy32] = [&inputs[0], &dy].map(|t| t.to_vec_f32().unwrap());
    // Reads x and writes y; reads x and dy and writes dx.
    let bytes = 5 * x.len() * dtype.size();
    common::compare(
        c,
        "gelu, GB/s",
        &format!("forward and backward {kind:?} {dtype} {shape:?}"),
        Throughput::Bytes(bytes as u64),
        || common::forward_backward(&inputs, &dy, |tape, v| gelu(tape, &v[0], kind).unwrap()),
        ("plain loops in f32 (tanh form)", || {
            std::hint::black_box(naive(&x, &dy32));
        }),
    );
}
