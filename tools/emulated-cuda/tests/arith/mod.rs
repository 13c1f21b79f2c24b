//! The arithmetic of single instructions, as functions and through the tables that run them on 32 lanes.

mod convert;
mod dyadic;
mod float;
pub mod integer;
mod special;

use cuda::machine::{
    lanes::{File, Float, Integer, Line, Packed},
    op::{Slot, Width},
};
use proptest::prelude::*;

/// Bits that hold a source or result of one lane.
type Lanes = [u64; 32];

/// The lanes that a partly masked run writes.
const SOME: u32 = 0x9a3c_50f1;

/// Runs an instruction of any table by its name; checks that lanes outside a mask keep what they had.
fn run(mnemonic: &str, sources: &[Lanes]) -> Lanes {
    let (to, from) = Integer::find(mnemonic)
        .map(Integer::widths)
        .or(Float::find(mnemonic).map(Float::widths))
        .or(Packed::find(mnemonic).map(Packed::widths))
        .unwrap_or_else(|| panic!("{mnemonic} is in no table"));
    assert_eq!(sources.len(), from.len(), "{mnemonic}");
    let rows = |width: Width| if width == Width::Wide { 2 } else { 1 };
    let mut file = File::default();
    let mut slots: Vec<Slot> = Vec::new();
    for width in [to].iter().chain(from) {
        slots.push(file.rows.len() as Slot);
        file.rows.resize(file.rows.len() + rows(*width), Line([0x5555_aaaa; 32]));
    }
    for ((slot, width), values) in slots[1..].iter().zip(from).zip(sources) {
        write(&mut file, *slot, *width, values);
    }
    let before = read(&file, slots[0], to);
    apply(mnemonic, &mut file, &slots, SOME);
    let partly = read(&file, slots[0], to);
    apply(mnemonic, &mut file, &slots, u32::MAX);
    let wholly = read(&file, slots[0], to);
    for lane in 0..32 {
        let wanted = if SOME >> lane & 1 != 0 { wholly[lane] } else { before[lane] };
        assert_eq!(partly[lane], wanted, "{mnemonic}, lane {lane} of a part");
    }
    wholly
}

fn apply(mnemonic: &str, file: &mut File, slots: &[Slot], mask: u32) {
    if let Some(op) = Integer::find(mnemonic) {
        op.apply(file, slots, mask);
    } else if let Some(op) = Float::find(mnemonic) {
        op.apply(file, slots, mask);
    } else if let Some(op) = Packed::find(mnemonic) {
        op.apply(file, slots, mask);
    }
}

fn read(file: &File, slot: Slot, width: Width) -> Lanes {
    match width {
        Width::Wide => *file.lanes::<u64>(slot),
        _ => file.lanes::<u32>(slot).map(u64::from),
    }
}

fn write(file: &mut File, slot: Slot, width: Width, values: &Lanes) {
    match width {
        Width::Wide => *file.lanes_mut::<u64>(slot) = *values,
        _ => *file.lanes_mut::<u32>(slot) = values.map(|v| v as u32),
    }
}

/// Checks an instruction against a formula on random and special operands.
fn check(mnemonic: &str, values: impl Strategy<Value = u64> + Clone, formula: impl Fn(&[u64]) -> u64) {
    let (_, from) = Integer::find(mnemonic)
        .map(Integer::widths)
        .or(Float::find(mnemonic).map(Float::widths))
        .or(Packed::find(mnemonic).map(Packed::widths))
        .unwrap_or_else(|| panic!("{mnemonic} is in no table"));
    let sources = prop::collection::vec(prop::array::uniform32(values), from.len());
    runner()
        .run(&sources, |sources| {
            let got = run(mnemonic, &sources);
            for lane in 0..32 {
                let operands: Vec<u64> = sources.iter().map(|s| s[lane]).collect();
                let wanted = formula(&operands);
                prop_assert_eq!(
                    got[lane],
                    wanted,
                    "{} of {:x?}: {:x}, not {:x}",
                    mnemonic,
                    operands,
                    got[lane],
                    wanted
                );
            }
            Ok(())
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
}

/// Runs cases of 32 lanes each.
fn runner() -> proptest::test_runner::TestRunner {
    proptest::test_runner::TestRunner::new(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(24)
    })
}

/// Integers: extremes of every width, shift amounts, anything.
fn integers() -> impl Strategy<Value = u64> + Clone {
    let edges = prop::sample::select(vec![
        0,
        1,
        2,
        3,
        7,
        8,
        15,
        16,
        17,
        24,
        31,
        32,
        33,
        40,
        63,
        64,
        65,
        127,
        128,
        255,
        256,
        0x7fff,
        0x8000,
        0xffff,
        0x7f_ffff,
        0x80_0000,
        0xff_ffff,
        0x7fff_ffff,
        0x8000_0000,
        0xffff_ffff,
        0x1_0000_0000,
        i64::MAX as u64,
        i64::MIN as u64,
        u64::MAX,
        u64::MAX - 1,
        0xffff_8000,
        0xffff_ffff_ffff_8000,
        0xf0f0_cccc_aaaa_0f0f,
    ]);
    // A random number of random length, so that small ones come up.
    let lengths = (any::<u64>(), 0..64u32).prop_map(|(bits, shift)| bits >> shift);
    prop_oneof![2 => edges.boxed(), 3 => lengths.boxed(), 1 => any::<u64>().boxed()]
}

/// Encodings of a format: zeros, least and greatest numbers, infinities, NaNs, anything; and numbers near one another, whose sums
/// cancel and tie.
fn encodings(format: dyadic::Ieee) -> impl Strategy<Value = u64> + Clone {
    let (sign, max) = (format.sign(), format.max());
    let hidden = 1 << format.fraction;
    let one = ((1 << (format.exponent - 1)) - 1) << format.fraction;
    let edges = prop::sample::select(vec![
        0,
        1,
        2,
        3,
        hidden - 1,
        hidden,
        hidden + 1,
        one - 1,
        one,
        one + 1,
        one + hidden,
        max - 1,
        max,
        max + 1,
        (max + 2).min(sign - 1),
        sign - 1,
        max + 1 - hidden,
        one + hidden / 2,
        one / 2,
        one + one / 2,
    ]);
    let anything = any::<u64>().prop_map(move |bits| bits % sign);
    let spread = 4.min(one >> format.fraction) as i64;
    let near = (any::<u64>(), -spread..=spread).prop_map(move |(bits, exponent)| {
        (one as i64 + (exponent << format.fraction)) as u64 + bits % hidden
    });
    // Few bits set: products and sums that lie on ties.
    let sparse = (any::<u64>(), any::<u64>(), any::<u64>()).prop_map(move |(a, b, c)| (a & b & c) % sign);
    let magnitude =
        prop_oneof![3 => edges.boxed(), 2 => anything.boxed(), 3 => near.boxed(), 1 => sparse.boxed()];
    (magnitude, any::<bool>())
        .prop_map(move |(magnitude, negative)| if negative { magnitude | sign } else { magnitude })
}
