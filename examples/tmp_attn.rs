#![allow(missing_docs, clippy::unwrap_used)]
use warptune::autograd::{Gradients, Tape, Var};
use warptune::device::philox::Philox;
use warptune::ops::attention::{AttentionSpec, attention};
use warptune::ops::kv_attention::*;
use warptune::tensor::{DType, Tensor};

fn cpu_ns() -> u64 {
    std::fs::read_dir("/proc/self/task")
        .unwrap()
        .map(|t| {
            let s = std::fs::read_to_string(t.unwrap().path().join("schedstat")).unwrap_or_default();
            s.split(' ').next().and_then(|x| x.parse::<u64>().ok()).unwrap_or(0)
        })
        .sum()
}
fn time(name: &str, flop: f64, mut f: impl FnMut()) {
    for _ in 0..3 {
        f();
    }
    let mut t = vec![];
    for _ in 0..60 {
        let a = cpu_ns();
        f();
        t.push((cpu_ns() - a) as f64);
    }
    t.sort_by(f64::total_cmp);
    println!(
        "{name}: min {:.3} ms median {:.3} ms cpu; {:.1} G/s (min)",
        t[0] / 1e6,
        t[t.len() / 2] / 1e6,
        flop / t[0]
    );
}
fn main() {
    let (h, kh, d) = (9, 3, 64);
    for (n, len) in [(4usize, 256usize)] {
        let tokens = n * len;
        for dtype in [DType::F32, DType::BF16] {
            let draw = |seed, heads: usize| {
                Tensor::from_f32(
                    Philox { seed, stream: 0 }.normal(tokens * heads * d, 1.0),
                    &[tokens, heads * d],
                )
                .to_dtype(dtype)
                .unwrap()
            };
            let inputs = [draw(1, h), draw(2, kh), draw(3, kh)];
            let dout = draw(4, h);
            let spec = AttentionSpec {
                heads: h,
                kv_heads: kh,
                head_dim: d,
                scale: 0.125,
                causal: true,
                window: None,
                cu_seqlens: (0..=n).map(|i| i * len).collect(),
            };
            let pairs = (n * h * len * (len + 1) / 2) as f64;
            let vars = inputs.clone().map(Var::constant);
            time(&format!("fwd {dtype} {n}x{len}"), pairs * 4.0 * d as f64, || {
                std::hint::black_box(
                    attention(&Tape::inference(), &vars[0], &vars[1], &vars[2], &spec).unwrap(),
                );
            });
            time(&format!("f+b {dtype} {n}x{len}"), pairs * 14.0 * d as f64, || {
                let tape = Tape::recording();
                let v: Vec<Var> = inputs.iter().map(|x| tape.input(x.clone())).collect();
                let y = attention(&tape, &v[0], &v[1], &v[2], &spec).unwrap();
                std::hint::black_box(
                    tape.backward_inputs(&y, dout.clone(), &[&v[0], &v[1], &v[2]], &mut Gradients::new())
                        .unwrap(),
                );
            });
        }
    }
    let spec = KvAttentionSpec { heads: h, kv_heads: kh, head_dim: d, scale: 0.125, window: None };
    for (new, len) in [(1usize, 1024usize), (512, 512)] {
        let q = Tensor::from_f32(Philox { seed: 1, stream: 0 }.normal(new * h * d, 1.0), &[new, h * d]);
        let k = Philox { seed: 2, stream: 0 }.normal(len * kh * d, 1.0);
        let v = Philox { seed: 3, stream: 0 }.normal(len * kh * d, 1.0);
        time(&format!("kv {new} of {len}, GB/s of cache"), (8 * len * kh * d) as f64, || {
            std::hint::black_box(kv_attention(&q, &[new], &[KvView { k: &k, v: &v, len }], &spec).unwrap());
        });
    }
}
