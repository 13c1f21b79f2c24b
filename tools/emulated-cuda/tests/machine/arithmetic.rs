//! Carry chains, comparisons with a third predicate, selections.

use cuda::machine::Options;
use proptest::{prelude::*, test_runner::RngSeed};

use super::{Setup, each};

/// Runs instructions once a pair of numbers of 128 bits: their words come in `%r0..3` and `%r4..7`, `%r8..11` go out.
fn wide(body: &str, pairs: &[(u128, u128)]) -> Vec<u128> {
    let threads = pairs.len() as u32;
    let setup = Setup {
        words: 4 * pairs.len(),
        input: pairs
            .iter()
            .flat_map(|&(a, b)| [a, b].map(bytemuck::cast::<u128, [u32; 4]>))
            .flatten()
            .collect(),
        options: Options { threads: 1, memory_bytes: 1 << 20, ..Options::default() },
        ..Setup::block(threads)
    };
    let out = setup.out(&format!(
        "mad.wide.u32 %rd1, %gid, 32, %in;\nmad.wide.u32 %rd2, %gid, 16, %out;\n\
         ld.global.v4.u32 {{%r0, %r1, %r2, %r3}}, [%rd1];\nld.global.v4.u32 {{%r4, %r5, %r6, %r7}}, [%rd1+16];\n\
         {body}\nst.global.v4.u32 [%rd2], {{%r8, %r9, %r10, %r11}};"
    ));
    out.chunks_exact(4).map(|w| w.iter().rev().fold(0, |all, &word| all << 32 | u128::from(word))).collect()
}

const ADD: &str = "add.cc.u32 %r8, %r0, %r4;\naddc.cc.u32 %r9, %r1, %r5;\naddc.cc.u32 %r10, %r2, %r6;\naddc.u32 %r11, %r3, %r7;";
const SUB: &str = "sub.cc.u32 %r8, %r0, %r4;\nsubc.cc.u32 %r9, %r1, %r5;\nsubc.cc.u32 %r10, %r2, %r6;\nsubc.u32 %r11, %r3, %r7;";
/// In words of 64 bits.
const ADD_WIDE: &str = "mov.b64 %rd3, {%r0, %r1};\nmov.b64 %rd4, {%r2, %r3};\nmov.b64 %rd5, {%r4, %r5};\nmov.b64 %rd6, {%r6, %r7};\n\
                        add.cc.u64 %rd3, %rd3, %rd5;\naddc.u64 %rd4, %rd4, %rd6;\nmov.b64 {%r8, %r9}, %rd3;\nmov.b64 {%r10, %r11}, %rd4;";
const SUB_WIDE: &str = "mov.b64 %rd3, {%r0, %r1};\nmov.b64 %rd4, {%r2, %r3};\nmov.b64 %rd5, {%r4, %r5};\nmov.b64 %rd6, {%r6, %r7};\n\
                        sub.cc.u64 %rd3, %rd3, %rd5;\nsubc.u64 %rd4, %rd4, %rd6;\nmov.b64 {%r8, %r9}, %rd3;\nmov.b64 {%r10, %r11}, %rd4;";
/// The product of the low 64 bits.
const MUL: &str = "mul.lo.u32 %r8, %r0, %r4;\nmul.hi.u32 %r9, %r0, %r4;\nmad.lo.cc.u32 %r9, %r1, %r4, %r9;\n\
                   madc.hi.u32 %r10, %r1, %r4, 0;\nmad.lo.cc.u32 %r9, %r0, %r5, %r9;\nmadc.hi.cc.u32 %r10, %r0, %r5, %r10;\n\
                   addc.u32 %r11, 0, 0;\nmad.lo.cc.u32 %r10, %r1, %r5, %r10;\nmadc.hi.u32 %r11, %r1, %r5, %r11;";

/// Words full of ones and zeros make the carries run far.
fn number() -> impl Strategy<Value = u128> {
    let word = prop_oneof![Just(0u32), Just(u32::MAX), Just(1), Just(1 << 31), any::<u32>()];
    proptest::array::uniform4(word).prop_map(bytemuck::cast)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, rng_seed: RngSeed::Fixed(1), ..ProptestConfig::default() })]

    #[test]
    fn carry_chains(pairs in proptest::collection::vec((number(), number()), 33)) {
        type Formula = fn(u128, u128) -> u128;
        let cases: [(&str, Formula); 5] = [
            (ADD, u128::wrapping_add),
            (ADD_WIDE, u128::wrapping_add),
            (SUB, u128::wrapping_sub),
            (SUB_WIDE, u128::wrapping_sub),
            (MUL, |a, b| u128::from(a as u64) * u128::from(b as u64)),
        ];
        for (body, formula) in cases {
            let expected: Vec<u128> = pairs.iter().map(|&(a, b)| formula(a, b)).collect();
            prop_assert_eq!(wide(body, &pairs), expected, "{}", body);
        }
    }
}

/// The flag is each lane's own, and outlives a branch.
#[test]
fn the_carry_of_lanes_that_part() {
    let body = "and.b32 %r1, %lane, 1;\nsetp.eq.u32 %p1, %r1, 0;\nmov.u32 %r2, -1;\n@%p1 bra A;\n\
                add.cc.u32 %r3, %r2, 1;\nbra B;\nA:\nadd.cc.u32 %r3, %lane, 1;\nB:\naddc.u32 %r4, %lane, 0;\n\
                st.global.u32 [%mine], %r4;";
    assert_eq!(Setup::block(32).out(body), each(32, |lane| lane + lane % 2));
}

#[test]
fn setp_with_a_third_predicate() {
    type Formula = fn(bool, bool) -> bool;
    let combinations: [(&str, Formula); 3] =
        [("and", |a, b| a && b), ("or", |a, b| a || b), ("xor", |a, b| a != b)];
    for (name, formula) in combinations {
        for not in [false, true] {
            let third = if not { "!%p3" } else { "%p3" };
            let body = format!(
                "and.b32 %r1, %lane, 1;\nsetp.eq.u32 %p3, %r1, 0;\nsetp.lt.{name}.u32 %p1|%p2, %lane, 9, {third};\n\
                 selp.u32 %r2, 1, 0, %p1;\nselp.u32 %r3, 2, 0, %p2;\nadd.u32 %r2, %r2, %r3;\n\
                 set.lt.{name}.u32.u32 %r4, %lane, 9, {third};\nand.b32 %r4, %r4, 0xf0;\nadd.u32 %r2, %r2, %r4;\n\
                 set.ge.{name}.f32.u32 %f1, %lane, 9, {third};\nmov.b32 %r5, %f1;\nadd.u32 %r2, %r2, %r5;\n\
                 st.global.u32 [%mine], %r2;"
            );
            let expected = each(32, |lane| {
                let (less, even) = (lane < 9, (lane % 2 == 0) != not);
                let (first, second) = (formula(less, even), formula(!less, even));
                let one = if second { 1f32.to_bits() } else { 0 };
                u32::from(first) + 2 * u32::from(second) + if first { 0xf0 } else { 0 } + one
            });
            assert_eq!(Setup::block(32).out(&body), expected, "{name} {third}");
        }
    }
}

#[test]
fn comparisons_of_nan() {
    let compare = |op: &str, value: &str| {
        let body = format!(
            "mov.f32 %f1, 0f7FC00000;\nmov.f32 %f2, {value};\nsetp.{op}.f32 %p1|%p2, %f1, %f2;\n\
             selp.u32 %r1, 1, 0, %p1;\nselp.u32 %r2, 2, 0, %p2;\nadd.u32 %r1, %r1, %r2;\nst.global.u32 [%mine], %r1;"
        );
        Setup::block(1).out(&body)[0]
    };
    for (op, expected) in
        [("eq", 2), ("ne", 2), ("lt", 2), ("equ", 1), ("neu", 1), ("ltu", 1), ("num", 2), ("nan", 1)]
    {
        assert_eq!(compare(op, "0f3F800000"), expected, "{op}");
    }
}
