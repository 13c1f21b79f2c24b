//! Handles: numbers that stand for the driver's objects.
//!
//! A handle is never used again, is not null and is no address that a process can map, so that a stale one, a
//! foreign one and a plain pointer are all found out by looking them up.

use std::{
    cmp::Ordering,
    collections::BTreeMap,
    fmt,
    hash::{Hash, Hasher},
    marker::PhantomData,
    sync::atomic::{self, AtomicU64},
};

use super::status::{Outcome, Status};

/// Handles lie above every address of a process, where CPUs fault.
const BASE: u64 = 0xc0da_0000_0000_0000;
/// Distance between two: a handle looks aligned, as a pointer to an object is.
const STEP: u64 = 16;

static NEXT: AtomicU64 = AtomicU64::new(1);

/// The handle of a `T`, as it crosses the border to C.
#[repr(transparent)]
pub struct Id<T>(u64, PhantomData<fn() -> T>);

impl<T> Id<T> {
    /// No object.
    pub const NULL: Self = Self(0, PhantomData);

    /// A handle that no object ever had.
    pub fn fresh() -> Self {
        Self::from_raw(BASE + STEP * NEXT.fetch_add(1, atomic::Ordering::Relaxed))
    }

    /// A handle that came inside a structure or has a fixed meaning.
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw, PhantomData)
    }

    /// Its number.
    pub fn raw(self) -> u64 {
        self.0
    }

    /// Whether it is null.
    pub fn is_null(self) -> bool {
        self.0 == 0
    }
}

impl<T> Default for Id<T> {
    fn default() -> Self {
        Self::NULL
    }
}

impl<T> Clone for Id<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Id<T> {}

impl<T> PartialEq for Id<T> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl<T> Eq for Id<T> {}

impl<T> PartialOrd for Id<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Id<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.cmp(&other.0)
    }
}

impl<T> Hash for Id<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl<T> fmt::Debug for Id<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// The live objects of one kind, in order of creation.
pub struct Table<T>(BTreeMap<Id<T>, T>);

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T> Table<T> {
    /// Keeps an object; its handle.
    pub fn insert(&mut self, value: T) -> Id<T> {
        let id = Id::fresh();
        self.0.insert(id, value);
        id
    }

    /// The object of a handle.
    pub fn get(&self, id: Id<T>) -> Outcome<&T> {
        self.0.get(&id).ok_or(Status::INVALID_HANDLE)
    }

    /// The object of a handle, to change it.
    pub fn get_mut(&mut self, id: Id<T>) -> Outcome<&mut T> {
        self.0.get_mut(&id).ok_or(Status::INVALID_HANDLE)
    }

    /// Takes an object out; its handle is stale from here on.
    pub fn remove(&mut self, id: Id<T>) -> Outcome<T> {
        self.0.remove(&id).ok_or(Status::INVALID_HANDLE)
    }

    /// Whether a handle is live.
    pub fn contains(&self, id: Id<T>) -> bool {
        self.0.contains_key(&id)
    }

    /// Every object.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (Id<T>, &T)> {
        self.0.iter().map(|(&id, value)| (id, value))
    }

    /// Every object, to change it.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (Id<T>, &mut T)> {
        self.0.iter_mut().map(|(&id, value)| (id, value))
    }

    /// Takes out every object of which `which` says so.
    pub fn extract(&mut self, mut which: impl FnMut(&T) -> bool) -> Vec<(Id<T>, T)> {
        let ids: Vec<_> = self.iter().filter(|(_, value)| which(value)).map(|(id, _)| id).collect();
        ids.into_iter().filter_map(|id| Some((id, self.0.remove(&id)?))).collect()
    }
}
