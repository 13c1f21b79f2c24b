//! The approximate functions: the ISA's tables of special operands, and its bounds of the error.

use super::{check, dyadic, encodings, run, runner};
use cuda::machine::lanes::{Float, Packed};
use proptest::prelude::*;
use std::f32::consts::PI;

const INF: f32 = f32::INFINITY;
const NAN: f32 = f32::NAN;
/// A subnormal number.
const SUB: f32 = f32::from_bits(0x12345);

/// One value through an instruction of the f32 table.
fn single(mnemonic: &str, operands: &[f32]) -> f32 {
    let rows: Vec<_> = operands.iter().map(|v| [v.to_bits() as u64; 32]).collect();
    f32::from_bits(run(mnemonic, &rows)[0] as u32)
}

/// One value through an instruction of the f64 table.
fn double(mnemonic: &str, operand: f64) -> f64 {
    f64::from_bits(run(mnemonic, &[[operand.to_bits(); 32]])[0])
}

/// A result of a table, with its sign; NaN must be the canonical one.
#[track_caller]
fn assert_is(got: f32, wanted: f32, what: &str) {
    let wanted = if wanted.is_nan() { 0x7fff_ffff } else { wanted.to_bits() };
    assert_eq!(got.to_bits(), wanted, "{what}: {got}");
}

#[test]
fn special_operands_have_the_results_of_the_isas_tables() {
    let tables: [(&str, &[(f32, f32)]); 8] = [
        (
            "ex2",
            &[
                (-INF, 0.0),
                (-0.0, 1.0),
                (0.0, 1.0),
                (INF, INF),
                (NAN, NAN),
                (-SUB, 1.0),
                (-151.0, 0.0),
                (128.0, INF),
            ],
        ),
        ("lg2", &[(-INF, NAN), (-1.0, NAN), (-0.0, -INF), (0.0, -INF), (INF, INF), (NAN, NAN), (1.0, 0.0)]),
        ("rcp", &[(-INF, -0.0), (-0.0, -INF), (0.0, INF), (INF, 0.0), (NAN, NAN), (4.0, 0.25)]),
        ("sqrt", &[(-INF, NAN), (-1.0, NAN), (-0.0, -0.0), (0.0, 0.0), (INF, INF), (NAN, NAN), (9.0, 3.0)]),
        ("rsqrt", &[(-INF, NAN), (-1.0, NAN), (-0.0, -INF), (0.0, INF), (INF, 0.0), (NAN, NAN), (4.0, 0.5)]),
        ("sin", &[(-INF, NAN), (-0.0, -0.0), (0.0, 0.0), (INF, NAN), (NAN, NAN)]),
        ("cos", &[(-INF, NAN), (-0.0, 1.0), (0.0, 1.0), (INF, NAN), (NAN, NAN)]),
        ("tanh", &[(-INF, -1.0), (-0.0, -0.0), (0.0, 0.0), (INF, 1.0), (NAN, NAN), (SUB, SUB), (-SUB, -SUB)]),
    ];
    for (function, table) in tables {
        for &(operand, wanted) in table {
            for mnemonic in [format!("{function}.approx.f32"), format!("{function}.approx.ftz.f32")] {
                if Float::find(&mnemonic).is_some() {
                    assert_is(single(&mnemonic, &[operand]), wanted, &format!("{mnemonic} of {operand}"));
                }
            }
        }
    }
}

#[test]
fn subnormals_are_kept_or_flushed() {
    for (function, kept, flushed) in
        [("sin", SUB, 0.0), ("rcp", INF, INF), ("cos", 1.0, 1.0), ("ex2", 1.0, 1.0)]
    {
        assert_is(single(&format!("{function}.approx.f32"), &[SUB]), kept, function);
        assert_is(single(&format!("{function}.approx.ftz.f32"), &[SUB]), flushed, function);
    }
    assert_is(single("sqrt.approx.ftz.f32", &[-SUB]), -0.0, "sqrt");
    assert_is(single("sqrt.approx.f32", &[-SUB]), NAN, "sqrt");
    assert_is(single("rsqrt.approx.ftz.f32", &[-SUB]), -INF, "rsqrt");
    assert_is(single("lg2.approx.ftz.f32", &[-SUB]), -INF, "lg2");
    assert_is(single("lg2.approx.f32", &[-SUB]), NAN, "lg2");
    // Results.
    assert_is(single("ex2.approx.f32", &[-127.0]), f32::MIN_POSITIVE / 2.0, "ex2");
    assert_is(single("ex2.approx.ftz.f32", &[-127.0]), 0.0, "ex2");
    assert_is(single("rcp.approx.f32", &[f32::MAX]), 1.0 / f32::MAX, "rcp");
    assert_is(single("rcp.approx.ftz.f32", &[-f32::MAX]), -0.0, "rcp");
}

/// A unit in the last place of what a correct f32 result is.
fn ulp(value: f64) -> f64 {
    let near = (value.abs() as f32).clamp(f32::MIN_POSITIVE, f32::MAX);
    let bits = near.to_bits();
    (f32::from_bits(bits) as f64 - f32::from_bits(bits - 1) as f64).abs().max((2f64).powi(-149))
}

/// Checks a function of f32 against a bound of the error that depends on operand and exact result.
fn bounded(
    mnemonic: &str,
    range: std::ops::Range<f32>,
    exact: fn(f64) -> f64,
    bound: impl Fn(f64, f64) -> f64,
) {
    let anywhere = encodings(dyadic::F32).prop_map(|bits| f32::from_bits(bits as u32));
    let inside = range.clone();
    let values = prop_oneof![inside, anywhere.prop_filter("in range", move |v| range.contains(v))];
    let ftz = mnemonic.contains("ftz");
    runner()
        .run(&prop::array::uniform32(values), |values| {
            let got = run(mnemonic, &[values.map(|v| v.to_bits() as u64)]);
            for lane in 0..32 {
                let flush = |v: f32| if ftz && v.abs() < f32::MIN_POSITIVE { v * 0.0 } else { v };
                let operand = flush(values[lane]) as f64;
                let wanted = exact(operand);
                let got = f32::from_bits(got[lane] as u32) as f64;
                let (overflow, underflow) =
                    (wanted.abs() > f32::MAX as f64, ftz && wanted.abs() < f32::MIN_POSITIVE as f64);
                let error = if overflow && got.is_infinite() || underflow && got == 0.0 {
                    0.0
                } else {
                    (got - wanted).abs()
                };
                let limit = bound(operand, wanted);
                prop_assert!(
                    error <= limit,
                    "{mnemonic} of {operand:e}: {got:e}, exactly {wanted:e}, limit {limit:e}"
                );
            }
            Ok(())
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
}

#[test]
fn f32_errors_are_within_the_isas_bounds() {
    let relative = |bits: f64| move |_: f64, wanted: f64| wanted.abs() * bits.exp2();
    for ftz in ["", ".ftz"] {
        bounded(&format!("ex2.approx{ftz}.f32"), -149.0..128.0, f64::exp2, |_, wanted| 2.0 * ulp(wanted));
        bounded(&format!("rcp.approx{ftz}.f32"), 1e-38..f32::MAX, f64::recip, |_, wanted| ulp(wanted));
        let least = f32::MIN_POSITIVE;
        bounded(&format!("sqrt.approx{ftz}.f32"), least..f32::MAX, f64::sqrt, relative(-23.0));
        bounded(&format!("rsqrt.approx{ftz}.f32"), least..f32::MAX, |v| v.sqrt().recip(), relative(-22.9));
        let log = |a: f64, wanted: f64| (-22f64).exp2() * if a > 0.5 && a < 2.0 { 1.0 } else { wanted.abs() };
        bounded(&format!("lg2.approx{ftz}.f32"), least..f32::MAX, f64::log2, log);
        bounded(&format!("lg2.approx{ftz}.f32"), 0.25..4.0, f64::log2, log);
        for (sine, exact) in [("sin", f64::sin as fn(f64) -> f64), ("cos", f64::cos)] {
            let mnemonic = format!("{sine}.approx{ftz}.f32");
            bounded(&mnemonic, -2.0 * PI..2.0 * PI, exact, |_, _| (-20.5f64).exp2());
            bounded(&mnemonic, -100.0 * PI..100.0 * PI, exact, |_, _| (-14.7f64).exp2());
        }
    }
    bounded("rsqrt.approx.f32", 0.0..f32::MIN_POSITIVE, |v| v.sqrt().recip(), relative(-22.9));
    bounded("tanh.approx.f32", -20.0..20.0, f64::tanh, relative(-11.0));
    bounded("tanh.approx.f32", -f32::MAX..f32::MAX, f64::tanh, relative(-11.0));
    bounded("tanh.approx.f32", -1e-3..1e-3, f64::tanh, relative(-11.0));
}

/// What the bounds leave, the polynomials do not use: they are right to the last bit but one in thousands.
#[test]
fn f32_results_are_nearly_always_correctly_rounded() {
    type Function = fn(f64) -> f64;
    let functions: [(&str, Function, f32, f32); 5] = [
        ("ex2.approx.f32", f64::exp2, -126.0, 127.0),
        ("lg2.approx.f32", f64::log2, 1e-30, 1e30),
        ("sin.approx.f32", f64::sin, -6.0, 6.0),
        ("cos.approx.f32", f64::cos, -6.0, 6.0),
        ("tanh.approx.f32", f64::tanh, -9.0, 9.0),
    ];
    for (mnemonic, exact, from, to) in functions {
        let (mut wrong, steps) = (0, 4096);
        for step in 0..steps / 32 {
            let at = |lane: usize| from + (to - from) * ((step * 32 + lane) as f32 / steps as f32);
            let got = run(mnemonic, &[std::array::from_fn(|lane| at(lane).to_bits() as u64)]);
            wrong += (0..32)
                .filter(|&lane| f32::from_bits(got[lane] as u32) != exact(at(lane) as f64) as f32)
                .count();
        }
        assert!(wrong <= 4, "{mnemonic}: {wrong} of {steps}");
    }
}

#[test]
fn sines_stay_within_one_everywhere() {
    check("sin.approx.f32", encodings(dyadic::F32), |operands| {
        let value = single("sin.approx.f32", &[f32::from_bits(operands[0] as u32)]);
        assert!(value.is_nan() || value.abs() <= 1.0);
        value.to_bits() as u64
    });
}

#[test]
fn quotients() {
    let quotients = |mnemonic: &'static str, ftz: bool, full: bool| {
        let f32s = || encodings(dyadic::F32).prop_map(|bits| f32::from_bits(bits as u32));
        runner()
            .run(&(prop::array::uniform32(f32s()), prop::array::uniform32(f32s())), |(a, b)| {
                let rows = [a.map(|v| v.to_bits() as u64), b.map(|v| v.to_bits() as u64)];
                let got = run(mnemonic, &rows);
                for lane in 0..32 {
                    let flush = |v: f32| if ftz && v.abs() < f32::MIN_POSITIVE { v * 0.0 } else { v };
                    let (a, b) = (flush(a[lane]), flush(b[lane]));
                    let got = f32::from_bits(got[lane] as u32);
                    let exact = a as f64 / b as f64;
                    let special = b == 0.0 || !b.is_finite() || !a.is_finite() || a == 0.0;
                    let great = b.abs() > 2f32.powi(126) && b.is_finite();
                    if !full && great {
                        // The range in which the reciprocal is zero.
                        let wanted = if a.is_finite() { 0f32.copysign(a) * 1f32.copysign(b) } else { NAN };
                        let wanted = if a.is_nan() { NAN } else { wanted };
                        prop_assert!(got.to_bits() == wanted.to_bits() || got.is_nan() && wanted.is_nan());
                    } else if special && (full || b.abs() >= f32::MIN_POSITIVE || b == 0.0 || b.is_nan()) {
                        let wanted = (a / b).to_bits();
                        prop_assert!(
                            got.to_bits() == wanted || got.is_nan() && (a / b).is_nan(),
                            "{a:e} / {b:e} = {got:e}"
                        );
                    } else if full || b.abs() >= f32::MIN_POSITIVE {
                        let flushed =
                            ftz && exact.abs() <= f32::MIN_POSITIVE as f64 * (1.0 + 1e-6) && got == 0.0;
                        // Two units above, infinity follows the greatest number.
                        let beyond = exact.abs() + 2.0 * ulp(exact) >= 128f64.exp2() && got.is_infinite();
                        let error = (got as f64 - exact).abs();
                        prop_assert!(
                            flushed || beyond || error <= 2.0 * ulp(exact),
                            "{mnemonic}: {a:e} / {b:e} = {got:e}"
                        );
                    }
                }
                Ok(())
            })
            .unwrap_or_else(|failure| panic!("{failure}"));
    };
    quotients("div.approx.f32", false, false);
    quotients("div.approx.ftz.f32", true, false);
    quotients("div.full.f32", false, true);
    quotients("div.full.ftz.f32", true, true);
}

#[test]
fn f64_approximations() {
    let nan = 0x7fff_ffff_0000_0000u64;
    let sub = f64::from_bits(0xf_ffff_0000_0000);
    let rcp = [
        (f64::NEG_INFINITY, -0.0),
        (-sub, f64::NEG_INFINITY),
        (-0.0, f64::NEG_INFINITY),
        (0.0, f64::INFINITY),
    ];
    for (operand, wanted) in rcp.into_iter().chain([(sub, f64::INFINITY), (f64::INFINITY, 0.0), (4.0, 0.25)])
    {
        assert_eq!(double("rcp.approx.ftz.f64", operand).to_bits(), wanted.to_bits(), "1 / {operand:e}");
    }
    let rsqrt =
        [(-sub, f64::NEG_INFINITY), (-0.0, f64::NEG_INFINITY), (0.0, f64::INFINITY), (sub, f64::INFINITY)];
    for (operand, wanted) in rsqrt.into_iter().chain([(f64::INFINITY, 0.0), (4.0, 0.5)]) {
        assert_eq!(
            double("rsqrt.approx.ftz.f64", operand).to_bits(),
            wanted.to_bits(),
            "1 / sqrt {operand:e}"
        );
    }
    for mnemonic in ["rcp.approx.ftz.f64", "rsqrt.approx.ftz.f64"] {
        assert_eq!(double(mnemonic, f64::from_bits(0xfff4_5678_1234_5678)).to_bits(), nan);
        // Only the upper half of the operand is looked at, and only that of the result is not zero.
        let (a, b) = (1.7f64.to_bits() >> 32 << 32, 1.7f64.to_bits() | 0xffff_ffff);
        assert_eq!(
            double(mnemonic, f64::from_bits(a)).to_bits(),
            double(mnemonic, f64::from_bits(b)).to_bits()
        );
    }
    assert_eq!(double("rsqrt.approx.ftz.f64", f64::NEG_INFINITY).to_bits(), nan);
    assert_eq!(double("rsqrt.approx.ftz.f64", -1.0).to_bits(), nan);
    // A result below the normal numbers.
    assert_eq!(double("rcp.approx.ftz.f64", -f64::MAX).to_bits(), (-0.0f64).to_bits());
    for step in 1..1000 {
        let operand = step as f64 * 1.37e-3;
        let exact = |power: f64| operand.powf(power);
        for (mnemonic, wanted) in [("rcp.approx.ftz.f64", exact(-1.0)), ("rsqrt.approx.ftz.f64", exact(-0.5))]
        {
            let got = double(mnemonic, operand);
            assert!((got / wanted - 1.0).abs() <= (-19f64).exp2(), "{mnemonic} of {operand}");
            assert_eq!(got.to_bits() << 32, 0, "{mnemonic} of {operand}");
        }
        let got = double("rsqrt.approx.f64", operand);
        assert!((got / exact(-0.5) - 1.0).abs() <= 1e-15, "{operand}");
    }
}

#[test]
fn approximations_of_halves() {
    // Every encoding, in both halves of a pair.
    // A relative or an absolute bound; of a subnormal result, half of the last place is more than the relative one.
    type Exact = fn(f64) -> f64;
    let cases: [(&str, bool, Exact, bool, f64); 4] = [
        ("ex2.approx.f16", false, f64::exp2, true, -9.9),
        ("ex2.approx.ftz.bf16", true, f64::exp2, true, -7.0),
        ("tanh.approx.f16", false, f64::tanh, false, -10.987),
        ("tanh.approx.bf16", true, f64::tanh, false, -8.0),
    ];
    for (mnemonic, brain, exact, relative, power) in cases {
        let bound = |wanted: f64| match relative {
            true if brain => power.exp2() * wanted,
            true => (power.exp2() * wanted).max((-25f64).exp2()),
            false => power.exp2(),
        };
        let wide = |bits: u64| match brain {
            true => f32::from_bits((bits as u32) << 16) as f64,
            false => half::f16::from_bits(bits as u16).to_f64(),
        };
        // What rounds to more than the greatest number, and the least that is not flushed.
        let (too_great, least) =
            if brain { (255.5 / 128.0 * 127f64.exp2(), f32::MIN_POSITIVE as f64) } else { (65520.0, 0.0) };
        for first in (0..0x1_0000u64).step_by(32) {
            let operands: [u64; 32] = std::array::from_fn(|lane| first + lane as u64);
            let got = run(mnemonic, &[operands]);
            let pairs = run(&format!("{mnemonic}x2"), &[operands.map(|v| v << 16 | v ^ 1)]);
            for lane in 0..32 {
                let (operand, value) = (wide(operands[lane]), wide(got[lane]));
                let ftz = mnemonic.contains("ftz");
                let flushed = if ftz && operand.abs() < least { 0.0 } else { operand };
                let wanted = exact(flushed);
                assert_eq!(pairs[lane], got[lane] << 16 | got[lane ^ 1], "{mnemonic}x2");
                match () {
                    _ if operand.is_nan() => assert_eq!(got[lane], 0x7fff, "{mnemonic}"),
                    _ if wanted >= too_great => assert_eq!(value, f64::INFINITY, "{mnemonic} of {operand:e}"),
                    _ if ftz && wanted.abs() < least => {
                        assert!(value == 0.0 || value <= least, "{mnemonic} of {operand:e}");
                    }
                    _ => {
                        let error = (value - wanted).abs();
                        assert!(
                            error <= bound(wanted),
                            "{mnemonic} of {operand:e}: {value:e}, exactly {wanted:e}"
                        );
                        assert_eq!(
                            value.is_sign_negative(),
                            wanted.is_sign_negative(),
                            "{mnemonic} of {operand:e}"
                        );
                    }
                }
            }
        }
    }
}

/// Nothing approximate goes untested.
#[test]
fn the_tests_know_every_approximation() {
    let known = ["ex2", "lg2", "rcp", "sqrt", "rsqrt", "sin", "cos", "tanh", "div"];
    let all = Float::MNEMONICS
        .iter()
        .chain(Packed::MNEMONICS)
        .filter(|m| m.contains("approx") || m.contains("full"));
    for mnemonic in all {
        assert!(known.contains(&mnemonic.split('.').next().unwrap_or("")), "{mnemonic}");
    }
}
