//! Barriers that are objects in shared memory (`mbarrier`).
//!
//! Their state is kept aside, and their bytes are out of bounds for everything else until they are invalidated.

use super::{
    MbarrierResult, Need, Site, Spaces, Trouble,
    clocks::Clock,
    races::Touch,
    runs::{Run, lanes_of},
    shared::state,
    trouble,
};
use crate::machine::{
    FaultKind,
    op::{MbarrierKind, Window},
    windows,
};

/// Bytes of one.
const SIZE: usize = 8;
/// Counts have 20 bits.
const MOST: u64 = (1 << 20) - 1;

/// A state, as `arrive` returns it: the pending count before it, whether it was `.noComplete`, and the phase.
mod token {
    const NO_COMPLETE: u64 = 1 << 20;
    const PHASE_SHIFT: u32 = 21;

    pub fn new(phase: u64, pending: u64, no_complete: bool) -> u64 {
        phase << PHASE_SHIFT | if no_complete { NO_COMPLETE } else { 0 } | pending
    }

    pub fn phase(state: u64) -> u64 {
        state >> PHASE_SHIFT
    }

    /// Only a `.noComplete` arrival lets its count be asked for.
    pub fn pending(state: u64) -> Option<u64> {
        (state & NO_COMPLETE != 0).then_some(state & super::MOST)
    }
}

/// A live one.
#[derive(Debug)]
pub(super) struct Mbarrier {
    /// Arrivals that a phase needs.
    expected: u64,
    /// Arrivals that this phase still needs, those of `waiting` included.
    pending: u64,
    phase: u64,
    /// Arrivals that happen when copies are complete: the warp, the lane, and how many instructions of copies they are
    /// about. Nothing says when that is, so it is when nobody else has yet to arrive.
    waiting: Vec<(u32, u32, u64)>,
    /// What those who have arrived have done.
    clock: Clock,
    /// The same when the last phase completed.
    completed: Clock,
    /// Stands for the thread that copies.
    slot: u32,
}

impl Spaces<'_> {
    /// Runs an operation on mbarriers, lane by lane.
    pub(super) fn run_mbarrier(
        &mut self,
        site: Site,
        kind: MbarrierKind,
        window: Window,
        addresses: &[u64; 32],
        mask: u32,
        operands: &[u64; 32],
    ) -> Result<MbarrierResult, Box<Trouble>> {
        let mut result = MbarrierResult { values: [0; 32], complete: 0 };
        if kind == MbarrierKind::PendingCount {
            for lane in lanes_of(mask) {
                let why = "asks for the pending count of a state that no mbarrier.arrive.noComplete returned";
                let none = || trouble(FaultKind::Undefined, lane, why.into());
                result.values[lane] = token::pending(operands[lane]).ok_or_else(none)?;
            }
            return Ok(result);
        }
        // Lanes that have arrived at an mbarrier which still has to be told what they did.
        let mut arrived: (u64, u32) = (0, 0);
        for lane in lanes_of(mask) {
            let run = mbarrier_run(window, lane, addresses[lane])?;
            if arrived.0 != run.address {
                self.tell(site, std::mem::replace(&mut arrived, (run.address, 0)));
            }
            let operand = operands[lane];
            match kind {
                MbarrierKind::Init => self.init_mbarrier(site, &run, operand)?,
                MbarrierKind::Inval => self.invalidate_mbarrier(site, &run)?,
                MbarrierKind::Arrive { drop, no_complete } => {
                    result.values[lane] = self.arrive(site, &run, operand, drop, no_complete)?;
                    arrived.1 |= 1 << lane;
                    if self.due(run.address) {
                        self.tell(site, std::mem::replace(&mut arrived, (run.address, 0)));
                        self.complete(run.address);
                    }
                }
                MbarrierKind::Test { parity, .. } => {
                    let complete = self.test(site, &run, operand, parity)?;
                    result.complete |= u32::from(complete) << lane;
                }
                MbarrierKind::PendingCount => {}
            }
        }
        self.tell(site, arrived);
        self.learn(site, window, addresses, result.complete);
        Ok(result)
    }

    /// `cp.async.mbarrier.arrive`: an arrival when the copies that a lane has issued so far are complete.
    pub(super) fn arrive_after_copies(
        &mut self,
        site: Site,
        window: Window,
        addresses: &[u64; 32],
        mask: u32,
        noinc: bool,
    ) -> Result<(), Box<Trouble>> {
        for lane in lanes_of(mask) {
            let run = mbarrier_run(window, lane, addresses[lane])?;
            let issued = self.copies[site.warp as usize].issued();
            self.use_mbarrier(site, &run, true)?;
            let barrier = self.live(&run)?;
            // Without .noinc the arrival adds one to the pending count, which it takes off when it happens.
            barrier.pending += u64::from(!noinc);
            barrier.waiting.push((site.warp, lane as u32, issued));
            let (pending, waiting) = (barrier.pending, barrier.waiting.len() as u64);
            if pending > MOST || waiting > pending {
                let why = format!("arrival number {waiting} after copies, where {pending} are pending");
                return Err(misuse(&run, &why));
            }
            if self.due(run.address) {
                self.complete(run.address);
            }
        }
        Ok(())
    }

    fn init_mbarrier(&mut self, site: Site, run: &Run, count: u64) -> Result<(), Box<Trouble>> {
        let range = self.shared_range(run, SIZE, Need::Write)?;
        if !(1..=MOST).contains(&count) {
            return Err(misuse(run, &format!("initialised with a count of {count}, not of 1 to {MOST}")));
        }
        self.note_mbarrier(site, run.touch(site, SIZE, false), true)?;
        self.shared.states[range].fill(state::MBARRIER);
        self.shared.special += SIZE;
        let slot = self.mbarriers.len() as u32 % 32;
        let barrier = Mbarrier {
            expected: count,
            pending: count,
            phase: 0,
            waiting: Vec::new(),
            clock: Clock::default(),
            completed: Clock::default(),
            slot,
        };
        self.mbarriers.insert(run.address, barrier);
        Ok(())
    }

    fn invalidate_mbarrier(&mut self, site: Site, run: &Run) -> Result<(), Box<Trouble>> {
        self.note_mbarrier(site, run.touch(site, SIZE, false), true)?;
        if !self.live(run)?.waiting.is_empty() {
            return Err(misuse(run, "invalidated while copies are to arrive at it"));
        }
        self.mbarriers.remove(&run.address);
        self.shared.special -= SIZE;
        let state = if self.strict { state::UNWRITTEN } else { 0 };
        self.shared.states[run.address as usize..][..SIZE].fill(state);
        Ok(())
    }

    fn arrive(
        &mut self,
        site: Site,
        run: &Run,
        count: u64,
        drop: bool,
        no_complete: bool,
    ) -> Result<u64, Box<Trouble>> {
        self.use_mbarrier(site, run, true)?;
        let barrier = self.live(run)?;
        let (pending, waiting) = (barrier.pending, barrier.waiting.len() as u64);
        let state = token::new(barrier.phase, pending, no_complete);
        if !(1..=MOST).contains(&count) {
            return Err(misuse(run, &format!("an arrival counts {count}, not 1 to {MOST}")));
        }
        if count + waiting > pending {
            let why = format!("an arrival counts {count}, but only {} are pending", pending - waiting);
            return Err(misuse(run, &why));
        }
        if no_complete && count + waiting == pending {
            return Err(misuse(run, "an arrival with .noComplete completes the phase"));
        }
        if drop && count > barrier.expected {
            let why = format!("drops {count} of {} expected arrivals", barrier.expected);
            return Err(misuse(run, &why));
        }
        barrier.pending -= count;
        barrier.expected -= if drop { count } else { 0 };
        Ok(state)
    }

    fn test(&mut self, site: Site, run: &Run, operand: u64, parity: bool) -> Result<bool, Box<Trouble>> {
        self.use_mbarrier(site, run, false)?;
        let phase = self.live(run)?.phase;
        if parity {
            return match operand {
                // The phase before the current one has the other parity.
                0 | 1 => Ok(phase & 1 != operand),
                _ => Err(misuse(run, &format!("tested for a parity of {operand}"))),
            };
        }
        match phase.checked_sub(token::phase(operand)) {
            Some(0) => Ok(false),
            Some(1) => Ok(true),
            _ => {
                let why = format!("tested in phase {phase} with a state of phase {}", token::phase(operand));
                Err(misuse(run, &why))
            }
        }
    }

    /// Whether a phase has had all its arrivals but those that are about copies.
    fn due(&self, address: u64) -> bool {
        self.mbarriers.get(&address).is_some_and(|b| b.pending == b.waiting.len() as u64)
    }

    /// Ends a phase.
    fn complete(&mut self, address: u64) {
        let Some(mut barrier) = self.mbarriers.remove(&address) else { return };
        let copied = !barrier.waiting.is_empty();
        for (warp, lane, issued) in barrier.waiting.drain(..) {
            self.land_for_mbarrier(warp, lane, issued, barrier.slot);
        }
        if copied && let Some((races, _)) = &mut self.races {
            races.order.release_copies(barrier.slot, &mut barrier.clock);
        }
        barrier.completed.clone_from(&barrier.clock);
        barrier.phase += 1;
        barrier.pending = barrier.expected;
        self.mbarriers.insert(address, barrier);
    }

    /// Tells an mbarrier what the lanes that have arrived at it did before.
    fn tell(&mut self, site: Site, (address, lanes): (u64, u32)) {
        if lanes != 0
            && let Some((races, _)) = &mut self.races
            && let Some(barrier) = self.mbarriers.get_mut(&address)
        {
            races.order.release(site.warp, lanes, &mut barrier.clock);
        }
    }

    /// Tells lanes what those did who completed the phase that they have waited for.
    fn learn(&mut self, site: Site, window: Window, addresses: &[u64; 32], mut lanes: u32) {
        let Some((races, _)) = &mut self.races else { return };
        while lanes != 0 {
            let address = addresses[lanes.trailing_zeros() as usize];
            let alike = lanes_of(lanes).filter(|&l| addresses[l] == address).fold(0, |all, l| all | 1 << l);
            let at = if window == Window::Generic { windows::resolve(address).1 } else { address };
            if let Some(barrier) = self.mbarriers.get(&at) {
                races.order.acquire(site.warp, alike, &barrier.completed);
            }
            lanes &= !alike;
        }
    }

    /// The mbarrier at an address.
    fn live(&mut self, run: &Run) -> Result<&mut Mbarrier, Box<Trouble>> {
        let missing = || misuse(run, "no mbarrier was initialised there");
        self.mbarriers.get_mut(&run.address).ok_or_else(missing)
    }

    /// An arrival or test: as strong accesses, these do not race with each other.
    fn use_mbarrier(&mut self, site: Site, run: &Run, write: bool) -> Result<(), Box<Trouble>> {
        self.live(run)?;
        // Whoever comes to any byte of an mbarrier comes to its first.
        self.note_mbarrier(site, run.touch(site, SIZE / 2, true), write)
    }

    fn note_mbarrier(&mut self, site: Site, touch: Touch, write: bool) -> Result<(), Box<Trouble>> {
        let Some((races, _)) = &mut self.races else { return Ok(()) };
        let result = if write { races.write(touch, None) } else { races.read(touch) };
        result.map_err(|conflict| self.race(site, &conflict))
    }
}

/// Where a lane's mbarrier lies in shared memory.
fn mbarrier_run(window: Window, lane: usize, address: u64) -> Result<Run, Box<Trouble>> {
    let (place, at) = if window == Window::Generic { windows::resolve(address) } else { (window, address) };
    let run = Run { lane: lane as u32, lanes: 1, address: at, same: false };
    match place {
        Window::Shared => Ok(run),
        _ => Err(trouble(
            FaultKind::IllegalAddress,
            lane,
            format!("mbarrier at {address:#x}: not in shared memory"),
        )),
    }
}

fn misuse(run: &Run, why: &str) -> Box<Trouble> {
    trouble(
        FaultKind::Undefined,
        run.lane as usize,
        format!("mbarrier at {:#x} of shared memory: {why}", run.address),
    )
}
