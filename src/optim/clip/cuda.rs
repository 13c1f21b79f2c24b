//! Clipping on a CUDA device: see kernels/clip.cu.

use bytemuck::{Pod, Zeroable};

use crate::Result;
use crate::device::Device;
use crate::device::cuda::{CudaDevice, Grid, Pointer, kernel};
use crate::optim::table::{Extent, THREADS, Table, extents};
use crate::tensor::{DType, Tensor};

const OP: &str = "gradient norm";

kernel! {
    /// The sum of squares of each chunk, f64.
    Sums in "clip" { table: Pointer, count: u32, parts: Pointer }
}

kernel! {
    /// That of each tensor.
    Finish in "clip" { table: Pointer, parts: Pointer, sums: Pointer }
}

kernel! {
    /// All elements times a factor.
    Scale in "clip" { table: Pointer, count: u32, factor: f32 }
}

/// A gradient, as the kernels read of it.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Entry {
    extent: Extent,
    grad: u64,
}

/// Gradients that are all on one device.
pub(super) struct Group {
    device: &'static CudaDevice,
    entries: Vec<Entry>,
    chunks: usize,
    table: Table,
}

impl Group {
    /// The table of f32 gradients.
    pub fn new<'a>(
        device: &'static CudaDevice,
        gradients: impl Iterator<Item = &'a Tensor> + Clone,
    ) -> Result<Group> {
        let (extents, chunks) = extents(gradients.clone().map(Tensor::numel));
        let entry =
            |(grad, extent): (&Tensor, Extent)| Ok(Entry { extent, grad: grad.pointer(OP, device)?.0 });
        let entries = gradients.zip(extents).map(entry).collect::<Result<_>>()?;
        Ok(Group { device, entries, chunks, table: Table::default() })
    }

    /// The sum of the squares of each gradient: one read of the device.
    pub fn sums_of_squares(&mut self) -> Result<Vec<f64>> {
        let (device, count) = (self.device, self.entries.len());
        // f64, which no tensor has.
        let doubles = |n: usize| Tensor::uninitialised(device, &[n, 2], DType::U32);
        let (parts, sums) = (doubles(self.chunks)?, doubles(count)?);
        let table = self.table.at(device, &self.entries)?;
        let (parts_at, sums_at) = (parts.pointer(OP, device)?, sums.pointer(OP, device)?);
        let arguments = Sums { table, count: count as u32, parts: parts_at };
        device.launch("clip_sums", arguments, Grid::new(self.chunks, THREADS))?;
        let arguments = Finish { table, parts: parts_at, sums: sums_at };
        device.launch("clip_finish", arguments, Grid::new(count, THREADS))?;
        let words = sums.to_device(Device::Cpu)?;
        let double = |pair: &[u32]| f64::from_bits(u64::from(pair[0]) | u64::from(pair[1]) << 32);
        Ok(words.as_u32()?.chunks_exact(2).map(double).collect())
    }

    /// Multiplies the gradients, which nobody else holds, by a factor.
    pub fn scale(&mut self, factor: f32) -> Result<()> {
        let table = self.table.at(self.device, &self.entries)?;
        let arguments = Scale { table, count: self.entries.len() as u32, factor };
        self.device.launch("clip_scale", arguments, Grid::new(self.chunks, THREADS))
    }
}
