//! Attention of one layer of SmolLM2-135M, against the whole matrix of scores by the `gemm` crate, head by head.

#![allow(clippy::unwrap_used)]

mod common;

use criterion::{Criterion, Throughput};
use warptune::autograd::{Tape, Var};
use warptune::ops::attention::{AttentionSpec, attention};
use warptune::tensor::{DType, Tensor};

const HEADS: usize = 9;
const KV_HEADS: usize = 3;
const HEAD_DIM: usize = 64;

fn main() {
    let mut c = common::criterion();
    for (sequences, len) in [(4, 256), (1, 1024)] {
        for dtype in [DType::F32, DType::BF16] {
            bench(&mut c, sequences, len, dtype);
        }
    }
    c.final_summary();
}

fn bench(c: &mut Criterion, sequences: usize, len: usize, dtype: DType) {
    let tokens = sequences * len;
    let draw = |seed, heads: usize| {
        let x = common::random(seed, &[tokens, heads * HEAD_DIM], DType::F32).to_vec_f32().unwrap();
        // Standard deviation 1, as after a norm.
        let x = x.into_iter().map(|x| 10.0 * x).collect();
        Tensor::from_f32(x, &[tokens, heads * HEAD_DIM]).to_dtype(dtype).unwrap()
    };
    let inputs = [draw(1, HEADS), draw(2, KV_HEADS), draw(3, KV_HEADS)];
    let dout = draw(4, HEADS);
    let spec = AttentionSpec {
        heads: HEADS,
        kv_heads: KV_HEADS,
        head_dim: HEAD_DIM,
        scale: 0.125,
        causal: true,
        window: None,
        cu_seqlens: (0..=sequences).map(|i| i * len).collect::<Vec<_>>().into(),
    };
    let op = |tape: &Tape, v: &[Var]| attention(tape, &v[0], &v[1], &v[2], &spec).unwrap();
    let [q, k, v, dout32] = [&inputs[0], &inputs[1], &inputs[2], &dout].map(|t| t.to_vec_f32().unwrap());

    // Of what the causal mask leaves: 2 products forward, 5 backward, each of 2 operations an element.
    let pairs = sequences * HEADS * len * (len + 1) / 2;
    let product = (2 * pairs * HEAD_DIM) as u64;
    let vars = inputs.clone().map(Var::constant);
    common::compare(
        c,
        "attention, FLOP/s",
        &format!("forward {dtype} {sequences} x {len}"),
        Throughput::Elements(2 * product),
        || {
            std::hint::black_box(op(&Tape::inference(), &vars));
        },
        ("whole score matrices in f32", || {
            std::hint::black_box(forward(&q, &k, &v, sequences, len));
        }),
    );
    common::compare(
        c,
        "attention, FLOP/s",
        &format!("forward and backward {dtype} {sequences} x {len}"),
        Throughput::Elements(7 * product),
        || common::forward_backward(&inputs, &dout, op),
        ("whole score matrices in f32", || {
            let p = forward(&q, &k, &v, sequences, len).1;
            std::hint::black_box(backward(&p, &q, &k, &v, &dout32, sequences, len));
        }),
    );
}

/// A matrix inside a slice: where it starts, and the distances between its columns and rows.
#[derive(Clone, Copy)]
struct View {
    start: usize,
    col: usize,
    row: usize,
}

impl View {
    fn t(self) -> View {
        View { col: self.row, row: self.col, ..self }
    }
}

/// One head of one sequence.
fn head(sequence: usize, len: usize, heads: usize, head: usize) -> View {
    View { start: (sequence * len * heads + head) * HEAD_DIM, col: 1, row: heads * HEAD_DIM }
}

/// `c += alpha a b`, all cores.
fn product(
    [m, n, k]: [usize; 3],
    alpha: f32,
    (a, av): (&[f32], View),
    (b, bv): (&[f32], View),
    (c, cv): (&mut [f32], View),
) {
    let last = |v: View, rows: usize, cols: usize| v.start + (rows - 1) * v.row + (cols - 1) * v.col;
    assert!(last(av, m, k) < a.len() && last(bv, k, n) < b.len() && last(cv, m, n) < c.len());
    let (col, row) = (|v: View| v.col as isize, |v: View| v.row as isize);
    let cores = gemm::Parallelism::Rayon(0);
    // SAFETY: the assert says that the last element of each matrix is inside its slice, and strides are not negative.
    unsafe {
        let (a, b, c) = (a.as_ptr().add(av.start), b.as_ptr().add(bv.start), c.as_mut_ptr().add(cv.start));
        gemm::gemm(
            m,
            n,
            k,
            c,
            col(cv),
            row(cv),
            true,
            a,
            col(av),
            row(av),
            b,
            col(bv),
            row(bv),
            1.0,
            alpha,
            false,
            false,
            false,
            cores,
        );
    }
}

/// The output, and the probabilities.
fn forward(q: &[f32], k: &[f32], v: &[f32], sequences: usize, len: usize) -> (Vec<f32>, Vec<f32>) {
    let mut out = vec![0.0; q.len()];
    let mut all = vec![0.0; sequences * HEADS * len * len];
    for (i, p) in all.chunks_exact_mut(len * len).enumerate() {
        let (s, h) = (i / HEADS, i % HEADS);
        let (own, shared) = (head(s, len, HEADS, h), head(s, len, KV_HEADS, h / (HEADS / KV_HEADS)));
        let square = View { start: 0, col: 1, row: len };
        product([len, len, HEAD_DIM], 0.125, (q, own), (k, shared.t()), (p, square));
        for (i, row) in p.chunks_exact_mut(len).enumerate() {
            let max = row[..=i].iter().copied().fold(f32::NEG_INFINITY, f32::max);
            row[..=i].iter_mut().for_each(|x| *x = (*x - max).exp());
            let sum: f32 = row[..=i].iter().sum();
            row[..=i].iter_mut().for_each(|x| *x /= sum);
            row[i + 1..].fill(0.0);
        }
        product([len, HEAD_DIM, len], 1.0, (p, square), (v, shared), (&mut out, own));
    }
    (out, all)
}

/// Gradients of q, k and v.
fn backward(
    all: &[f32],
    q: &[f32],
    k: &[f32],
    v: &[f32],
    dout: &[f32],
    sequences: usize,
    len: usize,
) -> [Vec<f32>; 3] {
    let [mut dq, mut dk, mut dv] = [q, k, v].map(|x| vec![0.0; x.len()]);
    let square = View { start: 0, col: 1, row: len };
    for i in 0..sequences * HEADS {
        let p = &all[i * len * len..(i + 1) * len * len];
        let (s, h) = (i / HEADS, i % HEADS);
        let (own, shared) = (head(s, len, HEADS, h), head(s, len, KV_HEADS, h / (HEADS / KV_HEADS)));
        product([len, HEAD_DIM, len], 1.0, (p, square.t()), (dout, own), (&mut dv, shared));
        let mut ds = vec![0.0; len * len];
        product([len, len, HEAD_DIM], 1.0, (dout, own), (v, shared.t()), (&mut ds, square));
        for (ds, p) in ds.chunks_exact_mut(len).zip(p.chunks_exact(len)) {
            let delta: f32 = ds.iter().zip(p).map(|(a, b)| a * b).sum();
            ds.iter_mut().zip(p).for_each(|(ds, p)| *ds = p * (*ds - delta));
        }
        product([len, HEAD_DIM, len], 0.125, (&ds, square), (k, shared), (&mut dq, own));
        product([len, HEAD_DIM, len], 0.125, (&ds, square.t()), (q, own), (&mut dk, shared));
    }
    [dq, dk, dv]
}
