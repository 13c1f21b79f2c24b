//! Exact values of floating-point numbers, and rounding them to a format: arithmetic in integers, for what hardware does not round
//! the way it is asked to. Not for inner loops.

use super::round::Rounding;

/// A binary floating-point format, sign bit on top.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// Bits of the fraction.
    pub fraction: u32,
    /// What is added to an exponent.
    pub bias: i32,
    /// Bits in all.
    pub bits: u32,
    /// The encoding of the greatest finite number.
    pub max: u64,
    /// The NaN that arithmetic returns.
    pub nan: u64,
}

impl Format {
    /// IEEE binary16. NVIDIA's NaN is all ones.
    pub const F16: Self = Self { fraction: 10, bias: 15, bits: 16, max: 0x7bff, nan: 0x7fff };
    /// The upper half of binary32.
    pub const BF16: Self = Self { fraction: 7, bias: 127, bits: 16, max: 0x7f7f, nan: 0x7fff };
    /// Ten bits of fraction with the exponent of binary32, in 19 bits.
    pub const TF32: Self = Self { fraction: 10, bias: 127, bits: 19, max: 0x3fbff, nan: 0x3ffff };
    /// IEEE binary32.
    pub const F32: Self = Self { fraction: 23, bias: 127, bits: 32, max: 0x7f7f_ffff, nan: 0x7fff_ffff };
    /// IEEE binary64, with the NaN that CUDA's headers call `CUDART_NAN`.
    pub const F64: Self =
        Self { fraction: 52, bias: 1023, bits: 64, max: 0x7fef_ffff_ffff_ffff, nan: 0xfff8_0000_0000_0000 };
    /// OCP FP8 E4M3: no infinity, and NaN only when all bits below the sign are ones.
    pub const E4M3: Self = Self { fraction: 3, bias: 7, bits: 8, max: 0x7e, nan: 0x7f };
    /// OCP FP8 E5M2.
    pub const E5M2: Self = Self { fraction: 2, bias: 15, bits: 8, max: 0x7b, nan: 0x7f };

    /// The bit of the sign.
    pub const fn sign(&self) -> u64 {
        1 << (self.bits - 1)
    }

    /// Whether there is an infinity; its encoding follows that of the greatest finite number.
    pub const fn has_infinity(&self) -> bool {
        self.max + 1 != self.nan
    }
}

/// What a number is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// Not a number.
    Nan,
    /// Infinite.
    Infinity {
        /// Whether below zero.
        negative: bool,
    },
    /// `mantissa * 2^exponent`. Where an operation could not keep every bit, the lowest one is set and stands for the rest, far
    /// below any bit that rounding looks at.
    Finite {
        /// The sign, of zeros too.
        negative: bool,
        /// The mantissa, below 2^127.
        mantissa: u128,
        /// The exponent.
        exponent: i32,
    },
}

use Value::{Finite, Infinity, Nan};

/// Shifts right; what falls off is remembered in the lowest bit.
fn jam(mantissa: u128, by: u32) -> u128 {
    match by {
        0 => mantissa,
        1..128 => mantissa >> by | (mantissa << (128 - by) != 0) as u128,
        _ => (mantissa != 0) as u128,
    }
}

/// Whether a rounding mode other than to nearest goes away from zero.
fn outwards(round: Rounding, negative: bool) -> bool {
    match round {
        Rounding::Rn | Rounding::Rz => false,
        Rounding::Rm => negative,
        Rounding::Rp => !negative,
    }
}

/// Whether a magnitude is rounded up, by its last bit and the two below: a half, and whether there is more.
fn round_up(round: Rounding, negative: bool, odd: bool, rest: u32) -> bool {
    match round {
        Rounding::Rn => rest > 2 || rest == 2 && odd,
        _ => rest != 0 && outwards(round, negative),
    }
}

/// The same number with bit 125 of the mantissa on top. Not for zero.
fn normal(mantissa: u128, exponent: i32) -> (u128, i32) {
    let up = mantissa.leading_zeros() as i32 - 2;
    if up >= 0 { (mantissa << up, exponent - up) } else { (jam(mantissa, -up as u32), exponent - up) }
}

impl Value {
    /// The value of an encoding.
    pub fn unpack(bits: u64, format: &Format) -> Self {
        let negative = bits & format.sign() != 0;
        let magnitude = bits & (format.sign() - 1);
        if magnitude > format.max {
            let infinite = format.has_infinity() && magnitude == format.max + 1;
            return if infinite { Infinity { negative } } else { Nan };
        }
        let stored = (magnitude >> format.fraction) as i32;
        let fraction = magnitude & ((1 << format.fraction) - 1);
        let hidden = ((stored != 0) as u64) << format.fraction;
        let exponent = stored.max(1) - format.bias - format.fraction as i32;
        Finite { negative, mantissa: (hidden | fraction) as u128, exponent }
    }

    /// The value of an f32.
    pub fn of32(value: f32) -> Self {
        Self::unpack(value.to_bits() as u64, &Format::F32)
    }

    /// The value of an f64.
    pub fn of64(value: f64) -> Self {
        Self::unpack(value.to_bits(), &Format::F64)
    }

    /// The value of an integer.
    pub fn integer(value: i128) -> Self {
        Finite { negative: value < 0, mantissa: value.unsigned_abs(), exponent: 0 }
    }

    /// The encoding of the number of the format that rounding leads to. What is too great becomes infinity, or the greatest finite
    /// number where the rounding goes towards zero, where the format has no infinity, or where `saturate` says so (then an infinity
    /// does too).
    pub fn pack(self, format: &Format, round: Rounding, saturate: bool) -> u64 {
        let signed =
            |negative: bool, magnitude: u64| if negative { format.sign() | magnitude } else { magnitude };
        let beyond = |negative: bool, inwards: bool| {
            let finite = saturate || inwards || !format.has_infinity();
            signed(negative, if finite { format.max } else { format.max + 1 })
        };
        let (negative, mantissa, exponent) = match self {
            Nan => return format.nan,
            Infinity { negative } => return beyond(negative, false),
            Finite { negative, mantissa: 0, .. } => return signed(negative, 0),
            Finite { negative, mantissa, exponent } => (negative, mantissa, exponent),
        };
        let top = exponent + 127 - mantissa.leading_zeros() as i32;
        let least = 1 - format.bias;
        // The exponent of the last bit that the format keeps.
        let last = top.max(least) - format.fraction as i32;
        let shift = last - exponent;
        let kept = if shift <= 0 {
            // Every bit is kept, and there are at most 53 of them.
            (mantissa << -shift) as u64
        } else {
            // Two more bits below: a half, and whether there is more.
            let guarded = if shift >= 2 { jam(mantissa, shift as u32 - 2) } else { mantissa << 1 };
            let kept = (guarded >> 2) as u64;
            kept + round_up(round, negative, kept & 1 != 0, (guarded & 3) as u32) as u64
        };
        // The hidden bit adds one to the exponent; so does a carry out of the fraction.
        let magnitude = ((top.max(least) - least) as u128) << format.fraction;
        let magnitude = magnitude + kept as u128;
        if magnitude > format.max as u128 {
            return beyond(negative, round != Rounding::Rn && !outwards(round, negative));
        }
        signed(negative, magnitude as u64)
    }

    /// The integer that rounding leads to; a zero keeps the sign.
    pub fn integral(self, round: Rounding) -> Self {
        match self {
            Finite { negative, mantissa, exponent: exponent @ ..0 } => {
                let guarded = jam(mantissa << 2, exponent.unsigned_abs());
                let (whole, rest) = (guarded >> 2, guarded & 3);
                let mantissa = whole + round_up(round, negative, whole & 1 != 0, rest as u32) as u128;
                Finite { negative, mantissa, exponent: 0 }
            }
            _ => self,
        }
    }

    /// The product, exactly, of mantissas of at most 64 bits.
    pub fn times(self, other: Self) -> Self {
        match (self, other) {
            (Nan, _) | (_, Nan) => Nan,
            (Infinity { .. }, Finite { mantissa: 0, .. }) | (Finite { mantissa: 0, .. }, Infinity { .. }) => {
                Nan
            }
            (
                Finite { negative, mantissa, exponent },
                Finite { negative: other_negative, mantissa: other_mantissa, exponent: other_exponent },
            ) => Finite {
                negative: negative != other_negative,
                mantissa: mantissa * other_mantissa,
                exponent: exponent + other_exponent,
            },
            _ => Infinity { negative: self.negative() != other.negative() },
        }
    }

    /// The sum of mantissas of at most 106 bits. The rounding decides the sign of a zero that two numbers cancel to.
    pub fn plus(self, other: Self, round: Rounding) -> Self {
        let (a, b) = match (self, other) {
            (Nan, _) | (_, Nan) => return Nan,
            (Infinity { negative: a }, Infinity { negative: b }) => return if a == b { self } else { Nan },
            (Infinity { .. }, _) => return self,
            (_, Infinity { .. }) => return other,
            (Finite { mantissa: 0, .. }, Finite { mantissa: 0, .. }) => {
                let negative = match self.negative() == other.negative() {
                    true => self.negative(),
                    false => round == Rounding::Rm,
                };
                return Finite { negative, mantissa: 0, exponent: 0 };
            }
            (Finite { mantissa: 0, .. }, _) => return other,
            (_, Finite { mantissa: 0, .. }) => return self,
            (
                Finite { negative: a_negative, mantissa: a, exponent: a_exponent },
                Finite { negative: b_negative, mantissa: b, exponent: b_exponent },
            ) => {
                let (a, a_exponent) = normal(a, a_exponent);
                let (b, b_exponent) = normal(b, b_exponent);
                ((a_negative, a, a_exponent), (b_negative, b, b_exponent))
            }
        };
        // Below the 106 bits lie 20 zeros: a shift that could cancel more than a bit loses nothing.
        let (great, small) = if (a.2, a.1) >= (b.2, b.1) { (a, b) } else { (b, a) };
        let shifted = jam(small.1, (great.2 - small.2) as u32);
        let mantissa = if great.0 == small.0 { great.1 + shifted } else { great.1 - shifted };
        let negative = if mantissa == 0 { round == Rounding::Rm } else { great.0 };
        Finite { negative, mantissa, exponent: great.2 }
    }

    /// The quotient of mantissas of at most 53 bits, to 72 bits or more.
    pub fn over(self, other: Self) -> Self {
        let negative = self.negative() != other.negative();
        match (self, other) {
            (Nan, _) | (_, Nan) | (Infinity { .. }, Infinity { .. }) => Nan,
            (Finite { mantissa: 0, .. }, Finite { mantissa: 0, .. }) => Nan,
            (Infinity { .. }, _) | (_, Finite { mantissa: 0, .. }) => Infinity { negative },
            (_, Infinity { .. }) | (Finite { mantissa: 0, .. }, _) => {
                Finite { negative, mantissa: 0, exponent: 0 }
            }
            (
                Finite { mantissa, exponent, .. },
                Finite { mantissa: divisor, exponent: divisor_exponent, .. },
            ) => {
                let (mantissa, exponent) = normal(mantissa, exponent);
                let rest = (mantissa % divisor != 0) as u128;
                Finite {
                    negative,
                    mantissa: (mantissa / divisor) | rest,
                    exponent: exponent - divisor_exponent,
                }
            }
        }
    }

    /// The square root, to 62 bits.
    pub fn root(self) -> Self {
        match self {
            Infinity { negative: false } | Finite { mantissa: 0, .. } => self,
            Finite { negative: false, mantissa, exponent } => {
                let (mut mantissa, mut exponent) = normal(mantissa, exponent);
                if exponent & 1 != 0 {
                    (mantissa, exponent) = (mantissa << 1, exponent - 1);
                }
                let root = mantissa.isqrt();
                let rest = (root * root != mantissa) as u128;
                Finite { negative: false, mantissa: root | rest, exponent: exponent / 2 }
            }
            _ => Nan,
        }
    }

    /// The value with the other sign.
    pub fn negated(self) -> Self {
        match self {
            Nan => Nan,
            Infinity { negative } => Infinity { negative: !negative },
            Finite { negative, mantissa, exponent } => Finite { negative: !negative, mantissa, exponent },
        }
    }

    /// Whether its sign says less than zero.
    pub fn negative(self) -> bool {
        match self {
            Nan => false,
            Infinity { negative } | Finite { negative, .. } => negative,
        }
    }
}
