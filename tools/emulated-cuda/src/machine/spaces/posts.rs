//! What a strong read of global memory may lead to: by address, what those knew and had done who wrote there.
//!
//! The accesses go through the lock of their address, so that a value and what it stands for come together.

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use super::others::Others;
use crate::machine::{
    op::{Op, Order, Scope},
    program::Program,
};

/// Locks, as a power of two.
const SHARDS: usize = 64;

/// What stands behind the value at a place.
#[derive(Debug, Default)]
pub(super) struct Post {
    /// Differs from all others that were there.
    pub version: u64,
    /// For every thread.
    pub far: Others,
    /// For threads of a block, by its number: what fences of the block's scope made known, too.
    pub near: Vec<(u32, Others)>,
}

/// The posts of some addresses.
pub(super) type Shard = HashMap<u64, Post>;

/// The posts of a launch.
#[derive(Debug)]
pub(super) struct Posts {
    shards: Vec<Mutex<Shard>>,
    versions: AtomicU64,
    /// Whether there are fences that only the block sees.
    pub narrow: bool,
}

/// The words of an access, or its address where it is smaller than a word.
pub(super) fn keys(address: u64, size: usize) -> impl Iterator<Item = u64> {
    (0..size as u64).step_by(4).map(move |at| address + at)
}

impl Posts {
    /// For the launches of a program, if it has a fence or what acts as one.
    pub fn new(program: &Program) -> Option<Self> {
        let scope = |op: &Op| match *op {
            Op::Fence(scope) => Some(scope),
            Op::Load(_, shape, order) | Op::Store(_, shape, order) if order != Order::None => shape.strong,
            Op::Atomic(_, _, _, order, scope) if order != Order::None => Some(scope),
            _ => None,
        };
        let scopes = || program.code.iter().filter_map(|inst| scope(&inst.op));
        scopes().next().map(|_| Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            versions: AtomicU64::new(1),
            narrow: scopes().any(|scope| scope == Scope::Block),
        })
    }

    /// Those of an address and of the 16 bytes from there on, if it is a multiple of as many as are accessed.
    pub fn shard(&self, address: u64) -> MutexGuard<'_, Shard> {
        let shard = &self.shards[(address / 64) as usize % SHARDS];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number for what a post holds now.
    pub fn version(&self) -> u64 {
        self.versions.fetch_add(1, Relaxed)
    }
}
