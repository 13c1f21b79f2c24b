//! `mma` on integers of 8 and 4 bits and on single bits.

use super::{
    Random,
    layout::{Case, Matrix, bytes, nibbles, single_bits},
};

/// Checks D against sums in i64, for any inputs and for the extremes.
fn check(case: Case, bits: u32, signed: [bool; 2], saturate: bool, random: &mut Random) {
    let value = |raw: u64, signed: bool| {
        let raw = raw as i64;
        if signed && raw >= 1 << (bits - 1) { raw - (1 << bits) } else { raw }
    };
    let (m, k) = (case.a.rows, case.k());
    let mut clamped = 0;
    for round in 0..24 {
        let mut elements = |n: usize, signed: bool| -> Matrix {
            (0..n)
                .map(|_| match round % 4 {
                    // The greatest magnitude everywhere.
                    0 if signed => 1 << (bits - 1),
                    0 => (1 << bits) - 1,
                    1 => u64::from(random.below(2) + (1 << (bits - 1)) - 1),
                    _ => u64::from(random.below(1 << bits)),
                })
                .collect()
        };
        let (a, b) = (elements(m * k, signed[0]), elements(k * 8, signed[1]));
        let c: Matrix = (0..m * 8)
            .map(|_| {
                let small = random.below(1000);
                u64::from(match random.below(3) {
                    0 => i32::MAX as u32 - small,
                    1 => i32::MIN as u32 + small,
                    _ => random.word(),
                })
            })
            .collect();
        let d = case.run(&a, &b, &c);
        for row in 0..m {
            for column in 0..8 {
                let start = i64::from(c[8 * row + column] as u32 as i32);
                let sum: i64 = (0..k)
                    .map(|i| value(a[row * k + i], signed[0]) * value(b[8 * i + column], signed[1]))
                    .sum();
                let exact = start + sum;
                let inside = exact.clamp(i32::MIN.into(), i32::MAX.into());
                clamped += u32::from(inside != exact);
                let wanted = if saturate { inside as i32 } else { exact as i32 };
                let got = d[8 * row + column] as i32;
                assert_eq!(got, wanted, "{} at {row}, {column}: {start} + {sum}", case.text);
            }
        }
    }
    assert!(clamped > 0, "{} never left the range", case.text);
}

macro_rules! every_sign {
    ($case:ident, $bits:literal, $random:ident, $($shape:literal)+) => {
        $(
            every_sign!(@ $case, $bits, $random, concat!($shape, ".row.col"), false);
            every_sign!(@ $case, $bits, $random, concat!($shape, ".row.col.satfinite"), true);
        )+
    };
    (@ $case:ident, $bits:literal, $random:ident, $start:expr, $saturate:literal) => {
        for (a, b) in [(false, false), (false, true), (true, false), (true, true)] {
            let sign = |signed: bool| if signed { 's' } else { 'u' };
            let text = format!("{}.s32.{}{}.{}{}.s32", $start, sign(a), $bits, sign(b), $bits);
            check($case(text.leak()), $bits, [a, b], $saturate, &mut $random);
        }
    };
}

#[test]
fn bytes_are_summed_exactly() {
    let mut random = Random::new(4);
    every_sign!(bytes, 8, random, "m8n8k16" "m16n8k16" "m16n8k32");
}

#[test]
fn nibbles_are_summed_exactly() {
    let mut random = Random::new(5);
    every_sign!(nibbles, 4, random, "m8n8k32" "m16n8k32" "m16n8k64");
}

#[test]
fn single_bits_are_counted() {
    let mut random = Random::new(6);
    for (text, and) in [
        ("m8n8k128.row.col.s32.b1.b1.s32.xor.popc", false),
        ("m8n8k128.row.col.s32.b1.b1.s32.and.popc", true),
        ("m16n8k128.row.col.s32.b1.b1.s32.xor.popc", false),
        ("m16n8k128.row.col.s32.b1.b1.s32.and.popc", true),
        ("m16n8k256.row.col.s32.b1.b1.s32.xor.popc", false),
        ("m16n8k256.row.col.s32.b1.b1.s32.and.popc", true),
    ] {
        let case = single_bits(text);
        let (m, k) = (case.a.rows, case.k());
        for _ in 0..20 {
            let mut bits = |n: usize| -> Matrix { (0..n).map(|_| random.next() >> 63).collect() };
            let (a, b) = (bits(m * k), bits(k * 8));
            let c: Matrix = (0..m * 8).map(|_| u64::from(i32::MAX as u32 - random.below(200))).collect();
            let d = case.run(&a, &b, &c);
            for row in 0..m {
                for column in 0..8 {
                    let pairs = (0..k).map(|i| (a[row * k + i] == 1, b[8 * i + column] == 1));
                    let ones = pairs.filter(|&(x, y)| if and { x && y } else { x != y }).count();
                    let wanted = (c[8 * row + column] as i64 + ones as i64) as u32;
                    assert_eq!(d[8 * row + column] as u32, wanted, "{text} at {row}, {column}");
                }
            }
        }
    }
}
