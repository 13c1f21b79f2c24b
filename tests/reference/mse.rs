//! Mean squared error.

use super::Real;

/// The loss, and the gradient of a for a gradient 1 of it.
pub fn mse<R: Real>(a: &[R], b: &[R], denominator: f64) -> (R, Vec<R>) {
    let of = R::of(denominator);
    let mut sum = R::of(0.0);
    let mut da = Vec::with_capacity(a.len());
    for (&a, &b) in a.iter().zip(b) {
        sum += (a - b) * (a - b);
        da.push(R::of(2.0) * (a - b) / of);
    }
    (sum / of, da)
}
