//! One value at a time, exactly.

use super::{
    Conversion,
    Kind::{self, F32, F64, Integer, Tf32},
    Mode::{Away, Exact, Float, Integral},
};
use crate::arith::{
    exact::{Format, Value},
    round::{Rounding, flush32},
};

impl Conversion {
    /// Converts the source, or both: the first one goes to the upper half. Of a source, the bits of its type count. The result is
    /// extended to 64 bits, by its sign if it is a signed integer.
    pub fn apply(self, a: u64, b: u64) -> u64 {
        let bits = self.to.bits() / 2;
        match (self.to.is_pair(), self.from.is_pair()) {
            (true, true) => {
                let from = self.from.bits() / 2;
                self.one(a >> from) << bits | self.one(a)
            }
            (true, false) => self.one(a) << bits | self.one(b),
            _ => self.one(a),
        }
    }

    /// Converts a value, or one of a pair.
    fn one(self, bits: u64) -> u64 {
        let from = match self.from {
            Integer { bits: width, signed } => {
                let value = extended(bits, width, signed);
                let value = if signed { value as i64 as i128 } else { value as i128 };
                return match self.to {
                    Integer { bits: width, signed } => {
                        let value = if self.sat { clamped(value, width, signed) } else { value };
                        extended(value as u64, width, signed)
                    }
                    _ => self.rounded(Value::integer(value)),
                };
            }
            from => from,
        };
        let format = from.format().unwrap_or(&Format::F32);
        let bits = bits & (format.sign() | (format.sign() - 1));
        let bits = if self.ftz && from == F32 { flushed(bits) } else { bits };
        let value = match (Value::unpack(bits, format), self.mode) {
            (value, Integral(round)) => value.integral(round),
            (value, _) => value,
        };
        match self.to {
            Integer { bits, signed } => integer(value, bits, signed, from == F64),
            F64 if value == Value::Nan && !self.sat => widened_nan(bits, from),
            _ => self.rounded(value),
        }
    }

    /// The encoding of a floating-point result.
    fn rounded(self, value: Value) -> u64 {
        let format = self.to.format().unwrap_or(&Format::F32);
        let bits = match self.mode {
            Float(round) => value.pack(format, round, self.satfinite),
            Away => away(value, format, self.satfinite),
            Exact | Integral(_) => value.pack(format, Rounding::Rn, self.satfinite),
        };
        let bits = if self.ftz && self.to == F32 { flushed(bits) } else { bits };
        let nan = bits & (format.sign() - 1) == format.nan & (format.sign() - 1);
        let negative = bits & format.sign() != 0;
        let one = (format.bias as u64) << format.fraction;
        let bits = match () {
            _ if self.sat && (nan || negative) || self.relu && negative && !nan => 0,
            _ if self.sat => bits.min(one),
            _ => bits,
        };
        // tf32 fills the upper bits of its register. What its NaN has below is as f32's.
        match self.to {
            Tf32 if nan => Format::F32.nan,
            Tf32 => bits << 13,
            _ => bits,
        }
    }
}

/// The low bits, extended to 64.
pub(super) fn extended(bits: u64, width: u32, signed: bool) -> u64 {
    let spare = 64 - width;
    if signed { ((bits << spare) as i64 >> spare) as u64 } else { bits << spare >> spare }
}

/// Least and greatest value of an integer type.
fn range(width: u32, signed: bool) -> (i128, i128) {
    if signed { (-(1 << (width - 1)), (1 << (width - 1)) - 1) } else { (0, (1 << width) - 1) }
}

fn clamped(value: i128, width: u32, signed: bool) -> i128 {
    let (least, most) = range(width, signed);
    value.clamp(least, most)
}

/// f32 bits with subnormals as zeros.
fn flushed(bits: u64) -> u64 {
    flush32(f32::from_bits(bits as u32)).to_bits() as u64
}

/// An integral value as an integer, clamped. NaN becomes zero, but 2^(width - 1) when the source is f64 or the target has 64 bits.
fn integer(value: Value, width: u32, signed: bool, double: bool) -> u64 {
    let (least, most) = range(width, signed);
    let number = match value {
        Value::Nan if double || width == 64 => 1 << (width - 1),
        Value::Nan => 0,
        Value::Infinity { negative } => {
            if negative {
                least
            } else {
                most
            }
        }
        Value::Finite { negative, mantissa, exponent } => {
            // Up to 53 bits: beyond an exponent of 64 nothing is in range.
            let magnitude = (mantissa << exponent.clamp(0, 70)) as i128;
            if negative { -magnitude } else { magnitude }.clamp(least, most)
        }
    };
    extended(number as u64, width, signed)
}

/// To nearest, ties away from zero: as if there were a bit more, which is too little to tip anything but a tie.
fn away(value: Value, format: &Format, saturate: bool) -> u64 {
    let more = match value {
        Value::Finite { negative, mantissa: mantissa @ 1.., exponent } => {
            Value::Finite { negative, mantissa: mantissa << 32 | 1, exponent: exponent - 32 }
        }
        other => other,
    };
    more.pack(format, Rounding::Rn, saturate)
}

/// The f64 NaN that a NaN passes as: quiet, with sign and payload. One of 16 bits goes through f32, which has but one.
pub(super) fn widened_nan(bits: u64, from: Kind) -> u64 {
    let quiet = 0x7ff8 << 48;
    match from {
        F64 => bits | quiet,
        F32 => bits >> 31 << 63 | quiet | (bits & 0x7f_ffff) << 29,
        _ => 0x7fff_ffff_e000_0000,
    }
}
