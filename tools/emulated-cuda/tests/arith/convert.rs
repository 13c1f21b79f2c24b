//! Conversions: what the ISA allows, and every allowed one against exact arithmetic.

use super::{
    dyadic::{self, Dyadic, Ieee, Mode, Number},
    encodings, integers, runner,
};
use cuda::arith::{Row, convert::Conversion};
use proptest::prelude::*;

const TYPES: [&str; 17] = [
    "u8", "u16", "u32", "u64", "s8", "s16", "s32", "s64", "f16", "bf16", "tf32", "f32", "f64", "f16x2",
    "bf16x2", "e4m3x2", "e5m2x2",
];
const ROUNDINGS: [&str; 10] = ["", "rn", "rz", "rm", "rp", "rni", "rzi", "rmi", "rpi", "rna"];
const FLAGS: [&str; 4] = ["ftz", "sat", "relu", "satfinite"];

/// Every combination that parses.
fn allowed() -> Vec<(Vec<&'static str>, Conversion)> {
    let mut found = Vec::new();
    for rounding in ROUNDINGS {
        for flags in 0..16 {
            for to in TYPES {
                for from in TYPES {
                    let mut modifiers: Vec<&str> = [rounding].into_iter().filter(|m| !m.is_empty()).collect();
                    modifiers.extend(
                        FLAGS.iter().enumerate().filter(|(i, _)| flags >> i & 1 != 0).map(|(_, m)| m),
                    );
                    modifiers.extend([to, from]);
                    if let Ok(conversion) = Conversion::parse(&modifiers) {
                        found.push((modifiers, conversion));
                    }
                }
            }
        }
    }
    found
}

fn format(name: &str) -> Option<Ieee> {
    Some(match name.trim_end_matches("x2") {
        "f16" => dyadic::F16,
        "bf16" => dyadic::BF16,
        "tf32" => dyadic::TF32,
        "f32" => dyadic::F32,
        "f64" => dyadic::F64,
        "e4m3" => dyadic::E4M3,
        "e5m2" => dyadic::E5M2,
        _ => return None,
    })
}

/// Bits and signedness of an integer type.
fn integer(name: &str) -> (u32, bool) {
    (name[1..].parse().unwrap_or(0), name.starts_with('s'))
}

fn number(bits: u64, (width, signed): (u32, bool)) -> i128 {
    let bits = bits as i128 & ((1 << width) - 1);
    if signed && bits >> (width - 1) & 1 != 0 { bits - (1 << width) } else { bits }
}

fn bounds((width, signed): (u32, bool)) -> (i128, i128) {
    if signed { (-(1 << (width - 1)), (1 << (width - 1)) - 1) } else { (0, (1 << width) - 1) }
}

/// A floating-point value of at most 64 bits as an f64, which holds all of them.
fn as_f64(format: Ieee, bits: u64) -> f64 {
    let negative = bits & format.sign() != 0;
    let magnitude = match format.decode(bits) {
        Number::Nan => f64::NAN,
        Number::Infinity(_) => f64::INFINITY,
        Number::Finite(value) => f64::from_bits(dyadic::F64.nearest(Mode::Rz, &value)).abs(),
    };
    if negative { -magnitude } else { magnitude }
}

/// Converts one value as the ISA says; of a pair, one of the two.
fn one(modifiers: &[&str], bits: u64) -> u64 {
    let [flags @ .., to, from] = modifiers else { panic!("no types") };
    let has = |name: &str| flags.contains(&name);
    let flush = |bits: u64| if bits & 0x7f80_0000 == 0 { bits & 0x8000_0000 } else { bits };
    let Some(from_format) = format(from) else {
        let value = number(bits, integer(from));
        let Some(format) = format(to) else {
            let (least, most) = bounds(integer(to));
            return number(if has("sat") { value.clamp(least, most) } else { value } as u64, integer(to))
                as u64;
        };
        let rounded = format.nearest(mode(flags), &Dyadic::integer(value));
        return limited(flags, format, rounded, false);
    };
    let bits = bits & (from_format.sign() | (from_format.sign() - 1));
    let bits = if has("ftz") && *from == "f32" { flush(bits) } else { bits };
    let value = as_f64(from_format, bits);
    let whole = match flags.first() {
        Some(&"rni") => value.round_ties_even(),
        Some(&"rzi") => value.trunc(),
        Some(&"rmi") => value.floor(),
        Some(&"rpi") => value.ceil(),
        _ => value,
    };
    let Some(to_format) = format(to) else {
        let (width, signed) = integer(to);
        let result = match () {
            _ if value.is_nan() && (*from == "f64" || width == 64) => 1i128 << (width - 1),
            _ if value.is_nan() => 0,
            // `as` clamps to 128 bits.
            _ => (whole as i128).clamp(bounds((width, signed)).0, bounds((width, signed)).1),
        };
        return number(result as u64, (width, signed)) as u64;
    };
    let nan = match *to {
        "f64" if *from == "f64" => bits | 1 << 51,
        "f64" if *from == "f32" => bits >> 31 << 63 | 0x7ff8 << 48 | (bits & 0x7f_ffff) << 29,
        "f64" => 0x7fff_ffff_e000_0000,
        _ => to_format.sign() - 1,
    };
    let result = match Dyadic::new(false, 0, 0) {
        _ if whole.is_nan() => nan,
        _ if whole.is_infinite() || whole == 0.0 => {
            let magnitude = if whole == 0.0 { 0 } else { to_format.max() + 1 };
            magnitude | if whole.is_sign_negative() { to_format.sign() } else { 0 }
        }
        _ => match dyadic::F64.decode(whole.to_bits()) {
            Number::Finite(value) => to_format.nearest(mode(flags), &value),
            other => panic!("{other:?} is finite"),
        },
    };
    let result = if has("ftz") && *to == "f32" { flush(result) } else { result };
    let result = limited(flags, to_format, result, whole.is_nan());
    match *to {
        "tf32" if result == dyadic::TF32.sign() - 1 => 0x7fff_ffff,
        "tf32" => result << 13,
        _ => result,
    }
}

fn mode(flags: &[&str]) -> Mode {
    match flags.first() {
        Some(&"rz") => Mode::Rz,
        Some(&"rm") => Mode::Rm,
        Some(&"rp") => Mode::Rp,
        Some(&"rna") => Mode::Rna,
        _ => Mode::Rn,
    }
}

/// What `.satfinite`, `.relu` and `.sat` make of a result.
fn limited(flags: &[&str], format: Ieee, bits: u64, nan: bool) -> u64 {
    let (sign, magnitude) = (bits & format.sign(), bits & (format.sign() - 1));
    let bits = match () {
        _ if nan => bits,
        _ if flags.contains(&"satfinite") => sign | magnitude.min(format.max()),
        _ => bits,
    };
    let one = ((1 << (format.exponent - 1)) - 1) << format.fraction;
    match () {
        _ if flags.contains(&"sat") && (nan || sign != 0) => 0,
        _ if flags.contains(&"sat") => bits.min(one),
        _ if flags.contains(&"relu") && sign != 0 && !nan => 0,
        _ => bits,
    }
}

fn reference(modifiers: &[&str], a: u64, b: u64) -> u64 {
    let [.., to, from] = modifiers else { panic!("no types") };
    match (to.ends_with("x2"), from.ends_with("x2")) {
        (true, true) => {
            let bits = |name: &str| if name.starts_with('e') { 8 } else { 16 };
            one(modifiers, a >> bits(from)) << bits(to) | one(modifiers, a)
        }
        (true, false) => one(modifiers, a) << if to.starts_with('e') { 8 } else { 16 } | one(modifiers, b),
        _ => one(modifiers, a),
    }
}

/// Values of a type, and numbers on and near ties of the type that they are converted to.
fn values(from: &str, to: &str) -> BoxedStrategy<u64> {
    let Some(from_format) = format(from) else { return integers().boxed() };
    let own = encodings(from_format);
    let single = if from.ends_with("x2") {
        let half = if from.starts_with('e') { 8 } else { 16 };
        return (own.clone(), own).prop_map(move |(high, low)| high << half | low).boxed();
    } else {
        own.boxed()
    };
    let targets = match format(to) {
        Some(to_format) => encodings(to_format).prop_map(move |bits| as_f64(to_format, bits)).boxed(),
        None => integers().prop_map(|v| v as i64 as f64).boxed(),
    };
    // Half a step of the target further, and a little more or less.
    let near = (targets, 0..5i32, -1..=1i64).prop_map(move |(target, halves, beside)| {
        let step = match target.abs() {
            magnitude if !magnitude.is_finite() => 0.0,
            magnitude if magnitude < 1e6 => 0.5,
            magnitude => magnitude * 2f64.powi(-12),
        };
        let value = target + step * halves as f64;
        match dyadic::F64.decode(value.to_bits()) {
            Number::Finite(value) => from_format.nearest(Mode::Rn, &value).wrapping_add_signed(beside),
            _ => 0,
        }
    });
    // Half-way between two numbers of the target: one more bit of fraction.
    let ties = match format(to) {
        Some(to_format) if to_format.fraction < from_format.fraction => {
            let finer = Ieee { fraction: to_format.fraction + 1, ..to_format };
            (encodings(finer), -1..=1i64)
                .prop_map(move |(bits, beside)| match finer.decode(bits) {
                    Number::Finite(value) => {
                        from_format.nearest(Mode::Rn, &value).wrapping_add_signed(beside)
                    }
                    _ => 1,
                })
                .boxed()
        }
        _ => encodings(from_format).boxed(),
    };
    prop_oneof![2 => single, 1 => near.boxed(), 2 => ties].boxed()
}

#[test]
fn every_allowed_conversion() {
    let all = allowed();
    assert!(all.len() > 500, "only {}", all.len());
    let mut fast = 0;
    for (modifiers, conversion) in all {
        let [.., to, from] = modifiers[..] else { panic!("no types") };
        let from: &'static str = from;
        let lanes = prop::array::uniform32(values(from, to));
        let mut taken = false;
        let mut runner = runner();
        let result = runner.run(&(lanes.clone(), lanes), |(a, b)| {
            let mut rows = [0; 32];
            conversion.run([&a, &b], &mut rows);
            for lane in 0..32 {
                let wanted = reference(&modifiers, a[lane], b[lane]);
                let (one, row) = (conversion.apply(a[lane], b[lane]), rows[lane]);
                prop_assert_eq!(one, wanted, "{:?} of {:x}, {:x}: {:x}", &modifiers, a[lane], b[lane], one);
                prop_assert_eq!(
                    row,
                    wanted,
                    "a row, {:?} of {:x}, {:x}: {:x}",
                    &modifiers,
                    a[lane],
                    b[lane],
                    row
                );
            }
            let mut narrow: Row = [0x1234; 32];
            if conversion.fast32(&a.map(|v| v as u32), &b.map(|v| v as u32), &mut narrow) {
                prop_assert_eq!(narrow, rows.map(|v| v as u32), "{:?} of {:x?}, {:x?}", &modifiers, a, b);
            } else {
                prop_assert_eq!(narrow, [0x1234; 32]);
            }
            Ok(())
        });
        result.unwrap_or_else(|failure| panic!("{failure}"));
        taken |= conversion.source_bits() <= 32
            && conversion.target_bits() <= 32
            && conversion.fast32(&[0; 32], &[0; 32], &mut [0; 32]);
        fast += taken as usize;
    }
    assert!(fast > 100, "only {fast} are fast");
}

/// What kernels convert in inner loops must not go value by value.
#[test]
fn hot_conversions_are_fast() {
    for name in [
        "rn.bf16x2.f32",
        "rn.f16x2.f32",
        "rn.bf16.f32",
        "rn.f16.f32",
        "f32.f16",
        "f32.bf16",
        "rn.f32.s32",
        "rn.f32.u32",
        "rzi.s32.f32",
        "rzi.u32.f32",
        "rni.s32.f32",
        "rmi.f32.f32",
        "sat.f32.f32",
        "u16.u32",
        "u32.u16",
        "s32.s8",
        "rn.f32.u8",
        "rzi.ftz.s32.f32",
    ] {
        let modifiers: Vec<&str> = name.split('.').collect();
        let conversion = Conversion::parse(&modifiers).unwrap();
        assert!(conversion.fast32(&[0; 32], &[0; 32], &mut [0; 32]), "{name}");
    }
}

#[test]
fn conversions_that_compilers_emit() {
    for (name, sources, from, to) in [
        ("rn.f16.f32", 1, 32, 16),
        ("rzi.s32.f32", 1, 32, 32),
        ("u64.u32", 1, 32, 64),
        ("sat.u8.s32", 1, 32, 8),
        ("rn.bf16x2.f32", 2, 32, 32),
        ("rn.relu.f16x2.f32", 2, 32, 32),
        ("rna.tf32.f32", 1, 32, 32),
        ("rn.satfinite.e4m3x2.f32", 2, 32, 16),
        ("rn.f16x2.e4m3x2", 1, 16, 32),
        ("rni.ftz.f32.f32", 1, 32, 32),
        ("ftz.f64.f32", 1, 32, 64),
        ("rn.ftz.f32.f64", 1, 64, 32),
        ("rzi.ftz.u64.f32", 1, 32, 64),
        ("s64.s32", 1, 32, 64),
        ("rn.satfinite.relu.e5m2x2.f16x2", 1, 32, 16),
        ("rz.relu.satfinite.bf16.f32", 1, 32, 16),
        ("rn.f16.s64", 1, 64, 16),
        ("rn.bf16.f64", 1, 64, 16),
        ("ftz.sat.f32.f32", 1, 32, 32),
        ("rzi.s16.bf16", 1, 16, 16),
        ("rn.sat.f16.f32", 1, 32, 16),
        ("rn.bf16.f16", 1, 16, 16),
        ("rn.relu.tf32.f32", 1, 32, 32),
        ("rna.satfinite.tf32.f32", 1, 32, 32),
    ] {
        let modifiers: Vec<&str> = name.split('.').collect();
        let conversion = Conversion::parse(&modifiers).unwrap();
        assert_eq!(
            (conversion.sources(), conversion.source_bits(), conversion.target_bits()),
            (sources, from, to),
            "{name}"
        );
    }
}

#[test]
fn what_the_isa_does_not_allow_is_refused_by_name() {
    for (name, why) in [
        ("f32", "two types"),
        ("", "two types"),
        ("rn.f32.f128", ".f128"),
        ("rs.f16x2.f32", ".rs"),
        ("rn.satfinite.e2m1x2.f32", ".e2m1x2"),
        ("oddball.f32.s32", ".oddball"),
        ("s32.f32", "needs .rni"),
        ("rn.s32.f32", "needs .rni"),
        ("f32.s32", "needs .rn"),
        ("rni.f32.s32", "needs .rn"),
        ("f16.f32", "needs .rn"),
        ("rn.f32.f16", "no rounding"),
        ("rn.f32.f32", "no other rounding"),
        ("rn.u64.u32", "no rounding"),
        ("sat.u32.u16", "every value fits"),
        ("sat.s64.u32", "every value fits"),
        ("ftz.f64.f16", "no .ftz"),
        ("ftz.u32.u16", "no .ftz"),
        ("rn.sat.bf16.f32", "no .sat"),
        ("rm.relu.f16.f32", "needs .rn or .rz"),
        ("rn.relu.f16.f64", "neither .relu"),
        ("rn.ftz.relu.f16.f32", "no .ftz"),
        ("rna.f16.f32", "needs .rn"),
        ("rna.relu.tf32.f32", "no .relu"),
        ("rp.tf32.f32", "needs .rna"),
        ("f32.tf32", "does not exist"),
        ("rn.tf32.f64", "does not exist"),
        ("rn.e4m3x2.f32", ".satfinite"),
        ("rz.satfinite.e4m3x2.f32", "needs .rn"),
        ("rn.satfinite.e4m3x2.bf16x2", "does not exist"),
        ("rm.bf16x2.f32", "needs .rn or .rz"),
        ("f16x2.e5m2x2", "needs .rn"),
        ("sat.rn.f32.s32", "out of place"),
        ("rn.rn.f32.s32", "out of place"),
        ("rn.sat.ftz.f32.f64", "out of place"),
        ("rn.ftz.ftz.f32.f64", "out of place"),
    ] {
        let modifiers: Vec<&str> = name.split('.').collect();
        match Conversion::parse(&modifiers) {
            Ok(_) => panic!("{name} parses"),
            Err(message) => assert!(message.contains(why), "{name}: {message}"),
        }
    }
}

/// Encodings that the ISA and the FP8 paper spell out.
#[test]
fn small_formats_saturate_and_keep_nan() {
    let convert = |name: &str, a: f32, b: f32| {
        let modifiers: Vec<&str> = name.split('.').collect();
        Conversion::parse(&modifiers).unwrap().apply(a.to_bits() as u64, b.to_bits() as u64)
    };
    assert_eq!(convert("rn.satfinite.e4m3x2.f32", 448.0, -1e9), 0x7efe);
    assert_eq!(convert("rn.satfinite.e4m3x2.f32", f32::NAN, f32::INFINITY), 0x7f7e);
    assert_eq!(convert("rn.satfinite.e4m3x2.f32", 0.001953125, 1.0), 0x0138);
    assert_eq!(convert("rn.satfinite.relu.e4m3x2.f32", -3.0, 1.0), 0x0038);
    assert_eq!(convert("rn.satfinite.e5m2x2.f32", 57344.0, f32::NEG_INFINITY), 0x7bfb);
    assert_eq!(convert("rn.satfinite.f16.f32", 1e9, 0.0), 0x7bff);
    assert_eq!(convert("rn.f16.f32", 65520.0, 0.0), 0x7c00);
    assert_eq!(convert("rz.f16.f32", 65535.9, 0.0), 0x7bff);
    assert_eq!(convert("rna.tf32.f32", f32::from_bits(0x3f80_1000), 0.0), 0x3f80_2000);
    assert_eq!(convert("rn.tf32.f32", f32::from_bits(0x3f80_1000), 0.0), 0x3f80_0000);
}
