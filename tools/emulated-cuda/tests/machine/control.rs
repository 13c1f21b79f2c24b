//! Branches through tables, traps and the limit of instructions.

use cuda::machine::FaultKind;

use super::{Setup, each};

const TABLE: &str = "TABLE: .branchtargets A, B, A, C;\nbrx.idx %r1, TABLE;\nA:\nmov.u32 %r2, 10;\nbra D;\nB:\n\
                     mov.u32 %r2, 20;\nbra D;\nC:\nmov.u32 %r2, 30;\nD:\nst.global.u32 [%mine], %r2;";

#[test]
fn branches_through_a_table() {
    let body = format!("and.b32 %r1, %lane, 3;\n{TABLE}");
    let expected = each(32, |lane| [10, 20, 10, 30][lane as usize % 4]);
    let ran = Setup::block(32).run(&body).unwrap();
    assert_eq!((ran.out, ran.counters.divergent_branches), (expected, 1));
    let uniform = Setup::block(32).run(&format!("mov.u32 %r1, 2;\n{TABLE}")).unwrap();
    assert_eq!((uniform.out, uniform.counters.divergent_branches), (vec![10; 32], 0));
    let guarded =
        format!("and.b32 %r1, %lane, 3;\nsetp.eq.u32 %p1, %lane, 31;\n{}", TABLE.replace("brx", "@!%p1 brx"));
    assert_eq!(Setup::block(32).out(&guarded)[28..], [10, 20, 10, 10]);
}

#[test]
fn past_the_end_of_a_table() {
    let body = format!("sub.u32 %r1, %lane, 28;\nsetp.lt.u32 %p1, %lane, 28;\n@%p1 mov.u32 %r1, 0;\n{TABLE}");
    assert_eq!(Setup::block(32).out(&body)[27..], [10, 10, 20, 10, 30]);
    let body = format!("mov.u32 %r1, %lane;\n{TABLE}");
    let fault = Setup::block(32).fails(&body, FaultKind::Undefined, &["index 4 into a list of 4 targets"]);
    assert_eq!(fault.thread, [4, 0, 0]);
    let body = format!("mov.u32 %r1, -1;\n{TABLE}");
    Setup::block(32).fails(&body, FaultKind::Undefined, &["index 4294967295"]);
}

#[test]
fn branches_marked_uniform() {
    let parts = "setp.lt.u32 %p1, %lane, 9;\n@%p1 bra.uni A;\nst.global.u32 [%mine], 1;\nA:";
    Setup::block(32).fails(parts, FaultKind::Undefined, &["marked uniform"]);
    assert_eq!(Setup::block(9).out(parts), [0; 9]);
}

#[test]
fn traps() {
    let setup = Setup { grid: [3, 1, 1], words: 120, ..Setup::block(40) };
    let fault = setup.fails("setp.eq.u32 %p1, %gid, 77;\n@%p1 trap;", FaultKind::Trap, &["@%p1 trap;"]);
    assert_eq!((fault.block, fault.thread), ([1, 0, 0], [37, 0, 0]));
    assert!(setup.run("setp.eq.u32 %p1, %gid, 120;\n@%p1 trap;").is_ok());
}

#[test]
fn endless_kernels() {
    let mut setup = Setup { grid: [2, 1, 1], words: 80, ..Setup::block(40) };
    setup.options.instruction_limit = 30_000;
    for body in [
        "L:\nbra L;",
        "L:\nbra.uni L;",
        "L:\nnanosleep.u32 100;\nbra L;",
        "setp.lt.u32 %p1, %lane, 7;\nL:\n@%p1 bra L;\nM:\n@!%p1 bra M;",
        "L:\nbar.sync 0;\nbra L;",
        "L:\nvote.sync.ballot.b32 %r1, 1, -1;\nbra L;",
        "L: .branchtargets M;\nmov.u32 %r1, 0;\nM:\nbrx.idx %r1, L;",
    ] {
        setup.fails(body, FaultKind::Limit, &["has run 30000 instructions"]);
    }
    // The limit is each block's own, and reached exactly.
    let straight = |count: usize| "add.u32 %r1, %t, 1;\n".repeat(count);
    let warps = 4;
    let others = setup.run("").unwrap().counters.warp_instructions() as usize / warps;
    setup.options.instruction_limit = 1000;
    assert!(setup.run(&straight(500 - others)).is_ok());
    setup.fails(&straight(500 - others + 1), FaultKind::Limit, &["has run 1000 instructions"]);
}
