//! Floating-point arithmetic of every format against exact arithmetic in integers, rounded by bisection.

use super::{
    check,
    dyadic::{self, Ieee, Mode},
    encodings, runner,
};
use cuda::{
    arith::{
        half::{self, Half},
        round::{Rounding, directed32, directed64},
    },
    machine::{
        lanes::{Float, Packed},
        op::DirectedOp,
    },
};
use proptest::prelude::*;

/// The result that the ISA defines for a NaN, given the operands.
fn nan(format: Ieee, operands: &[u64]) -> u64 {
    if format.fraction < 52 {
        return format.sign() - 1;
    }
    let quiet = |bits: u64| bits | 1 << 51;
    operands.iter().find(|bits| **bits << 1 > 0x7ff << 53).map_or(0xfff8 << 48, |&bits| quiet(bits))
}

fn is_nan(format: Ieee, bits: u64) -> bool {
    matches!(format.decode(bits), dyadic::Number::Nan)
}

/// Subnormals as zeros.
fn flushed(format: Ieee, bits: u64) -> u64 {
    if bits & (format.sign() - 1) < 1 << format.fraction { bits & format.sign() } else { bits }
}

/// 0 to 1, and 0 for NaN.
fn saturated(format: Ieee, bits: u64) -> u64 {
    let one = ((1 << (format.exponent - 1)) - 1) << format.fraction;
    if bits >= format.sign() || is_nan(format, bits) { 0 } else { bits.min(one) }
}

/// The order of numbers, -0 below +0.
fn rank(format: Ieee, bits: u64) -> i64 {
    let magnitude = (bits & (format.sign() - 1)) as i64;
    if bits & format.sign() != 0 { -1 - magnitude } else { magnitude }
}

/// What an instruction with all its modifiers returns. `None` where the ISA gives an error bound only.
fn reference(mnemonic: &str, operands: &[u64]) -> Option<u64> {
    let parts: Vec<&str> = mnemonic.split('.').collect();
    let has = |name: &str| parts.contains(&name);
    if has("approx") || has("full") {
        return None;
    }
    let ty = *parts.last()?;
    if let Some(single) = ty.strip_suffix("x2") {
        let mnemonic = mnemonic.replace(ty, single);
        let half = |shift: u32| {
            let parts: Vec<u64> = operands.iter().map(|v| v >> shift & 0xffff).collect();
            reference(&mnemonic, &parts)
        };
        return Some(half(16)? << 16 | half(0)?);
    }
    let format = match ty {
        "f16" => dyadic::F16,
        "bf16" => dyadic::BF16,
        "f32" => dyadic::F32,
        "f64" => dyadic::F64,
        _ => panic!("{mnemonic} has no format"),
    };
    let sign = format.sign();
    let mask = sign | (sign - 1);
    let a: Vec<u64> = operands
        .iter()
        .map(|v| v & mask)
        .map(|v| if has("ftz") && !has("copysign") { flushed(format, v) } else { v })
        .collect();
    let canonical = |bits: u64| if is_nan(format, bits) { nan(format, &a) } else { bits };
    let result = match parts[0] {
        op @ ("add" | "sub" | "mul" | "fma" | "mad" | "div" | "rcp" | "sqrt") => {
            let op = if op == "mad" { "fma" } else { op };
            format.operate(op, Mode::Rn, &a).unwrap_or_else(|| nan(format, &a))
        }
        "neg" if ty == "f64" => a[0] ^ sign,
        "abs" if ty == "f64" && is_nan(format, a[0]) => a[0],
        "neg" => canonical(a[0] ^ sign),
        "abs" => canonical(a[0] & !sign),
        "copysign" => a[0] & sign | a[1] & !sign,
        op @ ("min" | "max") => {
            let of = |bits: u64| if has("abs") { bits & !sign } else { bits };
            let nans = (is_nan(format, a[0]), is_nan(format, a[1]));
            let chosen = match nans {
                (true, true) => nan(format, &a),
                (true, false) | (false, true) if has("NaN") => nan(format, &a),
                (true, false) => of(a[1]),
                (false, true) => of(a[0]),
                _ if (op == "min") == (rank(format, of(a[0])) < rank(format, of(a[1]))) => of(a[0]),
                _ => of(a[1]),
            };
            if has("xorsign") && !is_nan(format, chosen) { chosen | (a[0] ^ a[1]) & sign } else { chosen }
        }
        op => panic!("no reference for {op}"),
    };
    let result = if has("ftz") { flushed(format, result) } else { result };
    Some(match () {
        _ if has("sat") => saturated(format, result),
        _ if has("relu") && result & sign != 0 => 0,
        _ => result,
    })
}

#[test]
fn every_float_instruction() {
    let mut tested = 0;
    for mnemonic in Float::MNEMONICS {
        let format = if mnemonic.ends_with("64") { dyadic::F64 } else { dyadic::F32 };
        if reference(mnemonic, &[0; 3]).is_some() {
            check(mnemonic, encodings(format), |operands| reference(mnemonic, operands).unwrap_or(0));
            tested += 1;
        }
    }
    assert!(tested > 55, "only {tested}");
}

#[test]
fn every_packed_instruction() {
    let mut tested = 0;
    for mnemonic in Packed::MNEMONICS {
        let format = if mnemonic.contains("bf16") { dyadic::BF16 } else { dyadic::F16 };
        let pairs = (encodings(format), encodings(format)).prop_map(|(high, low)| high << 16 | low);
        if reference(mnemonic, &[0; 3]).is_some() {
            check(mnemonic, pairs, |operands| reference(mnemonic, operands).unwrap_or(0));
            tested += 1;
        }
    }
    assert!(tested > 130, "only {tested}");
}

/// A product that is a tie of bf16, and an addend far below what f64 holds beside it: rounding twice would lose it.
#[test]
fn a_tiny_addend_breaks_the_tie_of_a_bf16_product() {
    // 1.0078125 * 1.5 = 1.51171875 = 1.5078125 + half of 2^-7
    let (a, b, tiny) = (0x3f81, 0x3fc0, 0x0080);
    assert_eq!(half::mul::<half::Bf16>(a, b), 0x3fc2);
    assert_eq!(half::fma::<half::Bf16>(a, b, tiny), 0x3fc2);
    assert_eq!(half::fma::<half::Bf16>(a, b, 0x8000 | tiny), 0x3fc1);
}

#[test]
fn halves_widen_and_narrow_exactly() {
    fn all<H: Half>(format: Ieee) {
        for bits in 0..=u16::MAX {
            let wide = H::widen(bits);
            match format.decode(bits as u64) {
                dyadic::Number::Nan => assert_eq!(wide.to_bits(), 0x7fff_ffff, "{bits:x}"),
                dyadic::Number::Infinity(negative) => {
                    assert_eq!(wide, if negative { f32::NEG_INFINITY } else { f32::INFINITY });
                }
                dyadic::Number::Finite(value) => {
                    let wanted = dyadic::F32.nearest(Mode::Rn, &value);
                    assert_eq!(wide.to_bits() as u64, wanted | (bits as u64 & 0x8000) << 16, "{bits:x}");
                }
            }
            assert_eq!(H::narrow(wide), if wide.is_nan() { 0x7fff } else { bits });
        }
    }
    all::<half::F16>(dyadic::F16);
    all::<half::Bf16>(dyadic::BF16);
}

#[test]
fn f64_narrows_to_halves_in_one_rounding() {
    let mut runner = runner();
    let cases = prop::collection::vec((encodings(dyadic::F64), any::<u64>()), 64);
    runner
        .run(&cases, |cases| {
            for (wide, noise) in cases {
                // Also values at, and just beside, numbers and ties of f16 near 1.
                let beside = (1.0f64.to_bits() + ((noise % 4096) << 41))
                    .wrapping_add((noise >> 20) % 3)
                    .wrapping_sub(1);
                for bits in [wide, beside] {
                    let narrow = [half::narrow64::<half::F16>, half::narrow64::<half::Bf16>];
                    for (narrow, format) in narrow.into_iter().zip([dyadic::F16, dyadic::BF16]) {
                        let wanted = match dyadic::F64.decode(bits) {
                            dyadic::Number::Nan => 0x7fff,
                            dyadic::Number::Infinity(negative) => {
                                (format.max() + 1) | if negative { 0x8000 } else { 0 }
                            }
                            dyadic::Number::Finite(value) => format.nearest(Mode::Rn, &value),
                        };
                        prop_assert_eq!(narrow(f64::from_bits(bits)) as u64, wanted, "{:x}", bits);
                    }
                }
            }
            Ok(())
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
}

const OPERATIONS: [(DirectedOp, &str, usize); 7] = [
    (DirectedOp::Add, "add", 2),
    (DirectedOp::Sub, "sub", 2),
    (DirectedOp::Mul, "mul", 2),
    (DirectedOp::Fma, "fma", 3),
    (DirectedOp::Div, "div", 2),
    (DirectedOp::Sqrt, "sqrt", 1),
    (DirectedOp::Rcp, "rcp", 1),
];

const MODES: [(Rounding, Mode); 4] =
    [(Rounding::Rn, Mode::Rn), (Rounding::Rz, Mode::Rz), (Rounding::Rm, Mode::Rm), (Rounding::Rp, Mode::Rp)];

/// Three operands; now and then the third cancels the product of the others, or nearly.
fn operands(format: Ieee, product: fn(u64, u64) -> u64) -> impl Strategy<Value = [u64; 3]> {
    (encodings(format), encodings(format), encodings(format), 0..8u32).prop_map(move |(a, b, c, how)| {
        let cancels = product(a, b) ^ format.sign();
        match how {
            0 => [a, b, cancels],
            1 => [a, b, cancels ^ 1],
            2 => [a, a ^ format.sign(), a],
            _ => [a, b, c],
        }
    })
}

#[test]
fn f32_rounds_in_every_direction() {
    let format = dyadic::F32;
    let product = |a, b| (f32::from_bits(a as u32) * f32::from_bits(b as u32)).to_bits() as u64;
    let cases = prop::collection::vec(operands(format, product), 200);
    runner()
        .run(&cases, |cases| {
            for case in cases {
                let [a, b, c] = case.map(|bits| f32::from_bits(bits as u32));
                for ((op, name, count), (round, mode)) in pairs() {
                    for (ftz, sat) in [(false, false), (true, false), (false, true), (true, true)] {
                        let used: Vec<u64> =
                            case[..count].iter().map(|&v| if ftz { flushed(format, v) } else { v }).collect();
                        let wanted = format.operate(name, mode, &used).unwrap_or(0x7fff_ffff);
                        let wanted = if ftz { flushed(format, wanted) } else { wanted };
                        let wanted = if sat { saturated(format, wanted) } else { wanted };
                        let got = directed32(op, round, ftz, sat, a, b, c).to_bits() as u64;
                        prop_assert_eq!(
                            got,
                            wanted,
                            "{} {:?} ftz {} sat {} of {:x?}",
                            name,
                            mode,
                            ftz,
                            sat,
                            case
                        );
                    }
                }
            }
            Ok(())
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
}

#[test]
fn f64_rounds_in_every_direction() {
    let format = dyadic::F64;
    let product = |a, b| (f64::from_bits(a) * f64::from_bits(b)).to_bits();
    let cases = prop::collection::vec(operands(format, product), 40);
    runner()
        .run(&cases, |cases| {
            for case in cases {
                let [a, b, c] = case.map(f64::from_bits);
                for ((op, name, count), (round, mode)) in pairs() {
                    let wanted = format
                        .operate(name, mode, &case[..count])
                        .unwrap_or_else(|| nan(format, &case[..count]));
                    let got = directed64(op, round, a, b, c).to_bits();
                    prop_assert_eq!(
                        got,
                        wanted,
                        "{} {:?} of {:x?}: {:x}, not {:x}",
                        name,
                        mode,
                        case,
                        got,
                        wanted
                    );
                }
            }
            Ok(())
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
}

fn pairs() -> impl Iterator<Item = ((DirectedOp, &'static str, usize), (Rounding, Mode))> {
    OPERATIONS.into_iter().flat_map(|op| MODES.into_iter().map(move |mode| (op, mode)))
}
