//! CUDA kernels of the linear layer with adapters: see kernels/lora_matmul.cu.

mod factors;
mod few;
mod thin;
mod up;

use super::segments::Tables;
use super::{Layer, OP, Scale, Weight};
use crate::Result;
use crate::device::Device;
use crate::device::cuda::{Arguments, CudaDevice, Entry, Grid, Pointer, kernel};
use crate::ops::epilogue::{Epilogue, Finish};
use crate::ops::matmul;
use crate::ops::place::extent;
use crate::ops::quantized_matmul::cuda::Pass;
use crate::tensor::{DType, Tensor};

kernel! {
    /// The factors in 16 bits.
    Pack in "lora_matmul" {
        a: Pointer, b: Pointer, to_a: Pointer, to_b: Pointer, lda: i64, ldb: i64, rank: u32, padded: u32, k: u32, n: u32,
    }
}

kernel! {
    /// The mask, a bit an element.
    Keep in "lora_matmul" { bits: Pointer, words: u32, k: u32, seed: u64, stream: u64, threshold: u32 }
}

/// Rows, or columns, of a block of the kernels on tensor cores, and its threads; elements of a step along a sum.
const TILE: usize = 128;
const THREADS: u32 = 128;
const STEP: usize = 32;
/// Rows and columns of a block of those on the ordinary cores, and its threads.
const SMALL_TILE: usize = 64;
const SMALL_THREADS: u32 = 256;

/// The factors as the kernels take them, each with the length of its rows.
struct Factors {
    /// The one that makes u or v.
    down: (Tensor, usize),
    /// The one that goes into the long product.
    up: (Tensor, usize),
}

impl Factors {
    /// Elements from one adapter's factor to the next one's.
    fn stride(factor: &Tensor, adapters: usize) -> i64 {
        (factor.numel() / adapters.max(1)) as i64
    }
}

/// The mask's bits, and the factor of what is kept.
struct Kept {
    bits: Tensor,
    words: u32,
    scale: f32,
}

/// A layer and its sizes.
struct Run<'a> {
    device: &'static CudaDevice,
    layer: &'a Layer,
    /// Which rows go through which adapter, if there are several.
    tables: Option<Tables>,
    adapters: usize,
    m: usize,
    k: usize,
    n: usize,
    rank: usize,
    /// The rank, rounded up to whole packs of 16 bits.
    padded: usize,
    /// Type of x, y and their gradients.
    dtype: DType,
    /// The weight's type; none of a quantized one.
    weight_dtype: Option<DType>,
    /// Whether x and the weight are both of one type of 16 bits, or x is and the weight is quantized.
    tensor_cores: bool,
    /// Whether a factor is of another type than x, so that it is taken as f32 and has low parts.
    has_low: bool,
}

impl<'a> Run<'a> {
    fn new(device: &'static CudaDevice, x: &Tensor, layer: &'a Layer) -> Result<Run<'a>> {
        let ((m, k), [n, rank]) = (x.dims2(OP)?, layer.out_and_rank());
        // Everything that the kernels index with 32 bits.
        for size in [m, k + n, 3 * rank.next_multiple_of(8)] {
            extent(OP, size)?;
        }
        let weight_dtype = match &layer.w {
            Weight::Dense(w) => Some(w.dtype()),
            Weight::Quantized(_) => None,
        };
        let adapters = if layer.segments.is_some() { layer.a.shape()[0] } else { 1 };
        let tables = layer.segments.as_ref();
        Ok(Run {
            device,
            layer,
            tables: tables.map(|s| s.tables(Device::Cuda(device.ordinal()), adapters)).transpose()?,
            adapters,
            m,
            k,
            n,
            rank,
            padded: rank.next_multiple_of(8),
            dtype: x.dtype(),
            tensor_cores: x.dtype().is_half() && weight_dtype.is_none_or(|w| w == x.dtype()),
            weight_dtype,
            has_low: [&layer.a, &layer.b].iter().any(|factor| factor.dtype() != x.dtype()),
        })
    }

    fn pointer(&self, x: &Tensor) -> Result<Pointer> {
        x.pointer(OP, self.device)
    }

    /// Queues the kernel `name`, or that for f16.
    fn launch(&self, name: &'static str, arguments: impl Arguments, grid: Grid) -> Result<()> {
        let types: Vec<DType> = std::iter::once(self.dtype).chain(self.weight_dtype).collect();
        let entry = Entry::of(OP, name, &types)?;
        self.device.launch(entry, arguments, grid)
    }

    fn new_tensor(&self, shape: &[usize], dtype: DType) -> Result<Tensor> {
        Tensor::uninitialised(self.device, shape, dtype)
    }

    /// One of the tables; null where there is one adapter for all rows.
    fn table(&self, of: impl Fn(&Tables) -> &Tensor) -> Result<Pointer> {
        self.tables.as_ref().map_or(Ok(Pointer::NULL), |tables| self.pointer(of(tables)))
    }

    /// The adapters' scales; null where there is one for all rows.
    fn scales(&self) -> Result<Pointer> {
        match &self.layer.scale {
            Scale::One(_) => Ok(Pointer::NULL),
            Scale::Each(scales) => self.pointer(scales),
        }
    }

    /// How many times the rank the inner dimension of the long product has: hi and lo of u or v, and hi again for the
    /// factor's low part.
    fn pieces(&self) -> usize {
        if self.has_low { 3 } else { 2 }
    }

    /// Whether all rows of matrices start on 16 bytes.
    fn aligned(&self, matrices: &[&Tensor]) -> Result<bool> {
        let mut all = true;
        for x in matrices {
            all &= self.pointer(x)?.is_aligned() && x.dims2(OP)?.1.is_multiple_of(self.dtype.pack());
        }
        Ok(all)
    }

    /// The factors in the type and layout that the kernels of a pass want.
    fn factors(&self, pass: Pass) -> Result<Factors> {
        let Layer { a, b, .. } = self.layer;
        let same = if self.has_low || !self.tensor_cores { DType::F32 } else { self.dtype };
        let (a, b) = (a.to_dtype(same)?, b.to_dtype(same)?);
        let (k, n, padded) = (self.k, self.n, self.padded);
        if !self.tensor_cores {
            return Ok(match pass {
                Pass::Forward => Factors { down: (a, k), up: (b, self.rank) },
                Pass::Backward => Factors { down: (b, self.rank), up: (a, k) },
            });
        }
        let (low, pieces) = (1 + usize::from(self.has_low), self.pieces());
        let row = |len: usize| len.next_multiple_of(self.dtype.pack());
        let (a_shape, b_shape) = match pass {
            Pass::Forward => ([low * padded, row(k)], [n, pieces * padded]),
            Pass::Backward => ([pieces * padded, row(k)], [low * padded, row(n)]),
        };
        let stack = |[rows, cols]: [usize; 2]| self.new_tensor(&[self.adapters, rows, cols], self.dtype);
        let (to_a, to_b) = (stack(a_shape)?, stack(b_shape)?);
        let arguments = Pack {
            a: self.pointer(&a)?,
            b: self.pointer(&b)?,
            to_a: self.pointer(&to_a)?,
            to_b: self.pointer(&to_b)?,
            lda: a_shape[1] as i64,
            ldb: b_shape[1] as i64,
            rank: self.rank as u32,
            padded: padded as u32,
            k: k as u32,
            n: n as u32,
        };
        let entries = match pass {
            Pass::Forward => ["lora_matmul_fwd_pack_f32_bf16", "lora_matmul_fwd_pack_bf16_bf16"],
            Pass::Backward => ["lora_matmul_bwd_pack_f32_bf16", "lora_matmul_bwd_pack_bf16_bf16"],
        };
        let blocks = [k.max(n).div_ceil(32), padded.div_ceil(32), 2 * self.adapters];
        self.launch(same.select(OP, entries)?, arguments, Grid { blocks, threads: 256, shared: 0 })?;
        let (a, b) = ((to_a, a_shape[1]), (to_b, b_shape[1]));
        Ok(match pass {
            Pass::Forward => Factors { down: a, up: b },
            Pass::Backward => Factors { down: b, up: a },
        })
    }

    /// The mask of the dropout, if there is one.
    fn kept(&self) -> Result<Option<Kept>> {
        let Some(mask) = &self.layer.mask else { return Ok(None) };
        let words = self.k.div_ceil(32);
        let bits = self.new_tensor(&[self.m, words], DType::U32)?;
        let arguments = Keep {
            bits: self.pointer(&bits)?,
            words: words as u32,
            k: self.k as u32,
            seed: mask.random.seed,
            stream: mask.random.stream,
            threshold: mask.threshold,
        };
        self.device.launch("lora_matmul_keep", arguments, Grid::rows(words, 1, self.m))?;
        Ok(Some(Kept { bits, words: words as u32, scale: mask.scale }))
    }

    fn keep(&self, kept: Option<&Kept>) -> Result<(Pointer, u32, f32)> {
        kept.map_or(Ok((Pointer::NULL, 0, 1.0)), |kept| {
            Ok((self.pointer(&kept.bits)?, kept.words, kept.scale))
        })
    }
}

/// y, u, and z if it is kept.
pub(super) fn forward(
    device: &'static CudaDevice,
    x: &Tensor,
    bias: Option<&Tensor>,
    layer: &Layer,
    epilogue: &Epilogue<'_>,
    keeps: bool,
) -> Result<(Tensor, Tensor, Option<Tensor>)> {
    let run = Run::new(device, x, layer)?;
    let finish = Finish::new(OP, device, epilogue, bias, ([run.m, run.n], run.dtype), keeps)?;
    if run.is_few(x)? {
        let (y, u) = run.few(x, &finish)?;
        return Ok((y, u, finish.z));
    }
    let factors = run.factors(Pass::Forward)?;
    // On tensor cores the mask is drawn where x is loaded.
    let kept = if run.tensor_cores { None } else { run.kept()? };
    let u = run.down(Pass::Forward, x, &factors, kept.as_ref())?;
    let y = run.up(Pass::Forward, x, &u, &factors, None, &finish)?;
    Ok((y, u, finish.z))
}

/// The wanted gradients of x, w, A, B and bias; that of x with `residual`, the gradient that it has already.
pub(super) fn backward(
    device: &'static CudaDevice,
    dy: &Tensor,
    x: &Tensor,
    u: &Tensor,
    layer: &Layer,
    wanted: [bool; 5],
    residual: Option<&Tensor>,
) -> Result<[Option<Tensor>; 5]> {
    let run = Run::new(device, x, layer)?;
    let [want_x, want_w, want_a, want_b, want_bias] = wanted;
    let (mut v, mut dx, mut kept) = (None, None, None);
    if want_x || want_a {
        let factors = run.factors(Pass::Backward)?;
        kept = run.kept()?;
        let of_dy = run.down(Pass::Backward, dy, &factors, None)?;
        if want_x {
            let finish = Finish::adding(OP, device, residual)?;
            dx = Some(run.up(Pass::Backward, dy, &of_dy, &factors, kept.as_ref(), &finish)?);
        }
        v = Some(of_dy);
    }
    let x_v = v.as_ref().filter(|_| want_a).map(|v| (x, v));
    // What the kernels for few rows kept is in f32.
    let u = if want_b && run.tensor_cores && u.dtype() == DType::F32 { &run.rank_sums(u, 1)? } else { u };
    let dy_u = want_b.then_some((dy, u));
    let [da, db] = run.factor_grads(x_v, dy_u, kept.as_ref())?;
    let dw = want_w.then(|| matmul::cuda::grad_weight(device, dy, x)).transpose()?;
    let dbias = want_bias.then(|| matmul::cuda::column_sums(device, dy)).transpose()?;
    Ok([dx, dw, da, db, dbias])
}
