//! Special registers.

use super::Env;
use crate::machine::{
    alu,
    op::{Slot, Special},
    warp::Warp,
};


impl Env<'_> {
    /// Writes a special register to a slot.
    #[inline(never)]
    pub(super) fn special(&self, warp: &mut Warp, special: Special, to: Slot, mask: u32) {
        let config = &self.launch.config;
        let [x, y, _] = config.block.map(u64::from);
        let thread = |lane: usize| u64::from(warp.index) * 32 + lane as u64;
        let same = |value: u64| [value; 32];
        let multiprocessors = u64::from(self.launch.device.options.sm_count);
        let time = || self.launch.start.elapsed().as_nanos() as u64;
        let lane = |f: fn(u32) -> u32| std::array::from_fn(|lane| u64::from(f(lane as u32)));
        let values: [u64; 32] = match special {
            Special::Tid(0) => std::array::from_fn(|lane| thread(lane) % x),
            Special::Tid(1) => std::array::from_fn(|lane| thread(lane) / x % y),
            Special::Tid(_) => std::array::from_fn(|lane| thread(lane) / (x * y)),
            Special::Ntid(axis) => same(u64::from(config.block[axis as usize])),
            Special::Ctaid(axis) => same(u64::from(self.block[axis as usize])),
            Special::Nctaid(axis) => same(u64::from(config.grid[axis as usize])),
            Special::LaneId => lane(|l| l),
            Special::WarpId => same(u64::from(warp.index)),
            Special::NWarpId => {
                same(config.block.iter().map(|&n| u64::from(n)).product::<u64>().div_ceil(32))
            }
            Special::SmId => same(self.linear % multiprocessors),
            Special::NSmId => same(multiprocessors),
            Special::GridId => same(self.launch.id),
            Special::LaneMaskEq => lane(|l| 1 << l),
            Special::LaneMaskLe => lane(|l| u32::MAX >> (31 - l)),
            Special::LaneMaskLt => lane(|l| (1 << l) - 1),
            Special::LaneMaskGe => lane(|l| u32::MAX << l),
            Special::LaneMaskGt => lane(|l| (u32::MAX << l) << 1),
            // Time on the device is the number of instructions that the block has run: the same in every run.
            Special::Clock | Special::Clock64 => same(self.steps),
            Special::ClockHi => same(self.steps >> 32),
            Special::GlobalTimer | Special::GlobalTimerLo => same(time()),
            Special::GlobalTimerHi => same(time() >> 32),
            Special::DynamicShared => same(u64::from(config.dynamic_shared)),
            Special::TotalShared => same(u64::from(config.dynamic_shared + self.launch.kernel.static_shared)),
            Special::Zero => same(0),
        };
        let wide = matches!(special, Special::GridId | Special::Clock64 | Special::GlobalTimer);
        alu::write(&mut warp.file, to, wide, &values, mask);
    }
}
