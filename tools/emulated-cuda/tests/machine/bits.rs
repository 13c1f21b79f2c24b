//! Registers of which some bits are undefined: where these go, and which instructions need them.

use std::fmt::Write;

use cuda::machine::FaultKind::Uninitialised;

use super::{Setup, each};
use crate::arith::integer::reference;

/// A stream of random numbers: SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Few bits, many, none or all: whole bytes more often than not.
    fn mask(&mut self, width: u32) -> u64 {
        let bytes = (0..8).fold(0, |all, byte| all | ((self.next() & 1) * (0xff << (8 * byte))));
        let mask = match self.next() % 8 {
            0 => 0,
            1 => u64::MAX,
            2 => self.next() & self.next() & self.next(),
            3 => self.next() | self.next(),
            4 => 1 << (self.next() % u64::from(width)),
            _ => bytes,
        };
        mask & low(width)
    }
}

fn low(bits: u32) -> u64 {
    if bits == 64 { u64::MAX } else { (1 << bits) - 1 }
}

/// One thread with two words of output.
fn one() -> Setup {
    Setup { words: 2, ..Setup::block(1) }
}

/// Instructions that make a register of `width` bits with a value, of which the bits in `lost` are undefined. Nothing writes
/// `%r63`.
fn partly(name: &str, width: u32, value: u64, lost: u64) -> String {
    let word = |to: &str, shift: u32| {
        let (value, lost) = ((value & !lost) >> shift & low(32), lost >> shift & low(32));
        format!("and.b32 {to}, %r63, {lost};\nor.b32 {to}, {to}, {value};\n")
    };
    match width {
        16 => word("%r62", 0) + &format!("cvt.u16.u32 {name}, %r62;\n"),
        32 => word(name, 0),
        _ => word("%r61", 0) + &word("%r62", 32) + &format!("mov.b64 {name}, {{%r61, %r62}};\n"),
    }
}

fn register(width: u32, index: usize) -> String {
    format!(
        "{}{}",
        if width == 16 {
            "%h"
        } else if width == 32 {
            "%r"
        } else {
            "%rd"
        },
        4 + index
    )
}

/// An instruction that moves or combines bits.
struct Law {
    mnemonic: &'static str,
    /// Widths of the sources whose bits it takes.
    sources: &'static [u32],
    /// What the sources behind these may be: below so much.
    controls: &'static [u64],
    /// Width of the result.
    to: u32,
    /// What it computes.
    formula: fn(&str, &[u64]) -> u64,
}

const fn law(mnemonic: &'static str, sources: &'static [u32], controls: &'static [u64], to: u32) -> Law {
    Law { mnemonic, sources, controls, to, formula: reference }
}

/// Integers cut off or extended.
const fn extension(mnemonic: &'static str, sources: &'static [u32], to: u32) -> Law {
    Law { mnemonic, sources, controls: &[], to, formula: extended }
}

fn extended(mnemonic: &str, sources: &[u64]) -> u64 {
    let types: Vec<&str> = mnemonic.split('.').skip(1).collect();
    let extend = |value: u64, ty: &str| {
        let spare = 64 - ty[1..].parse::<u32>().unwrap();
        if ty.starts_with('s') { ((value << spare) as i64 >> spare) as u64 } else { value << spare >> spare }
    };
    extend(extend(sources[0], types[1]), types[0])
}

const LAWS: &[Law] = &[
    law("and.b16", &[16, 16], &[], 16),
    law("and.b32", &[32, 32], &[], 32),
    law("and.b64", &[64, 64], &[], 64),
    law("or.b16", &[16, 16], &[], 16),
    law("or.b32", &[32, 32], &[], 32),
    law("or.b64", &[64, 64], &[], 64),
    law("xor.b16", &[16, 16], &[], 16),
    law("xor.b32", &[32, 32], &[], 32),
    law("xor.b64", &[64, 64], &[], 64),
    law("not.b16", &[16], &[], 16),
    law("not.b32", &[32], &[], 32),
    law("not.b64", &[64], &[], 64),
    law("lop3.b32", &[32, 32, 32], &[256], 32),
    law("brev.b32", &[32], &[], 32),
    law("brev.b64", &[64], &[], 64),
    law("shl.b16", &[16], &[18], 16),
    law("shl.b32", &[32], &[34], 32),
    law("shl.b64", &[64], &[66], 64),
    law("shr.u16", &[16], &[18], 16),
    law("shr.s16", &[16], &[18], 16),
    law("shr.u32", &[32], &[34], 32),
    law("shr.s32", &[32], &[34], 32),
    law("shr.u64", &[64], &[66], 64),
    law("shr.s64", &[64], &[66], 64),
    law("shf.l.wrap.b32", &[32, 32], &[40], 32),
    law("shf.r.wrap.b32", &[32, 32], &[40], 32),
    law("shf.l.clamp.b32", &[32, 32], &[40], 32),
    law("shf.r.clamp.b32", &[32, 32], &[40], 32),
    law("bfe.u32", &[32], &[34, 34], 32),
    law("bfe.s32", &[32], &[34, 34], 32),
    law("bfe.u64", &[64], &[66, 66], 64),
    law("bfe.s64", &[64], &[66, 66], 64),
    law("bfi.b32", &[32, 32], &[34, 34], 32),
    law("bfi.b64", &[64, 64], &[66, 66], 64),
    law("szext.wrap.u32", &[32], &[34], 32),
    law("szext.clamp.s32", &[32], &[34], 32),
    law("prmt.b32", &[32, 32], &[0x1_0000], 32),
    law("prmt.b32.f4e", &[32, 32], &[4], 32),
    law("prmt.b32.b4e", &[32, 32], &[4], 32),
    law("prmt.b32.rc8", &[32, 32], &[4], 32),
    law("prmt.b32.ecl", &[32, 32], &[4], 32),
    law("prmt.b32.ecr", &[32, 32], &[4], 32),
    law("prmt.b32.rc16", &[32, 32], &[4], 32),
    law("slct.b16.s32", &[16, 16], &[1 << 32], 16),
    law("slct.b32.s32", &[32, 32], &[1 << 32], 32),
    law("slct.b64.f32", &[64, 64], &[1 << 32], 64),
    extension("cvt.u32.u8", &[32], 32),
    extension("cvt.s32.s8", &[32], 32),
    extension("cvt.u16.u32", &[32], 16),
    extension("cvt.s16.s8", &[16], 16),
    extension("cvt.u64.u16", &[16], 64),
    extension("cvt.s64.s32", &[32], 64),
    extension("cvt.u32.u64", &[64], 32),
    extension("cvt.s64.s16", &[16], 64),
];

impl Law {
    /// The bits of the result that no value of the undefined bits changes, and those that some do.
    fn expected(&self, random: &mut Random, values: &[u64], lost: &[u64]) -> (u64, u64) {
        let first = (self.formula)(self.mnemonic, values) & low(self.to);
        let mut changes = 0;
        for _ in 0..200 {
            let other: Vec<u64> = values
                .iter()
                .enumerate()
                .map(|(i, v)| lost.get(i).map_or(*v, |lost| v & !lost | random.next() & lost))
                .collect();
            changes |= first ^ (self.formula)(self.mnemonic, &other) & low(self.to);
        }
        (first & !changes, changes)
    }

    /// The instruction, with the words of its result in `%r1` and `%r2`.
    fn text(&self, values: &[u64], lost: &[u64]) -> String {
        let mut text = String::new();
        let mut operands = vec![register(self.to, 9)];
        for (index, &width) in self.sources.iter().enumerate() {
            text += &partly(&register(width, index), width, values[index], lost[index]);
            operands.push(register(width, index));
        }
        for (index, value) in values[self.sources.len()..].iter().enumerate() {
            if self.mnemonic.starts_with("lop3") {
                operands.push(value.to_string());
            } else {
                let _ = writeln!(text, "mov.u32 %r{}, {value};", 50 + index);
                operands.push(format!("%r{}", 50 + index));
            }
        }
        let result = operands[0].replace("%h13", "%h7");
        let _ = writeln!(text, "{} {result}, {};", self.mnemonic, operands[1..].join(", "));
        text + &match self.to {
            16 => format!("cvt.u32.u16 %r1, {result};\nmov.u32 %r2, 0;\n"),
            32 => format!("mov.u32 %r1, {result};\nmov.u32 %r2, 0;\n"),
            _ => format!("mov.b64 {{%r1, %r2}}, {result};\n"),
        }
    }
}

#[test]
fn undefined_bits_go_where_values_do() {
    let mut random = Random(1);
    for law in LAWS {
        let (mut wholly, mut partly) = (0, 0);
        for _ in 0..12 {
            let lost: Vec<u64> = law.sources.iter().map(|&width| random.mask(width)).collect();
            let data = law.sources.iter().map(|&width| random.next() & low(width)).collect::<Vec<_>>();
            let control = law.controls.iter().map(|&end| random.next() % end).collect::<Vec<_>>();
            let values = [data, control].concat();
            let (known, unknown) = law.expected(&mut random, &values, &lost);
            let text = law.text(&values, &lost);
            // A sum of the bits that must be defined.
            let defined = format!(
                "and.b32 %r1, %r1, {};\nand.b32 %r2, %r2, {};\nadd.u32 %r1, %r1, 0;\nadd.u32 %r2, %r2, 0;\n\
                 st.global.v2.u32 [%out], {{%r1, %r2}};",
                !unknown & low(32),
                !unknown >> 32,
            );
            assert_eq!(one().out(&(text.clone() + &defined)), [known as u32, (known >> 32) as u32], "{text}");
            partly += u32::from(unknown != 0);
            wholly += u32::from(unknown == low(law.to));
            if unknown == 0 {
                continue;
            }
            // Every single one of the others is not.
            let nth = random.next() % u64::from(unknown.count_ones());
            let bit = (0..nth).fold(unknown, |left, _| left & (left - 1)).trailing_zeros();
            let (word, bit) = (1 + bit / 32, 1u32 << (bit % 32));
            let undefined = format!("and.b32 %r3, %r{word}, {bit};\nadd.u32 %r3, %r3, 0;");
            let name = format!("register %r3 is read before anything wrote its bits {bit:#x}");
            one().fails(&(text + &undefined), Uninitialised, &[&name, "add.u32 %r3, %r3, 0;"]);
        }
        assert!(partly > wholly, "{}: {partly} {wholly}", law.mnemonic);
    }
}

#[test]
fn bits_that_do_not_count_need_not_be_defined() {
    // A source and the bits of it that count; the rest of the register is undefined.
    let cases = [
        ("add.u16 %h1, %h4, 1;", 16, 0xffff),
        ("shl.b32 %r1, %t, %r4;", 32, 0xffff_ffff),
        ("shf.l.wrap.b32 %r1, %t, %t, %r4;", 32, 0x1f),
        ("bfe.u32 %r1, %t, %r4, 3;", 32, 0xff),
        ("bfi.b32 %r1, %t, %t, 3, %r4;", 32, 0xff),
        ("prmt.b32 %r1, %t, %t, %r4;", 32, 0xffff),
        ("prmt.b32.f4e %r1, %t, %t, %r4;", 32, 3),
        ("prmt.b32.rc16 %r1, %t, %t, %r4;", 32, 1),
        ("shfl.sync.idx.b32 %r1, %t, %r4, 0x1f, 1;", 32, 0x1f),
        ("shfl.sync.idx.b32 %r1, %t, 0, %r4, 1;", 32, 0x1f1f),
        ("cvt.rn.f32.u8 %f1, %r4;", 32, 0xff),
        ("cvt.sat.u8.u32 %r1, %r4;", 32, 0xffff_ffff),
        ("cvt.f32.f16 %f1, %h4;", 16, 0xffff),
        ("setp.eq.u32 %p1, %r4, 1;", 32, 0xffff_ffff),
        ("mul.wide.u16 %r1, %h4, %h4;", 16, 0xffff),
        ("popc.b32 %r1, %r4;", 32, 0xffff_ffff),
        ("add.u64 %rd1, %rd4, 1;", 64, u64::MAX),
        ("st.global.u8 [%out], %r4;", 32, 0xff),
        ("st.global.u16 [%out], %h4;", 16, 0xffff),
        ("ld.global.u32 %r1, [%rd4];", 64, u64::MAX),
        ("atom.global.add.u32 %r1, [%out], %r4;", 32, 0xffff_ffff),
    ];
    for (instruction, width, counts) in cases {
        let name = register(width, 0);
        let rest = partly(&name, width, 0, !counts & low(width));
        // Nothing lies at the address that is 0.
        let result = one().run(&(rest + instruction));
        assert!(instruction.contains("[%rd4]") || result.is_ok(), "{instruction}: {result:?}");
        if instruction.starts_with("st.") {
            continue;
        }
        for bit in [counts.trailing_zeros(), 63 - counts.leading_zeros()] {
            let text = partly(&name, width, 0, 1 << bit) + instruction;
            let what =
                if counts == 1 { "wrote it".into() } else { format!("wrote its bits {:#x}", 1u64 << bit) };
            one().fails(&text, Uninitialised, &[&format!("register {name} is"), &what, instruction]);
        }
    }
}

/// What nvcc makes of an array of bytes that a thread fills one by one.
#[test]
fn an_array_of_bytes_in_a_register() {
    let fill = "ld.global.u32 %r5, [%in];\nand.b32 %r1, %r63, -256;\nor.b32 %r1, %r1, %t;\nand.b32 %r2, %r1, -65281;\n\
                or.b32 %r2, %r2, 30464;\nand.b32 %r3, %r2, -16711681;\nor.b32 %r3, %r3, 7798784;\n";
    let last = "and.b32 %r4, %r3, 16777215;\nprmt.b32 %r4, %r5, %r4, 1620;\n";
    let take = "shr.u32 %r6, %r4, 8;\nadd.u32 %r6, %r6, %r4;\nst.global.u32 [%mine], %r6;";
    let setup = Setup { input: vec![0x1234_5612], ..Setup::block(40) };
    let word = |t: u32| 0x1277_7700 | t;
    let expected = each(40, |t| (word(t) >> 8).wrapping_add(word(t)));
    assert_eq!(setup.out(&[fill, last, take].concat()), expected);
    // With one of the bytes left out.
    let third = "and.b32 %r3, %r2, -16711681;\nor.b32 %r3, %r3, 7798784;\n";
    let without = [fill, last, take].concat().replace(third, "mov.b32 %r3, %r2;\n");
    setup.fails(&without, Uninitialised, &["%r6", "its bits 0xff00", "add.u32 %r6, %r6, %r4;"]);
    // The bytes that are there may be taken out all the same.
    let byte = "bfe.u32 %r6, %r3, 8, 8;\nadd.u32 %r6, %r6, 1;\nst.global.u32 [%mine], %r6;";
    assert_eq!(setup.out(&[fill, byte].concat()), each(40, |_| 0x78));
}

#[test]
fn halves_of_a_register() {
    let half = "mov.b32 {%h1, %h2}, %r63;\ncvt.u16.u32 %h1, %t;\nmov.b32 %r1, {%h1, %h2};\n";
    let low =
        "mov.b32 {%h3, %h4}, %r1;\nadd.u16 %h3, %h3, 5;\ncvt.u32.u16 %r2, %h3;\nst.global.u32 [%mine], %r2;";
    assert_eq!(Setup::block(3).out(&[half, low].concat()), [5, 6, 7]);
    let high = low.replace("add.u16 %h3, %h3, 5", "add.u16 %h3, %h4, 5");
    Setup::block(3).fails(
        &[half, &high].concat(),
        Uninitialised,
        &["register %h4 is read before anything wrote it"],
    );
}

#[test]
fn predicates() {
    // %p9 is undefined; %p1 is true in even lanes. The combination and the lanes in which it is defined.
    let start = "and.b32 %r1, %lane, 1;\nsetp.eq.u32 %p1, %r1, 0;\n";
    let cases = [
        ("and.pred %p2, %p9, %p1;", 1),
        ("and.pred %p2, %p1, %p9;", 1),
        ("or.pred %p2, %p9, %p1;", 0),
        ("and.pred %p2, %p9, !%p1;", 0),
        ("setp.eq.and.u32 %p2, %r1, 0, %p9;", 1),
        ("setp.eq.or.u32 %p2, %r1, 0, %p9;", 0),
        ("setp.eq.or.u32 %p2, %r1, 0, !%p9;", 0),
        ("setp.eq.and.u32 %p3|%p2, %r1, 0, %p9;", 0),
        ("setp.eq.or.u32 %p3|%p2, %r1, 0, %p9;", 1),
        ("xor.pred %p2, %p9, %p1;", 2),
        ("not.pred %p2, %p9;", 2),
        ("mov.pred %p2, %p9;", 2),
    ];
    for (combine, parity) in cases {
        let text = format!("{start}{combine}\n");
        let use_in = |lanes: u32| {
            format!(
                "{text}setp.eq.u32 %p4, %r1, {lanes};\n@!%p4 bra E;\nselp.u32 %r2, 3, 4, %p2;\nst.global.u32 [%mine], %r2;\nE:"
            )
        };
        for lanes in [0, 1] {
            let result = Setup::block(32).run(&use_in(lanes));
            assert_eq!(result.is_ok(), lanes == parity, "{combine} in lanes {lanes}: {result:?}");
            assert!(result.is_ok() || result.unwrap_err().message.contains("%p2"));
        }
        // Lanes that a guard leaves out count too: which they are is not known.
        Setup::block(32).fails(&format!("{text}@%p2 bra E;\nE:"), Uninitialised, &["%p2"]);
    }
}

#[test]
fn selections_take_what_they_choose() {
    let start = "and.b32 %r1, %lane, 1;\nsetp.eq.u32 %p1, %r1, 0;\n";
    let take = "@%p1 add.u32 %r3, %r2, 1;\n@%p1 st.global.u32 [%mine], %r3;";
    assert_eq!(Setup::block(4).out(&format!("{start}selp.u32 %r2, %t, %r63, %p1;\n{take}")), [1, 0, 3, 0]);
    let other = format!("{start}selp.u32 %r2, %r63, %t, %p1;\n{take}");
    Setup::block(4).fails(&other, Uninitialised, &["%r2", "add.u32 %r3, %r2, 1;"]);
    let by = "selp.u32 %r2, %t, %lane, %p9;";
    Setup::block(4).fails(by, Uninitialised, &["%p9", by]);
}

/// What only one lane has, it hands to the others.
#[test]
fn shuffles_bring_what_the_source_has() {
    let only = "setp.eq.u32 %p1, %lane, 5;\n@%p1 mov.u32 %r1, 77;\n";
    let take = "add.u32 %r2, %r2, %lane;\nst.global.u32 [%mine], %r2;";
    let idx = format!("{only}shfl.sync.idx.b32 %r2, %r1, 5, 0x1f, -1;\n{take}");
    assert_eq!(Setup::block(32).out(&idx), each(32, |lane| 77 + lane));
    let wrong = format!("{only}shfl.sync.idx.b32 %r2, %r1, 6, 0x1f, -1;\n{take}");
    Setup::block(32).fails(&wrong, Uninitialised, &["%r2", "add.u32"]);
    // Each lane from its neighbour, of which one has nothing.
    let hole = "setp.ne.u32 %p1, %lane, 9;\n@%p1 mov.u32 %r1, %lane;\nshfl.sync.down.b32 %r2, %r1, 1, 0x1f, -1;\n\
                setp.ne.u32 %p2, %lane, 8;\n@%p2 add.u32 %r2, %r2, 1;\n@%p2 st.global.u32 [%mine], %r2;";
    // The last lane keeps its own.
    let expected = each(32, |lane| match lane {
        8 => 0,
        31 => 32,
        lane => lane + 2,
    });
    assert_eq!(Setup::block(32).out(hole), expected);
    let all = hole.replace("ne.u32 %p2, %lane, 8", "ne.u32 %p2, %lane, 7");
    assert_eq!(Setup::block(32).fails(&all, Uninitialised, &["%r2"]).thread, [8, 0, 0]);
}

#[test]
fn what_is_stored_undefined_is_undefined_in_memory() {
    let make = partly("%r1", 32, 0x1122_3344, 0x00ff_0000);
    let local = ".local .align 8 .b8 depot[8];\nmov.u64 %rd1, depot;\n";
    let shared = ".shared .align 8 .b8 tile[8];\nmov.u32 %r9, tile;\n";
    let generic = ".shared .align 8 .b8 tile[8];\nmov.u64 %rd1, tile;\ncvta.shared.u64 %rd1, %rd1;\n";
    for (start, store, at) in [
        ("", "st.global", "%out"),
        (local, "st.local", "%rd1"),
        (shared, "st.shared", "%r9"),
        (generic, "st", "%rd1"),
    ] {
        let load = store.replace("st", "ld");
        let text = format!("{start}{make}{store}.u32 [{at}], %r1;\n");
        let bytes: String =
            [0, 1, 3].map(|b| format!("{load}.u8 %r2, [{at}+{b}];\nadd.u32 %r2, %r2, 1;\n")).concat();
        assert!(one().run(&(text.clone() + &bytes)).is_ok(), "{store}");
        one().fails(
            &format!("{text}{load}.u8 %r2, [{at}+2];"),
            Uninitialised,
            &[&format!("{load}.u8 %r2, [{at}+2]")],
        );
        one().fails(&format!("{text}{load}.u32 %r2, [{at}];"), Uninitialised, &[&format!("{load}.u32 %r2")]);
        // What is written again is defined.
        let again = format!("{text}{store}.u8 [{at}+2], %t;\n{load}.u32 %r2, [{at}];\nadd.u32 %r2, %r2, 1;");
        assert!(one().run(&again).is_ok(), "{store}");
        // An element of which nothing is defined.
        let none = format!("{start}{store}.v2.u32 [{at}], {{%t, %r63}};");
        if store == "st.local" {
            // Nobody else can read it: it is where it is read that the fault comes up.
            one().fails(&format!("{none}\nld.local.u32 %r2, [%rd1+4];"), Uninitialised, &["ld.local"]);
            assert!(one().run(&format!("{none}\nld.local.u32 %r2, [%rd1];")).is_ok());
        } else {
            one().fails(&none, Uninitialised, &["register %r63 is read before anything wrote it", ".v2.u32"]);
        }
    }
}
