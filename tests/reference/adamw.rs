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
    for (((p, m), v), &g) in s.p.iter_mut().zip(&mut s.m).zip(&mut s.v).zip(g) {
        *m = r(b1) * *m + r(1.0 - b1) * g;
        *v = r(b2) * *v + r(1.0 - b2) * g * g;
        let m_hat = *m / r(1.0 - b1.powi(t));
        let v_hat = *v / r(1.0 - b2.powi(t));
        *p = *p - r(lr * decay) * *p - r(lr) * m_hat / (v_hat.sqrt() + r(eps));
    }
}
