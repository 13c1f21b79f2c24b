//! AdamW from its paper (algorithm 2, decoupled decay), in the given precision.

use super::Real;

pub struct State<R> {
    pub p: Vec<R>,
    pub m: Vec<R>,
    pub v: Vec<R>,
}

/// Step number `t` (from 1).
pub fn step<R: Real>(s: &mut State<R>, g: &[R], t: i32, lr: f64, decay: f64, (b1, b2): (f64, f64), eps: f64) {
    let r = R::of;
    for i in 0..g.len() {
        s.m[i] = r(b1) * s.m[i] + r(1.0 - b1) * g[i];
        s.v[i] = r(b2) * s.v[i] + r(1.0 - b2) * g[i] * g[i];
        let m_hat = s.m[i] / r(1.0 - b1.powi(t));
        let v_hat = s.v[i] / r(1.0 - b2.powi(t));
        s.p[i] = s.p[i] - r(lr * decay) * s.p[i] - r(lr) * m_hat / (v_hat.sqrt() + r(eps));
    }
}
