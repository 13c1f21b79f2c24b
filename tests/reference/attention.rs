//! Attention with the whole matrix of scores, by the definition.

use super::Real;

/// Heads, and who sees whom.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub heads: usize,
    pub kv_heads: usize,
    pub dim: usize,
    pub scale: f64,
    pub causal: bool,
    pub window: Option<usize>,
}

impl Shape {
    /// Whether query token `i` sees key token `j`, both counted from the start of their sequence.
    fn sees(&self, i: usize, j: usize) -> bool {
        !self.causal || (j <= i && self.window.is_none_or(|w| i - j < w))
    }
}

/// One query head of one sequence: softmax probabilities `[m, l]`. The m queries are of the last of the l tokens.
fn probabilities<R: Real>(shape: &Shape, head: usize, q: &[R], k: &[R], m: usize, l: usize) -> Vec<R> {
    let mut p = vec![R::of(0.0); m * l];
    for i in 0..m {
        let visible: Vec<usize> = (0..l).filter(|&j| shape.sees(l - m + i, j)).collect();
        let mut max = R::of(f64::NEG_INFINITY);
        for &j in &visible {
            let score = row(q, shape.heads, head, shape.dim, i)
                .iter()
                .zip(row(k, shape.kv_heads, head / (shape.heads / shape.kv_heads), shape.dim, j))
                .map(|(&a, &b)| a * b)
                .sum::<R>()
                * R::of(shape.scale);
            p[i * l + j] = score;
            if score > max {
                max = score;
            }
        }
        let mut sum = R::of(0.0);
        for &j in &visible {
            p[i * l + j] = (p[i * l + j] - max).exp();
            sum += p[i * l + j];
        }
        for &j in &visible {
            p[i * l + j] = p[i * l + j] / sum;
        }
    }
    p
}

/// One head's part of a row.
fn row<R>(x: &[R], heads: usize, head: usize, dim: usize, i: usize) -> &[R] {
    &x[(i * heads + head) * dim..][..dim]
}

/// The output of one sequence, `[m, heads * dim]`; q is of the last m of its l tokens.
pub fn attention<R: Real>(shape: &Shape, q: &[R], k: &[R], v: &[R]) -> Vec<R> {
    attention_rounded(shape, q, k, v, |x| x)
}

/// [`attention`] whose probabilities are rounded by `round` before they meet the values.
pub fn attention_rounded<R: Real>(
    shape: &Shape,
    q: &[R],
    k: &[R],
    v: &[R],
    round: impl Fn(R) -> R,
) -> Vec<R> {
    let (heads, kv_heads, dim) = (shape.heads, shape.kv_heads, shape.dim);
    let (m, l) = (q.len() / (heads * dim), k.len() / (kv_heads * dim));
    let mut out = vec![R::of(0.0); q.len()];
    for head in 0..heads {
        let p = probabilities(shape, head, q, k, m, l);
        for i in 0..m {
            for j in 0..l {
                let v = row(v, kv_heads, head / (heads / kv_heads), dim, j);
                for d in 0..dim {
                    out[(i * heads + head) * dim + d] += round(p[i * l + j]) * v[d];
                }
            }
        }
    }
    out
}

/// Gradients of q, k and v of one sequence whose tokens are all queries.
pub fn attention_backward<R: Real>(shape: &Shape, q: &[R], k: &[R], v: &[R], dout: &[R]) -> [Vec<R>; 3] {
    gradients(shape, q, k, v, dout, |x| x, |x| x)
}

/// [`attention_backward`] whose probabilities, and gradients of scores before the scale, are rounded by `round` before
/// they meet another matrix.
pub fn attention_backward_rounded<R: Real>(
    shape: &Shape,
    q: &[R],
    k: &[R],
    v: &[R],
    dout: &[R],
    round: impl Fn(R) -> R,
) -> [Vec<R>; 3] {
    gradients(shape, q, k, v, dout, |x| x, round)
}

/// The sums of the absolute values of what [`attention_backward`] adds up: what its rounding error is measured by.
pub fn backward_magnitude(shape: &Shape, q: &[f64], k: &[f64], v: &[f64], dout: &[f64]) -> [Vec<f64>; 3] {
    gradients(shape, q, k, v, dout, f64::abs, |x| x)
}

/// The gradients, with `size` applied to each operand outside the softmax and to the minus sign of delta, and `round` to what a
/// kernel for tensor cores rounds between two products.
fn gradients<R: Real>(
    shape: &Shape,
    q: &[R],
    k: &[R],
    v: &[R],
    dout: &[R],
    size: impl Fn(R) -> R,
    round: impl Fn(R) -> R,
) -> [Vec<R>; 3] {
    let (heads, kv_heads, dim) = (shape.heads, shape.kv_heads, shape.dim);
    let (scale, minus) = (R::of(shape.scale), size(R::of(-1.0)));
    let m = q.len() / (heads * dim);
    let mut grads = [q, k, v].map(|x| vec![R::of(0.0); x.len()]);
    for head in 0..heads {
        let kv_head = head / (heads / kv_heads);
        let p = probabilities(shape, head, q, k, m, m);
        for i in 0..m {
            let at_q = (i * heads + head) * dim;
            let dp: Vec<R> = (0..m)
                .map(|j| {
                    (0..dim).map(|d| size(dout[at_q + d]) * size(v[(j * kv_heads + kv_head) * dim + d])).sum()
                })
                .collect();
            let delta: R = (0..m).map(|j| p[i * m + j] * dp[j]).sum();
            for j in 0..m {
                let at_kv = (j * kv_heads + kv_head) * dim;
                let ds = round(p[i * m + j] * (dp[j] + minus * delta)) * scale;
                let p = round(p[i * m + j]);
                for d in 0..dim {
                    grads[0][at_q + d] += ds * size(k[at_kv + d]);
                    grads[1][at_kv + d] += ds * size(q[at_q + d]);
                    grads[2][at_kv + d] += p * size(dout[at_q + d]);
                }
            }
        }
    }
    grads
}
