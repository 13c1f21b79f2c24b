//! How many blocks a multiprocessor holds at once: the rules of NVIDIA's occupancy calculator for compute capability 8.0 to 9.0.

use serde::Serialize;

use crate::machine::{Machine, WARP};

/// Registers of a multiprocessor, which its four parts share equally.
const REGISTERS: u32 = 65_536;
const PARTS: u32 = 4;
/// Registers are handed out to a warp in units of this many.
const REGISTER_UNIT: u32 = 256;
/// Registers that a thread may have.
const MAX_REGISTERS: u32 = 255;
/// Shared memory is handed out in units of this many bytes, and the system takes some of each block's.
const SHARED_UNIT: u32 = 128;
const SHARED_RESERVED: u32 = 1024;
const MAX_THREADS: u32 = 1024;

/// What a block needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Threads.
    pub threads: u32,
    /// Registers of a thread, where they are known.
    pub registers: Option<u32>,
    /// Static and dynamic shared memory in bytes.
    pub shared: u32,
}

/// What keeps a multiprocessor from holding more blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Bound {
    /// The number of warps.
    Warps,
    /// The number of blocks.
    Blocks,
    /// Registers.
    Registers,
    /// Shared memory.
    Shared,
}

/// What a multiprocessor holds at once.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Occupancy {
    /// Blocks.
    pub blocks: u32,
    /// Their warps.
    pub warps: u32,
    /// The warps over those that it could hold.
    pub share: f64,
    /// Why not more. Where two bounds are equal, the first.
    pub bound: Bound,
}

/// The occupancy of blocks on a machine.
///
/// # Errors
/// Why such a block cannot run there at all, in words.
pub fn occupancy(machine: &Machine, block: &Block) -> Result<Occupancy, String> {
    if block.threads == 0 || block.threads > MAX_THREADS {
        return Err(format!("a block has {} threads; 1 to {MAX_THREADS} are possible", block.threads));
    }
    if block.shared > machine.shared_per_block {
        return Err(format!(
            "a block needs {} bytes of shared memory; {} gives it {}",
            block.shared, machine.name, machine.shared_per_block
        ));
    }
    let warps = block.threads.div_ceil(WARP);
    let mut limits = vec![(Bound::Warps, machine.max_warps / warps), (Bound::Blocks, machine.max_blocks)];
    if let Some(registers) = block.registers {
        limits.push((Bound::Registers, blocks_by_registers(registers, warps)?));
    }
    let shared = (block.shared + SHARED_RESERVED).next_multiple_of(SHARED_UNIT);
    limits.push((Bound::Shared, machine.shared_per_sm / shared));
    let mut least = limits[0];
    for limit in limits {
        if limit.1 < least.1 {
            least = limit;
        }
    }
    let (bound, blocks) = least;
    if blocks == 0 {
        return Err(format!(
            "not one block fits into a multiprocessor of {}, for its {bound:?}",
            machine.name
        ));
    }
    let warps = blocks * warps;
    Ok(Occupancy { blocks, warps, share: f64::from(warps) / f64::from(machine.max_warps), bound })
}

/// Warps stay in one of the four parts, each of which has its own quarter of the registers.
fn blocks_by_registers(registers: u32, warps: u32) -> Result<u32, String> {
    if registers > MAX_REGISTERS {
        return Err(format!("a thread needs {registers} registers; {MAX_REGISTERS} are possible"));
    }
    let of_warp = (registers.max(1) * WARP).next_multiple_of(REGISTER_UNIT);
    if of_warp * warps.next_multiple_of(PARTS) > REGISTERS {
        return Err(format!(
            "{warps} warps of {registers} registers a thread need more than {REGISTERS} registers"
        ));
    }
    Ok(REGISTERS / PARTS / of_warp * PARTS / warps)
}
