//! Memory of each thread, and addresses that say nothing of the memory that they are in.

use cuda::machine::FaultKind;

use super::{Setup, each};

/// Each thread fills words `0..=lane % 8` of its own local memory and adds them up.
fn own_words(address: &str, store: &str, load: &str) -> String {
    format!(
        ".local .align 8 .b8 depot[32];\nand.b32 %r9, %lane, 7;\n{address}\nmov.u32 %r1, 0;\nmov.u32 %r2, 0;\n\
         S:\nmul.wide.u32 %rd2, %r1, 4;\nadd.u64 %rd2, %rd1, %rd2;\nmad.lo.u32 %r3, %t, 100, %r1;\n{store} [%rd2], %r3;\n\
         add.u32 %r1, %r1, 1;\nsetp.le.u32 %p1, %r1, %r9;\n@%p1 bra S;\nmov.u32 %r1, 0;\n\
         L:\nmul.wide.u32 %rd2, %r1, 4;\nadd.u64 %rd2, %rd1, %rd2;\n{load} %r3, [%rd2];\nadd.u32 %r2, %r2, %r3;\n\
         add.u32 %r1, %r1, 1;\nsetp.le.u32 %p1, %r1, %r9;\n@%p1 bra L;\nst.global.u32 [%mine], %r2;"
    )
}

#[test]
fn local_memory_is_each_threads_own() {
    let expected = each(70, |t| {
        let count = t % 32 % 8 + 1;
        100 * t * count + count * (count - 1) / 2
    });
    let local = own_words("mov.u64 %rd1, depot;", "st.local.u32", "ld.local.u32");
    assert_eq!(Setup::block(70).out(&local), expected);
    let generic = own_words("mov.u64 %rd1, depot;\ncvta.local.u64 %rd1, %rd1;", "st.u32", "ld.u32");
    assert_eq!(Setup::block(70).out(&generic), expected);
    let longer =
        local.replace("setp.le.u32 %p1, %r1, %r9;\n@%p1 bra L", "setp.le.u32 %p1, %r1, 7;\n@%p1 bra L");
    let fault = Setup::block(70).fails(&longer, FaultKind::Uninitialised, &["local memory"]);
    assert_eq!(fault.thread[0] % 32, 0);
    let past = local.replace("mov.u64 %rd1, depot;", "mov.u64 %rd1, depot+4;");
    assert_eq!(Setup::block(70).fails(&past, FaultKind::IllegalAddress, &["32 bytes"]).thread[0] % 32, 7);
}

#[test]
fn one_instruction_reaches_every_memory() {
    // Lane by lane: global, shared, local, constant.
    let setup = Setup {
        variables: ".global .align 4 .u32 g = 11;\n.const .align 4 .u32 c = 44;\n.shared .align 4 .u32 s;",
        ..Setup::block(32)
    };
    let body = ".local .align 4 .u32 l;\nsetp.eq.u32 %p1, %t, 0;\n@%p1 st.shared.u32 [s], 22;\nst.local.u32 [l], 33;\n\
                bar.sync 0;\nand.b32 %r1, %lane, 3;\nmov.u64 %rd1, g;\ncvta.global.u64 %rd1, %rd1;\nmov.u64 %rd2, s;\n\
                cvta.shared.u64 %rd2, %rd2;\nmov.u64 %rd3, l;\ncvta.local.u64 %rd3, %rd3;\nmov.u64 %rd4, c;\n\
                cvta.const.u64 %rd4, %rd4;\nsetp.eq.u32 %p2, %r1, 1;\nselp.b64 %rd1, %rd2, %rd1, %p2;\n\
                setp.eq.u32 %p2, %r1, 2;\nselp.b64 %rd1, %rd3, %rd1, %p2;\nsetp.eq.u32 %p2, %r1, 3;\n\
                selp.b64 %rd1, %rd4, %rd1, %p2;\nld.u32 %r2, [%rd1];\nst.global.u32 [%mine], %r2;";
    assert_eq!(setup.out(body), each(32, |lane| 11 * (lane % 4 + 1)));
}

#[test]
fn addresses_know_their_memory() {
    let setup = Setup { variables: ".shared .align 4 .b8 s[128];", ..Setup::block(32) };
    let body = ".local .align 4 .u32 l;\nmov.u64 %rd1, s;\ncvta.shared.u64 %rd2, %rd1;\nmul.wide.u32 %rd3, %lane, 4;\n\
                add.u64 %rd2, %rd2, %rd3;\nst.u32 [%rd2], %lane;\ncvta.to.shared.u64 %rd4, %rd2;\n\
                ld.shared.u32 %r1, [%rd4];\nmov.u64 %rd5, l;\ncvta.local.u64 %rd5, %rd5;\n\
                isspacep.shared %p1, %rd2;\nisspacep.global %p2, %rd2;\nisspacep.local %p3, %rd5;\n\
                isspacep.global %p4, %out;\nisspacep.shared %p5, %rd5;\nselp.u32 %r2, 100, 0, %p1;\nadd.u32 %r1, %r1, %r2;\n\
                selp.u32 %r2, 200, 0, %p2;\nadd.u32 %r1, %r1, %r2;\nselp.u32 %r2, 400, 0, %p3;\nadd.u32 %r1, %r1, %r2;\n\
                selp.u32 %r2, 800, 0, %p4;\nadd.u32 %r1, %r1, %r2;\nselp.u32 %r2, 1600, 0, %p5;\nadd.u32 %r1, %r1, %r2;\n\
                st.global.u32 [%mine], %r1;";
    assert_eq!(setup.out(body), each(32, |lane| lane + 100 + 400 + 800));
    // An address of one memory is none of another.
    let wrong = "mov.u64 %rd1, s;\ncvta.shared.u64 %rd1, %rd1;\nld.global.u32 %r1, [%rd1];";
    setup.fails(wrong, FaultKind::IllegalAddress, &["ld.global"]);
    let wrong = "mov.u64 %rd1, s;\nst.u32 [%rd1], %lane;";
    setup.fails(wrong, FaultKind::IllegalAddress, &["st.u32"]);
}
