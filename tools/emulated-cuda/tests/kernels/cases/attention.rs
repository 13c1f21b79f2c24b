//! Causal attention.

use half::bf16;

use crate::kernels::{
    data::{EPS, EPS_BF16, Random, close, wide},
    gpu::{Failure, Session, line, plane},
};

const HEADS: usize = 2;
const DIM: usize = 32;
const SCALE: f64 = 0.176_776_7;

/// The reference of one problem: rows are [head, token], flat.
struct Reference {
    o: Vec<f64>,
    lse: Vec<f64>,
    /// Probabilities: [head, query, key].
    p: Vec<f64>,
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn row(x: &[f64], i: usize) -> &[f64] {
    &x[i * DIM..(i + 1) * DIM]
}

fn forward_reference(q: &[f64], k: &[f64], v: &[f64], tokens: usize) -> Reference {
    let mut r = Reference { o: Vec::new(), lse: Vec::new(), p: vec![0.0; HEADS * tokens * tokens] };
    for i in 0..HEADS * tokens {
        let (first, keys) = (i / tokens * tokens, i % tokens + 1);
        let exp: Vec<f64> = (0..keys).map(|j| (SCALE * dot(row(q, i), row(k, first + j))).exp()).collect();
        let sum: f64 = exp.iter().sum();
        r.lse.push(sum.ln());
        r.p[i * tokens..][..keys].iter_mut().zip(&exp).for_each(|(p, e)| *p = e / sum);
        let p = &r.p[i * tokens..][..keys];
        r.o.extend((0..DIM).map(|d| (0..keys).map(|j| p[j] * v[(first + j) * DIM + d]).sum::<f64>()));
    }
    r
}

pub fn forward(s: &mut Session<'_>) -> Result<(), Failure> {
    // The last row lies in the first half of its tile, and in the second; and there is but one tile of keys.
    [75, 107, 20].into_iter().try_for_each(|tokens| forward_of(s, tokens))
}

fn forward_of(s: &mut Session<'_>, tokens: usize) -> Result<(), Failure> {
    let mut random = Random::new(3);
    let [q, k, v] = [4.0, 2.0, 1.0].map(|scale| random.bf16s(HEADS * tokens * DIM, scale));
    let inputs = [&q, &k, &v].map(|x| s.upload::<bf16>(x).into());
    let (o, lse) = (s.output::<f32>(q.len()), s.output::<f32>(HEADS * tokens));
    let outputs = [o.into(), lse.into(), (tokens as i32).into(), (SCALE as f32).into()];
    s.launch("attention_fwd", plane(tokens.div_ceil(64), HEADS, 128), &[&inputs[..], &outputs].concat())?;

    let (q, k, v) = (wide(&q), wide(&k), wide(&v));
    let want = forward_reference(&q, &k, &v, tokens);
    // Scores carry the rounding of DIM products and of the scale, probabilities that of bf16.
    let score_error = |i: usize| -> f64 {
        let first = i / tokens * tokens;
        let sizes = (first..=i).map(|j| row(&q, i).iter().zip(row(&k, j)).map(|(a, b)| (a * b).abs()).sum());
        (2.0 * DIM as f64 + 8.0) * EPS * SCALE * f64::max(1.0, sizes.fold(0.0, f64::max))
    };
    let errors: Vec<f64> = (0..HEADS * tokens).map(score_error).collect();
    let bound: Vec<f64> = (0..want.o.len())
        .map(|at| {
            let (i, d) = (at / DIM, at % DIM);
            let first = i / tokens * tokens;
            let size: f64 = (first..=i).map(|j| want.p[i * tokens + j - first] * v[j * DIM + d].abs()).sum();
            size * (EPS_BF16 + 2.0 * errors[i] + 4.0 * tokens as f64 * EPS)
        })
        .collect();
    close("o", &s.download::<f32>(o), &want.o, &bound)?;
    let bound: Vec<f64> =
        want.lse.iter().zip(&errors).map(|(x, e)| 2.0 * e + 8.0 * EPS * (x.abs() + tokens as f64)).collect();
    close("lse", &s.download::<f32>(lse), &want.lse, &bound)
}

pub fn backward(s: &mut Session<'_>) -> Result<(), Failure> {
    // The last row lies in each quarter of its tile.
    [33, 37, 41, 45].into_iter().try_for_each(|tokens| backward_of(s, tokens))
}

fn backward_of(s: &mut Session<'_>, tokens: usize) -> Result<(), Failure> {
    let rows = HEADS * tokens;
    let mut random = Random::new(4);
    let [q, k, v, d_o] = [2.0, 1.0, 1.0, 1.0].map(|scale| random.f32s(rows * DIM, scale));
    let [wq, wk, wv, wd] = [&q, &k, &v, &d_o].map(|x| wide(x));
    let fwd = forward_reference(&wq, &wk, &wv, tokens);
    let round = |x: &[f64]| -> Vec<f32> { x.iter().map(|&x| x as f32).collect() };
    let (o, lse) = (s.upload(&round(&fwd.o)), s.upload(&round(&fwd.lse)));
    let [q, k, v, d_o] = [q, k, v, d_o].map(|x| s.upload(&x));
    let delta = s.output::<f32>(rows);
    let [dq, dk, dv] = [(); 3].map(|()| s.output::<f32>(rows * DIM));
    s.launch(
        "attention_bwd_delta",
        line(rows.div_ceil(4), 128),
        &[o.into(), d_o.into(), delta.into(), (rows as i32).into()],
    )?;
    let shape = plane(tokens.div_ceil(16), HEADS, 128);
    let inputs = [q, k, v, d_o, lse, delta].map(Into::into);
    let sizes = [(tokens as i32).into(), (SCALE as f32).into()];
    s.launch("attention_bwd_dkdv", shape, &[&inputs[..], &[dk.into(), dv.into()], &sizes].concat())?;
    s.launch("attention_bwd_dq", shape, &[&inputs[..], &[dq.into()], &sizes].concat())?;

    // Each gradient is a sum of products; beside it, the sum of their magnitudes.
    let zeros = || vec![0.0; rows * DIM];
    let (mut want_q, mut want_k, mut want_v) = (zeros(), zeros(), zeros());
    let (mut size_q, mut size_k, mut size_v) = (zeros(), zeros(), zeros());
    for i in 0..rows {
        let first = i / tokens * tokens;
        let delta = dot(row(&fwd.o, i), row(&wd, i));
        for j in first..=i {
            let p = fwd.p[i * tokens + j - first];
            let dp = dot(row(&wd, i), row(&wv, j));
            let size_dp: f64 = row(&wd, i).iter().zip(row(&wv, j)).map(|(a, b)| (a * b).abs()).sum();
            let (ds, size_ds) = (p * (dp - delta) * SCALE, p * 2.0 * (size_dp + delta.abs()) * SCALE);
            for d in 0..DIM {
                let (at_i, at_j) = (i * DIM + d, j * DIM + d);
                want_q[at_i] += ds * wk[at_j];
                size_q[at_i] += size_ds * wk[at_j].abs();
                want_k[at_j] += ds * wq[at_i];
                size_k[at_j] += size_ds * wq[at_i].abs();
                want_v[at_j] += p * wd[at_i];
                size_v[at_j] += p * wd[at_i].abs();
            }
        }
    }
    // Sums over dims, then over tokens, and an exponential whose argument carries the first sum's error.
    let factor = EPS * (tokens + 8 * DIM + 16) as f64;
    for (what, buffer, want, size) in
        [("dq", dq, want_q, size_q), ("dk", dk, want_k, size_k), ("dv", dv, want_v, size_v)]
    {
        let bound: Vec<f64> = size.iter().map(|x| factor * x).collect();
        close(what, &s.download::<f32>(buffer), &want, &bound)?;
    }
    Ok(())
}
