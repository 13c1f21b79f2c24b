//! Linear layers, by the definition.

use super::Real;

/// a b; a: `[m, k]`, b: `[k, n]`, row-major.
pub fn product<R: Real>(a: &[R], b: &[R], m: usize, k: usize, n: usize) -> Vec<R> {
    let mut y = vec![R::of(0.0); m * n];
    for i in 0..m {
        for l in 0..k {
            for j in 0..n {
                y[i * n + j] += a[i * k + l] * b[l * n + j];
            }
        }
    }
    y
}

/// The transposed of a `[m, n]`.
pub fn transposed<R: Real>(a: &[R], m: usize, n: usize) -> Vec<R> {
    (0..m * n).map(|i| a[i % m * n + i / m]).collect()
}

/// x W^T + bias; x: `[m, k]`, w: `[n, k]`.
pub fn linear<R: Real>(x: &[R], w: &[R], bias: Option<&[R]>, m: usize, k: usize, n: usize) -> Vec<R> {
    let mut y = product(x, &transposed(w, n, k), m, k, n);
    if let Some(bias) = bias {
        y.iter_mut().enumerate().for_each(|(i, y)| *y += bias[i % n]);
    }
    y
}

/// Gradients of x, w and bias.
pub fn linear_backward<R: Real>(x: &[R], w: &[R], dy: &[R], m: usize, k: usize, n: usize) -> [Vec<R>; 3] {
    let dx = product(dy, w, m, n, k);
    let dw = product(&transposed(dy, m, n), x, n, m, k);
    let db = (0..n).map(|j| (0..m).map(|i| dy[i * n + j]).sum()).collect();
    [dx, dw, db]
}

/// The sum of the absolute values of what [`product`] adds up: what its rounding error is measured by.
pub fn product_magnitude(a: &[f64], b: &[f64], m: usize, k: usize, n: usize) -> Vec<f64> {
    let abs = |x: &[f64]| -> Vec<f64> { x.iter().map(|x| x.abs()).collect() };
    product(&abs(a), &abs(b), m, k, n)
}
