//! What a launch did, counted exactly.

use std::collections::BTreeMap;

use serde::Serialize;

/// Classes into which warp instructions are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Class {
    /// Integer arithmetic, logic, shifts, comparisons, selections.
    Integer,
    /// f32 arithmetic.
    Float32,
    /// f64 arithmetic.
    Float64,
    /// f16 and bf16 arithmetic, packed or not.
    Half,
    /// Special functions: ex2, lg2, rcp, rsqrt, sqrt, sin, cos, tanh.
    Special,
    /// Conversions.
    Convert,
    /// Moves, packing and unpacking, special registers.
    Move,
    /// Branches, exits.
    Control,
    /// Loads and stores of global memory, copies from it included.
    Global,
    /// Loads and stores of shared memory, `ldmatrix` and `stmatrix` included.
    Shared,
    /// Loads and stores of local memory and loads of parameters.
    Local,
    /// Atomics and reductions.
    Atomic,
    /// Tensor core operations.
    Mma,
    /// Shuffles, votes, matches, `redux`.
    Warp,
    /// Barriers, fences, waits, mbarrier operations.
    Sync,
}

/// How many classes there are.
pub const CLASSES: usize = Class::Sync as usize + 1;

/// Every class, in order.
pub const ALL_CLASSES: [Class; CLASSES] = [
    Class::Integer,
    Class::Float32,
    Class::Float64,
    Class::Half,
    Class::Special,
    Class::Convert,
    Class::Move,
    Class::Control,
    Class::Global,
    Class::Shared,
    Class::Local,
    Class::Atomic,
    Class::Mma,
    Class::Warp,
    Class::Sync,
];

/// Traffic of one kind of access to global memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Traffic {
    /// Warp instructions that accessed it.
    pub requests: u64,
    /// Sectors of 32 bytes that they touched, each counted once a request.
    pub sectors: u64,
    /// Sectors that the distinct bytes of each request would fill if they lay side by side.
    pub ideal_sectors: u64,
    /// Bytes that the lanes asked for.
    pub bytes: u64,
}

/// Accesses of one kind to shared memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Wavefronts {
    /// Warp instructions that accessed it.
    pub requests: u64,
    /// Passes over the 32 banks that they took.
    pub wavefronts: u64,
    /// Passes that they would have taken without bank conflicts.
    pub ideal: u64,
    /// Bytes that the lanes asked for.
    pub bytes: u64,
}

/// What a launch did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Blocks that ran.
    pub blocks: u64,
    /// Warps that ran.
    pub warps: u64,
    /// Warp instructions by class, in the order of [`ALL_CLASSES`].
    #[serde(serialize_with = "by_class")]
    pub instructions: [u64; CLASSES],
    /// Instructions times the lanes that were active.
    pub thread_instructions: u64,
    /// Loads of global memory.
    pub global_load: Traffic,
    /// Stores to global memory.
    pub global_store: Traffic,
    /// Copies from global to shared memory: their global side.
    pub global_copy: Traffic,
    /// Distinct sectors of global memory that the launch read, however often.
    pub footprint_read: u64,
    /// Distinct sectors of global memory that the launch wrote.
    pub footprint_written: u64,
    /// Loads of shared memory.
    pub shared_load: Wavefronts,
    /// Stores to shared memory, copies from global memory included.
    pub shared_store: Wavefronts,
    /// Loads of local memory: warp instructions.
    pub local_loads: u64,
    /// Stores to local memory: warp instructions.
    pub local_stores: u64,
    /// Atomics on global memory: lanes.
    pub global_atomics: u64,
    /// Atomics on shared memory: lanes.
    pub shared_atomics: u64,
    /// Tensor core operations by shape and types, as in `m16n8k16.bf16`.
    pub mma: BTreeMap<&'static str, u64>,
    /// Arrivals of warps at block barriers.
    pub barriers: u64,
    /// Branches at which the lanes of a warp parted.
    pub divergent_branches: u64,
}

fn by_class<S: serde::Serializer>(counts: &[u64; CLASSES], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(ALL_CLASSES.iter().zip(counts))
}

impl Traffic {
    fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.sectors += other.sectors;
        self.ideal_sectors += other.ideal_sectors;
        self.bytes += other.bytes;
    }
}

impl Wavefronts {
    fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.wavefronts += other.wavefronts;
        self.ideal += other.ideal;
        self.bytes += other.bytes;
    }
}

impl Counters {
    /// Adds what other blocks did. Footprints are of the launch, not of a block, and stay as they are.
    pub fn add(&mut self, other: &Self) {
        self.blocks += other.blocks;
        self.warps += other.warps;
        self.instructions.iter_mut().zip(&other.instructions).for_each(|(a, b)| *a += b);
        self.thread_instructions += other.thread_instructions;
        self.global_load.add(&other.global_load);
        self.global_store.add(&other.global_store);
        self.global_copy.add(&other.global_copy);
        self.shared_load.add(&other.shared_load);
        self.shared_store.add(&other.shared_store);
        self.local_loads += other.local_loads;
        self.local_stores += other.local_stores;
        self.global_atomics += other.global_atomics;
        self.shared_atomics += other.shared_atomics;
        for (shape, count) in &other.mma {
            *self.mma.entry(shape).or_default() += count;
        }
        self.barriers += other.barriers;
        self.divergent_branches += other.divergent_branches;
    }

    /// Warp instructions of every class.
    pub fn warp_instructions(&self) -> u64 {
        self.instructions.iter().sum()
    }
}
