//! Settings of a device, by default from the environment.

use std::path::PathBuf;

/// Which checks run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checks {
    /// Reads of bytes and registers that nothing wrote.
    pub uninitialised: bool,
    /// Races in shared and global memory.
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

    /// `all`, `none`, or a list as `races,leaks`.
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "all" => return Ok(Self::ALL),
            "none" => return Ok(Self::NONE),
            _ => {}
        }
        let mut checks = Self::NONE;
        for name in text.split(',').map(str::trim) {
            match name {
                "uninitialised" => checks.uninitialised = true,
                "races" => checks.races = true,
                "barriers" => checks.barriers = true,
                "leaks" => checks.leaks = true,
                _ => {
                    return Err(format!(
                        "'{name}' is no check: all, none, or some of uninitialised, races, barriers, leaks"
                    ));
                }
            }
        }
        Ok(checks)
    }
}

/// Where the counters of a foreign program's launches go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CountersOutput {
    /// A table on stderr.
    Stderr,
    /// A JSON file.
    File(PathBuf),
}

/// Settings of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Which checks run.
    pub checks: Checks,
    /// Whether launches are counted (sectors, wavefronts, instructions by class).
    pub counters: bool,
    /// Where the counters of every launch are written when a context goes and when the process ends.
    pub counters_output: Option<CountersOutput>,
    /// Seed of the order in which the warps of a block run.
    pub seed: u64,
    /// CPU threads over which blocks are spread; 0 for one a core.
    pub threads: usize,
    /// Instructions that one block may run, counted by warp, before its launch ends with an error.
    pub instruction_limit: u64,
    /// Size of device memory in bytes.
    pub memory_bytes: u64,
    /// Multiprocessors that the device reports: 108 as an A100 has. Decides how large a cooperative launch may be, and
    /// what `%smid` and `%nsmid` say.
    pub sm_count: u32,
    /// Devices that there are: one, or none, for which `cuInit` fails as on a machine without a GPU.
    pub devices: u32,
    /// The CUDA version that the driver says it is of, major and minor: an older one refuses newer PTX, as old drivers do.
    pub cuda_version: (u32, u32),
}

/// The newest [`Options::cuda_version`]: what the driver really is of.
pub const CUDA_VERSION: (u32, u32) = (13, 0);

impl Default for Options {
    fn default() -> Self {
        Self {
            checks: Checks::ALL,
            counters: false,
            counters_output: None,
            seed: 0,
            threads: 0,
            instruction_limit: 4_000_000_000,
            memory_bytes: 8 << 30,
            sm_count: 108,
            devices: 1,
            cuda_version: CUDA_VERSION,
        }
    }
}

/// A setting in the environment that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}={value}: {why}")]
pub struct OptionsError {
    /// The variable.
    pub name: String,
    /// Its value.
    pub value: String,
    /// What was expected.
    pub why: String,
}

impl Options {
    /// The defaults, changed by these variables of the environment:
    ///
    /// | variable | value |
    /// | --- | --- |
    /// | `EMULATED_CUDA_CHECKS` | `all`, `none`, or some of `uninitialised,races,barriers,leaks` |
    /// | `EMULATED_CUDA_COUNTERS` | path of a JSON file for the counters of every launch; `-` for a table on stderr |
    /// | `EMULATED_CUDA_SEED` | seed of the order of warps |
    /// | `EMULATED_CUDA_THREADS` | CPU threads, 0 for one a core |
    /// | `EMULATED_CUDA_INSTRUCTION_LIMIT` | warp instructions that one block may run |
    /// | `EMULATED_CUDA_MEMORY` | device memory: bytes, or with a suffix `K`, `M`, `G` (powers of 1024) |
    /// | `EMULATED_CUDA_SM_COUNT` | multiprocessors that the device reports |
    /// | `EMULATED_CUDA_DEVICES` | devices that there are: 1 or 0 |
    /// | `EMULATED_CUDA_VERSION` | CUDA version that the driver reports, 11.0 to 13.0; it refuses newer PTX |
    ///
    /// # Errors
    /// A value that cannot be read, or a variable with this prefix that is not in the table.
    pub fn from_env() -> Result<Self, OptionsError> {
        let ours = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            let name = name.into_string().ok().filter(|name| name.starts_with(PREFIX))?;
            Some((name, value.to_string_lossy().into_owned()))
        };
        Self::from_variables(std::env::vars_os().filter_map(ours))
    }

    /// As [`Options::from_env`], from variables by name and value; those without the prefix are somebody else's.
    ///
    /// # Errors
    /// As [`Options::from_env`].
    pub fn from_variables(
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, OptionsError> {
        let mut options = Self::default();
        for (name, value) in variables {
            if let Some(setting) = name.strip_prefix(PREFIX)
                && let Err(why) = options.set(setting, &value)
            {
                return Err(OptionsError { name, value, why });
            }
        }
        Ok(options)
    }

    fn set(&mut self, setting: &str, value: &str) -> Result<(), String> {
        match setting {
            "CHECKS" => self.checks = Checks::parse(value)?,
            "COUNTERS" => {
                self.counters_output = Some(match value {
                    "" => return Err("a path or '-' is expected".into()),
                    "-" => CountersOutput::Stderr,
                    path => CountersOutput::File(path.into()),
                });
                self.counters = true;
            }
            "SEED" => self.seed = number(value, 0..=u64::MAX)?,
            "THREADS" => self.threads = number(value, 0..=4096)? as usize,
            "INSTRUCTION_LIMIT" => self.instruction_limit = number(value, 1..=u64::MAX)?,
            "MEMORY" => self.memory_bytes = bytes(value)?,
            "SM_COUNT" => self.sm_count = number(value, 1..=4096)? as u32,
            "DEVICES" => self.devices = number(value, 0..=1)? as u32,
            "VERSION" => self.cuda_version = version(value)?,
            _ => return Err("there is no such setting".into()),
        }
        Ok(())
    }
}

const PREFIX: &str = "EMULATED_CUDA_";
/// Device memory at least and at most: address space is reserved for several times as much.
const MEMORY_RANGE: std::ops::RangeInclusive<u64> = 1 << 20..=1 << 42;

fn number(value: &str, range: std::ops::RangeInclusive<u64>) -> Result<u64, String> {
    let wanted = || format!("a number from {} to {} is expected", range.start(), range.end());
    value.parse().ok().filter(|n| range.contains(n)).ok_or_else(wanted)
}

fn version(value: &str) -> Result<(u32, u32), String> {
    let parts =
        value.split_once('.').and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    let known = |&(major, minor): &(u32, u32)| match major {
        11 => minor <= 8,
        12 => minor <= 9,
        _ => (major, minor) == CUDA_VERSION,
    };
    parts.filter(known).ok_or("a version of CUDA from 11.0 to 13.0 is expected, as 12.4".into())
}

fn bytes(value: &str) -> Result<u64, String> {
    let (digits, unit) = match value.char_indices().next_back() {
        Some((at, 'K' | 'k')) => (&value[..at], 1 << 10),
        Some((at, 'M' | 'm')) => (&value[..at], 1 << 20),
        Some((at, 'G' | 'g')) => (&value[..at], 1 << 30),
        _ => (value, 1u64),
    };
    let size = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(unit));
    size.filter(|n| MEMORY_RANGE.contains(n)).ok_or("from 1M to 4096G is expected, as 512M or 8G".into())
}
