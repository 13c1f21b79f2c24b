//! GELU on the CPU.

use crate::device::cpu::lanes::math::{normal, sigmoid};
use crate::device::cpu::lanes::{Lane, Lanewise, Simd, map};
use crate::ops::gelu::GeluKind;

/// 2 sqrt(2 / pi): (1 + tanh(a)) / 2 is sigmoid(2 a).
const SLOPE: f32 = 1.595_769_2;
const CUBIC: f32 = 0.044_715;

#[derive(Clone, Copy)]
struct Erf;

#[derive(Clone, Copy)]
struct Tanh;

impl Lanewise<1, 1> for Erf {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, [x]: [S::V; 1]) -> [S::V; 1] {
        [s.mul(x, normal(s, x).0)]
    }
}

impl Lanewise<2, 1> for Erf {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, [x, dy]: [S::V; 2]) -> [S::V; 1] {
        let (distribution, density) = normal(s, x);
        [s.mul(dy, s.madd(x, density, distribution))]
    }
}

impl Lanewise<1, 1> for Tanh {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, [x]: [S::V; 1]) -> [S::V; 1] {
        let cubic = s.madd(s.mul(x, x), s.splat(SLOPE * CUBIC), s.splat(SLOPE));
        [s.mul(x, sigmoid(s, s.mul(x, cubic)))]
    }
}

impl Lanewise<2, 1> for Tanh {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, [x, dy]: [S::V; 2]) -> [S::V; 1] {
        let square = s.mul(x, x);
        let cubic = s.madd(square, s.splat(SLOPE * CUBIC), s.splat(SLOPE));
        let slope = s.madd(square, s.splat(3.0 * SLOPE * CUBIC), s.splat(SLOPE));
        let sig = sigmoid(s, s.mul(x, cubic));
        // d/dx x sig(u(x)) = sig + x u' sig (1 - sig). Where x u' overflows, sig (1 - sig) is exactly 0: cut it first.
        let reach = s.min(s.splat(1e30), s.max(s.splat(-1e30), s.mul(x, slope)));
        let bend = s.mul(reach, s.mul(sig, s.sub(s.splat(1.0), sig)));
        [s.mul(dy, s.add(sig, bend))]
    }
}

/// y.
pub(super) fn forward<T: Lane>(x: &[T], kind: GeluKind) -> Vec<T> {
    let mut y = vec![T::zeroed(); x.len()];
    match kind {
        GeluKind::Erf => map(Erf, [x], [&mut y]),
        GeluKind::Tanh => map(Tanh, [x], [&mut y]),
    }
    y
}

/// dx.
pub(super) fn backward<T: Lane>(x: &[T], dy: &[T], kind: GeluKind) -> Vec<T> {
    let mut dx = vec![T::zeroed(); x.len()];
    match kind {
        GeluKind::Erf => map(Erf, [x, dy], [&mut dx]),
        GeluKind::Tanh => map(Tanh, [x, dy], [&mut dx]),
    }
    dx
}
