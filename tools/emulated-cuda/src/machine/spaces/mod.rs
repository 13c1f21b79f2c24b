//! Every memory that the threads of a block reach, with its checks and counts.
//!
//! - `global`, `shared`, `local`: the memories, each with a shadow of what was written.
//! - `copies`, `mbarrier`, `atomics`: what is more than a load or store.
//! - `races`, `table`: who accessed what in shared memory; `ledger`, `records`: in global memory.
//! - `clocks`, `others`, `flags`, `posts`: who is ordered after whom.
//! - `traffic`, `footprint`: the counts.
//!
//! A warp's access comes as 32 addresses; `runs` finds those that lie side by side, which are checked and copied at once.

mod atomics;
mod clocks;
mod copies;
mod flags;
mod footprint;
mod global;
mod ledger;
mod local;
mod mbarrier;
mod message;
mod others;
mod posts;
mod races;
mod records;
mod runs;
mod shared;
mod sweep;
mod table;
mod traffic;

use std::collections::HashMap;

pub use clocks::Clock;
pub use footprint::Footprint;
pub use ledger::{Blocks, Ledger};

use super::{
    Counters, Device, FaultKind, Kernel,
    op::{self, AtomicKind, AtomicType, MbarrierKind, Scope, Shape, Window},
    program::Program,
    windows,
};
use atomics::Place;
use copies::Copies;
use flags::Flags;
use local::Local;
use mbarrier::Mbarrier;
use races::Races;
use runs::{Run, lanes_of};
use shared::Shared;

/// What memory holds that nothing wrote.
const POISON: u8 = 0xff;

/// The warp instruction that an access comes from.
#[derive(Clone, Copy, Debug)]
pub struct Site {
    /// Index of the instruction in the program.
    pub pc: u32,
    /// Index of the warp in its block.
    pub warp: u32,
}

/// A fault without its surroundings: the caller adds kernel, block, thread and line.
#[derive(Debug)]
pub struct Trouble {
    /// Its kind.
    pub kind: FaultKind,
    /// The lane that ran into it.
    pub lane: u32,
    /// What happened, with addresses and values.
    pub message: String,
}

fn trouble(kind: FaultKind, lane: usize, message: String) -> Box<Trouble> {
    Box::new(Trouble { kind, lane: lane as u32, message })
}

/// What an access asks of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    Read,
    Write,
    /// Reads and writes, as an atomic.
    Update,
}

impl Need {
    fn verb(self) -> &'static str {
        match self {
            Need::Read => "reads",
            Need::Write => "writes",
            Need::Update => "updates",
        }
    }
}

/// What became of an mbarrier operation, lane by lane.
#[derive(Clone, Copy, Debug)]
pub struct MbarrierResult {
    /// States (`arrive`), counts (`pending_count`); for tests, unused.
    pub values: [u64; 32],
    /// For tests: the lanes whose phase is complete.
    pub complete: u32,
}

/// The memories of one block.
///
/// Lanes outside an operation's mask are ignored. Addresses are generic, of global memory, or offsets from the start of
/// their window. A fault ends the block: what the instruction did before it stays done.
pub struct Spaces<'a> {
    device: &'a Device,
    program: &'a Program,
    params: &'a [u8],
    footprint: Option<&'a Footprint>,
    ledger: Option<&'a Ledger>,
    /// Whether reads of what nothing wrote are faults.
    strict: bool,
    /// Whether accesses are counted.
    counting: bool,
    shared: Shared,
    local: Local,
    /// By warp.
    copies: Vec<Copies>,
    /// The live ones, by shared address.
    mbarriers: HashMap<u64, Mbarrier>,
    races: Option<(Races, Flags)>,
    /// What the block has done so far; this module counts the accesses. [`Self::reset`] leaves it alone.
    pub counters: Counters,
}

impl<'a> Spaces<'a> {
    /// For blocks of `threads` threads, each with `shared_bytes` of shared memory. [`Self::reset`] makes it ready for one. Without
    /// a ledger, races in global memory are not looked for.
    pub fn new(
        device: &'a Device,
        kernel: &'a Kernel,
        params: &'a [u8],
        threads: u32,
        shared_bytes: u32,
        footprint: Option<&'a Footprint>,
        ledger: Option<&'a Ledger>,
    ) -> Self {
        let warps = threads.div_ceil(32) as usize;
        let checks = device.options.checks;
        let races = || (Races::new(&kernel.program, threads, shared_bytes), Flags::new(warps));
        let mut spaces = Self {
            device,
            program: &kernel.program,
            params,
            footprint,
            ledger,
            strict: checks.uninitialised,
            counting: device.options.counters,
            shared: Shared::new(shared_bytes),
            local: Local::new(kernel.local_bytes, threads),
            copies: (0..warps).map(|_| Copies::new()).collect(),
            mbarriers: HashMap::new(),
            races: checks.races.then(races),
            counters: Counters::default(),
        };
        spaces.reset(0);
        spaces
    }

    /// Makes it ready for the block that starts as number `block` of the launch.
    pub fn reset(&mut self, block: u64) {
        self.shared.reset(self.strict);
        self.local.reset();
        self.copies.iter_mut().for_each(Copies::reset);
        self.mbarriers.clear();
        if let Some((races, flags)) = &mut self.races {
            races.reset(u32::try_from(block).unwrap_or(ledger::NOBODY));
            flags.reset();
        }
    }

    /// Loads: the bytes of lane `i` go to `into[i * size..]`, where the shape has `size` bytes.
    ///
    /// # Errors
    /// Bounds, alignment, uninitialised bytes, pending copies, races.
    #[inline]
    pub fn load(
        &mut self,
        site: Site,
        window: Window,
        addresses: &[u64; 32],
        mask: u32,
        shape: Shape,
        into: &mut [u8; 1024],
    ) -> Result<(), Box<Trouble>> {
        let size = shape.count as usize * shape.bytes as usize;
        match window {
            Window::Global => self.load_global(site, addresses, mask, shape, into),
            Window::Shared => self.read_shared(site, addresses, mask, size, shape.strong.is_some(), into),
            Window::Local => self.load_local(site, addresses, mask, shape, into),
            Window::Param => self.load_param(addresses, mask, size, into),
            Window::Generic => each_window(addresses, mask, |window, addresses, mask| {
                self.load(site, window, addresses, mask, shape, into)
            }),
        }
    }

    /// Stores: the bytes of lane `i` come from `from[i * size..]`, where the shape has `size` bytes.
    ///
    /// # Errors
    /// Bounds, alignment, constant memory, pending copies, races.
    #[inline]
    pub fn store(
        &mut self,
        site: Site,
        window: Window,
        addresses: &[u64; 32],
        mask: u32,
        shape: Shape,
        from: &[u8; 1024],
    ) -> Result<(), Box<Trouble>> {
        let size = shape.count as usize * shape.bytes as usize;
        match window {
            Window::Global => self.store_global(site, addresses, mask, shape, from),
            Window::Shared => self.write_shared(site, addresses, mask, size, shape.strong.is_some(), from),
            Window::Local => self.store_local(site, addresses, mask, shape, from),
            Window::Param => match lanes_of(mask).next() {
                None => Ok(()),
                Some(lane) => {
                    let message = format!("writes {size} bytes of the parameters at {:#x}", addresses[lane]);
                    Err(trouble(FaultKind::IllegalAddress, lane, message))
                }
            },
            Window::Generic => each_window(addresses, mask, |window, addresses, mask| {
                self.store(site, window, addresses, mask, shape, from)
            }),
        }
    }

    /// Atomics, lane after lane: `old` gets the value before. A compare-and-swap compares with `a` and writes `b`.
    ///
    /// # Errors
    /// As for loads and stores; local memory and parameters have no atomics.
    #[allow(clippy::too_many_arguments)]
    pub fn atomic(
        &mut self,
        site: Site,
        window: Window,
        addresses: &[u64; 32],
        mask: u32,
        kind: AtomicKind,
        ty: AtomicType,
        scope: Scope,
        a: &[u64; 32],
        b: &[u64; 32],
        old: &mut [u64; 32],
    ) -> Result<(), Box<Trouble>> {
        match window {
            Window::Global => self.atomic_global(site, addresses, mask, kind, ty, scope, a, b, old),
            Window::Shared => {
                let combine =
                    |lane: usize, old| atomics::combine(kind, ty, Place::Shared, old, a[lane], b[lane]);
                self.atomic_shared(site, addresses, mask, atomics::size(ty), combine, old)
            }
            Window::Local | Window::Param => match lanes_of(mask).next() {
                None => Ok(()),
                Some(lane) => {
                    let message = format!("atomic at {:#x}: not in global or shared memory", addresses[lane]);
                    Err(trouble(FaultKind::IllegalAddress, lane, message))
                }
            },
            Window::Generic => each_window(addresses, mask, |window, addresses, mask| {
                self.atomic(site, window, addresses, mask, kind, ty, scope, a, b, old)
            }),
        }
    }

    /// `ldmatrix`: the rows of `count` matrices, 16 bytes at the address of lane `8 * matrix + row` each.
    ///
    /// # Errors
    /// As for loads of shared memory.
    pub fn ldmatrix(
        &mut self,
        site: Site,
        window: Window,
        addresses: &[u64; 32],
        count: u8,
        rows: &mut [[u8; 16]; 32],
    ) -> Result<(), Box<Trouble>> {
        let (addresses, mask) = matrix_rows(window, addresses, count)?;
        self.read_shared(site, &addresses, mask, 16, false, rows.as_flattened_mut())
    }

    /// `stmatrix`: writes the rows of `count` matrices, laid out as for [`Self::ldmatrix`].
    ///
    /// # Errors
    /// As for stores to shared memory.
    pub fn stmatrix(
        &mut self,
        site: Site,
        window: Window,
        addresses: &[u64; 32],
        count: u8,
        rows: &[[u8; 16]; 32],
    ) -> Result<(), Box<Trouble>> {
        let (addresses, mask) = matrix_rows(window, addresses, count)?;
        self.write_shared(site, &addresses, mask, 16, false, rows.as_flattened())
    }

    /// `cp.async`: `bytes` (4, 8 or 16) bytes a lane from global to shared memory, of which `sizes` are read and the rest
    /// are zeros. They land when the lane waits for them.
    ///
    /// # Errors
    /// As for a load of global and a store to shared memory.
    #[allow(clippy::too_many_arguments)]
    pub fn cp_async(
        &mut self,
        site: Site,
        to: &[u64; 32],
        from_window: Window,
        from: &[u64; 32],
        mask: u32,
        bytes: u8,
        sizes: &[u32; 32],
    ) -> Result<(), Box<Trouble>> {
        self.issue_copies(site, to, from_window, from, mask, bytes as usize, sizes)
    }

    /// `cp.async.commit_group`
    pub fn cp_async_commit(&mut self, site: Site, mask: u32) {
        self.close_groups(site, mask);
    }

    /// `cp.async.wait_group` until at most so many groups are pending, or `cp.async.wait_all`.
    pub fn cp_async_wait(&mut self, site: Site, mask: u32, pending: Option<u32>) {
        self.wait_for_copies(site, mask, pending);
    }

    /// `cp.async.mbarrier.arrive`
    ///
    /// # Errors
    /// When there is no mbarrier, or it does not expect so many arrivals.
    pub fn cp_async_arrive(
        &mut self,
        site: Site,
        window: Window,
        addresses: &[u64; 32],
        mask: u32,
        noinc: bool,
    ) -> Result<(), Box<Trouble>> {
        self.arrive_after_copies(site, window, addresses, mask, noinc)
    }

    /// An operation on mbarriers. `operands` are counts (1 where the instruction has none), states or parities.
    ///
    /// # Errors
    /// When there is no mbarrier, or what the operation does to it is undefined.
    pub fn mbarrier(
        &mut self,
        site: Site,
        kind: MbarrierKind,
        window: Window,
        addresses: &[u64; 32],
        mask: u32,
        operands: &[u64; 32],
    ) -> Result<MbarrierResult, Box<Trouble>> {
        self.run_mbarrier(site, kind, window, addresses, mask, operands)
    }

    /// A store has taken undefined bytes to memory: they count as if nothing had written them. `undefined` has a bit for each
    /// byte of a lane.
    #[cold]
    pub fn unwrite(
        &mut self,
        warp: u32,
        window: Window,
        addresses: &[u64; 32],
        mask: u32,
        undefined: &[u16; 32],
    ) {
        for lane in lanes_of(mask) {
            let (window, at) = match window {
                Window::Generic => windows::resolve(addresses[lane]),
                window => (window, addresses[lane]),
            };
            for byte in lanes_of(u32::from(undefined[lane])).map(|byte| byte as u64) {
                match window {
                    Window::Global | Window::Generic => self.device.memory.unmark(at + byte),
                    Window::Shared => self.shared.states[(at + byte) as usize] |= shared::state::UNWRITTEN,
                    Window::Local => self.local.unwrite(warp, lane, (at + byte) as usize),
                    Window::Param => {}
                }
            }
        }
    }

    /// `bar.warp.sync`: orders the lanes of `mask` among themselves.
    pub fn warp_sync(&mut self, warp: u32, mask: u32) {
        if let Some((races, _)) = &mut self.races {
            races.order.meet(warp, mask);
        }
    }

    /// Adds what lanes have done, and know of others, to a clock: an arrival at a barrier.
    pub fn release(&mut self, warp: u32, mask: u32, clock: &mut Clock) {
        if let Some((races, flags)) = &mut self.races {
            flags.barrier(&mut races.order, warp, mask);
            races.order.release(warp, mask, clock);
        }
    }

    /// Orders what lanes do from now on after what a clock knows: the end of a wait.
    pub fn acquire(&mut self, warp: u32, mask: u32, clock: &Clock) {
        if let Some((races, _)) = &mut self.races {
            races.order.acquire(warp, mask, clock);
        }
    }

    /// A fence of lanes. Strong writes after it publish what they did before it; what strong reads before it found
    /// published orders what they do after it.
    pub fn fence(&mut self, warp: u32, mask: u32, scope: Scope) {
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        if let Some((races, flags)) = &mut self.races {
            flags.fence(&mut races.order, warp, mask, scope);
        }
    }

    /// An access of lanes begins that orders more than its own bytes.
    pub fn begin(&mut self, warp: u32, mask: u32, order: op::Order, scope: Scope) {
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        if let Some((races, flags)) = &mut self.races {
            flags.begin(&mut races.order, warp, mask, order, scope);
        }
    }

    /// It has been made.
    pub fn end(&mut self, warp: u32, mask: u32, order: op::Order, scope: Scope) {
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        if let Some((races, flags)) = &mut self.races {
            flags.end(&mut races.order, warp, mask, order, scope);
        }
    }

    /// Reads bytes at a generic address for a lane, as `vprintf` does. Only bounds are checked.
    ///
    /// # Errors
    /// When they do not lie in memory that the lane can reach.
    pub fn peek(&self, warp: u32, lane: u32, address: u64, into: &mut [u8]) -> Result<(), Box<Trouble>> {
        let (window, at) = windows::resolve(address);
        let within = |memory: &[u8], into: &mut [u8]| {
            let end = at.checked_add(into.len() as u64).filter(|end| *end <= memory.len() as u64);
            end.map(|end| into.copy_from_slice(&memory[at as usize..end as usize])).is_some()
        };
        let why = match window {
            Window::Global | Window::Generic => match self.device.memory.read(at, into) {
                Ok(()) => return Ok(()),
                Err(error) => error.to_string(),
            },
            Window::Shared if within(&self.shared.bytes, into) => return Ok(()),
            Window::Param if within(self.params, into) => return Ok(()),
            Window::Local if self.local.peek(warp, lane, at, into) => return Ok(()),
            _ => format!("reads {} bytes at {at:#x} of {window:?} memory, past its end", into.len()),
        };
        Err(trouble(FaultKind::IllegalAddress, lane as usize, why))
    }

    #[inline(always)]
    fn load_param(
        &self,
        addresses: &[u64; 32],
        mask: u32,
        size: usize,
        into: &mut [u8; 1024],
    ) -> Result<(), Box<Trouble>> {
        for run in runs::Runs::new(addresses, mask, size, true) {
            let len = run.len(size);
            let left = (self.params.len() as u64).checked_sub(run.address);
            let inside = left.is_some_and(|left| len as u64 <= left);
            if !inside || run.address & (size as u64 - 1) != 0 {
                return Err(self.param_trouble(&run, size));
            }
            let first = run.lane as usize * size;
            into[first..][..len].copy_from_slice(&self.params[run.address as usize..][..len]);
            if run.same {
                runs::repeat(into, first, size, run.lanes as usize);
            }
        }
        Ok(())
    }

    /// What is wrong with a run of loads of parameters.
    #[cold]
    fn param_trouble(&self, run: &Run, size: usize) -> Box<Trouble> {
        let fits =
            |one: &Run| one.address.checked_add(size as u64).is_some_and(|e| e <= self.params.len() as u64);
        let aligned = |one: &Run| one.address & (size as u64 - 1) == 0;
        let wrong = run.split(size).find(|one| !fits(one) || !aligned(one)).unwrap_or(*run);
        let (kind, why) = match fits(&wrong) {
            true => (FaultKind::Misaligned, format!("the address is no multiple of {size}")),
            false => (FaultKind::IllegalAddress, format!("they have {} bytes", self.params.len())),
        };
        let message = format!("reads {size} bytes of the parameters at {:#x}: {why}", wrong.address);
        trouble(kind, wrong.lane as usize, message)
    }
}

/// Calls `access` for each window that generic addresses lie in, with its lanes and their addresses there.
#[inline(always)]
fn each_window(
    addresses: &[u64; 32],
    mut mask: u32,
    mut access: impl FnMut(Window, &[u64; 32], u32) -> Result<(), Box<Trouble>>,
) -> Result<(), Box<Trouble>> {
    while mask != 0 {
        let (window, _) = windows::resolve(addresses[mask.trailing_zeros() as usize]);
        let base = windows::base(window);
        let mut lanes = 0;
        for (lane, address) in addresses.iter().enumerate() {
            lanes |= u32::from(windows::resolve(*address).0 == window) << lane;
        }
        lanes &= mask;
        if window == Window::Global {
            access(window, addresses, lanes)?;
        } else {
            access(window, &addresses.map(|a| a.wrapping_sub(base)), lanes)?;
        }
        mask &= !lanes;
    }
    Ok(())
}

/// The shared addresses of the rows of `count` matrices, and the lanes that hold them.
#[inline(always)]
fn matrix_rows(window: Window, addresses: &[u64; 32], count: u8) -> Result<([u64; 32], u32), Box<Trouble>> {
    let mask = u32::MAX >> (32 - 8 * u32::from(count));
    if window == Window::Shared {
        return Ok((*addresses, mask));
    }
    let elsewhere = |lane: &usize| windows::resolve(addresses[*lane]).0 != Window::Shared;
    match lanes_of(mask).find(elsewhere) {
        Some(lane) => {
            let message = format!("a matrix row at {:#x}: not in shared memory", addresses[lane]);
            Err(trouble(FaultKind::IllegalAddress, lane, message))
        }
        None => Ok((addresses.map(|a| windows::resolve(a).1), mask)),
    }
}
