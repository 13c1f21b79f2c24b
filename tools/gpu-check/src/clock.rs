//! How long the device works on something.

use std::time::{Duration, Instant};

use warptune::Result;
use warptune::device::Device;

/// Rounds of which the median counts, and how long one should take.
const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_millis(40);

/// Seconds of one call of `work`, which queues its work and does not wait: the median of a few rounds of many calls, each round
/// ended by waiting for the device. What the host needs to queue the work is hidden unless it is longer than the work.
pub fn seconds(device: Device, mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    let cuda = device.cuda()?;
    let mut round = |calls: u32| {
        let started = Instant::now();
        (0..calls).try_for_each(|_| work())?;
        cuda.synchronize()?;
        Ok::<_, warptune::Error>(started.elapsed())
    };
    // Once for what is loaded and allocated at the first call, once to know how long it takes.
    round(1)?;
    let once = round(1)?;
    if once > 10 * ROUND {
        return Ok(once.as_secs_f64());
    }
    let calls = (ROUND.as_nanos() / once.as_nanos().max(1)).clamp(1, 1000) as u32;
    let mut times = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        times.push(round(calls)?.as_secs_f64() / f64::from(calls));
    }
    times.sort_by(f64::total_cmp);
    Ok(times[ROUNDS / 2])
}
