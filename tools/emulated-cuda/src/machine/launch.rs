//! A launch: blocks spread over CPU threads.

use std::{
    io::Write,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use super::{
    Counters, Device, Fault, FaultKind, Kernel, LaunchConfig,
    block::{Block, Progress},
    exec::Launch,
    spaces::{Blocks, Footprint, Ledger, Spaces},
};

/// What the blocks that have ended leave behind.
#[derive(Default)]
struct Outcome {
    counters: Counters,
    /// What blocks printed.
    output: Vec<(u64, Vec<u8>)>,
    /// The fault of the lowest block that has one: the same in every run, except for races between blocks.
    fault: Option<(u64, Box<Fault>)>,
}

/// Turns of a block that is not at its end when one behind it has failed, before it is given up: it may wait for that one for
/// ever.
const PATIENCE: u32 = 10_000;

/// A step that visits every number below `total` once, the next one far from the last: the golden section, moved to where it
/// has no divisor in common with `total`.
fn scattered(total: u64) -> u64 {
    let coprime = |step: &u64| {
        let (mut a, mut b) = (*step, total);
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a == 1
    };
    let start = (total as f64 * 0.618_033_988_75) as u64;
    (start.max(1)..=total).find(coprime).unwrap_or(1)
}

/// Runs a kernel.
pub fn run(
    device: &Device,
    kernel: &Kernel,
    config: LaunchConfig,
    params: &[u8],
    id: u64,
) -> Result<Counters, Box<Fault>> {
    let launch = Launch { device, kernel, config, id, start: Instant::now() };
    let footprint = device.options.counters.then(|| Footprint::new(&device.memory));
    let total: u64 = config.grid.iter().map(|&n| u64::from(n)).product();
    let count = config.sample.map_or(total, |sample| u64::from(sample).clamp(1, total));
    // The blocks of a sample are scattered over the grid, so that they do not share a row or a column of it.
    let step = if count == total { 1 } else { scattered(total) };
    let blocks = Blocks { grid: config.grid, step };
    let block_at = |number: u64| blocks.linear(number);
    let threads: u32 = config.block.iter().product();
    let shared = kernel.static_shared + config.dynamic_shared;
    let several = u64::from(threads).saturating_mul(count) > 1;
    let ledger = (device.options.checks.races && several)
        .then(|| Ledger::new(&device.memory, &kernel.program, blocks));
    let spaces = || Spaces::new(device, kernel, params, threads, shared, footprint.as_ref(), ledger.as_ref());

    let next = AtomicU64::new(0);
    let limit = AtomicU64::new(u64::MAX);
    let outcome = Mutex::new(Outcome::default());
    let end = |block: &mut Block, linear: u64, result: Result<(), Box<Fault>>| {
        let (counters, output) = block.finish();
        let mut outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner);
        outcome.counters.add(&counters);
        if !output.is_empty() {
            outcome.output.push((linear, output));
        }
        if let Err(fault) = result {
            limit.fetch_min(linear, Ordering::Relaxed);
            // Who runs into a limit may have waited for one that failed.
            let rank = |linear: u64, fault: &Fault| (fault.kind == FaultKind::Limit, linear);
            if outcome.fault.as_ref().is_none_or(|(other, old)| rank(linear, &fault) < rank(*other, old)) {
                outcome.fault = Some((linear, fault));
            }
        }
    };
    let workers = match device.options.threads {
        0 => std::thread::available_parallelism().map_or(1, |n| n.get()),
        n => n,
    };
    let workers = (workers as u64).min(count);

    // Blocks one after the other: a block may wait for one with a lower index, which has been given out before it.
    let one_by_one = || {
        let mut block = Block::new(&launch, spaces());
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count {
                return;
            }
            if block_at(index) > limit.load(Ordering::Relaxed) {
                continue;
            }
            block.start(block_at(index), index);
            let mut turns = 0;
            let result = loop {
                match block.turn() {
                    Ok(Progress::Running) => {
                        turns += u32::from(limit.load(Ordering::Relaxed) != u64::MAX);
                        if turns > PATIENCE {
                            break Ok(());
                        }
                    }
                    Ok(Progress::Done) => break Ok(()),
                    Err(fault) => break Err(fault),
                }
            };
            end(&mut block, block_at(index), result);
        }
    };
    // All blocks of a cooperative launch are there at once, and take turns.
    let together = |worker: u64| {
        let mut blocks: Vec<(u64, Block)> = (worker..count)
            .step_by(workers as usize)
            .map(|index| {
                let mut block = Block::new(&launch, spaces());
                block.start(block_at(index), index);
                (block_at(index), block)
            })
            .collect();
        while !blocks.is_empty() {
            blocks.retain_mut(|(linear, block)| {
                let result = match block.turn() {
                    // Who waits for a block that has failed would wait for ever.
                    Ok(Progress::Running) if limit.load(Ordering::Relaxed) == u64::MAX => return true,
                    Ok(_) => Ok(()),
                    Err(fault) => Err(fault),
                };
                end(block, *linear, result);
                false
            });
        }
    };
    if workers == 1 {
        if config.cooperative { together(0) } else { one_by_one() }
    } else {
        std::thread::scope(|scope| {
            for worker in 0..workers {
                let (together, one_by_one) = (&together, &one_by_one);
                scope.spawn(move || if config.cooperative { together(worker) } else { one_by_one() });
            }
        });
    }

    let mut outcome = outcome.into_inner().unwrap_or_else(PoisonError::into_inner);
    outcome.output.sort_by_key(|(linear, _)| *linear);
    let mut stdout = std::io::stdout().lock();
    for (_, text) in &outcome.output {
        // Nobody is there to be told when standard output is closed.
        let _ = stdout.write_all(text);
    }
    let _ = stdout.flush();
    if let Some(footprint) = &footprint {
        (outcome.counters.footprint_read, outcome.counters.footprint_written) = footprint.count();
    }
    match outcome.fault {
        Some((_, fault)) => Err(fault),
        None => Ok(outcome.counters),
    }
}
