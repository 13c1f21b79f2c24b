//! LayerNorm at GPT-2's width, against plain loops on one core.

#![allow(clippy::unwrap_used)]

mod common;

use criterion::{Criterion, Throughput};
use warptune::ops::layer_norm::layer_norm;
use warptune::tensor::DType;

const EPS: f32 = 1e-5;
const WIDTH: usize = 768;

fn naive(x: &[f32], w: &[f32], b: &[f32], dy: &[f32]) -> [Vec<f32>; 4] {
    let d = w.len();
    let [mut y, mut dx] = [vec![0.0; x.len()], vec![0.0; x.len()]];
    let [mut dw, mut db] = [vec![0.0; d], vec![0.0; d]];
    for start in (0..x.len()).step_by(d) {
        let (x, dy) = (&x[start..start + d], &dy[start..start + d]);
        let mean = x.iter().sum::<f32>() / d as f32;
        let r = 1.0 / (x.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / d as f32 + EPS).sqrt();
        let sum: f32 = (0..d).map(|i| dy[i] * w[i]).sum::<f32>() / d as f32;
        let dot: f32 = (0..d).map(|i| dy[i] * w[i] * (x[i] - mean) * r).sum::<f32>() / d as f32;
        for i in 0..d {
            let n = (x[i] - mean) * r;
            y[start + i] = n * w[i] + b[i];
            dx[start + i] = r * (dy[i] * w[i] - sum - n * dot);
            dw[i] += dy[i] * n;
            db[i] += dy[i];
        }
    }
    [y, dx, dw, db]
}

fn main() {
    let mut c = common::criterion();
    bench(&mut c, DType::F32);
    bench(&mut c, DType::BF16);
    c.final_summary();
}

fn bench(c: &mut Criterion, dtype: DType) {
    let shape = [common::TOKENS, WIDTH];
    let row = |seed| common::random(seed, &[WIDTH], dtype);
    let inputs = [common::random(1, &shape, dtype), row(2), row(3)];
    let dy = common::random(4, &shape, dtype);
    let [x, w, b, dy32] = [&inputs[0], &inputs[1], &inputs[2], &dy].map(|t| t.to_vec_f32().unwrap());
    // Reads x and writes y; reads x and dy and writes dx.
    let bytes = 5 * x.len() * dtype.size();
    common::compare(
        c,
        "layer_norm, GB/s",
        &format!("forward and backward {dtype} {shape:?}"),
        Throughput::Bytes(bytes as u64),
        || {
            common::forward_backward(&inputs, &dy, |tape, v| {
                layer_norm(tape, &v[0], &v[1], &v[2], EPS).unwrap()
            });
        },
        ("plain loops in f32", || {
            std::hint::black_box(naive(&x, &w, &b, &dy32));
        }),
    );
}
