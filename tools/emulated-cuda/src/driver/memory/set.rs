//! Sets of memory to a repeated pattern.

use super::{
    super::{
        ffi::{DefaultStream, exports},
        handles::Id,
        status::{Outcome, Status},
        stream::{self, Stream},
        work::Work,
    },
    Place, Role, host_sees, place,
};
use crate::machine::{DeviceMemory, memory::MemoryError};

/// A set of rows of memory to a pattern.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fill {
    /// Device address of the first row.
    pub address: u64,
    /// Bytes from row to row.
    pub pitch: usize,
    /// The pattern; its first `element` bytes.
    pub value: u32,
    /// Bytes of the pattern: 1, 2 or 4.
    pub element: usize,
    /// Patterns of a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
}

impl Fill {
    /// Refuses what does not lie in one live allocation, and addresses that the pattern does not fit.
    pub fn check(&self, memory: &DeviceMemory) -> Outcome {
        let Self { address, pitch, element, width, height, .. } = *self;
        if !matches!(element, 1 | 2 | 4) || address % element as u64 != 0 {
            return Err(Status::INVALID_VALUE);
        }
        let row = width.checked_mul(element).ok_or(Status::INVALID_VALUE)?;
        if width == 0 || height == 0 {
            return Ok(());
        }
        if height > 1 && (pitch < row || pitch % element != 0) {
            return Err(Status::INVALID_VALUE);
        }
        let span = pitch.checked_mul(height - 1).and_then(|rows| rows.checked_add(row));
        match place(memory, address, span.ok_or(Status::INVALID_VALUE)? as u64, Role::Device)? {
            Place::Device(_) => Ok(()),
            Place::Host(_) => Err(Status::INVALID_VALUE),
        }
    }

    /// Sets.
    pub fn run(&self, memory: &DeviceMemory) -> Result<(), MemoryError> {
        let pattern = &self.value.to_le_bytes()[..self.element];
        (0..self.height).try_for_each(|row| {
            memory.fill(self.address + (row * self.pitch) as u64, pattern, self.width as u64)
        })
    }
}

/// Submits a set; only memory that the host sees is waited for, and only where the call is not asynchronous.
fn submit(fill: Fill, stream: Option<Id<Stream>>, default: DefaultStream) -> Outcome {
    let (current, id) = stream::on_stream(stream.unwrap_or(Id::NULL), default)?;
    let memory = &current.driver.device.memory;
    fill.check(memory)?;
    if fill.width == 0 || fill.height == 0 {
        return Ok(());
    }
    if stream.is_none() && host_sees(memory, fill.address) {
        return current.driver.submit_and_wait(current.state, id, Work::Fill(fill));
    }
    let (_state, point) = current.driver.submit(current.state, id, Work::Fill(fill));
    point.map(drop)
}

fn flat(address: u64, value: u32, element: usize, count: usize) -> Fill {
    Fill { address, pitch: 0, value, element, width: count, height: 1 }
}

exports! {
    /// Bytes.
    per_thread(cuMemsetD8_v2_ptds, default)
    fn cuMemsetD8_v2(address: u64, value: u8, count: usize) {
        submit(flat(address, value.into(), 1, count), None, default)
    }

    /// 16-bit words.
    per_thread(cuMemsetD16_v2_ptds, default)
    fn cuMemsetD16_v2(address: u64, value: u16, count: usize) {
        submit(flat(address, value.into(), 2, count), None, default)
    }

    /// 32-bit words.
    per_thread(cuMemsetD32_v2_ptds, default)
    fn cuMemsetD32_v2(address: u64, value: u32, count: usize) {
        submit(flat(address, value, 4, count), None, default)
    }

    /// Rows of bytes.
    per_thread(cuMemsetD2D8_v2_ptds, default)
    fn cuMemsetD2D8_v2(address: u64, pitch: usize, value: u8, width: usize, height: usize) {
        submit(Fill { address, pitch, value: value.into(), element: 1, width, height }, None, default)
    }

    /// Rows of 16-bit words.
    per_thread(cuMemsetD2D16_v2_ptds, default)
    fn cuMemsetD2D16_v2(address: u64, pitch: usize, value: u16, width: usize, height: usize) {
        submit(Fill { address, pitch, value: value.into(), element: 2, width, height }, None, default)
    }

    /// Rows of 32-bit words.
    per_thread(cuMemsetD2D32_v2_ptds, default)
    fn cuMemsetD2D32_v2(address: u64, pitch: usize, value: u32, width: usize, height: usize) {
        submit(Fill { address, pitch, value, element: 4, width, height }, None, default)
    }

    /// Bytes, in stream order.
    per_thread(cuMemsetD8Async_ptsz, default)
    fn cuMemsetD8Async(address: u64, value: u8, count: usize, stream: Id<Stream>) {
        submit(flat(address, value.into(), 1, count), Some(stream), default)
    }

    /// 16-bit words, in stream order.
    per_thread(cuMemsetD16Async_ptsz, default)
    fn cuMemsetD16Async(address: u64, value: u16, count: usize, stream: Id<Stream>) {
        submit(flat(address, value.into(), 2, count), Some(stream), default)
    }

    /// 32-bit words, in stream order.
    per_thread(cuMemsetD32Async_ptsz, default)
    fn cuMemsetD32Async(address: u64, value: u32, count: usize, stream: Id<Stream>) {
        submit(flat(address, value, 4, count), Some(stream), default)
    }

    /// Rows of bytes, in stream order.
    per_thread(cuMemsetD2D8Async_ptsz, default)
    fn cuMemsetD2D8Async(
        address: u64,
        pitch: usize,
        value: u8,
        width: usize,
        height: usize,
        stream: Id<Stream>,
    ) {
        submit(Fill { address, pitch, value: value.into(), element: 1, width, height }, Some(stream), default)
    }

    /// Rows of 16-bit words, in stream order.
    per_thread(cuMemsetD2D16Async_ptsz, default)
    fn cuMemsetD2D16Async(
        address: u64,
        pitch: usize,
        value: u16,
        width: usize,
        height: usize,
        stream: Id<Stream>,
    ) {
        submit(Fill { address, pitch, value: value.into(), element: 2, width, height }, Some(stream), default)
    }

    /// Rows of 32-bit words, in stream order.
    per_thread(cuMemsetD2D32Async_ptsz, default)
    fn cuMemsetD2D32Async(
        address: u64,
        pitch: usize,
        value: u32,
        width: usize,
        height: usize,
        stream: Id<Stream>,
    ) {
        submit(Fill { address, pitch, value, element: 4, width, height }, Some(stream), default)
    }
}
