//! Functions of one float that vectorise, and rows of them.

use half::bf16;

use crate::device::cpu::simd::mul_add;
use crate::tensor::Element;

/// e^x within 2 units in the last place. Results below the smallest normal number are 0; x above 88.37 counts as 88.37 (no
/// infinity comes out); NaN stays NaN.
#[inline(always)]
pub fn exp<const FMA: bool>(x: f32) -> f32 {
    const LOWEST: f32 = -87.336_54;
    const HIGHEST: f32 = 88.37;
    // Adding 1.5 * 2^23 leaves the nearest integer in the low bits of the mantissa.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts; the first has few enough bits that n * LN2_HIGH is exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = if x > HIGHEST { HIGHEST } else { x };
    let shifted = mul_add::<FMA>(x, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = mul_add::<FMA>(n, -LN2_LOW, mul_add::<FMA>(n, -LN2_HIGH, x));
    // Minimax polynomial of (e^r - 1 - r) / r^2 on [-ln2 / 2, ln2 / 2] (Cephes, expf).
    let mut p = 1.987_569_2e-4;
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = mul_add::<FMA>(p, r, c);
    }
    let p = mul_add::<FMA>(p * r, r, r) + 1.0;
    let power = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    if x < LOWEST { 0.0 } else { p * power }
}

/// Independent partial results in a reduction over a row: as many as the widest vector holds, twice.
const LANES: usize = 32;

#[inline(always)]
fn max_body<const FMA: bool>(row: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = row.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(m, &x)| *m = if x > *m { x } else { *m });
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |m, &x| if x > m { x } else { m })
}

crate::multiversion! {
    /// The largest element; NaN is passed over. Negative infinity for an empty row.
    pub fn max(row: &[f32]) -> f32 = max_body
}

#[inline(always)]
fn exp_sum_body<const FMA: bool>(row: &mut [f32], shift: f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let mut chunks = row.chunks_exact_mut(LANES);
    for chunk in &mut chunks {
        for (sum, x) in lanes.iter_mut().zip(chunk) {
            *x = exp::<FMA>(*x - shift);
            *sum += *x;
        }
    }
    for (sum, x) in lanes.iter_mut().zip(chunks.into_remainder()) {
        *x = exp::<FMA>(*x - shift);
        *sum += *x;
    }
    lanes.iter().sum()
}

crate::multiversion! {
    /// Replaces each x by e^(x - shift); returns the sum of the new values, always in the same order.
    pub fn exp_sum(row: &mut [f32], shift: f32) -> f32 = exp_sum_body
}

#[inline(always)]
fn scale_body<const FMA: bool>(row: &mut [f32], factor: f32) {
    row.iter_mut().for_each(|x| *x *= factor);
}

crate::multiversion! {
    /// Multiplies each element by `factor`.
    pub fn scale(row: &mut [f32], factor: f32) = scale_body
}

#[inline(always)]
fn widen_body<const FMA: bool>(x: &[bf16], out: &mut [f32]) {
    out.iter_mut().zip(x).for_each(|(o, x)| *o = Element::to_f32(*x));
}

crate::multiversion! {
    /// bf16 to f32, exactly.
    pub fn widen(x: &[bf16], out: &mut [f32]) = widen_body
}

#[inline(always)]
fn narrow_body<const FMA: bool>(x: &[f32], out: &mut [bf16]) {
    out.iter_mut().zip(x).for_each(|(o, x)| *o = Element::from_f32(*x));
}

crate::multiversion! {
    /// f32 to bf16, rounded to nearest, ties to even.
    pub fn narrow(x: &[f32], out: &mut [bf16]) = narrow_body
}

#[inline(always)]
fn sum_of_squares_body<const FMA: bool>(x: &[f32]) -> f64 {
    let mut lanes = [0.0f64; LANES];
    let chunks = x.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(sum, &x)| *sum += f64::from(x) * f64::from(x));
    }
    lanes.iter_mut().zip(rest).for_each(|(sum, &x)| *sum += f64::from(x) * f64::from(x));
    lanes.iter().sum()
}

crate::multiversion! {
    /// The sum of the squares, in f64, always in the same order.
    pub fn sum_of_squares(x: &[f32]) -> f64 = sum_of_squares_body
}
