//! f32 and f64: NaNs, flushing, minima and maxima, and every rounding mode.
//!
//! What runs in inner loops is made of selections, so that a loop over 32 lanes becomes vector code.
//!
//! **NaNs.** The ISA says that single-precision instructions return an unspecified NaN, and that double-precision ones support
//! payloads. GPUs return 0x7fffffff for every f32 NaN (CUDA's headers call it `CUDART_NAN_F`). For f64, an operand's NaN passes
//! through, quiet; where several are, the first one does here. A NaN out of numbers is 0xfff8000000000000 (`CUDART_NAN`).

use super::exact::{Format, Value};
use crate::machine::op::DirectedOp;

/// How to round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// To nearest, ties to even.
    Rn,
    /// Towards zero.
    Rz,
    /// Towards minus infinity.
    Rm,
    /// Towards plus infinity.
    Rp,
}

/// The NaN of f32 arithmetic.
pub const NAN32: f32 = f32::from_bits(0x7fff_ffff);

/// The NaN of f64 arithmetic on numbers.
pub const NAN64: f64 = f64::from_bits(0xfff8_0000_0000_0000);

/// The value, or [`NAN32`] for any NaN.
///
/// A selection of integers: to LLVM one NaN of arithmetic is as good as another, and it drops a selection between two.
#[inline(always)]
pub fn canon32(value: f32) -> f32 {
    let bits = value.to_bits();
    f32::from_bits(if bits & 0x7fff_ffff > 0x7f80_0000 { NAN32.to_bits() } else { bits })
}

/// A result, or the NaN for it: the first NaN of the operands, quiet, else [`NAN64`].
#[inline(always)]
pub fn canon64<const N: usize>(value: f64, operands: [f64; N]) -> f64 {
    let is_nan = |bits: u64| bits & (u64::MAX >> 1) > 0x7ff << 52;
    let mut nan = NAN64.to_bits();
    for operand in operands.into_iter().rev().map(f64::to_bits) {
        nan = if is_nan(operand) { operand | 1 << 51 } else { nan };
    }
    f64::from_bits(if is_nan(value.to_bits()) { nan } else { value.to_bits() })
}

/// The value; a zero of its sign for a subnormal one (`.ftz`).
#[inline(always)]
pub fn flush32(value: f32) -> f32 {
    let bits = value.to_bits();
    f32::from_bits(if bits & 0x7f80_0000 == 0 { bits & 0x8000_0000 } else { bits })
}

/// The value; a zero of its sign for a subnormal one.
#[inline(always)]
pub fn flush64(value: f64) -> f64 {
    let bits = value.to_bits();
    f64::from_bits(if bits & (0x7ff << 52) == 0 { bits & 1 << 63 } else { bits })
}

/// The value clamped to 0 to 1; +0 for NaN and for -0 (`.sat`).
#[inline(always)]
pub fn saturate32(value: f32) -> f32 {
    let low = if value > 0.0 { value } else { 0.0 };
    if low > 1.0 { 1.0 } else { low }
}

/// The value clamped to 0 to 1; +0 for NaN and for -0 (`.sat`).
#[inline(always)]
pub fn saturate64(value: f64) -> f64 {
    let low = if value > 0.0 { value } else { 0.0 };
    if low > 1.0 { 1.0 } else { low }
}

/// The lesser number: -0 is less than +0, a number wins over NaN.
#[inline(always)]
pub fn min32(a: f32, b: f32) -> f32 {
    let first = (a < b) | ((a == b) & a.is_sign_negative()) | b.is_nan();
    canon32(if first { a } else { b })
}

/// The greater number: +0 is greater than -0, a number wins over NaN.
#[inline(always)]
pub fn max32(a: f32, b: f32) -> f32 {
    let first = (a > b) | ((a == b) & b.is_sign_negative()) | b.is_nan();
    canon32(if first { a } else { b })
}

/// [`min32`], but NaN if either is (`.NaN`).
#[inline(always)]
pub fn min_nan32(a: f32, b: f32) -> f32 {
    canon32(if a.is_nan() | b.is_nan() { NAN32 } else { min32(a, b) })
}

/// [`max32`], but NaN if either is (`.NaN`).
#[inline(always)]
pub fn max_nan32(a: f32, b: f32) -> f32 {
    canon32(if a.is_nan() | b.is_nan() { NAN32 } else { max32(a, b) })
}

/// A magnitude with the sign of the product of `a` and `b`; NaN has none.
#[inline(always)]
fn xorsign32(magnitude: f32, a: f32, b: f32) -> f32 {
    let sign = (a.to_bits() ^ b.to_bits()) & 0x8000_0000;
    canon32(f32::from_bits(magnitude.to_bits() | sign))
}

/// The lesser magnitude with the product's sign (`.xorsign.abs`).
#[inline(always)]
pub fn min_xorsign_abs32(a: f32, b: f32) -> f32 {
    xorsign32(min32(a.abs(), b.abs()), a, b)
}

/// The greater magnitude with the product's sign (`.xorsign.abs`).
#[inline(always)]
pub fn max_xorsign_abs32(a: f32, b: f32) -> f32 {
    xorsign32(max32(a.abs(), b.abs()), a, b)
}

/// [`min_xorsign_abs32`], but NaN if either is (`.NaN.xorsign.abs`).
#[inline(always)]
pub fn min_nan_xorsign_abs32(a: f32, b: f32) -> f32 {
    xorsign32(min_nan32(a.abs(), b.abs()), a, b)
}

/// [`max_xorsign_abs32`], but NaN if either is (`.NaN.xorsign.abs`).
#[inline(always)]
pub fn max_nan_xorsign_abs32(a: f32, b: f32) -> f32 {
    xorsign32(max_nan32(a.abs(), b.abs()), a, b)
}

/// The lesser number: -0 is less than +0, a number wins over NaN.
#[inline(always)]
pub fn min64(a: f64, b: f64) -> f64 {
    let first = (a < b) | ((a == b) & a.is_sign_negative()) | b.is_nan();
    canon64(if first { a } else { b }, [a, b])
}

/// The greater number: +0 is greater than -0, a number wins over NaN.
#[inline(always)]
pub fn max64(a: f64, b: f64) -> f64 {
    let first = (a > b) | ((a == b) & b.is_sign_negative()) | b.is_nan();
    canon64(if first { a } else { b }, [a, b])
}

/// `b` with the sign of `a`: PTX names the sign's source first.
#[inline(always)]
pub fn copysign32(a: f32, b: f32) -> f32 {
    b.copysign(a)
}

/// `b` with the sign of `a`: PTX names the sign's source first.
#[inline(always)]
pub fn copysign64(a: f64, b: f64) -> f64 {
    b.copysign(a)
}

impl DirectedOp {
    /// How many operands it takes.
    fn operands(self) -> usize {
        match self {
            Self::Sqrt | Self::Rcp => 1,
            Self::Add | Self::Sub | Self::Mul | Self::Div => 2,
            Self::Fma => 3,
        }
    }
}

/// The result before it is rounded to a format.
fn exact(op: DirectedOp, round: Rounding, a: Value, b: Value, c: Value) -> Value {
    match op {
        DirectedOp::Add => a.plus(b, round),
        DirectedOp::Sub => a.plus(b.negated(), round),
        DirectedOp::Mul => a.times(b),
        DirectedOp::Fma => a.times(b).plus(c, round),
        DirectedOp::Div => a.over(b),
        DirectedOp::Sqrt => a.root(),
        DirectedOp::Rcp => Value::integer(1).over(a),
    }
}

/// An instruction on f32 with a rounding mode, flushing (`ftz`) and saturation (`sat`). Operands that the operation does not take
/// are ignored. A result is flushed when it is subnormal after rounding.
pub fn directed32(op: DirectedOp, round: Rounding, ftz: bool, sat: bool, a: f32, b: f32, c: f32) -> f32 {
    let flush = |value: f32| if ftz { flush32(value) } else { value };
    let (a, b, c) = (flush(a), flush(b), flush(c));
    let value = match (round, op) {
        // What the processor rounds like this anyway.
        (Rounding::Rn, DirectedOp::Add) => a + b,
        (Rounding::Rn, DirectedOp::Sub) => a - b,
        (Rounding::Rn, DirectedOp::Mul) => a * b,
        (Rounding::Rn, DirectedOp::Fma) => a.mul_add(b, c),
        (Rounding::Rn, DirectedOp::Div) => a / b,
        (Rounding::Rn, DirectedOp::Sqrt) => a.sqrt(),
        (Rounding::Rn, DirectedOp::Rcp) => 1.0 / a,
        _ => {
            let value = exact(op, round, Value::of32(a), Value::of32(b), Value::of32(c));
            f32::from_bits(value.pack(&Format::F32, round, false) as u32)
        }
    };
    let value = flush(value);
    if sat { saturate32(value) } else { canon32(value) }
}

/// An instruction on f64 with a rounding mode. Operands that the operation does not take are ignored.
pub fn directed64(op: DirectedOp, round: Rounding, a: f64, b: f64, c: f64) -> f64 {
    let value = exact(op, round, Value::of64(a), Value::of64(b), Value::of64(c));
    let value = f64::from_bits(value.pack(&Format::F64, round, false));
    match op.operands() {
        1 => canon64(value, [a]),
        2 => canon64(value, [a, b]),
        _ => canon64(value, [a, b, c]),
    }
}
