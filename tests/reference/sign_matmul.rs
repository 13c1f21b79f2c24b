//! A linear layer with a 1-bit delta, by the definition.

use super::Real;
use super::matmul::{linear, linear_backward, product, transposed};

/// m, k and n.
pub type Shape = (usize, usize, usize);

/// a S, from signs `[n, k]` and one scale or n.
pub fn scaled<R: Real>(signs: &[R], scale: &[R], k: usize) -> Vec<R> {
    signs
        .iter()
        .enumerate()
        .map(|(i, &sign)| scale[if scale.len() == 1 { 0 } else { i / k }] * sign)
        .collect()
}

/// x W^T + a (x S^T) + bias.
pub fn sign_linear<R: Real>(
    x: &[R],
    w: &[R],
    signs: &[R],
    scale: &[R],
    bias: Option<&[R]>,
    (m, k, n): Shape,
) -> Vec<R> {
    let mut y = linear(x, w, bias, m, k, n);
    let delta = product(x, &transposed(signs, n, k), m, k, n);
    for (i, (y, delta)) in y.iter_mut().zip(delta).enumerate() {
        *y += scale[if scale.len() == 1 { 0 } else { i % n }] * delta;
    }
    y
}

/// Gradients of x, w, the scale and the bias.
pub fn sign_linear_backward<R: Real>(
    x: &[R],
    w: &[R],
    signs: &[R],
    scale: &[R],
    dy: &[R],
    (m, k, n): Shape,
) -> [Vec<R>; 4] {
    let [mut dx, dw, dbias] = linear_backward(x, w, dy, m, k, n);
    for (dx, delta) in dx.iter_mut().zip(product(dy, &scaled(signs, scale, k), m, n, k)) {
        *dx += delta;
    }
    let delta = product(x, &transposed(signs, n, k), m, k, n);
    let mut da = vec![R::of(0.0); scale.len()];
    for (i, (&dy, delta)) in dy.iter().zip(delta).enumerate() {
        da[if scale.len() == 1 { 0 } else { i % n }] += dy * delta;
    }
    [dx, dw, da, dbias]
}
