//! Blocks that meet in global memory: what is ordered is let be, and what is not is found however the blocks ran.

use cuda::machine::{Checks, FaultKind};

use super::{Setup, each};

/// Grids of `blocks` blocks, with so many CPU threads, one after the other and all at once, under several seeds.
fn setups(blocks: u32, threads: u32) -> impl Iterator<Item = Setup> {
    let ways = [(1, false), (4, false), (1, true), (3, true)];
    ways.into_iter().flat_map(move |(workers, cooperative)| {
        (0..4).map(move |seed| {
            let mut setup = Setup {
                grid: [blocks, 1, 1],
                words: 256,
                input: vec![0; 256],
                cooperative,
                ..Setup::block(threads)
            };
            (setup.options.threads, setup.options.seed) = (workers, seed);
            setup
        })
    })
}

/// Every way of running it is fine.
fn fine(blocks: u32, threads: u32, body: &str) {
    for setup in setups(blocks, threads) {
        setup.out(body);
    }
}

/// Every way of running it is a race.
#[track_caller]
fn races(blocks: u32, threads: u32, body: &str, words: &[&str]) {
    for setup in setups(blocks, threads) {
        setup.fails(
            body,
            FaultKind::Race,
            &[&["of global memory, with nothing that orders them"], words].concat(),
        );
    }
}

#[test]
fn a_word_of_two_blocks() {
    // All write one word; each its own value.
    races(
        3,
        1,
        "st.global.u32 [%out], %gid;",
        &["write after write", "of block [", "st.global.u32 [%out], %gid;"],
    );
    // The same value.
    fine(3, 32, "st.global.u32 [%out], 7;");
    // One writes what another one reads, whichever comes first.
    for (writer, reader) in [(0, 1), (1, 0)] {
        let body = format!(
            "mov.u32 %r1, %ctaid.x;\nsetp.eq.u32 %p1, %r1, {writer};\nsetp.eq.u32 %p2, %r1, {reader};\n\
             @%p1 st.global.u32 [%out], 5;\n@%p2 ld.global.u32 %r2, [%out];"
        );
        races(2, 32, &body, &["thread ", "@%p1 st.global.u32 [%out], 5;", "@%p2 ld.global.u32 %r2, [%out];"]);
    }
    // Neighbouring bytes, words of one line, lanes side by side.
    fine(
        4,
        1,
        "cvt.u64.u32 %rd1, %gid;\nadd.u64 %rd1, %rd1, %out;\nst.global.u8 [%rd1], %gid;\nld.global.u8 %r1, [%rd1];",
    );
    fine(4, 32, "st.global.u32 [%mine], %gid;\nld.global.u32 %r1, [%mine];\nst.global.u32 [%mine], %r1;");
    // One too far.
    races(4, 32, "st.global.u32 [%mine], %gid;\nld.global.u32 %r1, [%mine+4];", &["after"]);
    // With the check off, nothing is looked for.
    let mut setup = Setup { grid: [3, 1, 1], ..Setup::block(1) };
    setup.options.checks = Checks { races: false, ..Checks::ALL };
    setup.out("st.global.u32 [%out], %gid;");
}

#[test]
fn threads_of_one_block() {
    let exchange = |barrier: &str| {
        format!(
            "st.global.u32 [%mine], %t;\n{barrier}\nxor.b32 %r1, %t, 33;\nmad.wide.u32 %rd1, %r1, 4, %out;\n\
             ld.global.u32 %r2, [%rd1];\n{barrier}\nst.global.u32 [%mine], %r2;"
        )
    };
    for (workers, seed) in [(1, 0), (1, 1), (2, 2)] {
        let mut setup = Setup::block(64);
        (setup.options.threads, setup.options.seed) = (workers, seed);
        assert_eq!(setup.out(&exchange("bar.sync 0;")), each(64, |t| t ^ 33));
        for wrong in ["", "bar.warp.sync -1;", "membar.gl;"] {
            setup.fails(&exchange(wrong), FaultKind::Race, &["of global memory", "of block [0, 0, 0]"]);
        }
    }
}

/// The first block writes a word and a flag, the second waits for the flag and reads the word.
fn message(release: &str, set: &str, get: &str, acquire: &str) -> String {
    format!(
        "mov.u32 %r1, %ctaid.x;\nsetp.ne.u32 %p1, %t, 0;\n@%p1 bra E;\nsetp.ne.u32 %p1, %r1, 0;\n@%p1 bra R;\n\
         st.global.u32 [%out], 99;\n{release}\n{set} [%in], 1;\nbra E;\n\
         R:\n{get} %r2, [%in];\nsetp.eq.u32 %p2, %r2, 0;\n@%p2 bra R;\n{acquire}\n\
         ld.global.u32 %r3, [%out];\nst.global.u32 [%out+4], %r3;\nE:"
    )
}

#[test]
fn messages() {
    let (set, get) = ("st.relaxed.gpu.global.u32", "ld.relaxed.gpu.global.u32");
    let good = [
        ("membar.gl;", set, get, "membar.gl;"),
        ("membar.sys;", "st.volatile.global.u32", "ld.volatile.global.u32", "fence.acq_rel.gpu;"),
        ("fence.sc.gpu;", "st.relaxed.sys.global.u32", "ld.acquire.gpu.global.u32", ""),
        ("", "st.release.gpu.global.u32", "ld.acquire.gpu.global.u32", ""),
        ("", "st.release.gpu.u32", "ld.acquire.sys.u32", ""),
        ("", "red.release.gpu.global.add.u32", get, "fence.acq_rel.sys;"),
        ("membar.gl;", "red.global.add.u32", "ld.volatile.global.u32", "membar.gl;"),
    ];
    for (release, set, get, acquire) in good {
        let body = message(release, set, get, acquire);
        for setup in setups(2, 32) {
            assert_eq!(setup.out(&body)[..2], [99, 99], "{body}");
        }
    }
    let bad = [
        ("", set, get, "membar.gl;"),
        ("membar.gl;", set, get, ""),
        ("membar.cta;", set, get, "membar.gl;"),
        ("membar.gl;", set, get, "membar.cta;"),
        ("fence.acq_rel.cta;", set, "ld.acquire.gpu.global.u32", ""),
        ("", set, "ld.acquire.gpu.global.u32", ""),
        ("", "st.release.gpu.global.u32", get, ""),
        ("", "red.global.add.u32", "ld.acquire.gpu.global.u32", ""),
    ];
    for (release, set, get, acquire) in bad {
        races(
            2,
            32,
            &message(release, set, get, acquire),
            &["read after write", "thread 0 (warp 0, lane 0) of block [0, 0, 0]"],
        );
    }
    // A flag that is weak is a race itself.
    races(2, 32, &message("membar.gl;", "st.global.u32", get, "membar.gl;"), &["st.global.u32 [%in], 1;"]);
    // One that is for the block alone, too.
    let cta = message("membar.gl;", "st.relaxed.cta.global.u32", get, "membar.gl;");
    races(2, 32, &cta, &["st.relaxed.cta.global.u32 [%in], 1;"]);
}

/// Rounds of writing one's own word and reading that of the next block, with a barrier of the grid between.
fn rounds(arrive: &str, wait: &str) -> String {
    format!(
        "mov.u32 %r1, %ctaid.x;\nmov.u32 %r2, %nctaid.x;\nmul.wide.u32 %rd1, %r1, 4;\nadd.u64 %rd1, %rd1, %out;\n\
         add.u32 %r3, %r1, 1;\nrem.u32 %r3, %r3, %r2;\nmul.wide.u32 %rd2, %r3, 4;\nadd.u64 %rd2, %rd2, %out;\nmov.u32 %r4, 0;\n\
         setp.eq.u32 %p3, %t, 40;\nL:\n@%p3 st.global.u32 [%rd1], %r4;\n\
         {barrier}ld.global.u32 %r7, [%rd2];\nsetp.ne.u32 %p1, %r7, %r4;\n@%p1 trap;\n\
         {barrier}add.u32 %r4, %r4, 1;\nsetp.lt.u32 %p2, %r4, 4;\n@%p2 bra L;",
        barrier = "BAR"
    )
    .replacen("BAR", &grid_barrier(1, arrive, wait), 1)
    .replacen("BAR", &grid_barrier(2, arrive, wait), 1)
}

fn grid_barrier(index: u32, arrive: &str, wait: &str) -> String {
    format!(
        "bar.sync 0;\nsetp.ne.u32 %p4, %t, 0;\n@%p4 bra D{index};\nmad.lo.u32 %r5, %r4, 2, {index};\nmul.lo.u32 %r5, %r5, %r2;\n\
         {arrive}\nW{index}:\n{wait}\nsetp.lt.u32 %p5, %r6, %r5;\n@%p5 bra W{index};\nmembar.gl;\nD{index}:\nbar.sync 0;\n"
    )
}

#[test]
fn barriers_of_the_grid() {
    let all_at_once = |blocks| setups(blocks, 64).filter(|setup| setup.cooperative);
    let wait = "ld.volatile.global.u32 %r6, [%in];";
    for (arrive, wait) in [
        ("membar.gl;\nred.global.add.u32 [%in], 1;", wait),
        ("red.release.gpu.global.add.u32 [%in], 1;", wait),
        ("membar.gl;\natom.global.inc.u32 %r8, [%in], 1000000;", "ld.acquire.gpu.global.u32 %r6, [%in];"),
    ] {
        for setup in all_at_once(5) {
            assert_eq!(setup.out(&rounds(arrive, wait))[..5], [3; 5]);
        }
    }
    for setup in all_at_once(5) {
        // A wrong value may be read before the race is found.
        let body = rounds("red.global.add.u32 [%in], 1;", wait).replace("@%p1 trap;\n", "");
        setup.fails(&body, FaultKind::Race, &["of global memory"]);
        let late =
            rounds("membar.gl;\nred.global.add.u32 [%in], 1;", wait).replacen("membar.gl;\nD1:", "D1:", 1);
        setup.fails(&late.replace("@%p1 trap;\n", ""), FaultKind::Race, &["read after write"]);
    }
}

#[test]
fn a_queue_of_a_lock() {
    // Each thread takes a lock and adds to a plain word.
    let body = |enter: &str, leave: &str| {
        format!(
            "mov.u32 %r9, 0;\nL:\n{enter}\nsetp.ne.u32 %p1, %r1, 0;\n@%p1 bra L;\n\
             ld.global.u32 %r2, [%out];\nadd.u32 %r2, %r2, 1;\nst.global.u32 [%out], %r2;\n{leave}"
        )
    };
    let acquire = "atom.acquire.gpu.global.cas.b32 %r1, [%in], 0, 1;";
    for (enter, leave) in [
        (acquire, "st.release.gpu.global.u32 [%in], 0;"),
        (acquire, "atom.release.gpu.global.exch.b32 %r3, [%in], 0;"),
        (
            "atom.global.cas.b32 %r1, [%in], 0, 1;\nmembar.gl;",
            "membar.gl;\natom.global.exch.b32 %r3, [%in], 0;",
        ),
    ] {
        for setup in setups(3, 1) {
            assert_eq!(setup.out(&body(enter, leave))[0], 3);
        }
    }
    for (enter, leave) in [
        (acquire, "st.relaxed.gpu.global.u32 [%in], 0;"),
        ("atom.global.cas.b32 %r1, [%in], 0, 1;", "st.release.gpu.global.u32 [%in], 0;"),
    ] {
        races(3, 1, &body(enter, leave), &["after"]);
    }
}

#[test]
fn counters_and_extremes() {
    fine(4, 64, "red.global.add.u32 [%out], 1;\natom.global.max.u32 %r1, [%out+4], %gid;");
    // Read without an order.
    races(2, 32, "red.global.add.u32 [%out], 1;\nld.global.u32 %r1, [%out];", &["red.global.add.u32"]);
    fine(2, 32, "red.global.add.u32 [%out], 1;\nld.relaxed.gpu.global.u32 %r1, [%out];");
}

#[test]
fn memory_that_many_blocks_read() {
    // 40 blocks read all, and one writes a word of it: before, between or after.
    for writer in [0, 17, 39] {
        let body = format!(
            "mul.wide.u32 %rd1, %t, 4;\nadd.u64 %rd1, %rd1, %in;\nld.global.u32 %r1, [%rd1];\nmov.u32 %r2, %ctaid.x;\n\
             setp.eq.u32 %p1, %r2, {writer};\nsetp.eq.and.u32 %p1, %t, 9, %p1;\n@%p1 st.global.u32 [%rd1], 5;"
        );
        races(40, 64, &body, &["@%p1 st.global.u32 [%rd1], 5;"]);
    }
}
