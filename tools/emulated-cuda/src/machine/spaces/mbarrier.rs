//! Barriers that are objects in shared memory (`mbarrier`).
//!
//! Their state is kept aside, and their bytes are out of bounds for everything else until they are invalidated.

use super::{
    MbarrierResult, Need, Site, Spaces, Trouble,
    clocks::Clock,
    races::Touch,
    runs::{Run, Runs, lanes_of},
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
        let places = mbarrier_places(window, addresses, mask)?;
        for run in Runs::new(&places, mask, SIZE, true) {
            match kind {
                MbarrierKind::Test { parity, .. } if run.same => {
                    result.complete |= self.test(site, &run, operands, parity)?;
                }
                MbarrierKind::Test { parity, .. } => {
                    for one in run.split(SIZE) {
                        result.complete |= self.test(site, &one, operands, parity)?;
                    }
                }
                MbarrierKind::Arrive { drop, no_complete } => {
                    self.arrive_all(site, &run, drop, no_complete, operands, &mut result.values)?;
                }
                MbarrierKind::Init => {
                    run.split(SIZE)
                        .try_for_each(|r| self.init_mbarrier(site, &r, operands[r.lane as usize]))?;
                }
                MbarrierKind::Inval => {
                    run.split(SIZE).try_for_each(|r| self.invalidate_mbarrier(site, &r))?
                }
                MbarrierKind::PendingCount => {}
            }
        }
        self.learn(site, &places, result.complete);
        Ok(result)
    }

    /// Arrivals of the lanes of a run.
    fn arrive_all(
        &mut self,
        site: Site,
        run: &Run,
        drop: bool,
        no_complete: bool,
        counts: &[u64; 32],
        states: &mut [u64; 32],
    ) -> Result<(), Box<Trouble>> {
        // Lanes that have arrived at an mbarrier which still has to be told what they did.
        let mut arrived = 0;
        for one in run.split(SIZE) {
            let lane = one.lane as usize;
            states[lane] = self.arrive(site, &one, counts[lane], drop, no_complete)?;
            arrived |= 1 << lane;
            let due = self.due(one.address);
            if due || !run.same || lane as u32 == run.lane + run.lanes - 1 {
                self.tell(site, one.address, std::mem::take(&mut arrived));
            }
            if due {
                self.complete(one.address);
            }
        }
        Ok(())
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
        let places = mbarrier_places(window, addresses, mask)?;
        for lane in lanes_of(mask) {
            let run = Run { lane: lane as u32, lanes: 1, address: places[lane], same: false };
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

    /// Tests of the lanes of a run, all of one mbarrier: the lanes that have no longer to wait.
    fn test(
        &mut self,
        site: Site,
        run: &Run,
        operands: &[u64; 32],
        parity: bool,
    ) -> Result<u32, Box<Trouble>> {
        self.use_mbarrier(site, run, false)?;
        let phase = self.live(run)?.phase;
        let mut complete = 0;
        for lane in lanes_of(run.mask()) {
            let operand = operands[lane];
            let wrong = |why: String| Err(misuse(&Run { lane: lane as u32, ..*run }, &why));
            let done = match (parity, phase.checked_sub(token::phase(operand))) {
                // The phase before the current one has the other parity.
                (true, _) if operand <= 1 => phase & 1 != operand,
                (true, _) => return wrong(format!("tested for a parity of {operand}")),
                (false, Some(past @ (0 | 1))) => past == 1,
                (false, _) => {
                    return wrong(format!(
                        "tested in phase {phase} with a state of phase {}",
                        token::phase(operand)
                    ));
                }
            };
            complete |= u32::from(done) << lane;
        }
        Ok(complete)
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
    fn tell(&mut self, site: Site, address: u64, lanes: u32) {
        if let Some((races, _)) = &mut self.races
            && let Some(barrier) = self.mbarriers.get_mut(&address)
        {
            races.order.release(site.warp, lanes, &mut barrier.clock);
        }
    }

    /// Tells lanes what those did who completed the phase that they have waited for.
    fn learn(&mut self, site: Site, places: &[u64; 32], lanes: u32) {
        let Some((races, _)) = &mut self.races else { return };
        let mut left = lanes;
        while left != 0 {
            let address = places[left.trailing_zeros() as usize];
            let alike = lanes_of(left).filter(|&l| places[l] == address).fold(0, |all, l| all | 1 << l);
            if let Some(barrier) = self.mbarriers.get(&address) {
                races.order.acquire(site.warp, alike, &barrier.completed);
            }
            left &= !alike;
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

/// Where the mbarriers of lanes lie in shared memory.
fn mbarrier_places(window: Window, addresses: &[u64; 32], mask: u32) -> Result<[u64; 32], Box<Trouble>> {
    let resolve = |a: u64| if window == Window::Generic { windows::resolve(a) } else { (window, a) };
    match lanes_of(mask).find(|&lane| resolve(addresses[lane]).0 != Window::Shared) {
        None => Ok(addresses.map(|a| resolve(a).1)),
        Some(lane) => {
            let message = format!("mbarrier at {:#x}: not in shared memory", addresses[lane]);
            Err(trouble(FaultKind::IllegalAddress, lane, message))
        }
    }
}

fn misuse(run: &Run, why: &str) -> Box<Trouble> {
    trouble(
        FaultKind::Undefined,
        run.lane as usize,
        format!("mbarrier at {:#x} of shared memory: {why}", run.address),
    )
}
