//! `mma` on f16, bf16, tf32 and f64.

use half::{bf16, f16};

use super::{
    Random,
    layout::{Case, Matrix, f64_m8n8k4, halves, tf32},
};

/// What raw elements are worth, and raw elements of all kinds.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Format {
    F16,
    Bf16,
    Tf32,
    F32,
}

use Format::{Bf16, F16, F32, Tf32};

impl Format {
    fn value(self, bits: u64) -> f32 {
        match self {
            F16 => f16::from_bits(bits as u16).to_f32(),
            Bf16 => bf16::from_bits(bits as u16).to_f32(),
            // 10 bits of the significand.
            Tf32 => f32::from_bits(bits as u32 >> 13 << 13),
            F32 => f32::from_bits(bits as u32),
        }
    }

    /// Sign, significand and an exponent from a range that leaves room for the sums.
    fn moderate(self, random: &mut Random) -> u64 {
        let value = (random.below(1 << 24) as f32 / 8388608.0 - 1.0) * 2f32.powi(random.below(8) as i32 - 4);
        match self {
            F16 => u64::from(f16::from_f32(value).to_bits()),
            Bf16 => u64::from(bf16::from_f32(value).to_bits()),
            // The bits that are not looked at are random.
            Tf32 => u64::from(value.to_bits() ^ random.word() & 0x1fff),
            F32 => u64::from(value.to_bits()),
        }
    }

    /// Any bits: subnormals, infinities and NaN too.
    fn any(self, random: &mut Random) -> u64 {
        let width = if matches!(self, F16 | Bf16) { 16 } else { 32 };
        let (exponent, significand) = match self {
            F16 => (0x7c00, 0x3ff),
            Bf16 => (0x7f80, 0x7f),
            Tf32 | F32 => (0x7f80_0000, 0x7f_ffff),
        };
        let bits = random.next() & ((1 << width) - 1);
        match random.below(200) {
            0 => bits | exponent,
            1 => (bits | exponent) & !significand,
            2..8 => bits & !exponent,
            8..12 => bits & 1 << (width - 1),
            _ => bits,
        }
    }
}

fn cases() -> Vec<(Case, Format, Format)> {
    vec![
        (halves("m16n8k8.row.col.f32.f16.f16.f32", 32), F16, F32),
        (halves("m16n8k16.row.col.f32.f16.f16.f32", 32), F16, F32),
        (halves("m16n8k8.row.col.f16.f16.f16.f16", 16), F16, F16),
        (halves("m16n8k16.row.col.f16.f16.f16.f16", 16), F16, F16),
        (halves("m16n8k8.row.col.f32.bf16.bf16.f32", 32), Bf16, F32),
        (halves("m16n8k16.row.col.f32.bf16.bf16.f32", 32), Bf16, F32),
        (tf32("m16n8k4.row.col.f32.tf32.tf32.f32"), Tf32, F32),
        (tf32("m16n8k8.row.col.f32.tf32.tf32.f32"), Tf32, F32),
    ]
}

fn inputs(case: Case, mut input: impl FnMut() -> u64, mut start: impl FnMut() -> u64) -> [Matrix; 3] {
    [
        (0..16 * case.k()).map(|_| input()).collect(),
        (0..case.k() * 8).map(|_| input()).collect(),
        (0..16 * 8).map(|_| start()).collect(),
    ]
}

#[test]
fn float_sums_are_near_those_of_f64() {
    let mut random = Random::new(1);
    for (case, input, output) in cases() {
        for _ in 0..50 {
            let source = std::cell::RefCell::new(&mut random);
            let [a, b, c] = inputs(
                case,
                || input.moderate(&mut source.borrow_mut()),
                || output.moderate(&mut source.borrow_mut()),
            );
            let d = case.run(&a, &b, &c);
            for row in 0..16 {
                for column in 0..8 {
                    let start = f64::from(output.value(c[8 * row + column]));
                    let products = (0..case.k()).map(|k| {
                        f64::from(input.value(a[row * case.k() + k]))
                            * f64::from(input.value(b[8 * k + column]))
                    });
                    let exact = start + products.clone().sum::<f64>();
                    let size = start.abs() + products.map(f64::abs).sum::<f64>();
                    // A rounding to f32 for each product, one to f16 at the end, a little for their product and f64.
                    let mut bound = case.k() as f64 * 2f64.powi(-24) * size * (1.0 + 1e-5);
                    if output == F16 {
                        bound += 2f64.powi(-11) * (exact.abs() + bound) + 2f64.powi(-25);
                    }
                    let error = (f64::from(output.value(d[8 * row + column])) - exact).abs();
                    assert!(error <= bound, "{} at {row}, {column}: {error:e} > {bound:e}", case.text);
                }
            }
        }
    }
}

/// The documented chain for one element, with the canonical NaN.
fn chain(
    case: Case,
    [input, output]: [Format; 2],
    [a, b, c]: [&Matrix; 3],
    row: usize,
    column: usize,
) -> u64 {
    let mut sum = output.value(c[8 * row + column]);
    for k in 0..case.k() {
        sum = input.value(a[row * case.k() + k]).mul_add(input.value(b[8 * k + column]), sum);
    }
    match (output, sum.is_nan()) {
        (F16, true) => 0x7fff,
        (F16, false) => u64::from(f16::from_f32(sum).to_bits()),
        (_, true) => 0x7fff_ffff,
        (_, false) => u64::from(sum.to_bits()),
    }
}

#[test]
fn float_chain_is_kept_to_the_bit_for_any_bits() {
    let mut random = Random::new(2);
    let (mut nans, mut infinities, mut numbers) = (0, 0, 0);
    for (case, input, output) in cases() {
        for round in 0..60 {
            let source = std::cell::RefCell::new(&mut random);
            // Any bits at all; one exponent for all numbers, of which a third makes products near the least f32; and sums
            // that are all numbers.
            let exponent = if round % 2 == 0 { round * 4 } else { 50 + round / 4 };
            let draw = || {
                let random = &mut *source.borrow_mut();
                match (round % 3, input) {
                    (0, _) => input.any(random),
                    (1, F16) => random.next() & 0x83ff | (exponent % 31) << 10,
                    (1, Bf16) => random.next() & 0x807f | exponent << 7,
                    (1, _) => random.next() & 0x807f_ffff | exponent << 23,
                    _ => input.moderate(random),
                }
            };
            let start = || {
                let random = &mut *source.borrow_mut();
                match round % 3 {
                    0 => output.any(random),
                    // Zero or subnormal.
                    1 => output.any(random) & if output == F16 { 0x83ff } else { 0x807f_ffff },
                    _ => output.moderate(random),
                }
            };
            let [a, b, c] = inputs(case, draw, start);
            let d = case.run(&a, &b, &c);
            for row in 0..16 {
                for column in 0..8 {
                    let wanted = chain(case, [input, output], [&a, &b, &c], row, column);
                    let got = d[8 * row + column];
                    assert_eq!(got, wanted, "{} at {row}, {column}: {got:#x}, not {wanted:#x}", case.text);
                    let value = output.value(wanted);
                    nans += u32::from(value.is_nan());
                    infinities += u32::from(value.is_infinite());
                    numbers += u32::from(value.is_finite() && value != 0.0);
                }
            }
        }
    }
    assert!(nans > 1000 && infinities > 1000 && numbers > 10000, "{nans} {infinities} {numbers}");
}

#[test]
fn every_half_keeps_its_value() {
    for (case, format) in [
        (halves("m16n8k16.row.col.f32.f16.f16.f32", 32), F16),
        (halves("m16n8k16.row.col.f32.bf16.bf16.f32", 32), Bf16),
    ] {
        let one = if format == F16 { 0x3c00 } else { 0x3f80 };
        for first in (0..0x1_0000).step_by(16) {
            // One number in a row of A, at a place that changes, meets a one in each column of B.
            let place = first / 16 % 16;
            let a: Matrix =
                (0..16 * 16).map(|i| if i % 16 == place { (first + i / 16) as u64 } else { 0 }).collect();
            let b: Matrix = (0..16 * 8).map(|i| if i / 8 == place { one } else { 0 }).collect();
            let d = case.run(&a, &b, &vec![0x8000_0000; 16 * 8]);
            for (i, &got) in d.iter().enumerate() {
                let value = format.value((first + i / 8) as u64);
                // Zeros of both signs sum up to +0.
                let wanted = if value.is_nan() { 0x7fff_ffff } else { (value + 0.0).to_bits() };
                assert_eq!(got as u32, wanted, "{format:?} {:#x}", first + i / 8);
            }
        }
    }
}

#[test]
fn infinities_and_nan_stay_in_their_row_and_column() {
    for (case, input, output) in cases() {
        let raw = |format: Format, x: f32| match format {
            F16 => u64::from(f16::from_f32(x).to_bits()),
            Bf16 => u64::from(bf16::from_f32(x).to_bits()),
            Tf32 | F32 => u64::from(x.to_bits()),
        };
        let ones = |n: usize| vec![raw(input, 1.0); n];
        let k = case.k();
        let (mut a, mut b) = (ones(16 * k), ones(8 * k));
        a[3 * k + 1] = raw(input, f32::INFINITY);
        a[9 * k + 2] = raw(input, f32::NAN);
        b[8 + 5] = raw(input, 0.0);
        b[8 * 3 + 6] = raw(input, f32::NEG_INFINITY);
        let d = case.run(&a, &b, &vec![raw(output, 0.5); 128]);
        for row in 0..16 {
            for column in 0..8 {
                let got = output.value(d[8 * row + column]);
                let wanted = match (row, column) {
                    // Infinity times zero, infinity minus infinity.
                    (3, 5) | (3, 6) | (9, _) => f32::NAN,
                    (3, _) => f32::INFINITY,
                    (_, 6) => f32::NEG_INFINITY,
                    (_, 5) => k as f32 - 0.5,
                    _ => k as f32 + 0.5,
                };
                assert!(
                    got == wanted || got.is_nan() && wanted.is_nan(),
                    "{} {row} {column}: {got}",
                    case.text
                );
            }
        }
    }
}

#[test]
fn f64_chain_is_kept_to_the_bit() {
    let case = f64_m8n8k4();
    let mut random = Random::new(3);
    let (mut nans, mut numbers) = (0, 0);
    for round in 0..300 {
        let mut draw = |n: usize| -> Matrix {
            let bits = |random: &mut Random| match (round % 2, random.below(20)) {
                (0, _) => random.next() & 0xc00f_ffff_ffff_ffff | 0x3ff << 52 & random.next(),
                (_, 0) => f64::INFINITY.to_bits(),
                (_, 1) => f64::NAN.to_bits() | random.next() & 0xfff,
                (_, 2) => 1 << 63,
                _ => random.next(),
            };
            (0..n).map(|_| bits(&mut random)).collect()
        };
        let (a, b, c) = (draw(8 * 4), draw(4 * 8), draw(8 * 8));
        let d = case.run(&a, &b, &c);
        for row in 0..8 {
            for column in 0..8 {
                let [start, got] = [&c, &d].map(|m| m[8 * row + column]);
                let sum = (0..4).fold(f64::from_bits(start), |sum, k| {
                    f64::from_bits(a[4 * row + k]).mul_add(f64::from_bits(b[8 * k + column]), sum)
                });
                let wanted = if sum.is_nan() { 0xfff8_0000_0000_0000 } else { sum.to_bits() };
                assert_eq!(got, wanted, "{row}, {column}: {got:#x}, not {wanted:#x}");
                nans += u32::from(sum.is_nan());
                numbers += u32::from(sum.is_finite());
            }
        }
    }
    assert!(nans > 1000 && numbers > 1000, "{nans} {numbers}");
}
