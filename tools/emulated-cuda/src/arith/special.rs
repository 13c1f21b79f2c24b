//! The approximate functions: exponential, logarithm, reciprocals, roots, sine, cosine, hyperbolic tangent, quotients.
//!
//! The ISA bounds their errors and names their results for special operands; GPUs differ in the last bits within these bounds. Here
//! they are computed in f64 by polynomials and rounded to the format once, so that they are nearly always correctly rounded, and the
//! same on every machine: nothing but `+ - * /`, square roots and bit operations, no call of a system's library, and no branch, so
//! that a loop over 32 lanes becomes vector code.

use super::round::{NAN32, canon32, canon64, flush32, flush64};
use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_PI, FRAC_PI_2, LN_2, LOG2_E};

/// Added and subtracted, rounds an f64 of less than 2^51 to an integer, which the low bits then hold in two's complement.
pub const TO_INTEGER: f64 = 1.5 / f64::EPSILON;

/// An operand or result as `.ftz` sees it.
#[inline(always)]
fn flushed(value: f32, ftz: bool) -> f32 {
    if ftz { flush32(value) } else { value }
}

/// `c[0] + c[1] x + c[2] x^2 + ...`
#[inline(always)]
fn polynomial<const N: usize>(x: f64, c: &[f64; N]) -> f64 {
    let mut sum = c[N - 1];
    for k in (0..N - 1).rev() {
        sum = sum * x + c[k];
    }
    sum
}

/// Coefficients of `(2^r - 1) / r`: `ln 2^(k + 1) / (k + 1)!`. For |r| <= 1/2 what is left out is below 2^-42.
const EXP2: [f64; 10] = {
    let mut c = [LN_2; 10];
    let mut k = 1;
    while k < c.len() {
        c[k] = c[k - 1] * LN_2 / (k + 1) as f64;
        k += 1;
    }
    c
};

/// `2^x` as `s + s q`, with s a power of two: q keeps what 1 would swallow of a small x.
#[inline(always)]
fn exp2_parts(x: f64) -> (f64, f64) {
    // Beyond these, f32 has zero and infinity.
    let x = if x > 200.0 { 200.0 } else { x };
    let x = if x < -200.0 { -200.0 } else { x };
    let shifted = x + TO_INTEGER;
    let r = x - (shifted - TO_INTEGER);
    let scale = f64::from_bits((shifted.to_bits() << 52).wrapping_add(1023 << 52));
    (scale, r * polynomial(r, &EXP2))
}

/// `2^x` for what f32 can hold; NaN for NaN.
#[inline(always)]
pub fn exp2(x: f64) -> f64 {
    let (scale, q) = exp2_parts(x);
    scale + scale * q
}

/// `ex2.approx.f32`: `2^a`, documented to be within 2 ulp.
#[inline(always)]
pub fn ex2_approx(a: f32, ftz: bool) -> f32 {
    flushed(canon32(exp2(flushed(a, ftz) as f64) as f32), ftz)
}

/// The hyperbolic tangent, `t / (t + 2)` with `t = e^(2 x) - 1`.
#[inline(always)]
pub fn tanh(x: f64) -> f64 {
    let (scale, q) = exp2_parts(2.0 * LOG2_E * x);
    let t = scale * q + (scale - 1.0);
    // The sum above loses the sign of a zero.
    (t / (t + 2.0)).copysign(x)
}

/// `tanh.approx.f32`: documented to be within a relative 2^-11; subnormal operands pass through.
#[inline(always)]
pub fn tanh_approx(a: f32) -> f32 {
    canon32(tanh(a as f64) as f32)
}

/// Coefficients of `2 atanh(s) / (s ln 2)` in s^2. For |s| <= 0.172 what is left out is below 2^-44.
const LOG2: [f64; 9] = {
    let mut c = [0.0; 9];
    let mut k = 0;
    while k < c.len() {
        c[k] = 2.0 * LOG2_E / (2 * k + 1) as f64;
        k += 1;
    }
    c
};

/// `lg2.approx.f32`: the logarithm to base 2, documented to be within 2^-22 on (1/2, 2) and a relative 2^-22 elsewhere.
#[inline(always)]
pub fn lg2_approx(a: f32, ftz: bool) -> f32 {
    let a = flushed(a, ftz);
    let bits = (a as f64).to_bits() as i64;
    // a = 2^k m with m from sqrt(1/2) to sqrt(2), and log2 m = 2 atanh((m - 1) / (m + 1)) / ln 2.
    let k = bits.wrapping_sub(FRAC_1_SQRT_2.to_bits() as i64) >> 52;
    let m = f64::from_bits(bits.wrapping_sub(k << 52) as u64);
    let s = (m - 1.0) / (m + 1.0);
    let log = (k as i32 as f64 + s * polynomial(s * s, &LOG2)) as f32;
    let log = if a == f32::INFINITY { a } else { log };
    let log = if a == 0.0 { f32::NEG_INFINITY } else { log };
    canon32(if a >= 0.0 { log } else { NAN32 })
}

/// Coefficients of `sin(pi/2 r) / r` in r^2. For |r| <= 1/2 what is left out is below 2^-44.
const SIN: [f64; 8] = sine(FRAC_PI_2, 1);

/// Coefficients of `cos(pi/2 r)` in r^2, likewise.
const COS: [f64; 8] = sine(1.0, 0);

/// The coefficients from the first and its power on: each is the one before, times `-(pi/2)^2 / (n (n + 1))`.
const fn sine(first: f64, power: usize) -> [f64; 8] {
    let mut c = [first; 8];
    let mut k = 1;
    while k < 8 {
        let n = (2 * k + power - 1) as f64;
        c[k] = -c[k - 1] * FRAC_PI_2 * FRAC_PI_2 / (n * (n + 1.0));
        k += 1;
    }
    c
}

/// The sine of an angle and of so many quarter turns more.
///
/// From 2^51 quarter turns on, where f64 tells no angles apart (and the ISA promises nothing from 100 pi on), a whole turn is taken.
#[inline(always)]
fn sine_from(a: f32, quarters: u64) -> f32 {
    let turns = a as f64 * FRAC_2_PI;
    let turns = if turns.abs() < 1.0 / f64::EPSILON / 2.0 { turns } else { 0.0 };
    let shifted = turns + TO_INTEGER;
    let r = turns - (shifted - TO_INTEGER);
    let quadrant = shifted.to_bits().wrapping_add(quarters);
    let (odd, even) = (polynomial(r * r, &COS), r * polynomial(r * r, &SIN));
    let value = if quadrant & 1 != 0 { odd } else { even } as f32;
    let value = if quadrant & 2 != 0 { -value } else { value };
    canon32(if a.abs() < f32::INFINITY { value } else { NAN32 })
}

/// `sin.approx.f32`: documented to be within 2^-20.5 up to 2 pi and within 2^-14.7 up to 100 pi.
#[inline(always)]
pub fn sin_approx(a: f32, ftz: bool) -> f32 {
    flushed(sine_from(flushed(a, ftz), 0), ftz)
}

/// `cos.approx.f32`: documented to be within 2^-20.5 up to 2 pi and within 2^-14.7 up to 100 pi.
#[inline(always)]
pub fn cos_approx(a: f32, ftz: bool) -> f32 {
    flushed(sine_from(flushed(a, ftz), 1), ftz)
}

/// `rcp.approx.f32`: documented to be within 1 ulp.
#[inline(always)]
pub fn rcp_approx(a: f32, ftz: bool) -> f32 {
    flushed(canon32(1.0 / flushed(a, ftz)), ftz)
}

/// `sqrt.approx.f32`: documented to be within a relative 2^-23.
#[inline(always)]
pub fn sqrt_approx(a: f32, ftz: bool) -> f32 {
    canon32(flushed(a, ftz).sqrt())
}

/// `rsqrt.approx.f32`: documented to be within a relative 2^-22.9.
#[inline(always)]
pub fn rsqrt_approx(a: f32, ftz: bool) -> f32 {
    canon32((1.0 / (flushed(a, ftz) as f64).sqrt()) as f32)
}

/// `div.approx.f32`: `a * (1 / b)`, documented to be within 2 ulp for |b| from 2^-126 to 2^126. For a greater |b| the reciprocal is
/// zero, so that the quotient is a zero of its sign, and NaN for an infinite `a`.
#[inline(always)]
pub fn div_approx(a: f32, b: f32, ftz: bool) -> f32 {
    let reciprocal = flush32(1.0 / flushed(b, ftz));
    flushed(canon32(flushed(a, ftz) * reciprocal), ftz)
}

/// `div.full.f32`: documented to be within 2 ulp over the full range.
#[inline(always)]
pub fn div_full(a: f32, b: f32, ftz: bool) -> f32 {
    flushed(canon32(flushed(a, ftz) / flushed(b, ftz)), ftz)
}

/// The upper half of an f64, as the gross approximations see it, with subnormals flushed.
#[inline(always)]
fn upper(a: f64) -> f64 {
    flush64(f64::from_bits(a.to_bits() & !0xffff_ffff))
}

/// A result of the gross approximations: rounded to 20 bits of fraction and flushed, and their own NaN.
#[inline(always)]
fn gross(value: f64) -> f64 {
    let rounded = f64::from_bits(value.to_bits().wrapping_add(1 << 31) & !0xffff_ffff);
    f64::from_bits(if value.is_nan() { 0x7fff_ffff_0000_0000 } else { flush64(rounded).to_bits() })
}

/// `rcp.approx.ftz.f64`: a gross approximation from the upper half of the operand; the lower half of the result is zero.
#[inline(always)]
pub fn rcp_approx64(a: f64) -> f64 {
    gross(1.0 / upper(a))
}

/// `rsqrt.approx.ftz.f64`: a gross approximation from the upper half of the operand; the lower half of the result is zero.
#[inline(always)]
pub fn rsqrt_approx_ftz64(a: f64) -> f64 {
    gross(1.0 / upper(a).sqrt())
}

/// `rsqrt.approx.f64`
#[inline(always)]
pub fn rsqrt_approx64(a: f64) -> f64 {
    canon64(1.0 / a.sqrt(), [a])
}
