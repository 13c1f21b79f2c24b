//! Every memory that the threads of a block reach, with its checks and counts.

use super::{
    Counters, Device, FaultKind, Kernel,
    op::{AtomicKind, AtomicType, MbarrierKind, Shape, Window},
    program::Program,
};

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

/// What an order-making operation hands from those who arrive to those who wait.
#[derive(Clone, Debug, Default)]
pub struct Clock {}

/// What became of an mbarrier operation, lane by lane.
#[derive(Clone, Copy, Debug)]
pub struct MbarrierResult {
    /// States (`arrive`), counts (`pending_count`); for tests, unused.
    pub values: [u64; 32],
    /// For tests: the lanes whose phase is complete.
    pub complete: u32,
}

/// The memories of one block.
pub struct Spaces<'a> {
    device: &'a Device,
    program: &'a Program,
    params: &'a [u8],
    /// What the block has done so far; this module counts the accesses.
    pub counters: Counters,
}

#[allow(unused_variables, missing_docs)]
impl<'a> Spaces<'a> {
    pub fn new(device: &'a Device, kernel: &'a Kernel, params: &'a [u8], threads: u32, shared_bytes: u32) -> Self {
        Self { device, program: &kernel.program, params, counters: Counters::default() }
    }
    pub fn reset(&mut self) {
        todo!()
    }
    pub fn load(&mut self, site: Site, window: Window, addresses: &[u64; 32], mask: u32, shape: Shape, into: &mut [u8; 1024]) -> Result<(), Box<Trouble>> {
        todo!()
    }
    pub fn store(&mut self, site: Site, window: Window, addresses: &[u64; 32], mask: u32, shape: Shape, from: &[u8; 1024]) -> Result<(), Box<Trouble>> {
        todo!()
    }
    pub fn atomic(&mut self, site: Site, window: Window, addresses: &[u64; 32], mask: u32, kind: AtomicKind, ty: AtomicType, a: &[u64; 32], b: &[u64; 32], old: &mut [u64; 32]) -> Result<(), Box<Trouble>> {
        todo!()
    }
    pub fn ldmatrix(&mut self, site: Site, window: Window, addresses: &[u64; 32], count: u8, rows: &mut [[u8; 16]; 32]) -> Result<(), Box<Trouble>> {
        todo!()
    }
    pub fn stmatrix(&mut self, site: Site, window: Window, addresses: &[u64; 32], count: u8, rows: &[[u8; 16]; 32]) -> Result<(), Box<Trouble>> {
        todo!()
    }
    pub fn cp_async(&mut self, site: Site, to: &[u64; 32], from_window: Window, from: &[u64; 32], mask: u32, bytes: u8, sizes: &[u32; 32]) -> Result<(), Box<Trouble>> {
        todo!()
    }
    pub fn cp_async_commit(&mut self, site: Site, mask: u32) {
        todo!()
    }
    pub fn cp_async_wait(&mut self, site: Site, mask: u32, pending: Option<u32>) {
        todo!()
    }
    pub fn cp_async_arrive(&mut self, site: Site, window: Window, addresses: &[u64; 32], mask: u32, noinc: bool) -> Result<(), Box<Trouble>> {
        todo!()
    }
    pub fn mbarrier(&mut self, site: Site, kind: MbarrierKind, window: Window, addresses: &[u64; 32], mask: u32, operands: &[u64; 32]) -> Result<MbarrierResult, Box<Trouble>> {
        todo!()
    }
    pub fn warp_sync(&mut self, warp: u32, mask: u32) {
        todo!()
    }
    pub fn release(&mut self, warp: u32, mask: u32, clock: &mut Clock) {
        todo!()
    }
    pub fn acquire(&mut self, warp: u32, mask: u32, clock: &Clock) {
        todo!()
    }
    pub fn fence(&mut self, warp: u32, mask: u32) {
        todo!()
    }
    pub fn peek(&self, warp: u32, lane: u32, address: u64, into: &mut [u8]) -> Result<(), Box<Trouble>> {
        todo!()
    }
}
