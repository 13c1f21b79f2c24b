//! Occupancy: how many blocks a multiprocessor of sm_80 holds at once.
//!
//! A block takes warps (64), a place among blocks (32), registers (65536, given to each warp in units of 256,
//! to warps in groups of four) and shared memory (164 KiB, in units of 128 bytes, 1 KiB more for the system);
//! the scarcest decides. The number of registers is this machine's stand-in for ptxas's, see [`registers`].

use super::{
    super::{
        attributes::{
            BLOCKS_PER_SM, MAX_THREADS, REGISTERS, SHARED_OPT_IN, SHARED_PER_SM, SHARED_RESERVED,
            THREADS_PER_SM, WARP,
        },
        ffi::{In, Out, exports},
        handles::Id,
        module::{Function, function::registers},
        state::current,
        status::{Outcome, Status},
    },
    ExtendedConfig,
};
use crate::machine::Kernel;

/// Registers of a warp come in multiples of this.
const REGISTER_UNIT: u32 = 256;
/// Warps come in multiples of this where registers are given out.
const WARP_UNIT: u32 = 4;
/// Shared memory comes in multiples of this.
const SHARED_UNIT: u64 = 128;
/// The only flag of the queries: whether caching may be switched off.
const DISABLE_CACHING_OVERRIDE: u32 = 1;

/// `CUoccupancyB2DSize`
pub type SharedOfBlock = unsafe extern "C" fn(block: i32) -> usize;

/// Shared memory that a block takes.
fn shared_of(kernel: &Kernel, dynamic: u64) -> u64 {
    u64::from(kernel.static_shared)
        .saturating_add(dynamic)
        .saturating_add(SHARED_RESERVED.into())
        .div_ceil(SHARED_UNIT)
        .saturating_mul(SHARED_UNIT)
}

/// Blocks that a multiprocessor holds at once.
pub fn blocks_per_sm(kernel: &Kernel, threads: u32, dynamic_shared: u64) -> u32 {
    if threads == 0 || threads > kernel.max_threads.min(MAX_THREADS) {
        return 0;
    }
    if u64::from(kernel.static_shared).saturating_add(dynamic_shared) > SHARED_OPT_IN.into() {
        return 0;
    }
    let warps = threads.div_ceil(WARP);
    let of_warp = (registers(kernel) * WARP).next_multiple_of(REGISTER_UNIT);
    let by_registers = REGISTERS / of_warp / WARP_UNIT * WARP_UNIT / warps;
    let by_shared = (u64::from(SHARED_PER_SM) / shared_of(kernel, dynamic_shared)) as u32;
    let by_warps = THREADS_PER_SM / WARP / warps;
    BLOCKS_PER_SM.min(by_warps).min(by_registers).min(by_shared)
}

/// The block size that fills a multiprocessor with the most threads, the largest of several, and a grid that
/// fills the device.
fn best_block(kernel: &Kernel, limit: u32, multiprocessors: u32, shared: impl Fn(u32) -> u64) -> (u32, u32) {
    let most = if limit == 0 { MAX_THREADS } else { limit }.min(MAX_THREADS).min(kernel.max_threads);
    let sizes = (1..=most / WARP).map(|warps| warps * WARP).chain((most % WARP != 0).then_some(most));
    let filled = sizes.map(|size| {
        let blocks = blocks_per_sm(kernel, size, shared(size));
        (blocks * size, size, blocks)
    });
    let (_, size, blocks) = filled.filter(|(threads, ..)| *threads > 0).max().unwrap_or_default();
    (blocks * multiprocessors, size)
}

fn max_active_blocks(
    out: Out<i32>,
    function: Id<Function>,
    block: i32,
    dynamic_shared: usize,
    flags: u32,
) -> Outcome {
    out.check()?;
    let mut current = current()?;
    let function = current.function(function)?;
    if block <= 0 || flags & !DISABLE_CACHING_OVERRIDE != 0 {
        return Err(Status::INVALID_VALUE);
    }
    let kernel = &current.state.functions.get(function)?.kernel;
    out.set(blocks_per_sm(kernel, block as u32, dynamic_shared as u64) as i32)
}

fn max_potential_block(
    grid: Out<i32>,
    block: Out<i32>,
    function: Id<Function>,
    shared: Option<SharedOfBlock>,
    dynamic_shared: usize,
    limit: i32,
    flags: u32,
) -> Outcome {
    grid.check()?;
    block.check()?;
    let mut current = current()?;
    let function = current.function(function)?;
    if limit < 0 || flags & !DISABLE_CACHING_OVERRIDE != 0 {
        return Err(Status::INVALID_VALUE);
    }
    let kernel = current.state.functions.get(function)?.kernel.clone();
    let multiprocessors = current.driver.device.options.sm_count;
    // The callback may call the driver.
    drop(current);
    let shared = |size: u32| match shared {
        // SAFETY: the program passed the function to be called with block sizes.
        Some(shared) => unsafe { shared(size as i32) as u64 },
        None => dynamic_shared as u64,
    };
    let (blocks, size) = best_block(&kernel, limit as u32, multiprocessors, shared);
    grid.set(blocks as i32)?;
    block.set(size as i32)
}

exports! {
    /// Blocks that a multiprocessor holds at once.
    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
        out: Out<i32>,
        function: Id<Function>,
        block: i32,
        dynamic_shared: usize,
    ) {
        max_active_blocks(out, function, block, dynamic_shared, 0)
    }

    /// Blocks that a multiprocessor holds at once.
    fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        out: Out<i32>,
        function: Id<Function>,
        block: i32,
        dynamic_shared: usize,
        flags: u32,
    ) {
        max_active_blocks(out, function, block, dynamic_shared, flags)
    }

    /// The block size that fills the device best.
    fn cuOccupancyMaxPotentialBlockSize(
        grid: Out<i32>,
        block: Out<i32>,
        function: Id<Function>,
        shared: Option<SharedOfBlock>,
        dynamic_shared: usize,
        limit: i32,
    ) {
        max_potential_block(grid, block, function, shared, dynamic_shared, limit, 0)
    }

    /// The block size that fills the device best.
    fn cuOccupancyMaxPotentialBlockSizeWithFlags(
        grid: Out<i32>,
        block: Out<i32>,
        function: Id<Function>,
        shared: Option<SharedOfBlock>,
        dynamic_shared: usize,
        limit: i32,
        flags: u32,
    ) {
        max_potential_block(grid, block, function, shared, dynamic_shared, limit, flags)
    }

    /// Dynamic shared memory that each of so many blocks on a multiprocessor can have.
    fn cuOccupancyAvailableDynamicSMemPerBlock(
        out: Out<usize>,
        function: Id<Function>,
        blocks: i32,
        block: i32,
    ) {
        out.check()?;
        let mut current = current()?;
        let function = current.function(function)?;
        let kernel = &current.state.functions.get(function)?.kernel;
        if blocks <= 0 || block <= 0 || blocks as u32 > blocks_per_sm(kernel, block as u32, 0) {
            return Err(Status::INVALID_VALUE);
        }
        let each = u64::from(SHARED_PER_SM / blocks as u32) / SHARED_UNIT * SHARED_UNIT;
        let taken = u64::from(SHARED_RESERVED) + u64::from(kernel.static_shared);
        let most = u64::from(SHARED_OPT_IN - kernel.static_shared.min(SHARED_OPT_IN));
        out.set(each.saturating_sub(taken).min(most) as usize)
    }

    /// Clusters do not exist on sm_80.
    fn cuOccupancyMaxActiveClusters(out: Out<i32>, function: Id<Function>, config: In<ExtendedConfig>) {
        no_clusters(out, function, config)
    }

    /// Clusters do not exist on sm_80.
    fn cuOccupancyMaxPotentialClusterSize(out: Out<i32>, function: Id<Function>, config: In<ExtendedConfig>) {
        no_clusters(out, function, config)
    }
}

fn no_clusters(out: Out<i32>, function: Id<Function>, config: In<ExtendedConfig>) -> Outcome {
    out.check()?;
    config.get()?;
    current()?.function(function)?;
    Err(Status::NOT_SUPPORTED)
}
