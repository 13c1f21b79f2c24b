//! The memories of a block: bounds, alignment, initialisation, races, copies, mbarriers, counts.

mod atomics;
mod copies;
mod counts;
mod global;
mod ledger;
mod ledger_many;
mod ledger_model;
mod local;
mod mbarrier;
mod model;
mod races;
mod shared;

use std::{collections::HashMap, sync::Arc};

use cuda::{
    machine::{
        Checks, Device, FaultKind, Kernel, Options,
        memory::AllocationKind,
        op::{Address, Inst, NONE, Op, Order, Scope, Shape, Window},
        program::Program,
        spaces::{Blocks, Clock, Footprint, Ledger, Site, Spaces, Trouble},
    },
    ptx::ast::Location,
};

pub const FULL: u32 = u32::MAX;
/// Shared memory of a test's block.
pub const SHARED: u32 = 4096;

/// A device, and a kernel whose instruction `i` stands in line `i + 1`.
pub struct Machine {
    pub device: Arc<Device>,
    pub kernel: Kernel,
    pub params: Vec<u8>,
}

/// A device with these checks, and a kernel whose smallest access has so many bytes.
pub fn machine(checks: Checks, smallest: u8) -> Machine {
    let options = Options { checks, counters: true, memory_bytes: 1 << 20, ..Options::default() };
    let address = Address { window: Window::Shared, wide: false, offset: 0 };
    let inst = Inst {
        op: Op::Load(address, shape(1, smallest), Order::None),
        guard: NONE,
        negated: false,
        tracked: false,
        o: [NONE; _],
    };
    let line = |pc: u32| Location { line: pc + 1, file: 1, source_line: 100 + pc };
    let mut code = vec![inst; 64];
    code[62].op = Op::Fence(Scope::Block);
    code[63].op = Op::Fence(Scope::Device);
    let program = Program {
        code,
        places: (0..64).map(line).collect(),
        text: (0..64).map(|pc| format!("  instruction {pc};")).collect(),
        files: Arc::new(HashMap::from([(1, "kernel.cu".into())])),
        ..Program::default()
    };
    let kernel = Kernel {
        name: "test".into(),
        parameters: Vec::new(),
        parameter_bytes: 16,
        static_shared: SHARED,
        local_bytes: 64,
        const_bytes: 0,
        registers: 32,
        max_threads: 1024,
        required_threads: None,
        ptx_version: 80,
        target: 80,
        program,
    };
    Machine { device: Device::new(options), kernel, params: (0..16).collect() }
}

impl Machine {
    /// The ledger of a launch of 64 blocks.
    pub fn ledger(&self) -> &'static Ledger {
        let blocks = Blocks { grid: [8, 4, 2], step: 1 };
        Box::leak(Box::new(Ledger::new(&self.device.memory, &self.kernel.program, blocks)))
    }

    /// For a block of so many threads, the only one of its launch.
    pub fn spaces(&self, threads: u32) -> Spaces<'_> {
        Spaces::new(&self.device, &self.kernel, &self.params, threads, SHARED, None, Some(self.ledger()))
    }

    /// For a block of so many threads, the one that starts as number `block` of a launch.
    pub fn block(&self, ledger: &'static Ledger, block: u64, threads: u32) -> Spaces<'_> {
        let mut spaces =
            Spaces::new(&self.device, &self.kernel, &self.params, threads, SHARED, None, Some(ledger));
        spaces.reset(block);
        spaces
    }

    pub fn counted<'a>(&'a self, footprint: &'a Footprint) -> Spaces<'a> {
        Spaces::new(&self.device, &self.kernel, &self.params, 64, SHARED, Some(footprint), None)
    }

    pub fn allocate(&self, size: u64, kind: AllocationKind) -> u64 {
        self.device.memory.allocate(size, kind).unwrap()
    }
}

pub fn shape(count: u8, bytes: u8) -> Shape {
    Shape { count, bytes, signed: false, wide: false, strong: None }
}

pub fn strong(count: u8, bytes: u8) -> Shape {
    Shape { strong: Some(Scope::Device), ..shape(count, bytes) }
}

pub fn site(warp: u32, pc: u32) -> Site {
    Site { warp, pc }
}

/// Addresses `base + lane * step`.
pub fn every(base: u64, step: u64) -> [u64; 32] {
    std::array::from_fn(|lane| base.wrapping_add(lane as u64 * step))
}

pub type Result<T = ()> = std::result::Result<T, Box<Trouble>>;

/// What a fault says: its kind and lane.
pub fn fault<T>(result: Result<T>) -> (FaultKind, u32) {
    match result {
        Ok(_) => panic!("no fault"),
        Err(trouble) => (trouble.kind, trouble.lane),
    }
}

/// The data of a load.
pub fn load(
    spaces: &mut Spaces,
    window: Window,
    addresses: &[u64; 32],
    mask: u32,
    shape: Shape,
) -> Result<[u8; 1024]> {
    let mut data = [0xee; 1024];
    spaces.load(site(0, 1), window, addresses, mask, shape, &mut data)?;
    Ok(data)
}

/// Data in which every byte differs from its neighbours.
pub fn data(seed: u8) -> [u8; 1024] {
    std::array::from_fn(|i| (i as u8).wrapping_mul(7) ^ (i / 256) as u8 ^ seed)
}

pub fn store(
    spaces: &mut Spaces,
    window: Window,
    addresses: &[u64; 32],
    mask: u32,
    shape: Shape,
    data: &[u8; 1024],
) -> Result {
    spaces.store(site(0, 2), window, addresses, mask, shape, data)
}

/// All threads of some warps meet at a barrier.
pub fn barrier(spaces: &mut Spaces, warps: &[u32]) {
    let mut clock = Clock::default();
    warps.iter().for_each(|&w| spaces.release(w, FULL, &mut clock));
    warps.iter().for_each(|&w| spaces.acquire(w, FULL, &clock));
}

/// One lane writes a word of shared memory.
pub fn write(spaces: &mut Spaces, (warp, lane): (u32, u32), pc: u32, address: u64, value: u32) -> Result {
    let mut data = [0; 1024];
    data[lane as usize * 4..][..4].copy_from_slice(&value.to_le_bytes());
    spaces.store(site(warp, pc), Window::Shared, &[address; 32], 1 << lane, shape(1, 4), &data)
}

/// One lane reads a word of shared memory.
pub fn read(spaces: &mut Spaces, (warp, lane): (u32, u32), pc: u32, address: u64) -> Result<u32> {
    let mut data = [0; 1024];
    spaces.load(site(warp, pc), Window::Shared, &[address; 32], 1 << lane, shape(1, 4), &mut data)?;
    Ok(u32::from_le_bytes(data[lane as usize * 4..][..4].try_into().unwrap()))
}

/// Every check but that for bytes that nothing wrote.
pub const RACES: Checks = Checks { uninitialised: false, ..Checks::ALL };
/// Every check but that for races.
pub const WRITTEN: Checks = Checks { races: false, ..Checks::ALL };
