//! SwiGLU, by the definition.

use super::Real;

fn sigmoid<R: Real>(x: R) -> R {
    R::of(1.0) / (R::of(1.0) + (-x).exp())
}

/// silu(gate) up.
pub fn swiglu<R: Real>(gate: &[R], up: &[R]) -> Vec<R> {
    gate.iter().zip(up).map(|(&g, &u)| g * sigmoid(g) * u).collect()
}

/// Gradients of gate and up.
pub fn swiglu_backward<R: Real>(gate: &[R], up: &[R], dy: &[R]) -> [Vec<R>; 2] {
    let one = R::of(1.0);
    let slope = |g: R| sigmoid(g) * (one + g * (one - sigmoid(g)));
    let dgate = (0..gate.len()).map(|i| dy[i] * up[i] * slope(gate[i])).collect();
    let dup = (0..gate.len()).map(|i| dy[i] * gate[i] * sigmoid(gate[i])).collect();
    [dgate, dup]
}
