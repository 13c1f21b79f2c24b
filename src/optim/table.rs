//! What the optimizer's kernels on a device are told of its tensors: see kernels/common/tensors.cuh.

use bytemuck::{NoUninit, Pod, Zeroable};

use crate::Result;
use crate::device::cuda::{CudaDevice, Pointer};
use crate::tensor::Tensor;

/// Elements of a chunk, which a block of threads works on.
pub(super) const CHUNK: usize = 8192;

/// Threads of a block of the kernels over tables.
pub(super) const THREADS: u32 = 256;

/// Elements of a tensor, and the chunks of those before it.
#[derive(Clone, Copy, PartialEq, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Extent {
    pub len: u64,
    pub first_chunk: u64,
}

/// Gives tensors their chunks, one after the other.
#[derive(Default)]
pub(super) struct Chunks(usize);

impl Chunks {
    /// The extent of the next tensor, of `len` elements.
    pub fn extent(&mut self, len: usize) -> Extent {
        let extent = Extent { len: len as u64, first_chunk: self.0 as u64 };
        self.0 += len.div_ceil(CHUNK);
        extent
    }

    /// The chunks of all so far.
    pub fn count(&self) -> usize {
        self.0
    }
}

/// The extents of tensors of these lengths, and the chunks of all.
pub(super) fn extents(lengths: impl IntoIterator<Item = usize>) -> (Vec<Extent>, usize) {
    let mut chunks = Chunks::default();
    let extents = lengths.into_iter().map(|len| chunks.extent(len)).collect();
    (extents, chunks.count())
}

/// A table on a device, uploaded when it changes.
#[derive(Default)]
pub(super) struct Table {
    words: Vec<u32>,
    there: Option<Tensor>,
}

impl Table {
    /// Where `entries` lie on the device.
    pub fn at<E: NoUninit>(&mut self, device: &'static CudaDevice, entries: &[E]) -> Result<Pointer> {
        let words: &[u32] = bytemuck::cast_slice(entries);
        let there = match &self.there {
            Some(there) if self.words == words => there,
            _ => {
                self.words = words.to_vec();
                let table = Tensor::from_u32(words.to_vec(), &[words.len()]);
                self.there.insert(table.to_device(device.place())?)
            }
        };
        there.pointer("optimizer", device)
    }
}

#[cfg(test)]
mod tests {
    use super::{CHUNK, Extent, extents};

    #[test]
    fn chunks_follow_each_other_and_empty_tensors_have_none() {
        let (found, chunks) = extents([1, 0, CHUNK, CHUNK + 1, 0]);
        let starts: Vec<u64> = found.iter().map(|e| e.first_chunk).collect();
        assert_eq!((starts, chunks), (vec![0, 1, 1, 2, 4], 4));
        assert_eq!(found[3], Extent { len: CHUNK as u64 + 1, first_chunk: 2 });
    }
}
