//! How the tiles of a product are shared out among blocks, as kernels take it (kernels/common/stream_k.cuh), and the sums of those that are
//! made in pieces.

use crate::Result;
use crate::device::cuda::plan::{Slots, StreamK, TileCost};
use crate::device::cuda::{Argument, CudaDevice, Entry, Grid, Pointer, kernel};
use crate::ops::epilogue::Finish;
use crate::ops::place::extent;
use crate::tensor::{DType, Tensor};

kernel! {
    /// kernels/matmul.cu: what a product makes of the sums of pieces.
    SumParts in "matmul" {
        bias: Pointer, operand: Pointer, kept: Pointer, kind: u32, c: Pointer, m: u32, n: u32, k: u32, shares: Shares,
    }
}

/// What a product is made on, with its tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ops) enum Cores {
    /// kernels/common/gemm.cuh, and what shares its tiles.
    Tensor,
    /// kernels/common/gemm_f32.cuh.
    Ordinary,
}

/// Threads of a block that adds parts, and its elements.
const SUM_THREADS: u32 = 256;
const SUM_ELEMENTS: usize = 1024;

impl Cores {
    /// Rows and columns of a tile.
    const fn tile(self) -> usize {
        match self {
            Cores::Tensor => 128,
            Cores::Ordinary => 64,
        }
    }

    /// Threads of a block, and its dynamic shared memory.
    const fn block(self) -> (u32, u32) {
        match self {
            Cores::Tensor => (128, 64 << 10),
            Cores::Ordinary => (256, 0),
        }
    }

    fn slots(self, device: &CudaDevice) -> Slots {
        // What blocks have of shared memory at most, with what is not dynamic; and as many as fit the registers.
        let (shared, most) = match self {
            Cores::Tensor => (66 << 10, 2),
            Cores::Ordinary => (10 << 10, 3),
        };
        let properties = device.properties();
        Slots::new(properties.multiprocessors, properties.shared_memory, shared, most)
    }

    fn cost(self) -> TileCost {
        match self {
            Cores::Tensor => TileCost::TENSOR_CORES,
            Cores::Ordinary => TileCost::ORDINARY_CORES,
        }
    }
}

/// A kernel's parameter.
#[derive(Clone, Copy)]
#[repr(C)]
pub(in crate::ops) struct Shares {
    parts: Pointer,
    whole: u32,
    each: u32,
    stride: u32,
    /// To the end of the struct.
    padding: u32,
}

impl Argument for Shares {}

/// How a product C `[m, n]` is shared out.
pub(in crate::ops) struct Sharing {
    op: &'static str,
    cores: Cores,
    shape: [usize; 3],
    plan: StreamK,
    /// The kernel's parameter.
    pub shares: Shares,
    /// Sums of pieces.
    _parts: Option<Tensor>,
}

impl Sharing {
    /// Of op `op` on `cores`, with an inner dimension of k.
    pub fn new(
        op: &'static str,
        device: &'static CudaDevice,
        cores: Cores,
        [m, n, k]: [usize; 3],
    ) -> Result<Sharing> {
        let edge = cores.tile();
        let tiles = m.div_ceil(edge) * n.div_ceil(edge);
        let plan = StreamK::new(tiles, k, cores.slots(device), cores.cost());
        let parts = match plan.places() {
            0 => None,
            places => Some(Tensor::uninitialised(device, &[places, edge, edge], DType::F32)?),
        };
        let shares = Shares {
            parts: parts.as_ref().map_or(Ok(Pointer::NULL), |parts| parts.pointer(op, device))?,
            whole: extent(op, plan.whole)?,
            each: extent(op, plan.each)?,
            stride: extent(op, plan.stride)?,
            padding: 0,
        };
        Ok(Sharing { op, cores, shape: [m, n, k], plan, shares, _parts: parts })
    }

    /// The grid of the product's kernel.
    pub fn grid(&self) -> Grid {
        let (threads, shared) = self.cores.block();
        Grid { shared, ..Grid::new(self.plan.grid(), threads) }
    }

    /// Makes c, of type `dtype`, where its tiles were made in pieces by the kernel that was queued before.
    pub fn finish(
        &self,
        device: &'static CudaDevice,
        finish: &Finish,
        c: Pointer,
        dtype: DType,
    ) -> Result<()> {
        if self.plan.tail == 0 {
            return Ok(());
        }
        let entries = match self.cores {
            Cores::Tensor => ["matmul_sum_parts_f32", "matmul_sum_parts_bf16"],
            Cores::Ordinary => ["matmul_sum_parts_f32_small", "matmul_sum_parts_bf16_small"],
        };
        let entry = Entry::of(self.op, dtype.select(self.op, entries)?, &[dtype])?;
        let Finish { bias, operand, kept, kind, .. } = *finish;
        let [m, n, k] = self.shape;
        let arguments = SumParts {
            bias,
            operand,
            kept,
            kind,
            c,
            m: extent(self.op, m)?,
            n: extent(self.op, n)?,
            k: extent(self.op, k)?,
            shares: self.shares,
        };
        let edge = self.cores.tile();
        device.launch(entry, arguments, Grid::new(self.plan.tail * (edge * edge / SUM_ELEMENTS), SUM_THREADS))
    }
}
