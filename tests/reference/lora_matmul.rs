//! A linear layer with a low-rank adapter, by its formulas; `keep` is the dropout's mask, scale included.

use super::Real;
use super::matmul::{linear, linear_backward, product};

pub struct Shape {
    pub m: usize,
    pub k: usize,
    pub n: usize,
    pub r: usize,
}

fn times<R: Real>(a: &[R], b: &[R]) -> Vec<R> {
    a.iter().zip(b).map(|(&a, &b)| a * b).collect()
}

/// v: x, w, a, b, and the bias if any.
pub fn lora<R: Real>(v: &[Vec<R>], keep: &[R], scale: f64, s: &Shape) -> Vec<R> {
    let base = linear(&v[0], &v[1], v.get(4).map(|b| &b[..]), s.m, s.k, s.n);
    let u = linear(&times(&v[0], keep), &v[2], None, s.m, s.k, s.r);
    let up = linear(&u, &v[3], None, s.m, s.r, s.n);
    base.iter().zip(up).map(|(&y, d)| y + R::of(scale) * d).collect()
}

/// Gradients of x, w, a, b and bias.
pub fn lora_backward<R: Real>(v: &[Vec<R>], keep: &[R], scale: f64, dy: &[R], s: &Shape) -> [Vec<R>; 5] {
    let x = times(&v[0], keep);
    let u = linear(&x, &v[2], None, s.m, s.k, s.r);
    let scaled: Vec<R> = dy.iter().map(|&g| R::of(scale) * g).collect();
    let [_, db, _] = linear_backward(&u, &v[3], &scaled, s.m, s.r, s.n);
    let du = product(&scaled, &v[3], s.m, s.n, s.r);
    let [dx_adapter, da, _] = linear_backward(&x, &v[2], &du, s.m, s.k, s.r);
    let [dx_base, dw, dbias] = linear_backward(&v[0], &v[1], dy, s.m, s.k, s.n);
    let dx = dx_base.iter().zip(times(&dx_adapter, keep)).map(|(&a, b)| a + b).collect();
    [dx, dw, da, db, dbias]
}
