//! Registers that nothing wrote, and special registers.

use cuda::machine::{Checks, FaultKind};

use super::{Setup, each};

#[test]
fn read_before_anything_wrote_them() {
    let setup = Setup::block(32);
    setup.fails("add.u32 %r2, %r1, 1;", FaultKind::Uninitialised, &["%r1 is read before anything wrote it"]);
    setup.fails("@%p1 add.u32 %r2, %t, 1;", FaultKind::Uninitialised, &["%p1"]);
    setup.fails("ld.global.u32 %r2, [%rd1];", FaultKind::Uninitialised, &["%rd1"]);
    let mut free = setup.clone();
    free.options.checks = Checks { uninitialised: false, ..Checks::ALL };
    assert!(free.run("add.u32 %r2, %r1, 1;").is_ok());
}

#[test]
fn written_on_one_way_alone() {
    let write = "and.b32 %r1, %lane, 1;\nsetp.eq.u32 %p1, %r1, 0;\n@!%p1 bra A;\nmov.u32 %r2, 7;\nA:\n";
    let good = format!("{write}@%p1 st.global.u32 [%mine], %r2;");
    let expected = each(32, |lane| if lane % 2 == 0 { 7 } else { 0 });
    assert_eq!(Setup::block(32).out(&good), expected);
    let bad = format!("{write}st.global.u32 [%mine], %r2;");
    let fault = Setup::block(32).fails(&bad, FaultKind::Uninitialised, &["%r2"]);
    assert_eq!(fault.thread, [1, 0, 0]);
    // A guard is a way too.
    let guarded = "and.b32 %r1, %lane, 1;\nsetp.eq.u32 %p1, %r1, 0;\n@%p1 mov.u32 %r2, 7;\n";
    assert_eq!(Setup::block(32).out(&format!("{guarded}@%p1 st.global.u32 [%mine], %r2;")), expected);
    Setup::block(32).fails(
        &format!("{guarded}@!%p1 st.global.u32 [%mine], %r2;"),
        FaultKind::Uninitialised,
        &["%r2"],
    );
}

#[test]
fn copies_are_no_reads() {
    // Every way of copying, and the read at its end.
    let copies = [
        ("mov.u32 %r2, %r1;", "st.global.u32 [%mine], %r2;", "%r2"),
        ("mov.u32 %r2, %r1;\nmov.b32 %f1, %r2;", "st.global.f32 [%mine], %f1;", "%f1"),
        ("mov.b64 %rd1, {%r1, %r1};", "st.global.b64 [%out], %rd1;", "%rd1"),
        ("mov.b64 %rd1, {%t, %r1};\nmov.b64 {%r2, %r3}, %rd1;", "st.global.u32 [%mine], %r3;", "%r3"),
        ("selp.u32 %r2, %t, %r1, 0;", "st.global.u32 [%mine], %r2;", "%r2"),
        ("selp.u32 %r2, %t, %lane, 1;\nmov.u32 %r2, %r1;", "st.global.u32 [%mine], %r2;", "%r2"),
    ];
    for (copy, read, name) in copies {
        let written = format!("{copy}\nmov.u32 %r9, 1;");
        assert!(Setup::block(1).run(&written).is_ok(), "{copy}");
        Setup::block(1).fails(&format!("{copy}\n{read}"), FaultKind::Uninitialised, &[name, read]);
        // What is written first can be read.
        assert!(
            Setup { words: 2, ..Setup::block(1) }.run(&format!("mov.u32 %r1, 3;\n{copy}\n{read}")).is_ok(),
            "{copy}"
        );
    }
    let back = "mov.u32 %r2, %r1;\nmov.u32 %r2, %t;\nst.global.u32 [%mine], %r2;";
    assert_eq!(Setup::block(3).out(back), [0, 1, 2]);
}

/// What a special register holds in each thread of a grid, whose blocks have 5 by 3 by 2 threads.
fn special(name: &str) -> Vec<u32> {
    let setup =
        Setup { grid: [2, 3, 2], block: [5, 3, 2], words: 12 * 30, dynamic_shared: 48, ..Setup::block(1) };
    // The thread's place, from registers that the first test checks.
    let place = "mov.u32 %r1, %ctaid.z;\nmad.lo.u32 %r1, %r1, 3, 0;\nmov.u32 %r2, %ctaid.y;\nadd.u32 %r1, %r1, %r2;\n\
                 mov.u32 %r2, %ctaid.x;\nmad.lo.u32 %r1, %r1, 2, %r2;\nmov.u32 %r2, %tid.z;\nmad.lo.u32 %r1, %r1, 2, %r2;\n\
                 mov.u32 %r2, %tid.y;\nmad.lo.u32 %r1, %r1, 3, %r2;\nmov.u32 %r2, %tid.x;\nmad.lo.u32 %r1, %r1, 5, %r2;\n\
                 mad.wide.u32 %rd1, %r1, 4, %out;\n";
    setup.out(&format!("{place}mov.u32 %r3, {name};\nst.global.u32 [%rd1], %r3;"))
}

#[test]
fn places_of_threads() {
    let expected = |formula: fn(u32, u32) -> u32| each(360, |index| formula(index / 30, index % 30));
    // The index of the block is x + 2 * (y + 3 * z), that of the thread x + 5 * (y + 3 * z).
    type Case = (&'static str, fn(u32, u32) -> u32);
    let cases: [Case; 18] = [
        ("%tid.x", |_, t| t % 5),
        ("%tid.y", |_, t| t / 5 % 3),
        ("%tid.z", |_, t| t / 15),
        ("%ctaid.x", |b, _| b % 2),
        ("%ctaid.y", |b, _| b / 2 % 3),
        ("%ctaid.z", |b, _| b / 6),
        ("%ntid.x", |_, _| 5),
        ("%ntid.y", |_, _| 3),
        ("%ntid.z", |_, _| 2),
        ("%nctaid.x", |_, _| 2),
        ("%nctaid.y", |_, _| 3),
        ("%nctaid.z", |_, _| 2),
        ("%laneid", |_, t| t),
        ("%warpid", |_, _| 0),
        ("%nwarpid", |_, _| 1),
        ("%dynamic_smem_size", |_, _| 48),
        ("%lanemask_lt", |_, t| (0..t).map(|l| 1 << l).sum()),
        ("%lanemask_ge", |_, t| (t..32).map(|l| 1 << l).sum()),
    ];
    for (name, formula) in cases {
        assert_eq!(special(name), expected(formula), "{name}");
    }
}

#[test]
fn masks_and_numbers_of_warps() {
    let setup = Setup::block(70);
    let register = |name: &str| setup.out(&format!("mov.u32 %r1, {name};\nst.global.u32 [%mine], %r1;"));
    let lanes = |from: u32, to: u32| (from..to).fold(0, |all, lane| all | 1u32 << lane);
    assert_eq!(register("%lanemask_eq"), each(70, |t| lanes(t % 32, t % 32 + 1)));
    assert_eq!(register("%lanemask_le"), each(70, |t| lanes(0, t % 32 + 1)));
    assert_eq!(register("%lanemask_gt"), each(70, |t| lanes(t % 32 + 1, 32)));
    assert_eq!(register("%warpid"), each(70, |t| t / 32));
    assert_eq!(register("%nwarpid"), [3; 70]);
    let active =
        "setp.gt.u32 %p1, %lane, 3;\n@%p1 bra A;\nactivemask.b32 %r1;\nst.global.u32 [%mine], %r1;\nA:";
    assert_eq!(setup.out(active), each(70, |t| if t % 32 > 3 { 0 } else { 15 }));
    assert_eq!(setup.out("activemask.b32 %r1;\nst.global.u32 [%mine], %r1;")[69], 63);
}
