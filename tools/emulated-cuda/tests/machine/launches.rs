//! The order of blocks and warps, samples, cooperative launches, what blocks print.

use std::{env, process::Command};

use cuda::machine::FaultKind;

use super::{Setup, each};

/// Each warp notes when its turn at a counter of its block came.
const TURNS: &str = "setp.eq.u32 %p1, %t, 0;\n@%p1 st.shared.u32 [turn], 0;\nbar.sync 0;\n\
                     setp.ne.u32 %p2, %lane, 0;\n@%p2 bra END;\natom.shared.add.u32 %r1, [turn], 1;\n\
                     st.global.u32 [%mine], %r1;\nEND:";

fn turns(seed: u64, threads: usize) -> super::Ran {
    let mut setup = Setup {
        variables: ".shared .align 4 .u32 turn;",
        grid: [6, 1, 1],
        words: 6 * 256,
        ..Setup::block(256)
    };
    (setup.options.seed, setup.options.threads) = (seed, threads);
    setup.run(TURNS).unwrap_or_else(|fault| panic!("{fault}"))
}

#[test]
fn the_seed_alone_decides_the_order_of_warps() {
    let first = turns(1, 1);
    for threads in [1, 2, 5, 0] {
        assert!(turns(1, threads) == first, "{threads} CPU threads give another order");
    }
    let orders: Vec<Vec<u32>> = (0..8)
        .flat_map(|seed| turns(seed, 1).out.chunks(256).map(<[u32]>::to_vec).collect::<Vec<_>>())
        .map(|block| block.into_iter().step_by(32).collect())
        .collect();
    for order in &orders {
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, each(8, |turn| turn));
    }
    // Seeds and blocks all differ, or nearly so.
    let mut different = orders.clone();
    different.sort_unstable();
    different.dedup();
    assert!(different.len() > orders.len() - 4, "{orders:?}");
}

#[test]
fn the_fault_of_the_first_block_is_reported() {
    for threads in [1, 4] {
        let mut setup = Setup { grid: [64, 1, 1], words: 64, ..Setup::block(1) };
        setup.options.threads = threads;
        // Later blocks fail sooner.
        let body = "setp.lt.u32 %p1, %gid, 5;\n@%p1 exit;\nsub.u32 %r1, 2000, %gid;\nL:\nsub.u32 %r1, %r1, 20;\n\
                    setp.gt.s32 %p2, %r1, 0;\n@%p2 bra L;\ntrap;";
        assert_eq!(setup.fails(body, FaultKind::Trap, &[]).block, [5, 0, 0]);
    }
}

#[test]
fn samples_lie_evenly() {
    let body = "mov.u32 %r1, %ctaid.x;\nmov.u32 %r2, %ctaid.y;\nmad.lo.u32 %r1, %r2, 25, %r1;\n\
                mad.wide.u32 %rd1, %r1, 4, %out;\nst.global.u32 [%rd1], 1;";
    let setup = |sample| Setup { grid: [25, 4, 1], words: 100, sample, ..Setup::block(1) };
    let ran = setup(Some(10)).run(body).unwrap();
    assert_eq!(ran.counters.blocks, 10);
    assert_eq!(ran.out, each(100, |block| u32::from(block % 10 == 5)));
    let per_block = ran.counters.warp_instructions() / 10;
    for (sample, blocks) in [(None, 100), (Some(100), 100), (Some(1000), 100), (Some(1), 1)] {
        let ran = setup(sample).run(body).unwrap();
        assert_eq!((ran.counters.blocks, ran.counters.warp_instructions()), (blocks, blocks * per_block));
    }
}

/// Every block waits until all have come.
const GRID: &str = "atom.global.add.u32 %r1, [arrived], 1;\nL:\nld.volatile.global.u32 %r2, [arrived];\n\
                    setp.lt.u32 %p1, %r2, 6;\n@%p1 bra L;\nst.global.u32 [%mine], %r2;";

#[test]
fn blocks_of_a_cooperative_launch_wait_for_each_other() {
    let variables = ".global .align 4 .u32 arrived;";
    let mut setup = Setup { variables, grid: [6, 1, 1], words: 6, cooperative: true, ..Setup::block(1) };
    for threads in [1, 2, 8] {
        setup.options.threads = threads;
        assert_eq!(setup.out(GRID), [6; 6], "{threads} CPU threads");
    }
    // Others need not be there at once.
    (setup.cooperative, setup.options.threads) = (false, 1);
    setup.fails(GRID, FaultKind::Limit, &["the limit"]);
}

#[test]
fn a_failed_block_ends_a_cooperative_launch() {
    let variables = ".global .align 4 .u32 arrived;";
    for threads in [1, 3] {
        let mut setup = Setup { variables, grid: [6, 1, 1], words: 6, cooperative: true, ..Setup::block(1) };
        setup.options.threads = threads;
        let body = format!("setp.eq.u32 %p2, %gid, 4;\n@%p2 trap;\n{GRID}");
        assert_eq!(setup.fails(&body, FaultKind::Trap, &[]).block, [4, 0, 0]);
    }
}

/// A module whose kernel prints the index of its block and of its thread.
pub(super) fn printing(format: &str, prologue: &str) -> String {
    let bytes: Vec<String> = format.bytes().chain([0]).map(|b| b.to_string()).collect();
    format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n\
         .extern .func (.param .b32 result) vprintf(.param .b64 format, .param .b64 values);\n\
         .global .align 1 .b8 text[{}] = {{{}}};\n.visible .entry k()\n{{\n\
         .local .align 8 .b8 depot[8];\n.reg .b32 %r<8>;\n.reg .b64 %rd<8>;\n.reg .pred %p<4>;\n\
         mov.u64 %rd1, depot;\ncvta.local.u64 %rd2, %rd1;\nmov.u64 %rd3, text;\ncvta.global.u64 %rd4, %rd3;\n\
         mov.u32 %r1, %ctaid.x;\nmov.u32 %r2, %tid.x;\nst.local.v2.u32 [depot], {{%r1, %r2}};\n{prologue}\n\
         {{\n.param .b64 a;\nst.param.b64 [a], %rd4;\n.param .b64 b;\nst.param.b64 [b], %rd2;\n.param .b32 c;\n\
         call.uni (c), vprintf, (a, b);\nld.param.b32 %r3, [c];\n}}\nret;\n}}\n",
        format.len() + 1,
        bytes.join(", ")
    )
}

/// Set in the process whose output the test below reads.
const CHILD: &str = "EMULATED_CUDA_TEST_ORDER";

#[test]
fn blocks_print_in_order() {
    if env::var_os(CHILD).is_some() {
        let mut setup = Setup { grid: [20, 1, 1], ..Setup::block(3) };
        setup.options.threads = 4;
        // The first blocks take longest.
        let wait = "sub.u32 %r4, 20, %r1;\nmul.lo.u32 %r4, %r4, 1000;\nL:\nsub.u32 %r4, %r4, 1;\n\
                    setp.ne.u32 %p1, %r4, 0;\n@%p1 bra L;";
        setup.run_text(&printing("<%d %u>\n", wait)).unwrap_or_else(|fault| panic!("{fault}"));
        return;
    }
    let mut child = Command::new(env::current_exe().expect("this test's binary"));
    child.args(["--exact", "machine::launches::blocks_print_in_order", "--nocapture"]).env(CHILD, "1");
    let output = child.output().expect("the child runs");
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<&str> = text.lines().filter(|l| l.starts_with('<')).collect();
    let expected: Vec<String> = (0..60).map(|i| format!("<{} {}>", i / 3, i % 3)).collect();
    assert_eq!(lines, expected);
}
