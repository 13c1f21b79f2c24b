//! RMSNorm at SmolLM2-135M's width, against plain loops on one core.

#![allow(clippy::unwrap_used)]

mod common;

use criterion::{Criterion, Throughput};
use warptune::ops::rms_norm::rms_norm;
use warptune::tensor::DType;

const EPS: f32 = 1e-5;

fn naive(x: &[f32], w: &[f32], dy: &[f32]) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let d = w.len();
    let (mut y, mut dx, mut dw) = (vec![0.0; x.len()], vec![0.0; x.len()], vec![0.0; d]);
    for start in (0..x.len()).step_by(d) {
        let (x, dy) = (&x[start..start + d], &dy[start..start + d]);
        let r = 1.0 / (x.iter().map(|x| x * x).sum::<f32>() / d as f32 + EPS).sqrt();
        let dot: f32 = (0..d).map(|i| dy[i] * w[i] * x[i]).sum();
        for i in 0..d {
            y[start + i] = x[i] * r * w[i];
            dx[start + i] = r * (dy[i] * w[i] - x[i] * r * r * dot / d as f32);
            dw[i] += dy[i] * x[i] * r;
        }
    }
    (y, dx, dw)
}

fn main() {
    let mut c = common::criterion();
    bench(&mut c, DType::F32);
    bench(&mut c, DType::BF16);
    c.final_summary();
}

fn bench(c: &mut Criterion, dtype: DType) {
    let shape = [common::TOKENS, common::DIM];
    let inputs = [common::random(1, &shape, dtype), common::random(2, &[common::DIM], dtype)];
    let dy = common::random(3, &shape, dtype);
    let [x, w, dy32] = [&inputs[0], &inputs[1], &dy].map(|t| t.to_vec_f32().unwrap());
    // Reads x and writes y; reads x and dy and writes dx.
    let bytes = 5 * x.len() * dtype.size();
    common::compare(
        c,
        "rms_norm, GB/s",
        &format!("forward and backward {dtype} {shape:?}"),
        Throughput::Bytes(bytes as u64),
        || common::forward_backward(&inputs, &dy, |tape, v| rms_norm(tape, &v[0], &v[1], EPS).unwrap()),
        ("plain loops in f32", || {
            std::hint::black_box(naive(&x, &w, &dy32));
        }),
    );
}
