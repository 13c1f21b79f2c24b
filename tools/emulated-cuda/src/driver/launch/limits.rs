//! The limits of a launch.

use super::{
    super::{
        attributes::{MAX_BLOCK, MAX_GRID, MAX_THREADS},
        module::Function,
        status::{Outcome, Status},
    },
    occupancy,
};
use crate::machine::{LaunchConfig, Options};

/// Refuses a launch that hardware would refuse.
pub fn check(function: &Function, config: &LaunchConfig, options: &Options) -> Outcome {
    let LaunchConfig { grid, block, dynamic_shared, cooperative, .. } = *config;
    let kernel = &function.kernel;
    let within = |sizes: [u32; 3], most: [u32; 3]| {
        sizes.iter().zip(most).all(|(&size, most)| (1..=most).contains(&size))
    };
    if !within(grid, MAX_GRID) || !within(block, MAX_BLOCK) {
        return Err(Status::INVALID_VALUE);
    }
    // At most 1024 * 1024 * 64.
    let threads: u32 = block.iter().product();
    if threads > MAX_THREADS.min(kernel.max_threads) {
        return Err(Status::INVALID_VALUE);
    }
    if kernel.required_threads.is_some_and(|required| required != block) {
        return Err(Status::INVALID_VALUE);
    }
    if dynamic_shared > function.max_dynamic_shared {
        return Err(Status::INVALID_VALUE);
    }
    if cooperative {
        let resident = u64::from(occupancy::blocks_per_sm(kernel, threads, dynamic_shared.into()));
        // At most 2^31 * 2^16 * 2^16.
        let blocks: u64 = grid.iter().map(|&size| u64::from(size)).product();
        if blocks > resident * u64::from(options.sm_count) {
            return Err(Status::COOPERATIVE_LAUNCH_TOO_LARGE);
        }
    }
    Ok(())
}
