//! Runs a problem on the emulated device and counts what it does.

use std::ops::Range;
use std::sync::Arc;

use emulated_cuda::machine::{
    Checks, Counters, Device, Kernel, LaunchConfig, Module, Options,
    memory::{AllocationKind, MemoryError},
};

use crate::problem::{Fill, Parameter, Problem, Type, float_bytes};
use crate::random::Random;
use crate::{Error, Result};

/// Memory that a device has besides the problem's buffers: gaps between them, the module's variables.
const SPARE_BYTES: u64 = 256 << 20;
/// Elements that are made at once.
const CHUNK: u64 = 1 << 20;

/// What a problem was counted to do.
#[derive(Clone, Debug)]
pub struct Counted {
    /// What the blocks that ran did.
    pub counters: Counters,
    /// Static shared memory of a block in bytes.
    pub static_shared: u32,
}

/// How to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Blocks to run at most, spread evenly over the grid; 0 for all.
    pub max_blocks: u32,
    /// Whether the device's checks are on (they cost time).
    pub checks: bool,
    /// Seed of the random data.
    pub seed: u64,
}

/// Runs a problem, all of its blocks or a sample of them, and counts.
///
/// # Errors
/// If the kernel is not in the PTX, its parameters are others, or it faults.
pub fn count(ptx: &str, problem: &Problem, settings: Settings) -> Result<Counted> {
    let bad = |detail: String| Error::kernel(&problem.kernel, detail);
    let mut sizes = problem.parameters.iter().map(Parameter::buffer_bytes);
    let total = sizes.try_fold(SPARE_BYTES, |sum, size| sum.checked_add(size?));
    let memory_bytes = total.ok_or_else(|| bad("the buffers are larger than memory can be".to_string()))?;
    // The emulated device keeps a byte of state for each byte.
    let (needed, available) = (memory_bytes.saturating_mul(2), available_bytes());
    if needed > available {
        return Err(bad(format!(
            "it needs {needed} bytes of memory, {available} are available: take a smaller size"
        )));
    }
    let checks = if settings.checks { Checks::ALL } else { Checks::NONE };
    let device = Device::new(Options { checks, counters: true, memory_bytes, ..Options::default() });
    let module = Module::load(&device, ptx).map_err(|e| bad(e.to_string()))?;
    let kernel = module.kernels.get(&problem.kernel).ok_or_else(|| {
        let mut names: Vec<&str> = module.kernels.keys().map(String::as_str).collect();
        names.sort_unstable();
        bad(format!("there is no such kernel; the PTX has: {}", names.join(", ")))
    })?;
    check_launch(problem, kernel)?;
    let parameters = parameters(&device, problem, kernel, settings.seed)?;
    let sample = match settings.max_blocks {
        0 => None,
        most => (problem.blocks() > u64::from(most)).then_some(most),
    };
    let config = LaunchConfig {
        grid: problem.grid,
        block: problem.block,
        dynamic_shared: problem.dynamic_shared,
        cooperative: false,
        sample,
    };
    let counters = device.launch(kernel, config, &parameters).map_err(|fault| bad(fault.to_string()))?;
    Ok(Counted { counters, static_shared: kernel.static_shared })
}

fn check_launch(problem: &Problem, kernel: &Kernel) -> Result<()> {
    let bad = |detail: String| Err(Error::kernel(&problem.kernel, detail));
    if problem.threads() > kernel.max_threads {
        return bad(format!("a block of {} threads; it allows {}", problem.threads(), kernel.max_threads));
    }
    match kernel.required_threads {
        Some(required) if required != problem.block => {
            bad(format!("a block of {:?} threads; it requires {required:?}", problem.block))
        }
        _ => Ok(()),
    }
}

/// The parameter block, its buffers allocated and filled.
fn parameters(device: &Arc<Device>, problem: &Problem, kernel: &Kernel, seed: u64) -> Result<Vec<u8>> {
    let bad = |detail: String| Error::kernel(&problem.kernel, detail);
    let (given, taken) = (problem.parameters.len(), kernel.parameters.len());
    if given != taken {
        return Err(bad(format!("it takes {taken} parameters, the problem gives {given}")));
    }
    let mut block = vec![0; kernel.parameter_bytes as usize];
    for (i, (parameter, place)) in problem.parameters.iter().zip(&kernel.parameters).enumerate() {
        let mut random = Random::new(seed ^ (i as u64) << 32);
        let value =
            value(device, parameter, &mut random).map_err(|e| bad(format!("parameters[{i}]: {e}")))?;
        let (offset, size) = (place.offset as usize, place.size as usize);
        match block.get_mut(offset..offset + size) {
            Some(at) if size == value.len() => at.copy_from_slice(&value),
            _ => {
                let detail =
                    format!("parameters[{i}]: it takes {size} bytes, the problem gives {}", value.len());
                return Err(bad(detail));
            }
        }
    }
    Ok(block)
}

/// The bytes of a struct as C lays it out: each member at a multiple of its size, the end rounded up to the largest of them.
fn layout(device: &Arc<Device>, members: &[Parameter], random: &mut Random) -> Result<Vec<u8>, MemoryError> {
    let (mut bytes, mut alignment) = (Vec::new(), 1);
    for member in members {
        let member = value(device, member, random)?;
        bytes.resize(bytes.len().next_multiple_of(member.len().max(1)), 0);
        alignment = alignment.max(member.len());
        bytes.extend(member);
    }
    bytes.resize(bytes.len().next_multiple_of(alignment), 0);
    Ok(bytes)
}

/// The bytes of a parameter; what it points to is allocated and filled.
fn value(device: &Arc<Device>, parameter: &Parameter, random: &mut Random) -> Result<Vec<u8>, MemoryError> {
    let filled = |bytes: &[u8]| {
        let address = device.memory.allocate(bytes.len() as u64, AllocationKind::Device)?;
        device.memory.write(address, bytes)?;
        Ok(address.to_le_bytes().to_vec())
    };
    match parameter {
        Parameter::Scalar(bytes) => Ok(bytes.clone()),
        Parameter::Rows(bytes) => filled(bytes),
        Parameter::Addresses { count, buffer } => {
            let each = (0..*count).map(|_| value(device, buffer, random));
            filled(&each.collect::<Result<Vec<_>, _>>()?.concat())
        }
        Parameter::Struct(members) => layout(device, members, random),
        Parameter::Table(members) => filled(&layout(device, members, random)?),
        Parameter::Buffer { ty, length, fill, below, step } => {
            let address = device.memory.allocate(length * ty.size(), AllocationKind::Device)?;
            let mut start = 0;
            while start < *length && *fill != Fill::None {
                let end = (*length).min(start + CHUNK);
                let content = content(*ty, start..end, *fill, *below, *step, random);
                device.memory.write(address + start * ty.size(), &content)?;
                start = end;
            }
            Ok(address.to_le_bytes().to_vec())
        }
    }
}

/// Memory that the system can still give, where it says so.
fn available_bytes() -> u64 {
    let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = info.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|text| text.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.map_or(u64::MAX, |kib| kib.saturating_mul(1024))
}

/// The bytes of some elements of a buffer; none for one that nothing is written to. `random` goes on from one part of a buffer to the
/// next.
pub fn content(
    ty: Type,
    elements: Range<u64>,
    fill: Fill,
    below: u64,
    step: u64,
    random: &mut Random,
) -> Vec<u8> {
    let size = ty.size() as usize;
    let length = elements.end.saturating_sub(elements.start) as usize;
    let mut bytes = Vec::with_capacity(length * size);
    let mut integer = |value: u64| bytes.extend_from_slice(&value.to_le_bytes()[..size]);
    match (fill, ty.is_float()) {
        (Fill::None, _) => {}
        (Fill::Zeros, _) => bytes.resize(length * size, 0),
        (Fill::Steps, false) => elements.for_each(|i| integer(i.wrapping_mul(step))),
        (Fill::Random, false) if below > 0 => elements.for_each(|_| integer(random.below(below))),
        (Fill::Random, false) => elements.for_each(|_| integer(random.bits())),
        (Fill::Ends, false) => elements.for_each(|i| integer((i + 1).wrapping_mul(step))),
        (Fill::Steps, true) => elements.for_each(|i| bytes.extend(float_bytes(ty, i as f64 * step as f64))),
        (Fill::Ends, true) => {
            elements.for_each(|i| bytes.extend(float_bytes(ty, (i + 1) as f64 * step as f64)));
        }
        (Fill::Random, true) => elements.for_each(|_| bytes.extend(float_bytes(ty, random.symmetric()))),
    }
    bytes
}
