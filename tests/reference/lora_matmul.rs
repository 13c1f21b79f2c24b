//! A linear layer with a low-rank adapter, by its formulas; `keep` is the dropout's mask, scale included.

use super::Real;
use super::matmul::{linear, linear_backward, product};

#[derive(Clone, Copy)]
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

/// Runs of rows with the adapter that each goes through, if any; the adapters' scales.
pub struct Runs {
    pub runs: Vec<(usize, Option<usize>)>,
    pub scales: Vec<f64>,
}

/// As [`lora`] with adapters a `[E, r, in]` and b `[E, out, r]`, a run of rows at a time; s.m is the sum of the runs.
pub fn lora_segmented<R: Real>(v: &[Vec<R>], keep: &[R], runs: &Runs, s: &Shape) -> Vec<R> {
    let mut y = Vec::new();
    each_run(v, keep, runs, s, |v, keep, scale, _, s| y.extend(lora(v, keep, scale, s)));
    y
}

/// The gradients of its x, w, a, b and bias.
pub fn lora_segmented_backward<R: Real>(
    v: &[Vec<R>],
    keep: &[R],
    runs: &Runs,
    dy: &[R],
    s: &Shape,
) -> [Vec<R>; 5] {
    let zeros = |n: usize| vec![R::of(0.0); n];
    let [mut dx, mut dw] = [Vec::new(), zeros(v[1].len())];
    let [mut da, mut db, mut dbias] = [zeros(v[2].len()), zeros(v[3].len()), zeros(s.n)];
    let add = |sum: &mut [R], x: &[R]| sum.iter_mut().zip(x).for_each(|(sum, &x)| *sum += x);
    let mut row = 0;
    each_run(v, keep, runs, s, |v, keep, scale, adapter, s| {
        let grads = lora_backward(v, keep, scale, &dy[row * s.n..][..s.m * s.n], s);
        dx.extend_from_slice(&grads[0]);
        add(&mut dw, &grads[1]);
        if let Some(e) = adapter {
            add(&mut da[e * s.r * s.k..][..s.r * s.k], &grads[2]);
            add(&mut db[e * s.n * s.r..][..s.n * s.r], &grads[3]);
        }
        add(&mut dbias, &grads[4]);
        row += s.m;
    });
    [dx, dw, da, db, dbias]
}

/// Calls `f` with each run's operands, mask, scale, adapter and shape. Where there is no adapter, A and B are zeros.
fn each_run<R: Real>(
    v: &[Vec<R>],
    keep: &[R],
    runs: &Runs,
    s: &Shape,
    mut f: impl FnMut(&[Vec<R>], &[R], f64, Option<usize>, &Shape),
) {
    let mut row = 0;
    for &(m, adapter) in &runs.runs {
        let s = Shape { m, ..*s };
        let rows = row * s.k..(row + m) * s.k;
        let factor = |stack: &[R], len: usize| match adapter {
            Some(e) => stack[e * len..][..len].to_vec(),
            None => vec![R::of(0.0); len],
        };
        let mut own = vec![
            v[0][rows.clone()].to_vec(),
            v[1].clone(),
            factor(&v[2], s.r * s.k),
            factor(&v[3], s.n * s.r),
        ];
        own.extend(v.get(4).cloned());
        f(&own, &keep[rows], adapter.map_or(0.0, |e| runs.scales[e]), adapter, &s);
        row += m;
    }
}
