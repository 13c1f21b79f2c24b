//! GELU, by the definitions.

use super::Real;

/// The standard normal distribution function: its Taylor series near 0, a continued fraction in the tails.
pub fn normal_distribution(x: f64) -> f64 {
    if x.abs() < 4.0 {
        let (mut term, mut sum) = (x, x);
        for n in 1..120 {
            term *= x * x / (2 * n + 1) as f64;
            sum += term;
        }
        return 0.5 + density(x) * sum;
    }
    let mut fraction = 0.0;
    for n in (1..120).rev() {
        fraction = n as f64 / (x.abs() + fraction);
    }
    let tail = density(x) / (x.abs() + fraction);
    if x < 0.0 { tail } else { 1.0 - tail }
}

fn density(x: f64) -> f64 {
    (-x * x / 2.0).exp() / std::f64::consts::TAU.sqrt()
}

/// x Phi(x), and its derivative.
pub fn gelu_erf<R: Real>(x: R) -> (R, R) {
    // The error function is no part of `Real`: its f64 value is rounded, as a good f32 one would be.
    let phi = R::of(normal_distribution(x.f64()));
    (x * phi, phi + x * R::of(density(x.f64())))
}

/// x (1 + tanh(a)) / 2 with a = sqrt(2 / pi) (x + 0.044715 x^3), and its derivative. (1 + tanh(a)) / 2 is written as
/// 1 / (1 + e^(-2 a)), which does not cancel.
pub fn gelu_tanh<R: Real>(x: R) -> (R, R) {
    let one = R::of(1.0);
    let slope = R::of((2.0 / std::f64::consts::PI).sqrt());
    let twice = R::of(2.0) * slope * (x + R::of(0.044715) * x * x * x);
    let (up, down) = (one / (one + (-twice).exp()), one / (one + twice.exp()));
    let inner = R::of(2.0) * slope * (one + R::of(3.0 * 0.044715) * x * x);
    (x * up, up + x * up * down * inner)
}
