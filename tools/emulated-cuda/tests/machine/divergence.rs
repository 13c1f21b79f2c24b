//! Lanes that part, wait for each other, meet again, or leave.

use cuda::machine::{Checks, FaultKind};

use super::{Setup, each};

/// Sets `%p1` for the even lanes.
const EVEN: &str = "and.b32 %r1, %lane, 1;\nsetp.eq.u32 %p1, %r1, 0;\n";

#[test]
fn lanes_meet_behind_both_ways() {
    let body = format!(
        "{EVEN}@%p1 bra A;\nadd.u32 %r2, %lane, 100;\nbra B;\nA:\nadd.u32 %r2, %lane, 200;\nB:\n\
         activemask.b32 %r4;\nshfl.sync.bfly.b32 %r3, %r2, 1, 31, -1;\nsetp.ne.u32 %p2, %r4, -1;\n\
         @%p2 mov.u32 %r3, 0;\nst.global.u32 [%mine], %r3;"
    );
    let expected = each(32, |lane| (lane ^ 1) + if lane % 2 == 1 { 200 } else { 100 });
    assert_eq!(Setup::block(32).out(&body), expected);
}

#[test]
fn a_loop_with_a_length_of_each_lane_ends_together() {
    let body = "mov.u32 %r1, 0;\nmov.u32 %r2, 0;\nL:\nadd.u32 %r2, %r2, %r1;\nadd.u32 %r1, %r1, 1;\n\
                setp.le.u32 %p1, %r1, %lane;\n@%p1 bra L;\nvote.sync.ballot.b32 %r3, 1, -1;\n\
                setp.eq.u32 %p2, %r3, -1;\n@%p2 st.global.u32 [%mine], %r2;";
    assert_eq!(Setup::block(32).out(body), each(32, |lane| lane * (lane + 1) / 2));
}

#[test]
fn shuffles_inside_branches_name_their_own_lanes() {
    let body = format!(
        "{EVEN}mov.u32 %r5, 0x55555555;\n@%p1 bra A;\nshfl.sync.idx.b32 %r2, %lane, 31, 31, 0xaaaaaaaa;\nbra B;\nA:\n\
         shfl.sync.idx.b32 %r2, %lane, 30, 31, %r5;\nB:\nst.global.u32 [%mine], %r2;"
    );
    assert_eq!(Setup::block(32).out(&body), each(32, |lane| 30 + lane % 2));
}

#[test]
fn one_shuffle_serves_groups_with_their_own_masks() {
    let body = format!(
        "{EVEN}selp.u32 %r2, 0x55555555, 0xaaaaaaaa, %p1;\nshfl.sync.bfly.b32 %r3, %lane, 2, 31, %r2;\n\
         vote.sync.ballot.b32 %r4, 1, %r2;\nxor.b32 %r3, %r3, %r4;\nst.global.u32 [%mine], %r3;"
    );
    let mask = |lane| if lane % 2 == 0 { 0x5555_5555 } else { 0xaaaa_aaaa };
    assert_eq!(Setup::block(32).out(&body), each(32, |lane| (lane ^ 2) ^ mask(lane)));
}

/// Lanes write a word of shared memory each; the odd lanes read that of their left neighbour behind a barrier of the
/// warp which the even lanes reach at another instruction.
fn two_meeting_places(even: &str, odd: &str) -> String {
    format!(
        "{EVEN}mov.u32 %r3, s;\nmad.lo.u32 %r2, %lane, 4, %r3;\n@%p1 bra A;\n{odd}\n\
         ld.shared.u32 %r4, [%r2+-4];\nst.global.u32 [%mine], %r4;\nbra B;\nA:\nst.shared.u32 [%r2], %lane;\n{even}\nB:"
    )
}

#[test]
fn lanes_meet_at_warp_barriers_in_different_places() {
    let mut setup = Setup { variables: ".shared .align 4 .b8 s[128];", ..Setup::block(32) };
    let sync = "bar.warp.sync -1;";
    let expected = each(32, |lane| if lane % 2 == 1 { lane - 1 } else { 0 });
    let ran = setup.run(&two_meeting_places(sync, sync)).unwrap();
    assert_eq!(ran.out, expected);
    // Without, or where the lanes of each side meet among themselves alone, nothing orders the write before the read.
    let half = |mask: &str| format!("bar.warp.sync {mask};");
    let (even, odd) = (half("0x55555555"), half("0xaaaaaaaa"));
    for wrong in [two_meeting_places("", ""), two_meeting_places(&even, &odd)] {
        setup.options.checks = Checks::ALL;
        setup.fails(&wrong, FaultKind::Uninitialised, &["ld.shared"]);
        setup.options.checks = Checks { uninitialised: false, ..Checks::ALL };
        setup.fails(&wrong, FaultKind::Race, &["ld.shared", "st.shared"]);
    }
}

/// Lanes that come to an instruction one after the other, and run it together, run it once.
#[test]
fn waiting_is_not_counted() {
    let plain = Setup::block(32).run("bar.warp.sync -1;\nvote.sync.ballot.b32 %r2, 1, -1;").unwrap();
    let parted = format!("{EVEN}@%p1 bra A;\nadd.u32 %r2, %r1, 1;\nbra B;\nA:\nnanosleep.u32 1;\nB:\n");
    let without = Setup::block(32).run(&parted).unwrap();
    let with = Setup::block(32)
        .run(&format!("{parted}bar.warp.sync -1;\nvote.sync.ballot.b32 %r2, 1, -1;"))
        .unwrap();
    let bare = Setup::block(32).run("").unwrap();
    let warps = |ran: &super::Ran| ran.counters.warp_instructions();
    assert_eq!(warps(&with) - warps(&without), warps(&plain) - warps(&bare));
    assert_eq!(with.counters.thread_instructions - without.counters.thread_instructions, 64);
    // Two barriers in two places are two instructions, of all lanes together.
    let setup = Setup { variables: ".shared .align 4 .b8 s[128];", ..Setup::block(32) };
    let both = setup.run(&two_meeting_places("bar.warp.sync -1;", "bar.warp.sync -1;")).unwrap();
    let mut free = setup.clone();
    free.options.checks = Checks::NONE;
    let none = free.run(&two_meeting_places("", "")).unwrap();
    assert_eq!(both.counters.warp_instructions() - none.counters.warp_instructions(), 2);
    assert_eq!(both.counters.thread_instructions - none.counters.thread_instructions, 32);
}

#[test]
fn a_lane_outside_its_mask() {
    let setup = Setup::block(32);
    for instruction in [
        "bar.warp.sync 0xfffffffe;",
        "shfl.sync.idx.b32 %r2, %lane, 1, 31, 0xfffffffe;",
        "vote.sync.ballot.b32 %r2, 1, 0xfffffffe;",
        "match.any.sync.b32 %r2, %lane, 0xfffffffe;",
        "redux.sync.add.u32 %r2, %lane, 0xfffffffe;",
    ] {
        let fault = setup.fails(instruction, FaultKind::Undefined, &["0xfffffffe", instruction]);
        assert_eq!(fault.thread, [0; 3], "{instruction}");
    }
}

#[test]
fn who_has_left_is_not_waited_for() {
    let leave = "setp.ge.u32 %p1, %lane, 16;\n@%p1 exit;\n";
    let body = format!(
        "{leave}bar.warp.sync -1;\nvote.sync.ballot.b32 %r2, 1, -1;\nredux.sync.add.u32 %r3, %lane, -1;\n\
         mad.lo.u32 %r2, %r3, 65536, %r2;\nst.global.u32 [%mine], %r2;"
    );
    assert_eq!(
        Setup::block(32).out(&body),
        each(32, |lane| if lane < 16 { (15 * 16 / 2) << 16 | 0xffff } else { 0 })
    );
    // Nor is it there to read from.
    let body = format!("{leave}shfl.sync.down.b32 %r2, %lane, 8, 31, -1;");
    let fault = Setup::block(32).fails(&body, FaultKind::Undefined, &["takes no part", "lanes 0-15 do"]);
    assert_eq!(fault.thread, [8, 0, 0]);
}

#[test]
fn lanes_wait_until_the_others_leave() {
    let body = "setp.ge.u32 %p1, %lane, 16;\n@%p1 bra AWAY;\nbar.warp.sync -1;\nst.global.u32 [%mine], %lane;\nret;\n\
                AWAY:\nmov.u32 %r1, 0;\nL:\nadd.u32 %r1, %r1, 1;\nsetp.lt.u32 %p2, %r1, %lane;\n@%p2 bra L;";
    assert_eq!(Setup::block(32).out(body), each(32, |lane| if lane < 16 { lane } else { 0 }));
}

#[test]
fn lanes_that_wait_for_each_other_in_different_places() {
    let body = format!(
        "{EVEN}@%p1 bra A;\nredux.sync.or.b32 %r2, %lane, -1;\nbra B;\nA:\nvote.sync.any.pred %p3, 1, -1;\nB:"
    );
    let words = ["no thread", "redux.sync.or.b32", "vote.sync.any.pred", "lanes 1,3,5,"];
    Setup::block(32).fails(&body, FaultKind::Deadlock, &words);
}

/// The lanes that wait for the lock stand before the lane that has it.
#[test]
fn a_spin_lock_between_lanes() {
    let setup = Setup {
        variables: ".global .align 4 .u32 lock;\n.global .align 4 .u32 count;",
        words: 64,
        ..Setup::block(64)
    };
    let body = "L:\natom.global.acquire.gpu.cas.b32 %r1, [lock], 0, 1;\nsetp.ne.u32 %p1, %r1, 0;\n@%p1 bra L;\n\
                ld.global.u32 %r2, [count];\nadd.u32 %r3, %r2, 1;\nst.global.u32 [count], %r3;\n\
                atom.global.release.gpu.exch.b32 %r4, [lock], 0;\nst.global.u32 [%mine], %r2;";
    let mut out = setup.out(body);
    out.sort_unstable();
    assert_eq!(out, each(64, |turn| turn));
}

/// A warp waits for the flag of another, which may run later.
fn flags(publish: &str, look: &str) -> String {
    format!(
        "mov.u32 %r8, s;\nsetp.eq.u32 %p1, %t, 0;\n@%p1 st.shared.u32 [flag], 0;\nbar.sync 0;\n\
         mad.lo.u32 %r9, %lane, 4, %r8;\nsetp.ge.u32 %p2, %t, 32;\n@%p2 bra WRITER;\n\
         L:\nld.volatile.shared.u32 %r1, [flag];\nsetp.eq.u32 %p3, %r1, 0;\n@%p3 bra L;\n{look}\n\
         ld.shared.u32 %r2, [%r9];\nst.global.u32 [%mine], %r2;\nret;\n\
         WRITER:\nmul.lo.u32 %r3, %lane, 7;\nst.shared.u32 [%r9], %r3;\n{publish}\nbar.warp.sync -1;\n\
         setp.eq.u32 %p4, %lane, 0;\n@%p4 st.volatile.shared.u32 [flag], 1;"
    )
}

#[test]
fn flags_between_warps() {
    for seed in 0..8 {
        let mut setup = Setup {
            variables: ".shared .align 4 .u32 flag;\n.shared .align 4 .b8 s[128];",
            ..Setup::block(64)
        };
        setup.options.seed = seed;
        let out = setup.out(&flags("bar.warp.sync -1;\nmembar.cta;", "membar.cta;"));
        assert_eq!(out, each(64, |t| if t < 32 { 7 * t } else { 0 }), "seed {seed}");
        setup.fails(&flags("", ""), FaultKind::Race, &["ld.shared.u32 %r2"]);
    }
}
