//! The numbers of the device: those of an A100, except where something does not exist here.

use super::status::{Outcome, Status};
use crate::machine::Options;

/// Threads of a block at most.
pub const MAX_THREADS: u32 = 1024;
/// Threads of a block in x, y and z at most.
pub const MAX_BLOCK: [u32; 3] = [1024, 1024, 64];
/// Blocks of a grid in x, y and z at most.
pub const MAX_GRID: [u32; 3] = [i32::MAX as u32, 65535, 65535];
/// Shared memory that a block gets without asking.
pub const SHARED: u32 = 48 << 10;
/// Shared memory that a block gets when its function asked.
pub const SHARED_OPT_IN: u32 = 163 << 10;
/// Shared memory of a multiprocessor.
pub const SHARED_PER_SM: u32 = 164 << 10;
/// Shared memory that the system takes of each block.
pub const SHARED_RESERVED: u32 = 1 << 10;
/// Registers of a multiprocessor and of a block at most.
pub const REGISTERS: u32 = 64 << 10;
/// Threads of a multiprocessor at most.
pub const THREADS_PER_SM: u32 = 2048;
/// Blocks of a multiprocessor at most.
pub const BLOCKS_PER_SM: u32 = 32;
/// Threads of a warp.
pub const WARP: u32 = 32;

/// An attribute by its number.
pub fn get(which: u32, options: &Options) -> Outcome<i32> {
    let value = match which {
        1 => MAX_THREADS,
        2..=4 => MAX_BLOCK[which as usize - 2],
        5..=7 => MAX_GRID[which as usize - 5],
        8 => SHARED,
        // Constant memory.
        9 => 64 << 10,
        10 => WARP,
        // Pitch at most.
        11 => i32::MAX as u32,
        12 | 82 => REGISTERS,
        // Clock in kHz.
        13 => 1_410_000,
        // Alignment of textures and surfaces, of texture pitches.
        14 | 30 => 512,
        51 => 32,
        16 => options.sm_count,
        // Copies overlap kernels, host memory is mapped, kernels run at once, addresses are unified, streams
        // have priorities, L1 caches global and local memory, managed memory exists and is shared at all
        // times, kernels are preempted.
        15 | 19 | 31 | 41 | 78 | 79 | 80 | 83 | 89 | 90 => 1,
        // Cooperative launches, registered host memory, memory pools.
        95 | 99 | 115 => 1,
        // Place on the bus.
        33 => 1,
        // Memory clock in kHz, width of its bus in bits, L2.
        36 => 1_215_000,
        37 => 5120,
        38 => 40 << 20,
        39 => THREADS_PER_SM,
        // Copy engines.
        40 => 3,
        // Compute capability.
        75 => 8,
        76 => 0,
        81 => SHARED_PER_SM,
        // f32 throughput to f64 throughput.
        87 => 2,
        97 => SHARED_OPT_IN,
        106 => BLOCKS_PER_SM,
        111 => SHARED_RESERVED,
        // Memory synchronisation domains.
        126 => 1,
        // NUMA nodes: none.
        131 | 134 => return Ok(-1),
        // Whatever else there is does not exist here: textures, surfaces, arrays, ECC, peers, virtual memory
        // management, memory operations of streams, clusters, tensor maps, multicast, sharing between
        // processes.
        17..=18 | 20..=29 | 32 | 34..=35 | 42..=50 | 52..=74 | 77 | 84..=86 | 88 | 91..=94 | 96 | 98 => 0,
        100..=105 | 107..=110 | 112..=114 | 116..=125 | 127..=130 | 132..=133 | 135..=147 => 0,
        _ => return Err(Status::INVALID_VALUE),
    };
    Ok(value as i32)
}
