//! SwiGLU on the CPU.

use crate::device::cpu::lanes::math::sigmoid;
use crate::device::cpu::lanes::{Lane, Lanewise, Simd, map};

#[derive(Clone, Copy)]
struct Forward;

impl Lanewise<2, 1> for Forward {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, [gate, up]: [S::V; 2]) -> [S::V; 1] {
        [s.mul(s.mul(gate, sigmoid(s, gate)), up)]
    }
}

#[derive(Clone, Copy)]
struct Backward;

impl Lanewise<3, 2> for Backward {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, [gate, up, dy]: [S::V; 3]) -> [S::V; 2] {
        let one = s.splat(1.0);
        let sig = sigmoid(s, gate);
        let slope = s.mul(sig, s.madd(gate, s.sub(one, sig), one));
        [s.mul(s.mul(dy, up), slope), s.mul(dy, s.mul(gate, sig))]
    }
}

/// y.
pub(super) fn forward<T: Lane>(gate: &[T], up: &[T]) -> Vec<T> {
    let mut y = vec![T::zeroed(); gate.len()];
    map(Forward, [gate, up], [&mut y]);
    y
}

/// dgate and dup.
pub(super) fn backward<T: Lane>(gate: &[T], up: &[T], dy: &[T]) -> (Vec<T>, Vec<T>) {
    let mut dgate = vec![T::zeroed(); gate.len()];
    let mut dup = vec![T::zeroed(); gate.len()];
    map(Backward, [gate, up, dy], [&mut dgate, &mut dup]);
    (dgate, dup)
}
