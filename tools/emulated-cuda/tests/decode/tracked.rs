//! Registers that may be read before they are written.

use super::kernel;

fn names(body: &str) -> Vec<String> {
    let mut names = kernel(body).program.tracked_names.clone();
    names.sort();
    names
}

#[test]
fn what_is_written_on_every_way_is_not_tracked() {
    assert!(names("mov.u32 %r1, 1;\nst.global.u32 [g], %r1;").is_empty());
    let both = "setp.eq.u32 %p1, 1, 2;\n@%p1 bra A;\nmov.u32 %r1, 1;\nbra B;\nA:\nmov.u32 %r1, 2;\nB:\nst.global.u32 [g], %r1;";
    assert!(names(both).is_empty());
}

#[test]
fn what_one_way_leaves_out_is_tracked() {
    let one = "setp.eq.u32 %p1, 1, 2;\n@%p1 bra B;\nmov.u32 %r1, 1;\nB:\nst.global.u32 [g], %r1;";
    assert_eq!(names(one), ["%r1"]);
    let guarded = "setp.eq.u32 %p1, 1, 2;\n@%p1 mov.u32 %r1, 1;\nst.global.u32 [g], %r1;";
    assert_eq!(names(guarded), ["%r1"]);
    let later = "mov.u32 %r2, 4;\nL:\n@%p1 st.global.u32 [g], %r1;\nmov.u32 %r1, 1;\nsub.u32 %r2, %r2, 1;\n\
                 setp.ne.u32 %p1, %r2, 0;\n@%p1 bra L;";
    assert_eq!(names(later), ["%p1", "%r1"]);
}

#[test]
fn what_bits_may_reach_is_tracked() {
    let program = &kernel(
        "mov.u32 %r2, %r1;\nmov.b64 %rd1, {%r2, 7};\nmov.b64 {%r3, %r4}, %rd1;\nst.global.u32 [g], %r4;\nadd.u32 %r5, %r6, 1;\n\
         or.b32 %r7, %r8, %r5;\nshl.b32 %r9, %r7, %r10;\nsetp.eq.and.u32 %p1, %r5, 3, %p2;",
    )
    .program;
    let mut tracked = program.tracked_names.clone();
    tracked.sort();
    assert_eq!(
        tracked,
        ["%p1", "%p2", "%r1", "%r10", "%r2", "%r3", "%r4", "%r6", "%r7", "%r8", "%r9", "%rd1"]
    );
    // Operands by their places and names: sources, then targets.
    let at = |pc: u32| {
        let tracked = program.tracked_at(pc).unwrap();
        let named = |list: &[(u8, u16)]| {
            list.iter().map(|&(at, r)| (at, program.tracked_names[r as usize].as_str())).collect::<Vec<_>>()
        };
        (named(&tracked.sources), named(&tracked.targets))
    };
    assert_eq!(at(0), (vec![(1, "%r1")], vec![(0, "%r2")]));
    assert_eq!(at(1), (vec![(1, "%r2")], vec![(0, "%rd1")]));
    assert_eq!(at(2), (vec![(2, "%rd1")], vec![(0, "%r3"), (1, "%r4")]));
    assert_eq!(at(3), (vec![(1, "%r4")], vec![]));
    // A sum hands nothing on: it is where the fault comes up, so its result is defined. Nor does the amount of a shift.
    assert_eq!(at(4), (vec![(1, "%r6")], vec![]));
    assert_eq!(at(5), (vec![(1, "%r8")], vec![(0, "%r7")]));
    assert_eq!(at(6), (vec![(1, "%r7"), (2, "%r10")], vec![(0, "%r9")]));
    assert_eq!(at(7), (vec![(4, "%p2")], vec![(0, "%p1")]));
    assert!(program.code[..8].iter().all(|i| i.tracked) && !program.code[8].tracked);
}

#[test]
fn a_guard_is_told_apart_from_what_it_guards() {
    let program = &kernel("@%p1 st.global.u32 [g], %r1;").program;
    let tracked = program.tracked_at(0).unwrap();
    assert_eq!(program.tracked_names[tracked.guard.unwrap() as usize], "%p1");
    assert_eq!(tracked.sources.len(), 1);
    assert_eq!(program.tracked_names[tracked.sources[0].1 as usize], "%r1");
}

#[test]
fn temporaries_go_by_the_name_of_what_they_hold() {
    // The low half is the decoder's own.
    let program = &kernel("cvt.u16.u32 %rs1, %rd1;\nst.global.u16 [g], %rs1;").program;
    assert_eq!(program.tracked_names, ["%rd1", "%rd1", "%rs1"]);
}

#[test]
fn temporaries_that_hold_nothing_undefined_are_not_tracked() {
    // The inverted predicate and the special register are the decoder's own.
    let body = "setp.eq.u32 %p1, 1, 2;\n@%p1 selp.u32 %r1, 1, 2, !%p1;\n@%p1 cvt.u64.u32 %rd1, %tid.x;\n\
                @%p1 xor.pred %p2, %p1, !%p1;";
    assert!(names(body).is_empty());
}
