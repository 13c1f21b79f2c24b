//! Copies of two and three dimensions. Arrays, and so copies from and to them, do not exist here.

use super::{
    super::{
        context::Context,
        ffi::{DefaultStream, In, exports},
        handles::Id,
        status::{Outcome, Status},
        stream::Stream,
    },
    Role,
    copy::{self, End, Mode},
};

const HOST: u32 = 1;
const DEVICE: u32 = 2;
const ARRAY: u32 = 3;
const UNIFIED: u32 = 4;

/// `CUDA_MEMCPY2D`
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Memcpy2D {
    from: Side2D,
    to: Side2D,
    width: usize,
    height: usize,
}

/// One side of a [`Memcpy2D`].
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Side2D {
    x: usize,
    y: usize,
    memory_type: u32,
    host: u64,
    device: u64,
    array: u64,
    pitch: usize,
}

/// `CUDA_MEMCPY3D` and `CUDA_MEMCPY3D_PEER`, whose reserved fields hold contexts.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Memcpy3D {
    from: Side3D,
    to: Side3D,
    width: usize,
    height: usize,
    depth: usize,
}

/// One side of a [`Memcpy3D`].
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Side3D {
    x: usize,
    y: usize,
    z: usize,
    lod: usize,
    memory_type: u32,
    host: u64,
    device: u64,
    array: u64,
    context: Id<Context>,
    pitch: usize,
    height: usize,
}

/// The place that a side means: its first byte.
fn end(
    memory_type: u32,
    host: u64,
    device: u64,
    offset: Option<usize>,
    pitch: usize,
    plane: usize,
) -> Outcome<End> {
    let (start, role) = match memory_type {
        HOST => (host, Role::Host),
        DEVICE => (device, Role::Device),
        UNIFIED => (device, Role::Any),
        ARRAY => return Err(Status::NOT_SUPPORTED),
        _ => return Err(Status::INVALID_VALUE),
    };
    let address = offset.and_then(|offset| start.checked_add(offset as u64)).ok_or(Status::INVALID_VALUE)?;
    Ok(End { address, role, pitch, plane })
}

impl Memcpy2D {
    fn submit(self, stream: Id<Stream>, default: DefaultStream, mode: Mode) -> Outcome {
        let side = |s: Side2D| {
            // A pitch of nothing means rows that lie side by side.
            let pitch = if s.pitch == 0 { self.width } else { s.pitch };
            if s.x.checked_add(self.width).is_none_or(|row| row > pitch) {
                return Err(Status::INVALID_VALUE);
            }
            let offset = s.y.checked_mul(pitch).and_then(|rows| rows.checked_add(s.x));
            end(s.memory_type, s.host, s.device, offset, pitch, 0)
        };
        copy::submit(stream, default, side(self.to)?, side(self.from)?, [self.width, self.height, 1], mode)
    }
}

impl Memcpy3D {
    /// Its ends and its shape.
    pub fn ends(self) -> Outcome<(End, End, [usize; 3])> {
        let side = |s: Side3D| {
            let pitch = if s.pitch == 0 { self.width } else { s.pitch };
            let height = if s.height == 0 { self.height } else { s.height };
            let inside = s.x.checked_add(self.width).is_some_and(|row| row <= pitch)
                && (self.depth <= 1 || s.y.checked_add(self.height).is_some_and(|rows| rows <= height));
            if s.lod != 0 || !inside {
                return Err(Status::INVALID_VALUE);
            }
            let plane = pitch.checked_mul(height).ok_or(Status::INVALID_VALUE)?;
            let rows = s.y.checked_mul(pitch).and_then(|rows| rows.checked_add(s.x));
            let offset = s.z.checked_mul(plane).zip(rows).and_then(|(planes, rows)| planes.checked_add(rows));
            end(s.memory_type, s.host, s.device, offset, pitch, plane)
        };
        Ok((side(self.to)?, side(self.from)?, [self.width, self.height, self.depth]))
    }

    fn submit(self, stream: Id<Stream>, default: DefaultStream, mode: Mode) -> Outcome {
        let (to, from, shape) = self.ends()?;
        copy::submit(stream, default, to, from, shape, mode)
    }

    /// A description of a copy of one box, for graphs that are asked what their nodes do.
    pub fn describe(copy: &copy::Copy) -> Self {
        let side = |side: &copy::Side| {
            let (memory_type, host, device) = match side.store {
                copy::Store::Device(address) => (DEVICE, 0, address),
                copy::Store::Host(address) => (HOST, address as u64, 0),
                copy::Store::Staged(_) => (HOST, 0, 0),
            };
            let height = side.plane.checked_div(side.pitch).unwrap_or(0);
            Side3D {
                x: 0,
                y: 0,
                z: 0,
                lod: 0,
                memory_type,
                host,
                device,
                array: 0,
                context: Id::NULL,
                pitch: side.pitch,
                height,
            }
        };
        let copy::Copy { width, height, depth, .. } = *copy;
        Self { from: side(&copy.from), to: side(&copy.to), width, height, depth }
    }
}

const NULL: Id<Stream> = Id::NULL;

exports! {
    /// A box of two dimensions.
    per_thread(cuMemcpy2D_v2_ptds, default)
    fn cuMemcpy2D_v2(copy: In<Memcpy2D>) {
        copy.get()?.submit(NULL, default, Mode::Synchronous)
    }

    /// A box of two dimensions.
    per_thread(cuMemcpy2DUnaligned_v2_ptds, default)
    fn cuMemcpy2DUnaligned_v2(copy: In<Memcpy2D>) {
        copy.get()?.submit(NULL, default, Mode::Synchronous)
    }

    /// A box of two dimensions, in stream order.
    per_thread(cuMemcpy2DAsync_v2_ptsz, default)
    fn cuMemcpy2DAsync_v2(copy: In<Memcpy2D>, stream: Id<Stream>) {
        copy.get()?.submit(stream, default, Mode::Asynchronous)
    }

    /// A box of three dimensions.
    per_thread(cuMemcpy3D_v2_ptds, default)
    fn cuMemcpy3D_v2(copy: In<Memcpy3D>) {
        copy.get()?.submit(NULL, default, Mode::Synchronous)
    }

    /// A box of three dimensions, in stream order.
    per_thread(cuMemcpy3DAsync_v2_ptsz, default)
    fn cuMemcpy3DAsync_v2(copy: In<Memcpy3D>, stream: Id<Stream>) {
        copy.get()?.submit(stream, default, Mode::Asynchronous)
    }

    /// A box of three dimensions, between contexts.
    per_thread(cuMemcpy3DPeer_ptds, default)
    fn cuMemcpy3DPeer(copy: In<Memcpy3D>) {
        let copy = copy.get()?;
        copy::peers([copy.to.context, copy.from.context])?;
        copy.submit(NULL, default, Mode::Synchronous)
    }

    /// A box of three dimensions, between contexts, in stream order.
    per_thread(cuMemcpy3DPeerAsync_ptsz, default)
    fn cuMemcpy3DPeerAsync(copy: In<Memcpy3D>, stream: Id<Stream>) {
        let copy = copy.get()?;
        copy::peers([copy.to.context, copy.from.context])?;
        copy.submit(stream, default, Mode::Asynchronous)
    }
}
