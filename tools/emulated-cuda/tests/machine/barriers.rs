//! Barriers of the block.

use cuda::machine::{Checks, FaultKind};

use super::{Setup, each};

fn unchecked(threads: u32) -> Setup {
    let mut setup = Setup::block(threads);
    setup.options.checks = Checks { barriers: false, ..Checks::ALL };
    setup
}

#[test]
fn in_both_ways_of_a_branch() {
    let body = "and.b32 %r1, %lane, 1;\nsetp.eq.u32 %p1, %r1, 0;\n@%p1 bra A;\nbar.sync 0; // odd\nbra B;\nA:\n\
                bar.sync 0; // even\nB:";
    let words = ["lanes 0,2,4,", "lanes 1,3,5,", "bar.sync 0; // odd", "bar.sync 0; // even", "PTX line"];
    Setup::block(32).fails(body, FaultKind::Barrier, &words);
    // No check that can be switched off: such code hangs.
    unchecked(32).fails(body, FaultKind::Barrier, &words);
}

#[test]
fn in_one_way_of_a_branch() {
    let body = "setp.lt.u32 %p1, %lane, 16;\n@%p1 bar.sync 0;";
    Setup::block(32).fails(body, FaultKind::Barrier, &["lanes 16-31", "have exited"]);
    let body = "setp.lt.u32 %p1, %t, 32;\n@!%p1 bra A;\nbar.sync 0;\nA:";
    Setup::block(64).fails(body, FaultKind::Barrier, &["no thread", "wait at the barrier", "warp 1:"]);
}

#[test]
fn after_threads_have_left() {
    let some = "setp.ge.u32 %p1, %t, 40;\n@%p1 exit;\nbar.sync 0;\nst.global.u32 [%mine], 1;";
    let expected = each(96, |t| u32::from(t < 40));
    let fault = Setup::block(96).fails(some, FaultKind::Barrier, &[]);
    assert!(fault.text.contains("bar.sync"), "{fault}");
    // Hardware does not wait for them.
    assert_eq!(unchecked(96).out(some), expected);
    let some = some.replace("bar.sync", "barrier.sync");
    Setup::block(96).fails(&some, FaultKind::Barrier, &["bar"]);
    assert_eq!(unchecked(96).out(&some), expected);
}

#[test]
fn a_block_that_ends_in_a_part_of_a_warp() {
    let body = "st.shared.u32 [s], %t;\nbar.sync 0;\natom.shared.add.u32 %r1, [s], 1;\nbar.sync 0;\n\
                ld.shared.u32 %r2, [s];\nst.global.u32 [%mine], %r2;";
    let first = body.replace("st.shared", "setp.eq.u32 %p1, %t, 0;\n@%p1 st.shared");
    let setup = Setup { variables: ".shared .align 4 .u32 s;", ..Setup::block(40) };
    assert_eq!(setup.out(&first), [40; 40]);
    setup.fails(body, FaultKind::Race, &["st.shared"]);
}

/// `barrier` without `.aligned` may be reached lane by lane.
#[test]
fn barriers_that_need_not_be_aligned() {
    let body = "and.b32 %r1, %lane, 1;\nsetp.eq.u32 %p1, %r1, 0;\nmov.u32 %r2, s;\nmad.lo.u32 %r2, %t, 4, %r2;\n\
                @%p1 bra A;\nbarrier.sync 0;\nld.shared.u32 %r3, [%r2+-4];\nst.global.u32 [%mine], %r3;\nbra B;\nA:\n\
                st.shared.u32 [%r2], %t;\nbarrier.sync 0;\nB:";
    let setup = Setup { variables: ".shared .align 4 .b8 s[256];", ..Setup::block(64) };
    assert_eq!(setup.out(body), each(64, |t| if t % 2 == 1 { t - 1 } else { 0 }));
}

/// A warp fills a buffer of shared memory again and again, another takes what is there.
fn rounds(full: &str, empty: &str) -> String {
    format!(
        "mov.u32 %r1, s;\nmad.lo.u32 %r1, %lane, 4, %r1;\nmov.u32 %r2, 0;\nmov.u32 %r3, 0;\n\
         setp.ge.u32 %p1, %t, 32;\n@%p1 bra TAKE;\n\
         FILL:\nmad.lo.u32 %r4, %r2, 100, %lane;\nst.shared.u32 [%r1], %r4;\n{full}\nbar.sync 2, 64;\n\
         add.u32 %r2, %r2, 1;\nsetp.lt.u32 %p2, %r2, 10;\n@%p2 bra FILL;\nret;\n\
         TAKE:\nbar.sync 1, 64;\nld.shared.u32 %r4, [%r1];\nadd.u32 %r3, %r3, %r4;\n{empty}\n\
         add.u32 %r2, %r2, 1;\nsetp.lt.u32 %p2, %r2, 10;\n@%p2 bra TAKE;\nst.global.u32 [%mine], %r3;"
    )
}

#[test]
fn producer_and_consumer() {
    for seed in 0..8 {
        let mut setup = Setup { variables: ".shared .align 4 .b8 s[128];", ..Setup::block(64) };
        setup.options.seed = seed;
        let out = setup.out(&rounds("bar.arrive 1, 64;", "bar.arrive 2, 64;"));
        assert_eq!(out, each(64, |t| if t < 32 { 0 } else { 4500 + 10 * (t - 32) }), "seed {seed}");
        let out = setup.out(&rounds("bar.sync 1, 64;", "bar.sync 2, 64;"));
        assert_eq!(out[63], 4500 + 310, "seed {seed}");
    }
}

/// The last to arrive opens the barrier, even if it comes back at once.
#[test]
fn an_arrival_opens_the_barrier_before_the_next() {
    let body = "setp.ge.u32 %p1, %t, 32;\n@%p1 bra ARRIVE;\nbar.sync 1, 64;\nbar.sync 1, 64;\nret;\nARRIVE:\n\
                ld.volatile.global.u32 %r1, [%out];\nbar.arrive 1, 64;\nbar.arrive 1, 64;\nst.global.u32 [%mine], 1;";
    let mut opened = 0;
    for seed in 0..8 {
        let mut setup = Setup::block(64);
        setup.options.seed = seed;
        match setup.run(body) {
            Ok(ran) => {
                opened += 1;
                assert_eq!(ran.out, each(64, |t| u32::from(t >= 32)));
            }
            // Where the warp that waits comes later, the other arrives twice.
            Err(fault) => assert!(fault.message.contains("arrive twice"), "{fault}"),
        }
    }
    assert!((1..8).contains(&opened), "{opened}");
}

#[test]
fn reductions() {
    let body = "setp.ge.u32 %p1, %t, 10;\nsetp.lt.u32 %p2, %t, 200;\nbar.red.popc.u32 %r1, 0, %p1;\n\
                bar.red.popc.u32 %r2, 3, 96, !%p1;\nbar.red.and.pred %p3, 0, %p1;\nbar.red.and.pred %p4, 0, %p2;\n\
                bar.red.or.pred %p5, 0, !%p1;\nbar.red.or.pred %p6, 0, !%p2;\nbarrier.red.popc.u32 %r3, 0, %p1;\n\
                mad.lo.u32 %r1, %r2, 1000, %r1;\nselp.u32 %r4, 100000, 0, %p3;\nadd.u32 %r1, %r1, %r4;\n\
                selp.u32 %r4, 200000, 0, %p4;\nadd.u32 %r1, %r1, %r4;\nselp.u32 %r4, 400000, 0, %p5;\n\
                add.u32 %r1, %r1, %r4;\nselp.u32 %r4, 800000, 0, %p6;\nadd.u32 %r1, %r1, %r4;\n\
                mad.lo.u32 %r1, %r3, 1000000, %r1;\nst.global.u32 [%mine], %r1;";
    // 86 true, 10 not; not all, all; some, none; 86 again.
    assert_eq!(Setup::block(96).out(body), [86_610_086; 96]);
}

#[test]
fn threads_that_disagree() {
    let split = |a: &str, b: &str| format!("setp.lt.u32 %p1, %t, 32;\n@%p1 bra A;\n{b}\nbra B;\nA:\n{a}\nB:");
    let setup = Setup::block(96);
    setup.fails(
        &split("bar.sync 1, 64;", "bar.sync 1, 96;"),
        FaultKind::Barrier,
        &["64 threads", "96 threads"],
    );
    setup.fails(&split("bar.sync 1;", "bar.sync 1, 96;"), FaultKind::Barrier, &["the whole block"]);
    let (and, or) = ("bar.red.and.pred %p3, 0, %p1;", "bar.red.or.pred %p3, 0, %p1;");
    setup.fails(&split(and, or), FaultKind::Barrier, &["disagree about its reduction"]);
    setup.fails(
        "setp.lt.u32 %p1, %lane, 9;\nselp.u32 %r1, 1, 2, %p1;\nbar.sync %r1;",
        FaultKind::Barrier,
        &["different barriers"],
    );
}

#[test]
fn numbers_that_are_none() {
    let setup = Setup::block(32);
    setup.fails("mov.u32 %r1, 16;\nbar.sync %r1;", FaultKind::Barrier, &["barrier 16: a block has 16"]);
    for count in [0, 33, 16] {
        let body = format!("mov.u32 %r1, {count};\nbar.sync 1, %r1;");
        setup.fails(&body, FaultKind::Barrier, &["must be a multiple of 32"]);
    }
}

#[test]
fn a_barrier_that_nobody_completes() {
    let body = "setp.ge.u32 %p1, %t, 32;\n@%p1 exit;\nbar.sync 1, 64;";
    let fault = Setup::block(64).fails(body, FaultKind::Barrier, &["wait at the barrier", "bar.sync 1, 64;"]);
    assert_eq!((fault.thread, fault.text.trim()), ([0; 3], "bar.sync 1, 64;"));
    Setup::block(96).fails("bar.sync 1, 64;", FaultKind::Barrier, &["bar.sync 1, 64;"]);
}
