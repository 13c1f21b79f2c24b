//! `mma`: D = A B + C by the 32 lanes of a warp.
//!
//! # Layouts
//!
//! Seen as 32-bit words, every shape but that of f64 has one layout, whatever the words hold. With g = lane / 4 and
//! t = lane % 4:
//! - A: register 0 is word t of row g, register 1 that of row g + 8; registers 2 and 3 the same 4 words further along k;
//! - B: register 0 is word t of column g, register 1 the word 4 further along k;
//! - C and D: registers 0 and 1 are columns 2t and 2t + 1 of row g, registers 2 and 3 those of row g + 8; f16 has both
//!   columns in one register.
//!
//! Shapes with 8 rows have no registers for row g + 8.
//!
//! # Numerics
//!
//! Hardware documents neither order nor rounding. Measurements of an A100 (Fasi, Higham, Mikaitis, Pranesh: Numerical
//! behavior of NVIDIA tensor cores, 2021) say: products are exact; 8 of them (4 of tf32) and the accumulator are aligned
//! to the greatest, cut off below the last place of its f32, added and cut off. What is done here is of the same kind, the
//! same on every processor, and no less accurate:
//! - f16, bf16, tf32: the sum begins with C and takes in one exact product after the other, in order of k, each time
//!   rounded to the nearest f32: `sum = fma(a[k], b[k], sum)`. The error is at most k 2^-24 (|C| + sum of |a b|), to first
//!   order. Subnormals count. A partial sum that overflows is infinite.
//! - f16 accumulators: the same in f32, rounded to f16 once, at the end.
//! - tf32: the low 13 bits of A and B are not looked at.
//! - f64: the same chain in f64.
//! - integers: exact; the result wraps around, or is clamped with `.satfinite`. Single bits: exact, wrapping around.
//! - any NaN is the canonical one: 0x7fff, 0x7fffffff, 0xfff8000000000000.

mod exact;
mod level;
mod number;
mod parse;
mod product;

pub use level::Level;

use super::Row;
use level::Set;
use number::{Bf16, F16, Integer, Number, Tf32, canonical, f32_to_f16};
use product::{Lanes, Sums, multiply};

/// A shape of `mma` with its types. See [the module](self) for layouts and numerics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mma {
    kind: Kind,
    /// Rows of A.
    m: u8,
    /// Columns of A.
    k: u16,
    /// `.satfinite`
    saturate: bool,
}

/// Types of the matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Bf16,
    /// `narrow`: f16 accumulators.
    F16 {
        narrow: bool,
    },
    Tf32,
    F64,
    /// Whether A and B are signed.
    Int8 {
        signed: [bool; 2],
    },
    Int4 {
        signed: [bool; 2],
    },
    /// `.and.popc` instead of `.xor.popc`.
    Bits {
        and: bool,
    },
}

impl Mma {
    /// The operation that the modifiers after `mma` mean, as in `sync aligned m16n8k16 row col f32 bf16 bf16 f32`.
    ///
    /// # Errors
    /// What is unknown, or which device has it instead.
    pub fn parse(modifiers: &[&str]) -> Result<Self, String> {
        parse::parse(modifiers)
    }

    /// Registers of D, A, B and C: 64-bit ones if [`Self::wide`].
    pub fn registers(self) -> [u8; 4] {
        let rows = self.m / 8;
        let c = match self.kind {
            Kind::F16 { narrow: true } => rows,
            _ => 2 * rows,
        };
        let b = match self.kind {
            Kind::F64 => 1,
            _ => (usize::from(self.k) / self.numbers_in_a_word() / 4) as u8,
        };
        [c, rows * b, b, c]
    }

    fn numbers_in_a_word(self) -> usize {
        match self.kind {
            Kind::Bf16 | Kind::F16 { .. } => 2,
            Kind::Tf32 | Kind::F64 => 1,
            Kind::Int8 { .. } => 4,
            Kind::Int4 { .. } => 8,
            Kind::Bits { .. } => 32,
        }
    }

    /// Whether its registers have 64 bits.
    pub fn wide(self) -> bool {
        self.kind == Kind::F64
    }

    /// Shape and type of A and B, under which it is counted. f16 accumulators are told apart (`.f16acc`), since some devices
    /// run them at twice the rate; signs and saturation are not.
    pub fn name(self) -> &'static str {
        match (self.kind, self.m, self.k) {
            (Kind::Bf16, _, 8) => "m16n8k8.bf16",
            (Kind::Bf16, ..) => "m16n8k16.bf16",
            (Kind::F16 { narrow: false }, _, 8) => "m16n8k8.f16",
            (Kind::F16 { narrow: false }, ..) => "m16n8k16.f16",
            (Kind::F16 { narrow: true }, _, 8) => "m16n8k8.f16acc",
            (Kind::F16 { narrow: true }, ..) => "m16n8k16.f16acc",
            (Kind::Tf32, _, 4) => "m16n8k4.tf32",
            (Kind::Tf32, ..) => "m16n8k8.tf32",
            (Kind::F64, ..) => "m8n8k4.f64",
            (Kind::Int8 { .. }, 8, _) => "m8n8k16.int8",
            (Kind::Int8 { .. }, _, 16) => "m16n8k16.int8",
            (Kind::Int8 { .. }, ..) => "m16n8k32.int8",
            (Kind::Int4 { .. }, 8, _) => "m8n8k32.int4",
            (Kind::Int4 { .. }, _, 32) => "m16n8k32.int4",
            (Kind::Int4 { .. }, ..) => "m16n8k64.int4",
            (Kind::Bits { .. }, 8, _) => "m8n8k128.b1",
            (Kind::Bits { .. }, _, 128) => "m16n8k128.b1",
            (Kind::Bits { .. }, ..) => "m16n8k256.b1",
        }
    }

    /// Multiply-adds: m n k. For single bits, operations on bits.
    pub fn fma_count(self) -> u32 {
        u32::from(self.m) * 8 * u32::from(self.k)
    }

    /// Runs it on registers in the numbers that [`Self::registers`] says. A 64-bit register is two rows, which together hold
    /// 32 numbers of 64 bits.
    ///
    /// # Panics
    /// If there are fewer rows than that.
    #[inline]
    pub fn run(self, a: &[&Row], b: &[&Row], c: &[&Row], d: &mut [Row]) {
        self.run_at(Level::best(), a, b, c, d);
    }

    /// [`Self::run`] with given vector instructions.
    ///
    /// # Panics
    /// As [`Self::run`].
    #[inline]
    pub fn run_at(self, level: Level, a: &[&Row], b: &[&Row], c: &[&Row], d: &mut [Row]) {
        let [d_count, a_count, b_count, c_count] =
            self.registers().map(|count| usize::from(count) * if self.wide() { 2 } else { 1 });
        let (a, b, c, d) = (&a[..a_count], &b[..b_count], &c[..c_count], &mut d[..d_count]);
        match level.0 {
            Set::Baseline => self.run_with(Set::Baseline, a, b, c, d),
            // SAFETY: a level other than the baseline exists only where its features were detected.
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => unsafe { self.run_avx2(a, b, c, d) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => unsafe { self.run_avx512(a, b, c, d) },
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn run_avx2(self, a: &[&Row], b: &[&Row], c: &[&Row], d: &mut [Row]) {
        self.run_with(Set::Avx2, a, b, c, d);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,avx512f,avx512vl,avx512bw,avx512dq")]
    fn run_avx512(self, a: &[&Row], b: &[&Row], c: &[&Row], d: &mut [Row]) {
        self.run_with(Set::Avx512, a, b, c, d);
    }

    // Always inlined, so that what it calls is compiled with the features of its caller.
    #[inline(always)]
    fn run_with(self, set: Set, a: &[&Row], b: &[&Row], c: &[&Row], d: &mut [Row]) {
        let mut sums = Sums::ZERO;
        match self.kind {
            Kind::Bf16 | Kind::F16 { narrow: false } | Kind::Tf32 => {
                load_f32(c, &mut sums);
                match self.kind {
                    Kind::Bf16 => accumulate(set, Bf16, Bf16, a, b, &mut sums),
                    Kind::Tf32 => accumulate(set, Tf32, Tf32, a, b, &mut sums),
                    _ => accumulate(set, F16, F16, a, b, &mut sums),
                }
                store_f32(&mut sums, d);
            }
            Kind::F16 { narrow: true } => {
                load_f16(c, &mut sums);
                accumulate(set, F16, F16, a, b, &mut sums);
                store_f16(&sums, d);
            }
            Kind::Int8 { signed: [left, right] } => {
                accumulate::<4>(set, Integer { signed: left }, Integer { signed: right }, a, b, &mut sums);
                store_i32(&sums, c, self.saturate, d);
            }
            Kind::Int4 { signed: [left, right] } => {
                accumulate::<8>(set, Integer { signed: left }, Integer { signed: right }, a, b, &mut sums);
                store_i32(&sums, c, self.saturate, d);
            }
            Kind::F64 => exact::f64_m8n8k4(a, b, c, d),
            Kind::Bits { and } => exact::bits(and, a, b, c, d),
        }
    }
}

/// Adds A times B to the sums.
#[inline(always)]
fn accumulate<const P: usize>(
    set: Set,
    left: impl Number<P>,
    right: impl Number<P>,
    a: &[&Row],
    b: &[&Row],
    sums: &mut Sums,
) {
    let mut a_numbers = [[Lanes::ZERO; 2]; P];
    let mut b_numbers = [Lanes::ZERO; P];
    for (i, b) in b.iter().enumerate() {
        // Where there are no rows g + 8, nobody looks at their sums.
        let (low, high) = (a[2 * i], a.get(2 * i + 1).unwrap_or(&a[0]));
        for part in 0..P {
            expand(left, low, part, &mut a_numbers[part][0].0);
            expand(left, high, part, &mut a_numbers[part][1].0);
            expand(right, b, part, &mut b_numbers[part].0);
        }
        multiply(set, &a_numbers, &b_numbers, sums);
    }
}

#[inline(always)]
fn expand<const P: usize>(number: impl Number<P>, words: &Row, part: usize, to: &mut [f32; 32]) {
    for lane in 0..32 {
        to[lane] = number.get(words[lane], part);
    }
}

/// Accumulators of f32.
#[inline(always)]
fn load_f32(c: &[&Row], sums: &mut Sums) {
    for (sum, c) in sums.0.iter_mut().zip(c) {
        *sum = bytemuck::cast(**c);
    }
}

#[inline(always)]
fn store_f32(sums: &mut Sums, d: &mut [Row]) {
    for sum in sums.0.as_flattened_mut() {
        *sum = canonical(*sum);
    }
    for (d, sum) in d.iter_mut().zip(&sums.0) {
        *d = bytemuck::cast(*sum);
    }
}

/// Accumulators of f16, two in a register.
#[inline(always)]
fn load_f16(c: &[&Row], sums: &mut Sums) {
    for (i, c) in c.iter().enumerate() {
        expand(F16, c, 0, &mut sums.0[2 * i]);
        expand(F16, c, 1, &mut sums.0[2 * i + 1]);
    }
}

#[inline(always)]
fn store_f16(sums: &Sums, d: &mut [Row]) {
    for (i, d) in d.iter_mut().enumerate() {
        let [low, high] = [sums.0[2 * i], sums.0[2 * i + 1]];
        for (d, (low, high)) in d.iter_mut().zip(low.into_iter().zip(high)) {
            *d = f32_to_f16(low) | f32_to_f16(high) << 16;
        }
    }
}

/// Accumulators of i32: sums of products of integers from zero, to which C is added. Such sums are exact in f32: they
/// stay below 32 * 255 * 255 = 2 080 800, which is less than 2^24.
#[inline(always)]
fn store_i32(sums: &Sums, c: &[&Row], saturate: bool, d: &mut [Row]) {
    for (i, d) in d.iter_mut().enumerate() {
        for lane in 0..32 {
            let (start, sum) = (c[i][lane] as i32, sums.0[i][lane] as i32);
            d[lane] = if saturate { start.saturating_add(sum) } else { start.wrapping_add(sum) } as u32;
        }
    }
}
