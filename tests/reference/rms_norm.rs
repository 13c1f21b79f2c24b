//! RMSNorm, by the definition.

use super::Real;

/// y of groups of `weight.len()` elements.
pub fn rms_norm<R: Real>(x: &[R], weight: &[R], eps: f64) -> Vec<R> {
    let scaled = |row: &[R]| -> Vec<R> {
        let r = scale(row, eps);
        row.iter().zip(weight).map(|(&x, &w)| x * r * w).collect()
    };
    x.chunks(weight.len()).flat_map(scaled).collect()
}

fn scale<R: Real>(row: &[R], eps: f64) -> R {
    let squares: R = row.iter().map(|&x| x * x).sum();
    R::of(1.0) / (squares / R::of(row.len() as f64) + R::of(eps)).sqrt()
}

/// Gradients of x and weight.
pub fn rms_norm_backward<R: Real>(x: &[R], weight: &[R], dy: &[R], eps: f64) -> [Vec<R>; 2] {
    let d = weight.len();
    let mut dx = Vec::new();
    let mut dweight = vec![R::of(0.0); d];
    for (x, dy) in x.chunks(d).zip(dy.chunks(d)) {
        let r = scale(x, eps);
        let dot: R = (0..d).map(|i| dy[i] * weight[i] * x[i]).sum();
        for i in 0..d {
            dx.push(r * dy[i] * weight[i] - r * r * r * x[i] * dot / R::of(d as f64));
            dweight[i] += dy[i] * x[i] * r;
        }
    }
    [dx, dweight]
}
