//! 32 values at a time. What kernels convert often has loops of its own, which become vector code; the rest goes value by value.

use super::{
    Conversion,
    Kind::{Bf16, Bf16x2, F16, F16x2, F32, F64, Integer},
    Mode::{Exact, Float, Integral},
    lane::{extended, widened_nan},
};
use crate::arith::{
    Row,
    half::{Bf16 as Brain, F16 as Ieee, Half},
    round::{Rounding, canon32, flush32, saturate32},
    special::TO_INTEGER,
};

/// A function of each lane.
#[inline(always)]
fn map<T: Copy>(a: &[T; 32], out: &mut [T; 32], f: impl Fn(T) -> T) {
    for lane in 0..32 {
        out[lane] = f(a[lane]);
    }
}

/// Two narrow values from two f32, the first one above.
#[inline(always)]
fn pair<H: Half>(a: &Row, b: &Row, out: &mut Row) {
    for lane in 0..32 {
        let (high, low) = (H::narrow(f32::from_bits(a[lane])), H::narrow(f32::from_bits(b[lane])));
        out[lane] = (high as u32) << 16 | low as u32;
    }
}

/// A function of each f32, flushed and rounded to an integer. The rounding is chosen outside the loop.
#[inline(always)]
fn map_integral(a: &Row, out: &mut Row, ftz: bool, round: Rounding, f: impl Fn(f32) -> u32) {
    let flush = |bits: u32| if ftz { flush32(f32::from_bits(bits)) } else { f32::from_bits(bits) };
    match round {
        Rounding::Rn => map(a, out, |v| f(integral32(flush(v), Rounding::Rn))),
        Rounding::Rz => map(a, out, |v| f(integral32(flush(v), Rounding::Rz))),
        Rounding::Rm => map(a, out, |v| f(integral32(flush(v), Rounding::Rm))),
        Rounding::Rp => map(a, out, |v| f(integral32(flush(v), Rounding::Rp))),
    }
}

/// The low bits of 32, extended to 32.
#[inline(always)]
fn extended32(bits: u32, width: u32, signed: bool) -> u32 {
    let spare = 32 - width;
    if signed { ((bits << spare) as i32 >> spare) as u32 } else { bits << spare >> spare }
}

/// The integer that rounding leads to, with the sign of the operand.
#[inline(always)]
fn integral32(value: f32, round: Rounding) -> f32 {
    // From here on every number is an integer; below, the adder rounds to one.
    const INTEGERS: f32 = (1 << 23) as f32;
    let magnitude = value.abs();
    let near = if magnitude < INTEGERS { (magnitude + INTEGERS) - INTEGERS } else { magnitude };
    let near = near.copysign(value);
    let whole = match round {
        Rounding::Rn => near,
        Rounding::Rz => near - if near.abs() > magnitude { 1f32.copysign(value) } else { 0.0 },
        Rounding::Rm => near - if near > value { 1.0 } else { 0.0 },
        Rounding::Rp => near + if near < value { 1.0 } else { 0.0 },
    };
    whole.copysign(value)
}

impl Conversion {
    /// Converts rows of registers of 32 bits and says so, or leaves it to [`Self::run`]: then `out` is as it was. A result narrower
    /// than 32 bits is extended, by its sign if it is a signed integer.
    #[inline(always)]
    pub fn fast32(self, a: &Row, b: &Row, out: &mut Row) -> bool {
        let Self { ftz, sat, .. } = self;
        let flush = |bits: u32| if ftz { flush32(f32::from_bits(bits)) } else { f32::from_bits(bits) };
        if self.relu || self.satfinite {
            return false;
        }
        match (self.to, self.from, self.mode) {
            (F16x2, F32, Float(Rounding::Rn)) => pair::<Ieee>(a, b, out),
            (Bf16x2, F32, Float(Rounding::Rn)) => pair::<Brain>(a, b, out),
            (F16, F32, Float(Rounding::Rn)) if !sat => map(a, out, |v| Ieee::narrow(flush(v)) as u32),
            (Bf16, F32, Float(Rounding::Rn)) => map(a, out, |v| Brain::narrow(flush(v)) as u32),
            (F32, F16, _) if !sat => map(a, out, |v| Ieee::widen(v as u16).to_bits()),
            (F32, Bf16, _) if !sat && !ftz => map(a, out, |v| Brain::widen(v as u16).to_bits()),
            (F32, Integer { bits: bits @ ..=32, signed: true }, Float(Rounding::Rn)) if !sat => {
                map(a, out, |v| (extended32(v, bits, true) as i32 as f32).to_bits());
            }
            (F32, Integer { bits: bits @ ..=32, signed: false }, Float(Rounding::Rn)) if !sat => {
                map(a, out, |v| (extended32(v, bits, false) as f32).to_bits());
            }
            (F32, F32, Integral(round)) if sat => {
                map_integral(a, out, ftz, round, |v| saturate32(v).to_bits());
            }
            (F32, F32, Integral(round)) => map_integral(a, out, ftz, round, |v| canon32(v).to_bits()),
            (F32, F32, _) if sat => map(a, out, |v| saturate32(flush(v)).to_bits()),
            (F32, F32, _) => map(a, out, |v| canon32(flush(v)).to_bits()),
            (Integer { bits: bits @ ..=32, signed }, F32, Integral(round)) => {
                let most = ((1u64 << (bits - signed as u32)) - 1) as f64;
                let least = if signed { -1.0 - most } else { 0.0 };
                // Saturating casts would be scalar code.
                map_integral(a, out, ftz, round, |v| {
                    let v = if v.is_nan() { 0.0 } else { v as f64 };
                    let v = if v > least { v } else { least };
                    let v = if v < most { v } else { most };
                    (v + TO_INTEGER).to_bits() as u32
                });
            }
            (
                Integer { bits: bits @ ..=32, signed },
                Integer { bits: from @ ..=32, signed: from_signed },
                Exact,
            ) if !sat => {
                map(a, out, |v| extended32(extended32(v, from, from_signed), bits, signed));
            }
            _ => return false,
        }
        true
    }

    /// Converts 32 values: [`Self::apply`] for each.
    pub fn run(self, sources: [&[u64; 32]; 2], out: &mut [u64; 32]) {
        let [a, b] = sources;
        let Self { ftz, sat, .. } = self;
        let flush =
            |bits: u64| if ftz { flush32(f32::from_bits(bits as u32)) } else { f32::from_bits(bits as u32) };
        let single =
            |value: f32| (if ftz { flush32(canon32(value)) } else { canon32(value) }).to_bits() as u64;
        match (self.to, self.from, self.mode) {
            (Integer { bits, signed }, Integer { bits: from, signed: from_signed }, _) if !sat => {
                map(a, out, |v| extended(extended(v, from, from_signed), bits, signed));
            }
            (F32, F64, Float(Rounding::Rn)) if !sat => map(a, out, |v| single(f64::from_bits(v) as f32)),
            (F64, F32, Exact) if !sat => map(a, out, |v| {
                let value = flush(v);
                if value.is_nan() { widened_nan(v, F32) } else { (value as f64).to_bits() }
            }),
            (F64, Integer { bits, signed: true }, Float(Rounding::Rn)) if !sat => {
                map(a, out, |v| (extended(v, bits, true) as i64 as f64).to_bits());
            }
            (F64, Integer { bits, signed: false }, Float(Rounding::Rn)) if !sat => {
                map(a, out, |v| (extended(v, bits, false) as f64).to_bits());
            }
            (F32, Integer { bits, signed: true }, Float(Rounding::Rn)) if !sat => {
                map(a, out, |v| (extended(v, bits, true) as i64 as f32).to_bits() as u64);
            }
            (F32, Integer { bits, signed: false }, Float(Rounding::Rn)) if !sat => {
                map(a, out, |v| (extended(v, bits, false) as f32).to_bits() as u64);
            }
            (Integer { bits, signed }, from @ (F32 | F64), Integral(Rounding::Rz)) => map(a, out, |v| {
                let value = if from == F64 { f64::from_bits(v) } else { flush(v) as f64 };
                let whole = match (bits, signed) {
                    (64, false) => value as u64,
                    (64, true) => value as i64 as u64,
                    (_, false) => (value as i64).clamp(0, (1 << bits) - 1) as u64,
                    (_, true) => (value as i64).clamp(-1 << (bits - 1), (1 << (bits - 1)) - 1) as u64,
                };
                let nan = if from == F64 || bits == 64 { extended(1 << (bits - 1), bits, signed) } else { 0 };
                if value.is_nan() { nan } else { whole }
            }),
            _ => {
                for lane in 0..32 {
                    out[lane] = self.apply(a[lane], b[lane]);
                }
            }
        }
    }
}
