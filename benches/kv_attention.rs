//! Cached attention of one layer of SmolLM2-135M: decoding one token and reading a prompt, against plain loops on one core.

#![allow(clippy::unwrap_used)]

mod common;

use criterion::{Criterion, Throughput};
use warptune::ops::kv_attention::{KvAttentionSpec, KvView, kv_attention};
use warptune::tensor::DType;

const HEADS: usize = 9;
const KV_HEADS: usize = 3;
const HEAD_DIM: usize = 64;

fn naive(q: &[f32], k: &[f32], v: &[f32], new: usize, len: usize) -> Vec<f32> {
    let mut out = vec![0.0; q.len()];
    for i in 0..new {
        for h in 0..HEADS {
            let at = (i * HEADS + h) * HEAD_DIM;
            let row = |j: usize| (j * KV_HEADS + h / (HEADS / KV_HEADS)) * HEAD_DIM;
            let seen = len - new + i + 1;
            let mut p: Vec<f32> = (0..seen)
                .map(|j| (0..HEAD_DIM).map(|d| q[at + d] * k[row(j) + d]).sum::<f32>() * 0.125)
                .collect();
            let max = p.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            p.iter_mut().for_each(|x| *x = (*x - max).exp());
            let sum: f32 = p.iter().sum();
            for (j, p) in p.iter().enumerate() {
                (0..HEAD_DIM).for_each(|d| out[at + d] += p / sum * v[row(j) + d]);
            }
        }
    }
    out
}

fn main() {
    let mut c = common::criterion();
    bench(&mut c, 1, 1024);
    bench(&mut c, 4, 1024);
    bench(&mut c, 512, 512);
    c.final_summary();
}

fn bench(c: &mut Criterion, new: usize, len: usize) {
    let q = common::random(1, &[new, HEADS * HEAD_DIM], DType::F32);
    let draw = |seed| common::random(seed, &[len, KV_HEADS * HEAD_DIM], DType::F32).to_vec_f32().unwrap();
    let (k, v) = (draw(2), draw(3));
    let spec =
        KvAttentionSpec { heads: HEADS, kv_heads: KV_HEADS, head_dim: HEAD_DIM, scale: 0.125, window: None };
    let cache = KvView { k: &k, v: &v, len };
    let bytes = 4 * (k.len() + v.len()) as u64;
    let pairs: usize = (len - new + 1..=len).sum();
    let (group, throughput) = match new {
        1..=4 => ("kv_attention, GB/s of cache", Throughput::Bytes(bytes)),
        _ => ("kv_attention, FLOP/s", Throughput::Elements((4 * pairs * HEADS * HEAD_DIM) as u64)),
    };
    let q32 = q.to_vec_f32().unwrap();
    common::compare(
        c,
        group,
        &format!("{new} new of {len}"),
        throughput,
        || {
            std::hint::black_box(kv_attention(&q, &[new], &[cache], &spec).unwrap());
        },
        ("plain loops", || {
            std::hint::black_box(naive(&q32, &k, &v, new, len));
        }),
    );
}
