//! Copies.
//!
//! Pageable host memory is read when an asynchronous copy is submitted and written before it returns, as
//! NVIDIA's driver does; pinned memory only when the copy runs.

use std::{ffi::c_void, sync::Arc};

use super::{
    super::{
        context::Context,
        ffi::{DefaultStream, exports},
        handles::Id,
        state::Current,
        status::{Outcome, Status},
        stream::{Stream, on_stream},
        work::Work,
    },
    Place, Role, host_sees, place,
};
use crate::machine::{DeviceMemory, memory::MemoryError};

/// One side of a copy.
#[derive(Clone, Debug, PartialEq)]
pub struct Side {
    /// Where its first byte lies.
    pub store: Store,
    /// Bytes from row to row.
    pub pitch: usize,
    /// Bytes from plane to plane.
    pub plane: usize,
}

/// What holds one side of a copy.
#[derive(Clone, Debug, PartialEq)]
pub enum Store {
    /// A live allocation.
    Device(u64),
    /// Host memory.
    Host(usize),
    /// Bytes that were read when the copy was submitted.
    Staged(Arc<[u8]>),
}

/// A copy of a box of bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Copy {
    /// Where to.
    pub to: Side,
    /// Where from.
    pub from: Side,
    /// Bytes of a row.
    pub width: usize,
    /// Rows of a plane.
    pub height: usize,
    /// Planes.
    pub depth: usize,
}

/// A side as an argument describes it.
#[derive(Clone, Copy, Debug)]
pub struct End {
    /// Address of its first byte.
    pub address: u64,
    /// What the address is documented to be.
    pub role: Role,
    /// Bytes from row to row.
    pub pitch: usize,
    /// Bytes from plane to plane.
    pub plane: usize,
}

impl End {
    /// A side without rows.
    pub fn flat(address: u64, role: Role) -> Self {
        Self { address, role, pitch: 0, plane: 0 }
    }

    fn locate(self, memory: &DeviceMemory, [width, height, depth]: [usize; 3]) -> Outcome<Side> {
        let rows = self.pitch.checked_mul(height - 1);
        let planes = self.plane.checked_mul(depth - 1);
        let span = rows.zip(planes).and_then(|(r, p)| r.checked_add(p)?.checked_add(width));
        let span = span.ok_or(Status::INVALID_VALUE)? as u64;
        let store = match place(memory, self.address, span, self.role)? {
            Place::Device(address) => Store::Device(address),
            Place::Host(address) => Store::Host(address),
        };
        Ok(Side { store, pitch: self.pitch, plane: self.plane })
    }
}

impl Copy {
    /// A copy between two places, once they are known to exist. None where there is nothing to copy.
    pub fn plan(memory: &DeviceMemory, to: End, from: End, shape: [usize; 3]) -> Outcome<Option<Self>> {
        if shape.contains(&0) {
            return Ok(None);
        }
        let [width, height, depth] = shape;
        let (to, from) = (to.locate(memory, shape)?, from.locate(memory, shape)?);
        let dense = |side: &Side| {
            (height == 1 || side.pitch == width)
                && (depth == 1 || Some(side.plane) == width.checked_mul(height))
        };
        if dense(&to) && dense(&from) {
            return Ok(Some(Self { to, from, width: width * height * depth, height: 1, depth: 1 }));
        }
        Ok(Some(Self { to, from, width, height, depth }))
    }

    /// Bytes of host memory that it holds a copy of.
    pub fn staged(&self) -> usize {
        match &self.from.store {
            Store::Staged(bytes) => bytes.len(),
            _ => 0,
        }
    }

    /// Offsets of the rows on a side.
    fn rows(&self, side: &Side) -> impl Iterator<Item = usize> {
        let (pitch, plane, height) = (side.pitch, side.plane, self.height);
        (0..self.depth).flat_map(move |z| (0..height).map(move |y| z * plane + y * pitch))
    }

    /// Reads host memory now, so that the program may change it from here on.
    fn stage(&mut self) {
        if let Store::Host(start) = self.from.store {
            let mut bytes = Vec::with_capacity(self.width * self.height * self.depth);
            for row in self.rows(&self.from) {
                // SAFETY: the caller of the copy passed host memory that holds these rows.
                bytes.extend_from_slice(unsafe {
                    std::slice::from_raw_parts((start + row) as *const u8, self.width)
                });
            }
            let (pitch, plane) = (self.width, self.width * self.height);
            self.from = Side { store: Store::Staged(bytes.into()), pitch, plane };
        }
    }

    /// Copies.
    pub fn run(&self, memory: &DeviceMemory) -> Result<(), MemoryError> {
        for (to, from) in self.rows(&self.to).zip(self.rows(&self.from)) {
            let width = self.width;
            match (&self.to.store, &self.from.store) {
                (Store::Device(t), Store::Device(f)) => {
                    memory.copy(t + to as u64, f + from as u64, width as u64)?
                }
                (Store::Device(t), Store::Host(f)) => {
                    // SAFETY: the caller of the copy passed host memory that holds this row until the copy
                    // has run.
                    let row = unsafe { std::slice::from_raw_parts((f + from) as *const u8, width) };
                    memory.write(t + to as u64, row)?;
                }
                (Store::Device(t), Store::Staged(bytes)) => {
                    memory.write(t + to as u64, &bytes[from..from + width])?;
                }
                (Store::Host(t), Store::Device(f)) => {
                    // SAFETY: as above, for writes.
                    let row = unsafe { std::slice::from_raw_parts_mut((t + to) as *mut u8, width) };
                    memory.read(f + from as u64, row)?;
                }
                (Store::Host(t), Store::Host(f)) => {
                    // SAFETY: as above; the rows may overlap.
                    unsafe { std::ptr::copy((f + from) as *const u8, (t + to) as *mut u8, width) };
                }
                (Store::Host(t), Store::Staged(bytes)) => {
                    let row = &bytes[from..from + width];
                    // SAFETY: as above; staged bytes are this crate's own.
                    unsafe { std::ptr::copy_nonoverlapping(row.as_ptr(), (t + to) as *mut u8, width) };
                }
                // Nothing is ever copied to staged bytes.
                (Store::Staged(_), _) => {}
            }
        }
        Ok(())
    }
}

/// Whether a copy returns before it has run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Where no host memory is concerned, as the driver documents it.
    Synchronous,
    /// Where no pageable host memory is written.
    Asynchronous,
}

/// Submits a copy.
pub fn submit(
    stream: Id<Stream>,
    default: DefaultStream,
    to: End,
    from: End,
    shape: [usize; 3],
    mode: Mode,
) -> Outcome {
    let (current, stream) = on_stream(stream, default)?;
    let Current { driver, state, .. } = current;
    let Some(mut copy) = Copy::plan(&driver.device.memory, to, from, shape)? else { return Ok(()) };
    let capturing = state.streams.get(stream)?.capture.is_some();
    let pageable = |side: &Side| match side.store {
        Store::Host(address) => !state.is_registered(address, copy.width),
        _ => false,
    };
    let host = |side: &Side| match side.store {
        Store::Device(address) => host_sees(&driver.device.memory, address),
        Store::Host(_) | Store::Staged(_) => true,
    };
    let waits = match mode {
        Mode::Synchronous => host(&copy.to) || host(&copy.from),
        Mode::Asynchronous => !capturing && pageable(&copy.to),
    };
    if mode == Mode::Asynchronous && !capturing && pageable(&copy.from) {
        copy.stage();
    }
    if waits {
        return driver.submit_and_wait(state, stream, Work::Copy(copy));
    }
    let (_state, point) = driver.submit(state, stream, Work::Copy(copy));
    point.map(drop)
}

const NULL: Id<Stream> = Id::NULL;
use Mode::{Asynchronous, Synchronous};

fn flat(
    to: (u64, Role),
    from: (u64, Role),
    size: usize,
    stream: Id<Stream>,
    default: DefaultStream,
    mode: Mode,
) -> Outcome {
    submit(stream, default, End::flat(to.0, to.1), End::flat(from.0, from.1), [size, 1, 1], mode)
}

/// Refuses contexts that are gone.
pub fn peers(contexts: [Id<Context>; 2]) -> Outcome {
    let current = super::super::state::current()?;
    contexts.into_iter().try_for_each(|context| current.state.context(context).map(drop))
}

exports! {
    /// Host to device.
    per_thread(cuMemcpyHtoD_v2_ptds, default)
    fn cuMemcpyHtoD_v2(to: u64, from: *const c_void, size: usize) {
        flat((to, Role::Device), (from as u64, Role::Host), size, NULL, default, Synchronous)
    }

    /// Device to host.
    per_thread(cuMemcpyDtoH_v2_ptds, default)
    fn cuMemcpyDtoH_v2(to: *mut c_void, from: u64, size: usize) {
        flat((to as u64, Role::Host), (from, Role::Device), size, NULL, default, Synchronous)
    }

    /// Device to device: does not wait.
    per_thread(cuMemcpyDtoD_v2_ptds, default)
    fn cuMemcpyDtoD_v2(to: u64, from: u64, size: usize) {
        flat((to, Role::Device), (from, Role::Device), size, NULL, default, Synchronous)
    }

    /// From anywhere to anywhere.
    per_thread(cuMemcpy_ptds, default)
    fn cuMemcpy(to: u64, from: u64, size: usize) {
        flat((to, Role::Any), (from, Role::Any), size, NULL, default, Synchronous)
    }

    /// Between contexts.
    per_thread(cuMemcpyPeer_ptds, default)
    fn cuMemcpyPeer(to: u64, to_context: Id<Context>, from: u64, from_context: Id<Context>, size: usize) {
        peers([to_context, from_context])?;
        flat((to, Role::Device), (from, Role::Device), size, NULL, default, Synchronous)
    }

    /// Host to device, in stream order.
    per_thread(cuMemcpyHtoDAsync_v2_ptsz, default)
    fn cuMemcpyHtoDAsync_v2(to: u64, from: *const c_void, size: usize, stream: Id<Stream>) {
        flat((to, Role::Device), (from as u64, Role::Host), size, stream, default, Asynchronous)
    }

    /// Device to host, in stream order.
    per_thread(cuMemcpyDtoHAsync_v2_ptsz, default)
    fn cuMemcpyDtoHAsync_v2(to: *mut c_void, from: u64, size: usize, stream: Id<Stream>) {
        flat((to as u64, Role::Host), (from, Role::Device), size, stream, default, Asynchronous)
    }

    /// Device to device, in stream order.
    per_thread(cuMemcpyDtoDAsync_v2_ptsz, default)
    fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, size: usize, stream: Id<Stream>) {
        flat((to, Role::Device), (from, Role::Device), size, stream, default, Asynchronous)
    }

    /// From anywhere to anywhere, in stream order.
    per_thread(cuMemcpyAsync_ptsz, default)
    fn cuMemcpyAsync(to: u64, from: u64, size: usize, stream: Id<Stream>) {
        flat((to, Role::Any), (from, Role::Any), size, stream, default, Asynchronous)
    }

    /// Between contexts, in stream order.
    per_thread(cuMemcpyPeerAsync_ptsz, default)
    fn cuMemcpyPeerAsync(
        to: u64,
        to_context: Id<Context>,
        from: u64,
        from_context: Id<Context>,
        size: usize,
        stream: Id<Stream>,
    ) {
        peers([to_context, from_context])?;
        flat((to, Role::Device), (from, Role::Device), size, stream, default, Asynchronous)
    }
}
