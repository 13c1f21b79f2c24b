//! The model against examples that were computed by hand.

use std::collections::BTreeMap;

use emulated_cuda::machine::counters::{ALL_CLASSES, Class, Counters, Traffic, Wavefronts};
use kernel_report::machine::{A100, H100, Machine, RTX_4090};
use kernel_report::model::{Ideal, Launch, Modelled, Pipe, model};
use kernel_report::occupancy::Block;
use proptest::prelude::*;

fn near(a: f64, b: f64) {
    assert!((a - b).abs() <= 1e-9 * b.abs(), "{a} for {b}");
}

fn launch(blocks: u64) -> Launch {
    Launch {
        blocks,
        block: Block { threads: 256, registers: Some(64), shared: 32 << 10 },
        instruction_ratio: 1.0,
    }
}

fn instructions(counts: &[(Class, u64)]) -> [u64; ALL_CLASSES.len()] {
    ALL_CLASSES.map(|class| counts.iter().filter(|(c, _)| *c == class).map(|(_, n)| n).sum())
}

/// A GEMM of 4096 x 4096 x 4096 in tiles of 128 x 128: 1024 blocks, each of 8 warps, 32768 mma m16n8k16 and 256 steps of K.
fn gemm() -> (Counters, Ideal) {
    let (blocks, mma) = (1024, 32_768);
    let counters = Counters {
        blocks,
        warps: 8 * blocks,
        // For each mma one ldmatrix.x4 in four, and one integer instruction in two.
        instructions: instructions(&[
            (Class::Mma, mma * blocks),
            (Class::Shared, mma / 4 * blocks),
            (Class::Integer, mma / 2 * blocks),
        ]),
        mma: BTreeMap::from([("m16n8k16.bf16", mma * blocks)]),
        shared_load: Wavefronts { wavefronts: 4 * mma / 4 * blocks, ..Wavefronts::default() },
        // Each block copies 2 x 128 rows of 4096 bf16.
        global_copy: Traffic { sectors: 2 * 128 * 4096 * 2 / 32 * blocks, ..Traffic::default() },
        footprint_read: 2 * 4096 * 4096 * 2 / 32,
        footprint_written: 4096 * 4096 * 4 / 32,
        ..Counters::default()
    };
    let n = 4096f64;
    let ideal = Ideal { operations: vec![("bf16".to_string(), 2.0 * n.powi(3))], bytes: 8.0 * n * n };
    (counters, ideal)
}

fn on(machine: &Machine) -> Modelled {
    let (counters, ideal) = gemm();
    model(machine, &counters, &launch(1024), &ideal).unwrap()
}

#[test]
fn a_gemm_on_a100() {
    let m = on(&A100);
    // 1024 blocks on 108 multiprocessors: the busiest gets 10. A block: 128 * 128 * 4096 multiply-adds at 1024 a clock.
    near(m.cycles_of(Pipe::Tensor), 10.0 * 65_536.0);
    // 1.75 instructions for each mma, four a clock.
    near(m.cycles_of(Pipe::Issue), 10.0 * 32_768.0 * 1.75 / 4.0);
    near(m.cycles_of(Pipe::Shared), 10.0 * 32_768.0);
    near(m.cycles_of(Pipe::Integer), 10.0 * 16_384.0 / 2.0);
    assert_eq!(m.cycles_of(Pipe::Special), 0.0);
    // 2 MiB a block from L2. All together at 5120 bytes a clock, which is more than the busiest one's 20 MiB at 64.
    near(m.cycles_of(Pipe::L2), (1024.0f64 * 2_097_152.0 / 5120.0).max(10.0 * 2_097_152.0 / 64.0));
    near(m.cycles_of(Pipe::Dram), 8.0 * 4096.0 * 4096.0 / (2.04e12 / 1.41e9));
    assert_eq!(m.limit, Pipe::Tensor);
    near(m.seconds, 655_360.0 / 1.41e9);
    near(m.ideal_seconds, 2.0 * 4096f64.powi(3) / 311.869_44e12);
    // Nothing but the last, partly filled round is lost.
    near(m.efficiency, 1024.0 / 1080.0);
    near(m.balance, 1024.0 / 1080.0);
    let tail = "A100 80 GB: tail: 9.48 rounds of a block a multiprocessor take the time of 10; \
        with full rounds the efficiency would be 100 %";
    assert!(m.notes.iter().any(|n| n == tail), "{:?}", m.notes);
    // On 128 multiprocessors the rounds are full.
    assert!(!on(&RTX_4090).notes.iter().any(|n| n.contains("tail")));
    // 64 registers: 2048 a warp, 32 warps, 4 blocks of 8; 33 KiB each of 164.
    assert_eq!(m.occupancy.blocks, 4);
    near(m.waves, 1024.0 / 432.0);
    // 128 MiB pass through an L2 of 40.
    assert!(m.notes.iter().any(|n| n.contains("more data than L2 holds")), "{:?}", m.notes);
}

#[test]
fn the_same_gemm_elsewhere() {
    let m = on(&RTX_4090);
    near(m.cycles_of(Pipe::Tensor), 8.0 * 262_144.0);
    near(m.efficiency, 1.0);
    let m = on(&H100);
    // ceil(1024 / 132) = 8 blocks; mma.sync reaches 62 % of the 2048 that the ideal counts with.
    near(m.cycles_of(Pipe::Tensor), 8.0 * 32_768.0 / 0.62);
    near(m.efficiency, 0.62 * 1024.0 / 1056.0);
}

#[test]
fn a_copy_is_bound_by_memory() {
    let n = 1u64 << 26;
    let counters = Counters {
        blocks: 65_536,
        instructions: instructions(&[(Class::Global, n / 4 / 32 * 2)]),
        global_load: Traffic { sectors: n * 4 / 32, ..Traffic::default() },
        global_store: Traffic { sectors: n * 4 / 32, ..Traffic::default() },
        footprint_read: n * 4 / 32,
        footprint_written: n * 4 / 32,
        ..Counters::default()
    };
    let ideal = Ideal { operations: Vec::new(), bytes: 8.0 * n as f64 };
    let m = model(&A100, &counters, &launch(65_536), &ideal).unwrap();
    assert_eq!(m.limit, Pipe::Dram);
    near(m.seconds, 8.0 * n as f64 / 2.04e12);
    near(m.efficiency, 1.0);
    // Twice the bytes: half as good.
    let wasteful = Counters { footprint_read: 3 * n * 4 / 32, ..counters };
    near(model(&A100, &wasteful, &launch(65_536), &ideal).unwrap().efficiency, 0.5);
}

#[test]
fn a_small_grid_leaves_multiprocessors_idle() {
    let (mut counters, ideal) = gemm();
    counters.blocks = 1024;
    // One block alone is bound by what one multiprocessor takes from L2.
    let m = model(&A100, &counters, &launch(1), &Ideal::default()).unwrap();
    near(m.cycles_of(Pipe::L2), 2_097_152.0 / 64.0);
    near(m.balance, 1.0 / 108.0);
    near(m.cycles_of(Pipe::Tensor), 65_536.0);
    // 109 blocks take as long as 216.
    let time = |blocks| model(&A100, &counters, &launch(blocks), &ideal).unwrap().cycles_of(Pipe::Tensor);
    near(time(109), time(216));
    near(time(108) * 2.0, time(109));
}

#[test]
fn machine_instructions_count_for_issue_alone() {
    let (counters, ideal) = gemm();
    let of = |instruction_ratio| {
        model(&A100, &counters, &Launch { instruction_ratio, ..launch(1024) }, &ideal).unwrap()
    };
    let (plain, more) = (of(1.0), of(6.0));
    near(more.cycles_of(Pipe::Issue), 6.0 * plain.cycles_of(Pipe::Issue));
    near(more.cycles_of(Pipe::Integer), plain.cycles_of(Pipe::Integer));
    assert_eq!((plain.limit, more.limit), (Pipe::Tensor, Pipe::Issue));
    assert!(more.efficiency < plain.efficiency);
}

#[test]
fn every_class_of_work_has_its_pipe() {
    let cases = [
        (Class::Float32, Pipe::Float32, 64.0),
        (Class::Half, Pipe::Float32, 64.0),
        (Class::Float64, Pipe::Float64, 32.0),
        (Class::Integer, Pipe::Integer, 64.0),
        (Class::Convert, Pipe::Integer, 64.0),
        (Class::Special, Pipe::Special, 16.0),
    ];
    for (class, pipe, lanes) in cases {
        let counters =
            Counters { blocks: 108, instructions: instructions(&[(class, 108_000)]), ..Counters::default() };
        let m = model(&A100, &counters, &launch(108), &Ideal::default()).unwrap();
        near(m.cycles_of(pipe), 1000.0 * 32.0 / lanes);
        near(m.cycles_of(Pipe::Issue), 250.0);
        let others: f64 =
            m.cycles.iter().filter(|(p, _)| ![pipe, Pipe::Issue].contains(p)).map(|(_, c)| c).sum();
        assert_eq!(others, 0.0, "{class:?}");
    }
    // Shuffles pass through shared memory's crossbar, atomics on it 32 lanes a pass.
    let counters = Counters {
        blocks: 108,
        instructions: instructions(&[(Class::Warp, 10_800)]),
        shared_atomics: 108 * 64,
        shared_store: Wavefronts { wavefronts: 108 * 7, ..Wavefronts::default() },
        ..Counters::default()
    };
    near(model(&A100, &counters, &launch(108), &Ideal::default()).unwrap().cycles_of(Pipe::Shared), 109.0);
}

#[test]
fn tensor_operations_by_type() {
    let clocks = |machine: &Machine, kind: &'static str| {
        let counters = Counters { blocks: 1, mma: BTreeMap::from([(kind, 1000)]), ..Counters::default() };
        let m = model(machine, &counters, &launch(1), &Ideal::default()).unwrap();
        (m.cycles_of(Pipe::Tensor), m.notes)
    };
    let of = |kind| clocks(&A100, kind).0;
    near(of("m16n8k16.f16"), 2000.0);
    near(of("m16n8k8.bf16"), 1000.0);
    near(of("m16n8k8.tf32"), 2000.0);
    near(of("m16n8k32.s8"), 2000.0);
    near(of("m16n8k256.b1"), 2000.0);
    near(of("m8n8k4.f64"), 4000.0);
    for (machine, kind) in
        [(&RTX_4090, "m8n8k4.f64"), (&A100, "m16n8k32.e4m3"), (&A100, "m16n8.bf16"), (&A100, "x")]
    {
        let (cycles, notes) = clocks(machine, kind);
        assert_eq!(cycles, 0.0);
        assert!(notes.iter().any(|n| n.contains(kind) && n.contains("not modelled")), "{kind}: {notes:?}");
    }
}

#[test]
fn what_cannot_run_or_makes_no_sense_is_said() {
    let (counters, ideal) = gemm();
    let shared = Launch { block: Block { shared: 120 << 10, ..launch(1).block }, ..launch(1024) };
    assert!(model(&A100, &counters, &shared, &ideal).is_ok());
    assert!(model(&RTX_4090, &counters, &shared, &ideal).unwrap_err().contains("shared memory"));
    assert!(model(&A100, &Counters::default(), &launch(1), &ideal).unwrap_err().contains("no block"));
    let odd = Ideal { operations: vec![("f128".to_string(), 1.0)], bytes: 0.0 };
    assert!(model(&A100, &counters, &launch(1024), &odd).unwrap_err().contains("'f128'"));
    let greedy = Ideal { operations: vec![("bf16".to_string(), 1e15)], bytes: 0.0 };
    let notes = model(&A100, &counters, &launch(1024), &greedy).unwrap().notes;
    assert!(notes.iter().any(|n| n.contains("more than the kernel did")), "{notes:?}");
    let lonely =
        Launch { block: Block { threads: 128, registers: Some(64), shared: 100 << 10 }, ..launch(1024) };
    let notes = model(&A100, &counters, &lonely, &ideal).unwrap().notes;
    assert!(notes.iter().any(|n| n.contains("latency")), "{notes:?}");
}

proptest! {
    /// Counting every block or some of equal ones gives the same times.
    #[test]
    fn a_sample_stands_for_the_whole(counted in 1u64..64, factor in 1u64..64, each in 1u64..1000) {
        let work = |blocks: u64| Counters {
            blocks,
            instructions: instructions(&[(Class::Float32, 3 * each * blocks), (Class::Special, each * blocks)]),
            shared_load: Wavefronts { wavefronts: 5 * each * blocks, ..Wavefronts::default() },
            global_load: Traffic { sectors: 7 * each * blocks, ..Traffic::default() },
            mma: BTreeMap::from([("m16n8k16.f16", each * blocks)]),
            ..Counters::default()
        };
        let grid = launch(counted * factor);
        let ideal = Ideal { operations: Vec::new(), bytes: 1.0 };
        let sampled = model(&H100, &work(counted), &grid, &ideal).unwrap();
        let whole = model(&H100, &work(counted * factor), &grid, &ideal).unwrap();
        for ((pipe, a), (_, b)) in sampled.cycles.iter().zip(&whole.cycles).filter(|((p, _), _)| *p != Pipe::Dram) {
            prop_assert!((a - b).abs() <= 1e-9 * b, "{pipe}: {a}, {b}");
        }
        prop_assert_eq!(sampled.notes.iter().any(|n| n.contains("only some blocks")), factor > 1);
        // No launch is faster than its busiest pipe, and the busiest pipe is the limit.
        let most = whole.cycles.iter().map(|(_, c)| *c).fold(0.0, f64::max);
        prop_assert_eq!(whole.cycles_of(whole.limit), most);
        prop_assert_eq!(whole.seconds, most / H100.hertz());
    }
}
