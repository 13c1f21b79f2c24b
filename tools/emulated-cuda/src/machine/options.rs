//! Settings of a device, by default from the environment.

/// Which checks run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checks {
    /// Reads of bytes and registers that nothing wrote.
    pub uninitialised: bool,
    /// Races in shared memory between barriers.
    pub races: bool,
    /// Barriers in divergent code and after threads have left.
    pub barriers: bool,
    /// Memory still allocated when its context goes.
    pub leaks: bool,
}

impl Checks {
    /// Every check.
    pub const ALL: Checks = Checks { uninitialised: true, races: true, barriers: true, leaks: true };
    /// Only what cannot be switched off: bounds, alignment, use after free, and copies that nobody waited for.
    pub const NONE: Checks = Checks { uninitialised: false, races: false, barriers: false, leaks: false };
}

/// Settings of a device.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which checks run.
    pub checks: Checks,
    /// Whether launches are counted (sectors, wavefronts, instructions by class).
    pub counters: bool,
    /// Seed of the order in which the warps of a block run.
    pub seed: u64,
    /// CPU threads over which blocks are spread; 0 for one a core.
    pub threads: usize,
    /// Instructions that one block may run, counted by warp, before its launch ends with an error.
    pub instruction_limit: u64,
    /// Size of device memory in bytes.
    pub memory_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            checks: Checks::ALL,
            counters: false,
            seed: 0,
            threads: 0,
            instruction_limit: 4_000_000_000,
            memory_bytes: 8 << 30,
        }
    }
}
