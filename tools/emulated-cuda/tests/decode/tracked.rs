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
fn copies_carry_it_on() {
    let program = &kernel(
        "mov.u32 %r2, %r1;\nmov.b64 %rd1, {%r2, 7};\nmov.b64 {%r3, %r4}, %rd1;\nst.global.u32 [g], %r4;\nadd.u32 %r5, %r6, 1;",
    )
    .program;
    let mut tracked = program.tracked_names.clone();
    tracked.sort();
    assert_eq!(tracked, ["%r1", "%r2", "%r3", "%r4", "%r6", "%rd1"]);
    let index = |name: &str| program.tracked_names.iter().position(|n| n == name).unwrap() as u16;
    let at = |pc: u32| &program.tracked[&pc];
    assert_eq!((&at(0).copies, &at(0).writes), (&vec![index("%r1")], &vec![index("%r2")]));
    assert_eq!((&at(1).copies, &at(1).writes), (&vec![index("%r2")], &vec![index("%rd1")]));
    assert_eq!((&at(2).copies, &at(2).writes), (&vec![index("%rd1")], &vec![index("%r3"), index("%r4")]));
    assert_eq!((&at(3).reads, at(3).writes.len()), (&vec![index("%r4")], 0));
    // A sum is no copy: it is where the fault comes up, so its result is defined.
    assert_eq!((&at(4).reads, at(4).writes.len(), at(4).copies.len()), (&vec![index("%r6")], 0, 0));
    assert!(program.code[..5].iter().all(|i| i.tracked) && !program.code[5].tracked);
}

#[test]
fn a_guard_is_told_apart_from_what_it_guards() {
    let program = &kernel("@%p1 st.global.u32 [g], %r1;").program;
    let tracked = &program.tracked[&0];
    assert_eq!(program.tracked_names[tracked.guard.unwrap() as usize], "%p1");
    assert_eq!(tracked.reads.len(), 1);
    assert_eq!(program.tracked_names[tracked.reads[0] as usize], "%r1");
}

#[test]
fn temporaries_are_never_tracked() {
    // The inverted predicate and the special register are the decoder's own.
    let body = "setp.eq.u32 %p1, 1, 2;\n@%p1 selp.u32 %r1, 1, 2, !%p1;\n@%p1 cvt.u64.u32 %rd1, %tid.x;\n\
                @%p1 xor.pred %p2, %p1, !%p1;";
    assert!(names(body).is_empty());
}
