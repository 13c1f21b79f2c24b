//! CUDA kernels of quantization: see kernels/quantize.cu.

use super::{NESTED_BLOCK, OP, Quantization, not_finite};
use crate::Result;
use crate::device::Copies;
use crate::device::cpu::four_bit::{Table, dynamic_map, nearest};
use crate::device::cuda::{CudaDevice, Entry, Grid, Pointer, kernel};
use crate::ops::place::extent;
use crate::ops::quantized_matmul::cuda::Matrix;
use crate::tensor::{BlockScales, DType, NestedScales, QuantKind, QuantizedTensor, Tensor};

kernel! {
    /// Codes and scales.
    Encode in "quantize" {
        x: Pointer, bounds: Pointer, order: Pointer, codes: Pointer, scales: Pointer, broken: Pointer, n: u64, block_log2: u32,
    }
}

kernel! {
    /// The mean of scales.
    Mean in "quantize" { scales: Pointer, offset: Pointer, n: u32 }
}

kernel! {
    /// Codes and scales of scales.
    Nest in "quantize" { scales: Pointer, offset: Pointer, nearest: Pointer, codes: Pointer, absmax: Pointer, n: u32 }
}

kernel! {
    /// Numbers.
    Decode in "quantize" { w: Matrix, x: Pointer, n: u64 }
}

/// Threads of a block, elements of one of them, and elements that a warp has at least.
const THREADS: usize = 256;
const EACH: usize = 8;
const WARP: usize = 32;

/// What the kernels look up, on a device.
#[derive(Clone)]
struct Tables {
    bounds: Tensor,
    order: Tensor,
    map: Tensor,
    nearest: Tensor,
}

fn tables(device: &'static CudaDevice, kind: QuantKind) -> Result<Tables> {
    static TABLES: Copies<Tables, QuantKind> = Copies::new();
    TABLES.get(device.place(), kind, || {
        let Table { bounds, order } = Table::of(kind);
        let there = |x: Tensor| x.to_device(device.place());
        Ok(Tables {
            bounds: there(Tensor::from_f32(bounds.to_vec(), &[15]))?,
            order: there(Tensor::from_u8(order.to_vec(), &[16]))?,
            map: there(Tensor::from_f32(dynamic_map().to_vec(), &[256]))?,
            nearest: there(Tensor::from_u8(nearest().to_vec(), &[nearest().len()]))?,
        })
    })
}

/// The codes, and the scales. Waits for the device: whether all is finite, and the offset of nested scales, are the host's to know.
pub(super) fn quantize(
    device: &'static CudaDevice,
    x: &Tensor,
    how: &Quantization,
) -> Result<(Tensor, BlockScales)> {
    let (n, tables) = (x.numel(), tables(device, how.kind)?);
    let blocks = extent(OP, n.div_ceil(how.block))?;
    let uninitialised = |len: usize, dtype| Tensor::uninitialised(device, &[len], dtype);
    let at = |x: &Tensor| x.pointer(OP, device);
    let (codes, scales) =
        (uninitialised(n.div_ceil(2), DType::U8)?, uninitialised(blocks as usize, DType::F32)?);
    let broken = Tensor::zeros_on(device.place(), &[1], DType::U32)?;
    let arguments = Encode {
        x: at(x)?,
        bounds: at(&tables.bounds)?,
        order: at(&tables.order)?,
        codes: at(&codes)?,
        scales: at(&scales)?,
        broken: at(&broken)?,
        n: n as u64,
        block_log2: how.block.trailing_zeros(),
    };
    let warps = n.div_ceil(how.block.max(WARP * EACH));
    let entry = x.dtype().select(OP, ["quantize_4bit_f32", "quantize_4bit_bf16"])?;
    device.launch(
        Entry::of(OP, entry, &[x.dtype()])?,
        arguments,
        Grid::new(warps.div_ceil(THREADS / WARP), THREADS as u32),
    )?;
    let scales = match how.double {
        false => BlockScales::Plain(scales),
        true => BlockScales::Nested(nest(device, &scales, blocks, &tables)?),
    };
    if broken.to_device(crate::device::Device::Cpu)?.as_u32()?[0] != 0 {
        return Err(not_finite());
    }
    Ok((codes, scales))
}

fn nest(device: &'static CudaDevice, scales: &Tensor, n: u32, tables: &Tables) -> Result<NestedScales> {
    let uninitialised = |len: usize, dtype| Tensor::uninitialised(device, &[len], dtype);
    let at = |x: &Tensor| x.pointer(OP, device);
    // Of no scale at all the mean is 0, as on the CPU.
    let offset = Tensor::zeros_on(device.place(), &[1], DType::F32)?;
    let blocks = (n as usize).div_ceil(NESTED_BLOCK);
    let (codes, absmax) = (uninitialised(n as usize, DType::U8)?, uninitialised(blocks, DType::F32)?);
    if n > 0 {
        let arguments = Mean { scales: at(scales)?, offset: at(&offset)?, n };
        device.launch("quantize_mean", arguments, Grid::new(1, WARP as u32))?;
    }
    let arguments = Nest {
        scales: at(scales)?,
        offset: at(&offset)?,
        nearest: at(&tables.nearest)?,
        codes: at(&codes)?,
        absmax: at(&absmax)?,
        n,
    };
    device.launch("quantize_nest", arguments, Grid::new(blocks, NESTED_BLOCK as u32))?;
    let offset = offset.fetch_f32()?[0];
    Ok(NestedScales { codes, absmax, map: tables.map.clone(), offset, block: NESTED_BLOCK })
}

/// The numbers.
pub(super) fn dequantize(device: &'static CudaDevice, x: &QuantizedTensor, dtype: DType) -> Result<Tensor> {
    const OP: &str = "dequantize";
    let out = Tensor::uninitialised(device, x.shape(), dtype)?;
    let (w, x_at) = (Matrix::of(OP, device, x)?, out.pointer(OP, device)?);
    let arguments = Decode { w, x: x_at, n: x.numel() as u64 };
    let entry = Entry::of(OP, dtype.select(OP, ["dequantize_4bit_f32", "dequantize_4bit_bf16"])?, &[dtype])?;
    device.launch(entry, arguments, Grid::new(x.numel().div_ceil(THREADS * EACH), THREADS as u32))?;
    Ok(out)
}
