//! What is known of a pointer, and hints about memory, which change nothing here.

use super::{
    super::{
        device::{Ordinal, check_device},
        ffi::{DefaultStream, In, Out, exports},
        handles::Id,
        state::{Current, current},
        status::{Outcome, Status},
        stream::{Stream, on_stream},
    },
    Place, Role, place,
    pool::Location,
};
use crate::machine::memory::{Allocation, AllocationKind};

const MEMORY_HOST: u32 = 1;
const MEMORY_DEVICE: u32 = 2;
const ACCESS_READ_WRITE: u32 = 3;
/// The location id of host memory and of no location.
const CPU: i32 = -1;
const INVALID_LOCATION: i32 = -2;

/// Writes one attribute of a pointer. What is no pointer of ours has a few, as on hardware.
fn attribute(current: &Current, attribute: u32, address: u64, out: Out<u64>) -> Outcome {
    let found = current.driver.device.memory.find(address);
    let host = |found: &Allocation| found.kind == AllocationKind::Host;
    let managed = found.is_some_and(|found| found.kind == AllocationKind::Managed);
    let seen_by_host = found.is_some_and(|found| host(&found) || managed);
    let known = found.ok_or(Status::INVALID_VALUE);
    let owned =
        known.and_then(|known| current.state.allocations.get(&known.address).ok_or(Status::INVALID_VALUE));
    match attribute {
        1 => out.set(match owned {
            Ok(owned) => owned.context.raw(),
            Err(_) => known.map(|_| current.context.raw())?,
        }),
        2 => out.cast().set(if host(&known?) { MEMORY_HOST } else { MEMORY_DEVICE }),
        3 => out.set(known.map(|_| address)?),
        4 if seen_by_host => out.set(address),
        6 => out.cast().set(known.map(|_| 0u32)?),
        7 => out.set(known?.address),
        8 => out.cast().set(u8::from(managed)),
        9 => out.cast().set(known.map(|_| 0i32)?),
        10 | 15 => out.cast().set(known.map(|_| 0u8)?),
        11 => out.set(known?.address),
        12 => out.set(known?.size),
        13 => out.cast().set(u8::from(found.is_some())),
        14 => out.set(known.map(|_| 0)?),
        16 => out.cast().set(known.map(|_| ACCESS_READ_WRITE)?),
        17 => out.set(known.map(|_| owned.ok().and_then(|owned| owned.pool).unwrap_or(Id::NULL).raw())?),
        18 => out.set(known?.size),
        19 => out.set(known?.address),
        20 => out.set(known?.address),
        21 => out.cast().set(known.map(|_| 0u8)?),
        _ => Err(Status::INVALID_VALUE),
    }
}

/// Attributes that `cuPointerGetAttributes` writes zeros for where a pointer is not ours: bytes of the value.
fn size_of_attribute(attribute: u32) -> Outcome<usize> {
    match attribute {
        8 | 10 | 13 | 15 | 21 => Ok(1),
        2 | 6 | 9 | 16 => Ok(4),
        1 | 3 | 4 | 7 | 11 | 12 | 14 | 17..=20 => Ok(8),
        _ => Err(Status::INVALID_VALUE),
    }
}

/// Checks a hint about a range of managed memory.
fn hint(address: u64, count: usize) -> Outcome<Current> {
    let current = current()?;
    let managed =
        current.driver.device.memory.find(address).is_some_and(|a| a.kind == AllocationKind::Managed);
    match place(&current.driver.device.memory, address, count as u64, Role::Device)? {
        Place::Device(_) if managed && count > 0 => Ok(current),
        _ => Err(Status::INVALID_VALUE),
    }
}

fn prefetch(address: u64, count: usize, stream: Id<Stream>, default: DefaultStream) -> Outcome {
    drop(hint(address, count)?);
    on_stream(stream, default).map(drop)
}

/// A location that managed memory can be at: the device, or the host as location or as a device number of -1.
fn check_location(location: Location) -> Outcome {
    match location.kind {
        1 if location.id == CPU => Ok(()),
        1 => check_device(location.id),
        2..=4 => Ok(()),
        _ => Err(Status::INVALID_VALUE),
    }
}

exports! {
    /// One attribute of a pointer.
    fn cuPointerGetAttribute(out: Out<u64>, which: u32, address: u64) {
        out.check()?;
        attribute(&current()?, which, address, out)
    }

    /// Several attributes of a pointer; those that it does not have become zero.
    fn cuPointerGetAttributes(count: u32, which: In<u32>, outs: In<Out<u64>>, address: u64) {
        let current = current()?;
        let attributes = which.all(count as usize)?.into_iter().zip(outs.all(count as usize)?);
        for (which, out) in attributes {
            out.check()?;
            let size = size_of_attribute(which)?;
            if attribute(&current, which, address, out).is_err() {
                out.cast::<u8>().set_all(std::iter::repeat_n(0, size))?;
                if which == 9 {
                    out.cast::<i32>().set(INVALID_LOCATION)?;
                }
            }
        }
        Ok(())
    }

    /// Sets whether copies of a pointer always synchronise, which is refused.
    fn cuPointerSetAttribute(value: In<u32>, which: u32, address: u64) {
        let current = current()?;
        current.driver.device.memory.find(address).ok_or(Status::INVALID_VALUE)?;
        match which {
            6 if value.get()? == 0 => Ok(()),
            6 => Err(Status::NOT_SUPPORTED),
            _ => Err(Status::INVALID_VALUE),
        }
    }

    /// Moves managed memory to where it will be used.
    per_thread(cuMemPrefetchAsync_ptsz, default)
    fn cuMemPrefetchAsync(address: u64, count: usize, device: Ordinal, stream: Id<Stream>) {
        check_location(Location { kind: 1, id: device })?;
        prefetch(address, count, stream, default)
    }

    /// Moves managed memory to where it will be used.
    per_thread(cuMemPrefetchAsync_v2_ptsz, default)
    fn cuMemPrefetchAsync_v2(address: u64, count: usize, location: Location, flags: u32, stream: Id<Stream>) {
        if flags != 0 {
            return Err(Status::INVALID_VALUE);
        }
        check_location(location)?;
        prefetch(address, count, stream, default)
    }

    /// Says how managed memory will be used.
    fn cuMemAdvise(address: u64, count: usize, advice: u32, device: Ordinal) {
        if !(1..=6).contains(&advice) {
            return Err(Status::INVALID_VALUE);
        }
        check_location(Location { kind: 1, id: device })?;
        hint(address, count).map(drop)
    }

    /// Says how managed memory will be used.
    fn cuMemAdvise_v2(address: u64, count: usize, advice: u32, location: Location) {
        // Where a piece of advice has no location, the argument is not read.
        match advice {
            3 | 5 | 6 => check_location(location)?,
            1 | 2 | 4 => {}
            _ => return Err(Status::INVALID_VALUE),
        }
        hint(address, count).map(drop)
    }

    /// What was said of managed memory: nothing is kept.
    fn cuMemRangeGetAttribute(out: Out<i32>, size: usize, which: u32, address: u64, count: usize) {
        drop(hint(address, count)?);
        match (which, size) {
            (1, 4) => out.set(0),
            (2 | 4 | 6 | 8, 4) => out.set(INVALID_LOCATION),
            (3, 4..) if size.is_multiple_of(4) => {
                out.set_all(std::iter::repeat_n(INVALID_LOCATION, size / 4))
            }
            (5 | 7, 4) => out.set(0),
            _ => Err(Status::INVALID_VALUE),
        }
    }
}
