//! Numbers `n * 2^e` of any length, and the rounding that IEEE 754 defines, found by bisection over the encodings of a format: slow,
//! and nothing like the code under test.

use std::cmp::Ordering;

/// `limbs * 2^exp`, limbs from the least on, with a sign.
#[derive(Clone, Debug)]
pub struct Dyadic {
    pub negative: bool,
    limbs: Vec<u32>,
    exp: i64,
}

fn trimmed(mut limbs: Vec<u32>) -> Vec<u32> {
    while limbs.last() == Some(&0) {
        limbs.pop();
    }
    limbs
}

fn shifted(limbs: &[u32], by: usize) -> Vec<u32> {
    let mut out = vec![0; by / 32];
    let mut carry = 0u64;
    for &limb in limbs {
        carry |= (limb as u64) << (by % 32);
        out.push(carry as u32);
        carry >>= 32;
    }
    out.push(carry as u32);
    trimmed(out)
}

fn ordered(a: &[u32], b: &[u32]) -> Ordering {
    a.len().cmp(&b.len()).then_with(|| a.iter().rev().cmp(b.iter().rev()))
}

impl Dyadic {
    pub fn new(negative: bool, mantissa: u128, exp: i64) -> Self {
        let limbs = (0..4).map(|i| (mantissa >> (32 * i)) as u32).collect();
        Self { negative, limbs: trimmed(limbs), exp }
    }

    pub fn integer(value: i128) -> Self {
        Self::new(value < 0, value.unsigned_abs(), 0)
    }

    pub fn is_zero(&self) -> bool {
        self.limbs.is_empty()
    }

    /// Both with the same exponent.
    fn aligned(&self, other: &Self) -> (Vec<u32>, Vec<u32>, i64) {
        let exp = self.exp.min(other.exp);
        (
            shifted(&self.limbs, (self.exp - exp) as usize),
            shifted(&other.limbs, (other.exp - exp) as usize),
            exp,
        )
    }

    /// Of the magnitudes.
    pub fn compare(&self, other: &Self) -> Ordering {
        let (a, b, _) = self.aligned(other);
        ordered(&a, &b)
    }

    pub fn times(&self, other: &Self) -> Self {
        let mut limbs = vec![0u32; self.limbs.len() + other.limbs.len() + 1];
        for (i, &a) in self.limbs.iter().enumerate() {
            let mut carry = 0u64;
            for (j, &b) in other.limbs.iter().enumerate() {
                carry += limbs[i + j] as u64 + a as u64 * b as u64;
                limbs[i + j] = carry as u32;
                carry >>= 32;
            }
            limbs[i + other.limbs.len()] = carry as u32;
        }
        Self { negative: self.negative != other.negative, limbs: trimmed(limbs), exp: self.exp + other.exp }
    }

    pub fn plus(&self, other: &Self) -> Self {
        let (a, b, exp) = self.aligned(other);
        let subtract = self.negative != other.negative;
        let (great, small, negative) = match ordered(&a, &b) {
            Ordering::Less => (b, a, other.negative),
            _ => (a, b, self.negative),
        };
        let mut carry = 0i64;
        let mut limbs = Vec::new();
        for i in 0..=great.len() {
            let (g, s) =
                (great.get(i).copied().unwrap_or(0) as i64, small.get(i).copied().unwrap_or(0) as i64);
            carry += if subtract { g - s } else { g + s };
            limbs.push(carry as u32);
            carry >>= 32;
        }
        Self { negative, limbs: trimmed(limbs), exp }
    }
}

/// A rounding mode, with its name in PTX.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Rn,
    Rz,
    Rm,
    Rp,
    Rna,
}

/// A format: bits of exponent and fraction, and whether it has infinities.
#[derive(Clone, Copy, Debug)]
pub struct Ieee {
    pub exponent: u32,
    pub fraction: u32,
    pub infinite: bool,
}

pub const F16: Ieee = Ieee { exponent: 5, fraction: 10, infinite: true };
pub const BF16: Ieee = Ieee { exponent: 8, fraction: 7, infinite: true };
pub const TF32: Ieee = Ieee { exponent: 8, fraction: 10, infinite: true };
pub const F32: Ieee = Ieee { exponent: 8, fraction: 23, infinite: true };
pub const F64: Ieee = Ieee { exponent: 11, fraction: 52, infinite: true };
pub const E4M3: Ieee = Ieee { exponent: 4, fraction: 3, infinite: false };
pub const E5M2: Ieee = Ieee { exponent: 5, fraction: 2, infinite: true };

/// A decoded number.
#[derive(Clone, Debug)]
pub enum Number {
    Nan,
    Infinity(bool),
    Finite(Dyadic),
}

impl Ieee {
    pub fn sign(&self) -> u64 {
        1 << (self.exponent + self.fraction)
    }

    /// The greatest finite magnitude.
    pub fn max(&self) -> u64 {
        match self.infinite {
            true => (((1 << self.exponent) - 1) << self.fraction) - 1,
            false => self.sign() - 2,
        }
    }

    /// What a magnitude is worth if it is finite, or would be one further.
    fn magnitude(&self, bits: u64) -> Dyadic {
        let (stored, fraction) = (bits >> self.fraction, bits & ((1 << self.fraction) - 1));
        let bias = (1i64 << (self.exponent - 1)) - 1;
        match stored {
            0 => Dyadic::new(false, fraction as u128, 1 - bias - self.fraction as i64),
            _ => {
                let mantissa = 1 << self.fraction | fraction;
                Dyadic::new(false, mantissa as u128, stored as i64 - bias - self.fraction as i64)
            }
        }
    }

    pub fn decode(&self, bits: u64) -> Number {
        let (negative, magnitude) = (bits & self.sign() != 0, bits & (self.sign() - 1));
        match magnitude {
            _ if magnitude <= self.max() => Number::Finite(Dyadic { negative, ..self.magnitude(magnitude) }),
            _ if self.infinite && magnitude == self.max() + 1 => Number::Infinity(negative),
            _ => Number::Nan,
        }
    }

    /// Rounds a number of which is known how its magnitude compares to others. `None` if it overflows to infinity.
    pub fn round(&self, mode: Mode, negative: bool, compare: impl Fn(&Dyadic) -> Ordering) -> Option<u64> {
        // The greatest encoding that is not above.
        let (mut low, mut high) = (0, self.max() + 1);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            match compare(&self.magnitude(middle)) {
                Ordering::Less => high = middle,
                _ => low = middle,
            }
        }
        let exact = compare(&self.magnitude(low)) == Ordering::Equal;
        let sum = self.magnitude(low).plus(&self.magnitude(low + 1));
        let half = Dyadic { exp: sum.exp - 1, ..sum };
        let up = match mode {
            _ if exact => false,
            Mode::Rz => false,
            Mode::Rm => negative,
            Mode::Rp => !negative,
            Mode::Rn | Mode::Rna => match compare(&half) {
                Ordering::Less => false,
                Ordering::Greater => true,
                Ordering::Equal => mode == Mode::Rna || low & 1 != 0,
            },
        };
        let magnitude = low + up as u64;
        let sign = if negative { self.sign() } else { 0 };
        (magnitude <= self.max()).then_some(magnitude | sign)
    }

    /// Rounds a number; infinity where it overflows.
    pub fn nearest(&self, mode: Mode, value: &Dyadic) -> u64 {
        let infinity = (self.max() + 1) | if value.negative { self.sign() } else { 0 };
        self.round(mode, value.negative, |other| value.compare(other)).unwrap_or(infinity)
    }

    /// The result of an operation under IEEE 754; `None` for NaN.
    pub fn operate(&self, op: &str, mode: Mode, operands: &[u64]) -> Option<u64> {
        let sign = |negative: bool| if negative { self.sign() } else { 0 };
        let infinity = |negative: bool| Some((self.max() + 1) | sign(negative));
        let numbers: Vec<Number> = operands.iter().map(|&bits| self.decode(bits)).collect();
        if numbers.iter().any(|n| matches!(n, Number::Nan)) {
            return None;
        }
        let negative = |i: usize| operands[i] & self.sign() != 0;
        let zero = |i: usize| operands[i] & !self.sign() == 0;
        let finite = |i: usize| match &numbers[i] {
            Number::Finite(value) => Some(value.clone()),
            _ => None,
        };
        let flipped = |bits: u64| bits ^ self.sign();
        // A sum of exact terms; of those without a value, an infinity.
        let sum = |a: Option<Dyadic>, a_negative: bool, b: Option<Dyadic>, b_negative: bool| match (a, b) {
            (Some(a), Some(b)) => {
                let total = a.plus(&b);
                if !total.is_zero() {
                    return Some(self.nearest(mode, &total));
                }
                let cancelled = a_negative != b_negative || !a.is_zero();
                Some(sign(if cancelled { mode == Mode::Rm } else { a_negative }))
            }
            (None, None) if a_negative != b_negative => None,
            (None, _) => infinity(a_negative),
            (_, None) => infinity(b_negative),
        };
        match op {
            "add" => sum(finite(0), negative(0), finite(1), negative(1)),
            "sub" => self.operate("add", mode, &[operands[0], flipped(operands[1])]),
            "fma" | "mul" => {
                let product_negative = negative(0) != negative(1);
                let product = match (finite(0), finite(1)) {
                    (Some(a), Some(b)) => Some(a.times(&b)),
                    _ if zero(0) || zero(1) => return None,
                    _ => None,
                };
                if op == "fma" {
                    return sum(product, product_negative, finite(2), negative(2));
                }
                product.map_or(infinity(product_negative), |p| Some(self.nearest(mode, &p)))
            }
            "rcp" => {
                let one = ((1 << (self.exponent - 1)) - 1) << self.fraction;
                self.operate("div", mode, &[one, operands[0]])
            }
            "div" => {
                let quotient_negative = negative(0) != negative(1);
                match (finite(0), finite(1)) {
                    (None, None) => None,
                    (None, _) => infinity(quotient_negative),
                    (_, None) => Some(sign(quotient_negative)),
                    (Some(a), Some(b)) if b.is_zero() => {
                        if a.is_zero() {
                            None
                        } else {
                            infinity(quotient_negative)
                        }
                    }
                    (Some(a), Some(b)) => self
                        .round(mode, quotient_negative, |v| a.compare(&v.times(&b)))
                        .or_else(|| infinity(quotient_negative)),
                }
            }
            "sqrt" => match finite(0) {
                Some(a) if a.is_zero() => Some(operands[0]),
                _ if negative(0) => None,
                Some(a) => self.round(mode, false, |v| a.compare(&v.times(v))),
                None => infinity(false),
            },
            _ => panic!("{op} is no operation"),
        }
    }
}
