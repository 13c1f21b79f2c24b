//! The time that a launch would take if nothing but throughput counted.
//!
//! Each block's work is spread over the pipes of its multiprocessor; the busiest multiprocessor gets `ceil(blocks / multiprocessors)`
//! blocks, and its busiest pipe decides. L2 and DRAM are shared by all. Latencies are not modelled, nor are launches,
//! power limits, or caches in between: every global sector that a warp asks for counts at L2 (L1 is taken to hold
//! nothing), every distinct sector once at DRAM. Results that differ by less than 30 % are ties.

use emulated_cuda::machine::counters::{ALL_CLASSES, Class, Counters};
use serde::Serialize;

use crate::machine::{
    ISSUE_PER_CLOCK, L2_BYTES_PER_CLOCK_AND_SM, Machine, SECTOR, WARP, WAVEFRONTS_PER_CLOCK,
};
use crate::occupancy::{Block, Occupancy, occupancy};

/// A busiest multiprocessor whose last round is emptier than this is worth a note.
const FULL_ROUNDS: f64 = 0.97;

/// Below so many resident warps (and below two blocks), latency may well decide.
const ENOUGH_WARPS: u32 = 8;

/// Something whose throughput may limit a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Pipe {
    /// Tensor cores.
    Tensor,
    /// Instruction issue.
    Issue,
    /// Passes over shared memory; shuffles and votes go the same way.
    Shared,
    /// f32 arithmetic; f16 and bf16 outside tensor cores count here too.
    Float32,
    /// f64 arithmetic.
    Float64,
    /// Integer arithmetic, and conversions.
    Integer,
    /// ex2, rcp, rsqrt and their like.
    Special,
    /// L2 cache.
    L2,
    /// Device memory.
    Dram,
}

/// The name of a pipe.
impl std::fmt::Display for Pipe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Pipe::Tensor => "tensor",
            Pipe::Issue => "issue",
            Pipe::Shared => "shared",
            Pipe::Float32 => "f32",
            Pipe::Float64 => "f64",
            Pipe::Integer => "int",
            Pipe::Special => "special",
            Pipe::L2 => "L2",
            Pipe::Dram => "DRAM",
        })
    }
}

/// A launch, as it would be on a GPU.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Launch {
    /// Blocks of the grid.
    pub blocks: u64,
    /// What a block needs.
    pub block: Block,
    /// Machine instructions for each PTX instruction, see [`crate::sass`]; 1 where it is not known.
    pub instruction_ratio: f64,
}

/// The least that a problem asks of any kernel.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Ideal {
    /// Operations by the unit that does them, a fused multiply-add being two: the operand type for tensor cores (`bf16`, `f16`,
    /// `tf32`, `s8`, ...), `f32`, `f64_lanes`, `int` or `special` for the lanes outside.
    pub operations: Vec<(String, f64)>,
    /// Bytes to be read and written.
    pub bytes: f64,
}

/// What the model says of a launch.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Modelled {
    /// What a multiprocessor holds at once.
    pub occupancy: Occupancy,
    /// Blocks over those that all multiprocessors hold at once.
    pub waves: f64,
    /// The mean load of a multiprocessor over that of the busiest.
    pub balance: f64,
    /// Clocks that each pipe is busy, on the busiest multiprocessor.
    pub cycles: Vec<(Pipe, f64)>,
    /// The pipe that decides.
    pub limit: Pipe,
    /// Seconds.
    pub seconds: f64,
    /// Seconds that the least that the problem asks for would take.
    pub ideal_seconds: f64,
    /// The latter over the former.
    pub efficiency: f64,
    /// What to keep in mind.
    pub notes: Vec<String>,
}

impl Modelled {
    /// Clocks that a pipe is busy.
    pub fn cycles_of(&self, pipe: Pipe) -> f64 {
        self.cycles.iter().find(|(p, _)| *p == pipe).map_or(0.0, |(_, cycles)| *cycles)
    }
}

/// Models a launch from what some or all of its blocks were counted to do.
///
/// # Errors
/// Why it could not run on the machine, in words.
pub fn model(
    machine: &Machine,
    counted: &Counters,
    launch: &Launch,
    ideal: &Ideal,
) -> Result<Modelled, String> {
    let occupancy = occupancy(machine, &launch.block)?;
    if launch.blocks == 0 || counted.blocks == 0 {
        return Err("no block ran".to_string());
    }
    let mut notes = Vec::new();
    let sms = f64::from(machine.sms);
    let blocks = launch.blocks as f64;
    let busiest = (blocks / sms).ceil();
    // What one block did, on average; and what the busiest multiprocessor does, and all together.
    let per_block = |total: f64| total / counted.blocks as f64;
    let on_busiest = |total: f64, per_clock: f64| per_block(total) * busiest / per_clock;

    let of = |class: Class| match ALL_CLASSES.iter().position(|c| *c == class) {
        Some(index) => counted.instructions[index] as f64,
        None => 0.0,
    };
    let lanes = |instructions: f64, lanes: f64| on_busiest(instructions * f64::from(WARP), lanes);
    let tensor_clocks = tensor_clocks(machine, counted, &mut notes);
    let wavefronts = (counted.shared_load.wavefronts + counted.shared_store.wavefronts) as f64
        + (counted.shared_atomics as f64 / f64::from(WARP)).ceil()
        + of(Class::Warp);
    let traffic = [counted.global_load, counted.global_store, counted.global_copy];
    let sectors = traffic.iter().map(|t| t.sectors).sum::<u64>() + counted.global_atomics;
    let l2_bytes = sectors as f64 * SECTOR;
    let l2_all = per_block(l2_bytes) * blocks / machine.l2_bytes_per_clock;
    let dram_bytes = dram_bytes(machine, counted, launch, ideal, &mut notes);
    let cycles = vec![
        (Pipe::Tensor, on_busiest(tensor_clocks, 1.0)),
        (
            Pipe::Issue,
            on_busiest(counted.warp_instructions() as f64 * launch.instruction_ratio, ISSUE_PER_CLOCK),
        ),
        (Pipe::Shared, on_busiest(wavefronts, WAVEFRONTS_PER_CLOCK)),
        (Pipe::Float32, lanes(of(Class::Float32) + of(Class::Half), machine.f32_lanes)),
        (Pipe::Float64, lanes(of(Class::Float64), machine.f64_lanes)),
        (Pipe::Integer, lanes(of(Class::Integer) + of(Class::Convert), machine.int_lanes)),
        (Pipe::Special, lanes(of(Class::Special), machine.special_lanes)),
        (Pipe::L2, l2_all.max(on_busiest(l2_bytes, L2_BYTES_PER_CLOCK_AND_SM))),
        (Pipe::Dram, dram_bytes / machine.dram_bytes_per_clock()),
    ];
    let (mut limit, mut most) = cycles[0];
    for &(pipe, busy) in &cycles {
        if busy > most {
            (limit, most) = (pipe, busy);
        }
    }
    let seconds = most / machine.hertz();
    let ideal_seconds = ideal_seconds(machine, ideal)?;
    if ideal_seconds > seconds * (1.0 + 1e-9) {
        notes.push("the ideal says more than the kernel did: check ideal, and run more blocks".to_string());
    }
    if occupancy.blocks < 2 && occupancy.warps < ENOUGH_WARPS {
        notes.push(format!(
            "{} block of {} warps a multiprocessor: latency, which is not modelled, may decide",
            occupancy.blocks, occupancy.warps
        ));
    }
    let (balance, efficiency) =
        (blocks / (sms * busiest), if seconds > 0.0 { ideal_seconds / seconds } else { 0.0 });
    if balance < FULL_ROUNDS && !matches!(limit, Pipe::L2 | Pipe::Dram) {
        notes.push(format!(
            "{}: tail: {:.2} rounds of a block a multiprocessor take the time of {busiest}; \
             with full rounds the efficiency would be {:.0} %",
            machine.name,
            blocks / sms,
            (100.0 * efficiency / balance).min(100.0)
        ));
    }
    Ok(Modelled {
        occupancy,
        waves: blocks / (sms * f64::from(occupancy.blocks)),
        balance,
        cycles,
        limit,
        seconds,
        ideal_seconds,
        efficiency,
        notes,
    })
}

/// Clocks of a multiprocessor's tensor cores for the counted `mma` instructions.
fn tensor_clocks(machine: &Machine, counted: &Counters, notes: &mut Vec<String>) -> f64 {
    let mut clocks = 0.0;
    for (kind, &count) in &counted.mma {
        match multiply_adds(kind).zip(operands(kind).and_then(|operands| machine.tensor_rate(operands))) {
            Some((fma, rate)) => clocks += count as f64 * fma / (rate * machine.mma_share),
            None => {
                notes.push(format!("{count} tensor operations {kind} are not modelled on {}", machine.name))
            }
        }
    }
    clocks
}

/// Multiply-adds of a tensor operation such as `m16n8k16.bf16`.
fn multiply_adds(kind: &str) -> Option<f64> {
    let shape = kind.split('.').next()?.strip_prefix('m')?;
    let (m, rest) = shape.split_once('n')?;
    let (n, k) = rest.split_once('k')?;
    let size = |text: &str| text.parse::<u32>().ok().map(f64::from);
    Some(size(m)? * size(n)? * size(k)?)
}

/// The type of its operands.
fn operands(kind: &str) -> Option<&str> {
    kind.split('.').nth(1)
}

/// Bytes between L2 and device memory, at least.
fn dram_bytes(
    machine: &Machine,
    counted: &Counters,
    launch: &Launch,
    ideal: &Ideal,
    notes: &mut Vec<String>,
) -> f64 {
    let mut bytes = (counted.footprint_read + counted.footprint_written) as f64 * SECTOR;
    if counted.blocks != launch.blocks {
        notes.push("DRAM: the bytes of ideal, since only some blocks were counted".to_string());
        bytes = bytes.max(ideal.bytes);
    }
    if bytes > machine.l2_bytes {
        notes.push("DRAM: more data than L2 holds; what is read again may come from DRAM again".to_string());
    }
    bytes
}

/// Seconds that the least that the problem asks for would take, everything at its peak.
fn ideal_seconds(machine: &Machine, ideal: &Ideal) -> Result<f64, String> {
    let mut most = ideal.bytes / machine.dram_bytes_per_s;
    for (unit, operations) in &ideal.operations {
        let per_clock = match unit.as_str() {
            "f32" => 2.0 * machine.f32_lanes,
            "f64_lanes" => 2.0 * machine.f64_lanes,
            "int" => machine.int_lanes,
            "special" => machine.special_lanes,
            operands => match machine.tensor_rate(operands) {
                Some(rate) => 2.0 * rate,
                None => return Err(format!("{} has no unit for '{operands}' operations", machine.name)),
            },
        };
        most = most.max(operations / (per_clock * f64::from(machine.sms) * machine.hertz()));
    }
    Ok(most)
}
