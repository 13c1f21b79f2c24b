//! LayerNorm, by the definition.

use super::Real;

fn moments<R: Real>(row: &[R], eps: f64) -> (R, R) {
    let n = R::of(row.len() as f64);
    let mean = row.iter().copied().sum::<R>() / n;
    let var = row.iter().map(|&x| (x - mean) * (x - mean)).sum::<R>() / n;
    (mean, R::of(1.0) / (var + R::of(eps)).sqrt())
}

/// y of rows of `weight.len()` elements.
pub fn layer_norm<R: Real>(x: &[R], weight: &[R], bias: &[R], eps: f64) -> Vec<R> {
    let normed = |row: &[R]| -> Vec<R> {
        let (mean, r) = moments(row, eps);
        (0..row.len()).map(|i| (row[i] - mean) * r * weight[i] + bias[i]).collect()
    };
    x.chunks(weight.len()).flat_map(normed).collect()
}

/// Gradients of x, weight and bias.
pub fn layer_norm_backward<R: Real>(x: &[R], weight: &[R], dy: &[R], eps: f64) -> [Vec<R>; 3] {
    let d = weight.len();
    let n = R::of(d as f64);
    let mut dx = Vec::new();
    let (mut dweight, mut dbias) = (vec![R::of(0.0); d], vec![R::of(0.0); d]);
    for (x, dy) in x.chunks(d).zip(dy.chunks(d)) {
        let (mean, r) = moments(x, eps);
        let normed: Vec<R> = x.iter().map(|&x| (x - mean) * r).collect();
        let g: Vec<R> = dy.iter().zip(weight).map(|(&dy, &w)| dy * w).collect();
        let mean_g = g.iter().copied().sum::<R>() / n;
        let mean_gn = g.iter().zip(&normed).map(|(&g, &x)| g * x).sum::<R>() / n;
        for i in 0..d {
            dx.push(r * (g[i] - mean_g - normed[i] * mean_gn));
            dweight[i] += dy[i] * normed[i];
            dbias[i] += dy[i];
        }
    }
    [dx, dweight, dbias]
}
