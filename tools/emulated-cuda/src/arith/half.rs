//! f16 and bf16, alone and in pairs: widening, narrowing and arithmetic that rounds once.
//!
//! - The formats widen to f32 exactly. A sum or difference computed in f32 and narrowed is rounded as if once: f32 has twice the bits
//!   and two more (24 >= 2 * 11 + 2), and what is subnormal in the narrow format is exact in f32. A product is exact in f32, save
//!   for those of bf16 that lie below half of its least number and become zero either way.
//! - A fused multiply-add has no such margin (the tiny addend of a great product may break a tie). It is computed in f64 rounded to
//!   odd, which keeps every later rounding right (Boldo and Melquiond, 2008).
//!
//! Every NaN that arithmetic returns is 0x7fff.

use super::round::{NAN32, canon32, max_nan32, max32, min_nan32, min32, saturate32};

/// A format of 16 bits.
pub trait Half {
    /// To f32, exactly; any NaN becomes f32's canonical one.
    fn widen(bits: u16) -> f32;
    /// From f32, to nearest even; any NaN becomes 0x7fff.
    fn narrow(value: f32) -> u16;
    /// The value; a zero of its sign for a subnormal one.
    fn flush(bits: u16) -> u16;
}

/// IEEE binary16.
#[derive(Clone, Copy, Debug)]
pub struct F16;

/// The upper half of binary32.
#[derive(Clone, Copy, Debug)]
pub struct Bf16;

impl Half for F16 {
    #[inline(always)]
    fn widen(bits: u16) -> f32 {
        let magnitude = bits as u32 & 0x7fff;
        // Normal: the exponent's bias grows by 112. Subnormal: an integer of 2^-24.
        let normal = f32::from_bits((magnitude << 13) + (112 << 23));
        let subnormal = magnitude as i32 as f32 * (1.0 / (1 << 24) as f32);
        let finite = if magnitude < 0x400 { subnormal } else { normal };
        let value = if magnitude < 0x7c00 { finite } else { f32::INFINITY };
        let signed = value.to_bits() | (bits as u32 & 0x8000) << 16;
        f32::from_bits(if magnitude > 0x7c00 { NAN32.to_bits() } else { signed })
    }

    #[inline(always)]
    fn narrow(value: f32) -> u16 {
        let sign = value.to_bits() >> 16 & 0x8000;
        let magnitude = value.to_bits() & 0x7fff_ffff;
        // Rounds to nearest even at bit 13, then takes the difference of the biases off.
        let normal = (magnitude + 0xfff + (magnitude >> 13 & 1)).wrapping_sub(112 << 23) >> 13;
        // In f32, the last bit of numbers from 1/2 on is worth as much as the last bit of subnormals in f16: the adder rounds.
        let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0.5f32.to_bits());
        let finite = if magnitude < 113 << 23 { subnormal } else { normal };
        let finite = if magnitude < 0x4780_0000 { finite } else { 0x7c00 };
        (if magnitude > 0x7f80_0000 { 0x7fff } else { finite | sign }) as u16
    }

    #[inline(always)]
    fn flush(bits: u16) -> u16 {
        if bits & 0x7c00 == 0 { bits & 0x8000 } else { bits }
    }
}

impl Half for Bf16 {
    #[inline(always)]
    fn widen(bits: u16) -> f32 {
        canon32(f32::from_bits((bits as u32) << 16))
    }

    #[inline(always)]
    fn narrow(value: f32) -> u16 {
        let bits = value.to_bits();
        let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
        (if value.is_nan() { 0x7fff } else { rounded }) as u16
    }

    #[inline(always)]
    fn flush(bits: u16) -> u16 {
        if bits & 0x7f80 == 0 { bits & 0x8000 } else { bits }
    }
}

/// f16 to f32, exactly; any NaN becomes f32's canonical one.
#[inline(always)]
pub fn f16_to_f32(bits: u16) -> f32 {
    F16::widen(bits)
}

/// f32 to f16, to nearest even; any NaN becomes 0x7fff.
#[inline(always)]
pub fn f32_to_f16(value: f32) -> u16 {
    F16::narrow(value)
}

/// bf16 to f32, exactly; any NaN becomes f32's canonical one.
#[inline(always)]
pub fn bf16_to_f32(bits: u16) -> f32 {
    Bf16::widen(bits)
}

/// f32 to bf16, to nearest even; any NaN becomes 0x7fff.
#[inline(always)]
pub fn f32_to_bf16(value: f32) -> u16 {
    Bf16::narrow(value)
}

/// f64 to f32 rounded to odd: the nearest number, but of the two neighbours of what lies between, the one whose last bit is set. Any
/// rounding of the result to a format with two bits less is as if it came straight from the f64.
#[inline(always)]
pub fn odd32(value: f64) -> f32 {
    let near = value as f32;
    let back = near as f64;
    let bits = near.to_bits();
    // The other neighbour's encoding is one more where the magnitude grew less than it should have.
    let other = if back.abs() < value.abs() { bits.wrapping_add(1) } else { bits.wrapping_sub(1) };
    let step = (back != value) & (bits & 1 == 0) & !value.is_nan();
    f32::from_bits(if step { other } else { bits })
}

/// `a * b + c` in f64 rounded to odd, for operands whose product is exact in f64.
#[inline(always)]
fn fused_odd(a: f64, b: f64, c: f64) -> f64 {
    let product = a * b;
    let sum = product + c;
    // What rounding lost, exactly (Knuth's two-sum).
    let part = sum - product;
    let lost = (product - (sum - part)) + (c - part);
    let bits = sum.to_bits();
    let grows = (lost > 0.0) == (sum > 0.0);
    let other = if grows { bits.wrapping_add(1) } else { bits.wrapping_sub(1) };
    // Infinities and NaNs lose NaN, which is no reason for a step.
    let step = ((lost > 0.0) | (lost < 0.0)) & (bits & 1 == 0);
    f64::from_bits(if step { other } else { bits })
}

/// f64 to a format of 16 bits, to nearest even, rounded once.
#[inline(always)]
pub fn narrow64<H: Half>(value: f64) -> u16 {
    H::narrow(odd32(value))
}

/// `a + b`
#[inline(always)]
pub fn add<H: Half>(a: u16, b: u16) -> u16 {
    H::narrow(H::widen(a) + H::widen(b))
}

/// `a - b`
#[inline(always)]
pub fn sub<H: Half>(a: u16, b: u16) -> u16 {
    H::narrow(H::widen(a) - H::widen(b))
}

/// `a * b`
#[inline(always)]
pub fn mul<H: Half>(a: u16, b: u16) -> u16 {
    H::narrow(H::widen(a) * H::widen(b))
}

/// `a * b + c`, rounded once
#[inline(always)]
pub fn fma<H: Half>(a: u16, b: u16, c: u16) -> u16 {
    narrow64::<H>(fused_odd(H::widen(a) as f64, H::widen(b) as f64, H::widen(c) as f64))
}

/// Any NaN as 0x7fff, everything else as it is.
#[inline(always)]
fn canon<H: Half>(bits: u16) -> u16 {
    if H::widen(bits).is_nan() { 0x7fff } else { bits }
}

/// The value with the other sign.
#[inline(always)]
pub fn neg<H: Half>(a: u16) -> u16 {
    canon::<H>(a ^ 0x8000)
}

/// The magnitude.
#[inline(always)]
pub fn abs<H: Half>(a: u16) -> u16 {
    canon::<H>(a & 0x7fff)
}

/// The value clamped to 0 to 1; +0 for NaN (`.sat`).
#[inline(always)]
pub fn sat<H: Half>(a: u16) -> u16 {
    H::narrow(saturate32(H::widen(a)))
}

/// +0 for whatever has a sign, which no NaN of arithmetic has (`.relu`).
#[inline(always)]
pub fn relu(a: u16) -> u16 {
    if a & 0x8000 != 0 { 0 } else { a }
}

macro_rules! extremes {
    ($($name:ident $by:ident $doc:literal, $xorsign:ident $xorsign_doc:literal)+) => {$(
        #[doc = $doc]
        #[inline(always)]
        pub fn $name<H: Half>(a: u16, b: u16) -> u16 {
            H::narrow($by(H::widen(a), H::widen(b)))
        }

        #[doc = $xorsign_doc]
        #[inline(always)]
        pub fn $xorsign<H: Half>(a: u16, b: u16) -> u16 {
            canon::<H>($name::<H>(a & 0x7fff, b & 0x7fff) | (a ^ b) & 0x8000)
        }
    )+};
}
extremes! {
    min min32 "The lesser number: -0 is less than +0, a number wins over NaN.",
    min_xorsign_abs "The lesser magnitude with the product's sign (`.xorsign.abs`)."
    max max32 "The greater number: +0 is greater than -0, a number wins over NaN.",
    max_xorsign_abs "The greater magnitude with the product's sign (`.xorsign.abs`)."
    min_nan min_nan32 "[`min`], but NaN if either is (`.NaN`).",
    min_nan_xorsign_abs "[`min_xorsign_abs`], but NaN if either is (`.NaN.xorsign.abs`)."
    max_nan max_nan32 "[`max`], but NaN if either is (`.NaN`).",
    max_nan_xorsign_abs "[`max_xorsign_abs`], but NaN if either is (`.NaN.xorsign.abs`)."
}

/// `2^a`
#[inline(always)]
pub fn ex2<H: Half>(a: u16) -> u16 {
    narrow64::<H>(super::special::exp2(H::widen(a) as f64))
}

/// The hyperbolic tangent.
#[inline(always)]
pub fn tanh<H: Half>(a: u16) -> u16 {
    narrow64::<H>(super::special::tanh(H::widen(a) as f64))
}

/// An expression on the halves of registers, once for the lower and once for the upper ones: `halves!(a, b => add(a, b))`.
///
/// No function that takes a closure: that would leave it to the compiler whether the loop around is one of vector code or of calls.
macro_rules! halves {
    ($($register:ident),+ => $half:expr) => {{
        let low: u16 = { $(let $register = $register as u16;)+ $half };
        let high: u16 = { $(let $register = ($register >> 16) as u16;)+ $half };
        low as u32 | (high as u32) << 16
    }};
}
pub(crate) use halves;
