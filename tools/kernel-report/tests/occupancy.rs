//! Occupancy against figures of NVIDIA's calculator, and of what was seen to run.

use kernel_report::machine::{A100, H100, MACHINES, RTX_4090};
use kernel_report::occupancy::{Block, Bound, occupancy};
use proptest::prelude::*;

fn block(threads: u32, registers: impl Into<Option<u32>>, shared: u32) -> Block {
    Block { threads, registers: registers.into(), shared }
}

#[test]
fn known_cases() {
    let cases = [
        // 80 registers: 2560 a warp, 6 warps in each part, 24 in all.
        (A100, block(256, 80, 0), 3, Bound::Registers),
        (A100, block(256, 64, 0), 4, Bound::Registers),
        // 65 are as many as 72: 2304 a warp, 28 warps.
        (A100, block(256, 65, 0), 3, Bound::Registers),
        (A100, block(256, 32, 0), 8, Bound::Warps),
        (A100, block(32, 32, 0), 32, Bound::Blocks),
        (RTX_4090, block(32, 32, 0), 24, Bound::Blocks),
        (RTX_4090, block(256, 32, 0), 6, Bound::Warps),
        (A100, block(128, 255, 0), 2, Bound::Registers),
        // 16888 + 1024 bytes are 17920: five blocks of 102400 on compute capability 8.9; 200 registers leave two warps in each
        // part, 168 three.
        (RTX_4090, block(64, None, 16_888), 5, Bound::Shared),
        (RTX_4090, block(64, 168, 16_888), 5, Bound::Shared),
        (RTX_4090, block(64, 200, 16_888), 4, Bound::Registers),
        (A100, block(128, None, 163 << 10), 1, Bound::Shared),
        (A100, block(128, None, 81 << 10), 2, Bound::Shared),
        (A100, block(128, None, (81 << 10) + 1), 1, Bound::Shared),
        (H100, block(384, 168, 227 << 10), 1, Bound::Registers),
        (H100, block(128, 32, 227 << 10), 1, Bound::Shared),
        (A100, block(33, 32, 0), 32, Bound::Warps),
    ];
    for (machine, block, blocks, bound) in cases {
        let found = occupancy(&machine, &block).unwrap();
        assert_eq!((found.blocks, found.bound), (blocks, bound), "{} {block:?}", machine.name);
        assert_eq!(found.warps, blocks * block.threads.div_ceil(32));
        assert_eq!(found.share, f64::from(found.warps) / f64::from(machine.max_warps));
    }
}

#[test]
fn blocks_that_cannot_run() {
    for (block, part) in [
        (block(0, None, 0), "0 threads"),
        (block(1025, None, 0), "1025 threads"),
        (block(128, None, (163 << 10) + 1), "shared memory"),
        (block(128, 256, 0), "256 registers"),
        (block(1024, 65, 0), "65 registers"),
    ] {
        let error = occupancy(&A100, &block).unwrap_err();
        assert!(error.contains(part), "{error}");
    }
}

proptest! {
    #[test]
    fn resources_suffice_and_one_block_more_would_not_fit(
        machine in 0usize..3, warps in 1u32..33, registers in 1u32..256, shared in 0u32..(99 << 10),
    ) {
        let machine = MACHINES[machine];
        let block = block(32 * warps, registers, shared);
        let of_warp = (registers * 32).next_multiple_of(256);
        let fits = |blocks: u32| {
            // Warps are spread evenly over the parts, each with 16384 registers.
            let in_part = (blocks * warps).div_ceil(4);
            blocks <= machine.max_blocks
                && blocks * warps <= machine.max_warps
                && in_part * of_warp <= 16_384
                && blocks * (shared + 1024).next_multiple_of(128) <= machine.shared_per_sm
        };
        match occupancy(&machine, &block) {
            Ok(found) => {
                prop_assert!(fits(found.blocks));
                prop_assert!(!fits(found.blocks + 1));
            }
            Err(_) => prop_assert!(!fits(1)),
        }
    }
}
