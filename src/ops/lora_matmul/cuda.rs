//! CUDA kernels of the linear layer with an adapter: see kernels/lora_matmul.cu.

use super::{Layer, OP};
use crate::device::cuda::{CudaDevice, Grid, Pointer, kernel};
use crate::ops::matmul;
use crate::ops::place::extent;
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

kernel! {
    /// The factors as bf16.
    Pack in "lora_matmul" {
        a: Pointer, b: Pointer, to_a: Pointer, to_b: Pointer, lda: i64, ldb: i64, rank: u32, padded: u32, k: u32, n: u32,
    }
}

kernel! {
    /// The mask, a bit an element.
    Keep in "lora_matmul" {
        bits: Pointer, count: u64, words: u32, k: u32, seed: u64, stream: u64, threshold: u32,
    }
}

kernel! {
    /// Parts of u or v, on tensor cores.
    Down in "lora_matmul" {
        x: Pointer, factor: Pointer, ld: i64, factor_stride: i64, has_low: u32, tiles: Pointer, scales: Pointer, scale: f32,
        parts: Pointer, m: u32, k: u32, padded: u32, part_steps: u32, seed: u64, stream: u64, threshold: u32,
    }
}

kernel! {
    /// The same on the ordinary cores.
    DownF32 in "lora_matmul" {
        x: Pointer, factor: Pointer, keep: Pointer, words: u32, tiles: Pointer, scales: Pointer, scale: f32, parts: Pointer,
        m: u32, k: u32, rank: u32, padded: u32, part_steps: u32,
    }
}

kernel! {
    /// Their sum.
    RankSums in "lora_matmul" { parts: Pointer, to: Pointer, count: u32, m: u64, padded: u32, pieces: u32 }
}

kernel! {
    /// y or dx, on tensor cores.
    Up in "lora_matmul" {
        a: Pointer, b: Pointer, rank: Pointer, factor: Pointer, ld_factor: i64, factor_stride: i64, inner: u32,
        segments: Pointer, meets: Pointer, keep: Pointer, words: u32, keep_scale: f32, bias: Pointer, c: Pointer,
        m: u32, n: u32, k: u32,
    }
}

kernel! {
    /// The same on the ordinary cores.
    UpF32 in "lora_matmul" {
        a: Pointer, b: Pointer, rank_rows: Pointer, factor: Pointer, rank: u32, padded: u32, segments: Pointer, meets: Pointer,
        keep: Pointer, words: u32, keep_scale: f32, bias: Pointer, c: Pointer, m: u32, n: u32, k: u32,
    }
}

kernel! {
    /// Parts of dA and dB, on tensor cores.
    FactorParts in "lora_matmul" {
        x: Pointer, v: Pointer, dy: Pointer, u: Pointer, keep: Pointer, words: u32, chunks: Pointer, chunk_rows: u32,
        parts: Pointer, m: u32, k: u32, n: u32, padded: u32, inner: u32,
    }
}

kernel! {
    /// The same on the ordinary cores.
    FactorPartsF32 in "lora_matmul" {
        x: Pointer, v: Pointer, dy: Pointer, u: Pointer, keep: Pointer, words: u32, chunks: Pointer, chunk_rows: u32,
        parts: Pointer, m: u32, k: u32, n: u32, padded: u32,
    }
}

kernel! {
    /// Their sum.
    FactorSums in "lora_matmul" {
        parts: Pointer, first: Pointer, count: u32, da: Pointer, db: Pointer, k: u32, n: u32, rank: u32, padded: u32,
        keep_scale: f32,
    }
}

/// Rows, or columns, of a block; elements of a step along the sum.
const TILE: usize = 128;
const STEP: usize = 32;
const THREADS: u32 = 128;
/// The same of the kernels on the ordinary cores.
const SMALL_TILE: usize = 64;
const SMALL_THREADS: u32 = 256;
/// Shared memory of the long product: kernels/common/gemm.cuh.
const LONG_SHARED: u32 = 64 << 10;

/// How the thin products are shared out: a pure function of the shapes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Split {
    /// Parts of a sum.
    parts: usize,
    /// Steps of a part.
    steps: usize,
}

impl Split {
    /// For `tiles` tiles of results, each a sum of `steps` steps: as few parts as give a block to nearly every multiprocessor of a
    /// large GPU, and no part of fewer steps than fill the stages of a block twice.
    fn new(tiles: usize, steps: usize) -> Split {
        const BLOCKS: usize = 128;
        const LEAST_STEPS: usize = 8;
        let parts = BLOCKS.div_ceil(tiles.max(1)).min(steps / LEAST_STEPS).max(1);
        let steps_each = steps.div_ceil(parts).max(1);
        Split { parts: steps.div_ceil(steps_each).max(1), steps: steps_each }
    }
}

/// Which of the compiled ranks a block of the thin kernels has, and the ending of their names.
fn rank_tile(padded: usize, aligned: bool) -> (usize, usize) {
    match padded {
        _ if !aligned => (32, 3),
        0..=16 => (16, 0),
        17..=32 => (32, 1),
        _ => (64, 2),
    }
}

/// Shared memory of a block of the thin kernels: four stages of a tile and of two tiles (high and low parts) of the rank.
fn thin_shared(rank_tile: usize) -> u32 {
    (4 * 2 * STEP * (TILE + 2 * rank_tile)) as u32
}

/// One direction: forward from x to y, backward from dy to dx.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pass {
    Forward,
    Backward,
}

/// The factors as the kernels take them, and how.
struct Factors {
    /// The one that makes u or v, and the length of its rows.
    down: (Tensor, usize),
    /// The one that goes into the long product.
    up: (Tensor, usize),
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
    m: usize,
    k: usize,
    n: usize,
    rank: usize,
    /// The rank, rounded up to whole packs of bf16.
    padded: usize,
    /// Type of x, y and their gradients.
    dtype: DType,
    /// Whether x and the weight are both bf16.
    tensor_cores: bool,
    /// Whether the factors are f32, so that they have low parts.
    has_low: bool,
}

impl<'a> Run<'a> {
    fn new(device: &'static CudaDevice, x: &Tensor, layer: &'a Layer) -> Result<Run<'a>> {
        let ((m, k), (n, rank)) = (x.dims2(OP)?, layer.b.dims2(OP)?);
        // Everything that the kernels index with 32 bits.
        for size in [m, k + n, 3 * rank.next_multiple_of(8)] {
            extent(OP, size)?;
        }
        Ok(Run {
            device,
            layer,
            m,
            k,
            n,
            rank,
            padded: rank.next_multiple_of(8),
            dtype: x.dtype(),
            tensor_cores: (x.dtype(), layer.w.dtype()) == (DType::BF16, DType::BF16),
            has_low: [&layer.a, &layer.b].iter().any(|factor| factor.dtype() == DType::F32),
        })
    }

    fn pointer(&self, x: &Tensor) -> Result<Pointer> {
        x.pointer(OP, self.device)
    }

    fn new_tensor(&self, shape: &[usize], dtype: DType) -> Result<Tensor> {
        Tensor::uninitialised(self.device, shape, dtype)
    }

    /// How many times the rank the inner dimension of the long product has: hi and lo of u or v, and hi again for the
    /// factor's low part.
    fn pieces(&self) -> usize {
        if self.has_low { 3 } else { 2 }
    }

    /// Whether all rows of matrices of `cols` columns start on 16 bytes.
    fn aligned(&self, matrices: &[&Tensor]) -> Result<bool> {
        let mut all = true;
        for x in matrices {
            all &= self.pointer(x)?.is_aligned() && x.dims2(OP)?.1.is_multiple_of(DType::BF16.pack());
        }
        Ok(all)
    }

    /// The factors in the type and layout that the kernels of a pass want.
    fn factors(&self, pass: Pass) -> Result<Factors> {
        let Layer { a, b, .. } = self.layer;
        let same = if self.has_low || !self.tensor_cores { DType::F32 } else { DType::BF16 };
        let (a, b) = (a.to_dtype(same)?, b.to_dtype(same)?);
        let (k, n) = (self.k, self.n);
        if !self.tensor_cores {
            return Ok(match pass {
                Pass::Forward => Factors { down: (a, k), up: (b, self.rank) },
                Pass::Backward => Factors { down: (b, self.rank), up: (a, k) },
            });
        }
        let (low, pieces) = (1 + usize::from(self.has_low), self.pieces());
        let row = |len: usize| len.next_multiple_of(DType::BF16.pack());
        let (a_shape, b_shape) = match pass {
            Pass::Forward => ([low * self.padded, row(k)], [n, pieces * self.padded]),
            Pass::Backward => ([pieces * self.padded, row(k)], [low * self.padded, row(n)]),
        };
        let [to_a, to_b] = [self.new_tensor(&a_shape, DType::BF16)?, self.new_tensor(&b_shape, DType::BF16)?];
        let arguments = Pack {
            a: self.pointer(&a)?,
            b: self.pointer(&b)?,
            to_a: self.pointer(&to_a)?,
            to_b: self.pointer(&to_b)?,
            lda: a_shape[1] as i64,
            ldb: b_shape[1] as i64,
            rank: self.rank as u32,
            padded: self.padded as u32,
            k: k as u32,
            n: n as u32,
        };
        let entries = match pass {
            Pass::Forward => ["lora_matmul_fwd_pack_f32", "lora_matmul_fwd_pack_bf16"],
            Pass::Backward => ["lora_matmul_bwd_pack_f32", "lora_matmul_bwd_pack_bf16"],
        };
        let blocks = (k.max(n) * self.padded).div_ceil(256);
        self.device.launch(
            same.select(OP, entries)?,
            arguments,
            Grid { blocks: [blocks, 1, 2], threads: 256, shared: 0 },
        )?;
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
            count: bits.numel() as u64,
            words: words as u32,
            k: self.k as u32,
            seed: mask.random.seed,
            stream: mask.random.stream,
            threshold: mask.threshold,
        };
        self.device.launch("lora_matmul_keep", arguments, Grid::new(bits.numel().div_ceil(256), 256))?;
        Ok(Some(Kept { bits, words: words as u32, scale: mask.scale }))
    }

    fn keep(&self, kept: Option<&Kept>) -> Result<(Pointer, u32, f32)> {
        kept.map_or(Ok((Pointer::NULL, 0, 1.0)), |kept| {
            Ok((self.pointer(&kept.bits)?, kept.words, kept.scale))
        })
    }

    /// u of x, or v of dy: `[M, pieces padded]` bf16 for tensor cores, else `[M, padded]` f32. Forward, the mask is `kept`, or drawn
    /// inside on tensor cores.
    fn down(&self, pass: Pass, x: &Tensor, factors: &Factors, kept: Option<&Kept>) -> Result<Tensor> {
        let (m, padded) = (self.m, self.padded);
        let (_, k) = x.dims2(OP)?;
        let (factor, ld) = &factors.down;
        let mask = if pass == Pass::Forward { self.layer.mask.as_ref() } else { None };
        let scale = self.layer.scale * mask.map_or(1.0, |mask| mask.scale);
        let row_tiles = m.div_ceil(TILE);
        let split;
        let parts;
        if self.tensor_cores {
            let aligned = self.aligned(&[x])?;
            let (rank_tile, name) = rank_tile(padded, aligned);
            let rank_tiles = padded.div_ceil(rank_tile);
            split = Split::new(row_tiles * rank_tiles, k.div_ceil(STEP));
            parts = self.new_tensor(&[split.parts, m, padded], DType::F32)?;
            let entry = if mask.is_none() {
                [
                    "lora_matmul_down_bf16_r16",
                    "lora_matmul_down_bf16_r32",
                    "lora_matmul_down_bf16_r64",
                    "lora_matmul_down_bf16_r32_ragged",
                ]
            } else {
                [
                    "lora_matmul_down_bf16_r16_dropout",
                    "lora_matmul_down_bf16_r32_dropout",
                    "lora_matmul_down_bf16_r64_dropout",
                    "lora_matmul_down_bf16_r32_dropout_ragged",
                ]
            };
            let arguments = Down {
                x: self.pointer(x)?,
                factor: self.pointer(factor)?,
                ld: *ld as i64,
                factor_stride: 0,
                has_low: u32::from(self.has_low),
                tiles: Pointer::NULL,
                scales: Pointer::NULL,
                scale,
                parts: self.pointer(&parts)?,
                m: m as u32,
                k: k as u32,
                padded: padded as u32,
                part_steps: split.steps as u32,
                seed: mask.map_or(0, |mask| mask.random.seed),
                stream: mask.map_or(0, |mask| mask.random.stream),
                threshold: mask.map_or(0, |mask| mask.threshold),
            };
            let blocks = [row_tiles, rank_tiles, split.parts];
            let shared = thin_shared(rank_tile);
            self.device.launch(entry[name], arguments, Grid { blocks, threads: THREADS, shared })?;
        } else {
            let rank_tiles = padded.div_ceil(SMALL_TILE);
            split = Split::new(2 * row_tiles * rank_tiles, k.div_ceil(STEP));
            parts = self.new_tensor(&[split.parts, m, padded], DType::F32)?;
            let entries = match pass {
                Pass::Forward => ["lora_matmul_fwd_down_f32", "lora_matmul_fwd_down_bf16"],
                Pass::Backward => ["lora_matmul_bwd_down_f32", "lora_matmul_bwd_down_bf16"],
            };
            let (keep, words, _) = self.keep(kept)?;
            let arguments = DownF32 {
                x: self.pointer(x)?,
                factor: self.pointer(factor)?,
                keep,
                words,
                tiles: Pointer::NULL,
                scales: Pointer::NULL,
                scale,
                parts: self.pointer(&parts)?,
                m: m as u32,
                k: k as u32,
                rank: self.rank as u32,
                padded: padded as u32,
                part_steps: split.steps as u32,
            };
            let blocks = [2 * row_tiles, rank_tiles, split.parts];
            self.device.launch(
                x.dtype().select(OP, entries)?,
                arguments,
                Grid { blocks, threads: SMALL_THREADS, shared: 0 },
            )?;
        }
        let (entry, pieces, dtype) = match self.tensor_cores {
            true => ("lora_matmul_rank_bf16", self.pieces(), DType::BF16),
            false => ("lora_matmul_rank_f32", 1, DType::F32),
        };
        let to = self.new_tensor(&[m, pieces * padded], dtype)?;
        let arguments = RankSums {
            parts: self.pointer(&parts)?,
            to: self.pointer(&to)?,
            count: split.parts as u32,
            m: m as u64,
            padded: padded as u32,
            pieces: pieces as u32,
        };
        self.device.launch(entry, arguments, Grid::new((m * padded / 4).div_ceil(256), 256))?;
        Ok(to)
    }

    /// `mask(rank factor) + a w + bias`: y from x and u, dx from dy and v.
    fn up(
        &self,
        pass: Pass,
        a: &Tensor,
        rank: &Tensor,
        factors: &Factors,
        kept: Option<&Kept>,
        bias: Option<&Tensor>,
    ) -> Result<Tensor> {
        let m = self.m;
        let (k, n) = if pass == Pass::Forward { (self.k, self.n) } else { (self.n, self.k) };
        let c = self.new_tensor(&[m, n], self.dtype)?;
        let (factor, ld) = &factors.up;
        let w = &self.layer.w;
        let (keep, words, keep_scale) = self.keep(kept)?;
        let bias = bias.map(|bias| bias.to_dtype(DType::F32)).transpose()?;
        let bias = bias.as_ref().map_or(Ok(Pointer::NULL), |bias| self.pointer(bias))?;
        if self.tensor_cores {
            let entry = match (pass, self.aligned(&[a, w])?) {
                (Pass::Forward, true) => "lora_matmul_fwd_bf16",
                (Pass::Forward, false) => "lora_matmul_fwd_bf16_ragged",
                (Pass::Backward, true) => "lora_matmul_bwd_input_bf16",
                (Pass::Backward, false) => "lora_matmul_bwd_input_bf16_ragged",
            };
            let arguments = Up {
                a: self.pointer(a)?,
                b: self.pointer(w)?,
                rank: self.pointer(rank)?,
                factor: self.pointer(factor)?,
                ld_factor: *ld as i64,
                factor_stride: 0,
                inner: (self.pieces() * self.padded) as u32,
                segments: Pointer::NULL,
                meets: Pointer::NULL,
                keep,
                words,
                keep_scale,
                bias,
                c: self.pointer(&c)?,
                m: m as u32,
                n: n as u32,
                k: k as u32,
            };
            let blocks = m.div_ceil(TILE) * n.div_ceil(TILE);
            self.device.launch(
                entry,
                arguments,
                Grid { shared: LONG_SHARED, ..Grid::new(blocks, THREADS) },
            )?;
        } else {
            let of_f32 = match pass {
                Pass::Forward => ["lora_matmul_fwd_f32_f32", "lora_matmul_fwd_f32_bf16"],
                Pass::Backward => ["lora_matmul_bwd_input_f32_f32", "lora_matmul_bwd_input_f32_bf16"],
            };
            let entry = match (pass, a.dtype(), w.dtype()) {
                (_, DType::F32, w) => w.select(OP, of_f32)?,
                (Pass::Forward, DType::BF16, DType::F32) => "lora_matmul_fwd_bf16_f32",
                (Pass::Backward, DType::BF16, DType::F32) => "lora_matmul_bwd_input_bf16_f32",
                (_, a, w) => {
                    return Err(Error::DType {
                        op: OP,
                        detail: format!("{a} times {w} has no CUDA kernel here"),
                    });
                }
            };
            let arguments = UpF32 {
                a: self.pointer(a)?,
                b: self.pointer(w)?,
                rank_rows: self.pointer(rank)?,
                factor: self.pointer(factor)?,
                rank: self.rank as u32,
                padded: self.padded as u32,
                segments: Pointer::NULL,
                meets: Pointer::NULL,
                keep,
                words,
                keep_scale,
                bias,
                c: self.pointer(&c)?,
                m: m as u32,
                n: n as u32,
                k: k as u32,
            };
            let blocks = m.div_ceil(SMALL_TILE) * n.div_ceil(SMALL_TILE);
            self.device.launch(entry, arguments, Grid::new(blocks, SMALL_THREADS))?;
        }
        Ok(c)
    }

    /// dA from x and v, dB from dy and u; each only if it is wanted.
    fn factor_grads(
        &self,
        x_v: Option<(&Tensor, &Tensor)>,
        dy_u: Option<(&Tensor, &Tensor)>,
        kept: Option<&Kept>,
    ) -> Result<[Option<Tensor>; 2]> {
        let (m, padded, rank) = (self.m, self.padded, self.rank);
        // A side that is not wanted has no columns.
        let side = |pair: Option<(&Tensor, &Tensor)>| -> Result<(Pointer, Pointer, usize)> {
            let Some((data, rank)) = pair else { return Ok((Pointer::NULL, Pointer::NULL, 0)) };
            Ok((self.pointer(data)?, self.pointer(rank)?, data.dims2(OP)?.1))
        };
        let ((x, v, k), (dy, u, n)) = (side(x_v)?, side(dy_u)?);
        let (keep, words, keep_scale) = self.keep(kept)?;
        let steps = m.div_ceil(STEP);
        let (split, parts);
        if self.tensor_cores {
            let matrices: Vec<&Tensor> = [x_v, dy_u].iter().flatten().map(|(data, _)| *data).collect();
            let aligned = self.aligned(&matrices)?;
            let (rank_tile, name) = rank_tile(padded, aligned);
            let tiles = [k.div_ceil(TILE) + n.div_ceil(TILE), padded.div_ceil(rank_tile)];
            split = Split::new(tiles[0] * tiles[1], steps);
            parts = self.new_tensor(&[split.parts, k + n, padded], DType::F32)?;
            let entry = [
                "lora_matmul_bwd_parts_bf16_r16",
                "lora_matmul_bwd_parts_bf16_r32",
                "lora_matmul_bwd_parts_bf16_r64",
                "lora_matmul_bwd_parts_bf16_r32_ragged",
            ];
            let arguments = FactorParts {
                x,
                v,
                dy,
                u,
                keep,
                words,
                chunks: Pointer::NULL,
                chunk_rows: (split.steps * STEP) as u32,
                parts: self.pointer(&parts)?,
                m: m as u32,
                k: k as u32,
                n: n as u32,
                padded: padded as u32,
                inner: (self.pieces() * padded) as u32,
            };
            let blocks = [tiles[0], tiles[1], split.parts];
            let shared = thin_shared(rank_tile);
            self.device.launch(entry[name], arguments, Grid { blocks, threads: THREADS, shared })?;
        } else {
            let tiles = [k.div_ceil(SMALL_TILE) + n.div_ceil(SMALL_TILE), padded.div_ceil(SMALL_TILE)];
            split = Split::new(tiles[0] * tiles[1], steps);
            parts = self.new_tensor(&[split.parts, k + n, padded], DType::F32)?;
            let entries = ["lora_matmul_bwd_parts_f32", "lora_matmul_bwd_parts_bf16"];
            let arguments = FactorPartsF32 {
                x,
                v,
                dy,
                u,
                keep,
                words,
                chunks: Pointer::NULL,
                chunk_rows: (split.steps * STEP) as u32,
                parts: self.pointer(&parts)?,
                m: m as u32,
                k: k as u32,
                n: n as u32,
                padded: padded as u32,
            };
            let grid = Grid { blocks: [tiles[0], tiles[1], split.parts], threads: SMALL_THREADS, shared: 0 };
            self.device.launch(self.dtype.select(OP, entries)?, arguments, grid)?;
        }
        let da = x_v.map(|_| self.new_tensor(&[rank, k], DType::F32)).transpose()?;
        let db = dy_u.map(|_| self.new_tensor(&[n, rank], DType::F32)).transpose()?;
        let at = |grad: &Option<Tensor>| grad.as_ref().map_or(Ok(Pointer::NULL), |grad| self.pointer(grad));
        let arguments = FactorSums {
            parts: self.pointer(&parts)?,
            first: Pointer::NULL,
            count: split.parts as u32,
            da: at(&da)?,
            db: at(&db)?,
            k: k as u32,
            n: n as u32,
            rank: rank as u32,
            padded: padded as u32,
            keep_scale,
        };
        let threads = (k + n) * padded / 8;
        self.device.launch("lora_matmul_bwd_factors", arguments, Grid::new(threads.div_ceil(256), 256))?;
        Ok([da, db])
    }
}

/// y and u.
pub(super) fn forward(
    device: &'static CudaDevice,
    x: &Tensor,
    bias: Option<&Tensor>,
    layer: &Layer,
) -> Result<(Tensor, Tensor)> {
    let run = Run::new(device, x, layer)?;
    let factors = run.factors(Pass::Forward)?;
    // On tensor cores the mask is drawn where x is loaded.
    let kept = if run.tensor_cores { None } else { run.kept()? };
    let u = run.down(Pass::Forward, x, &factors, kept.as_ref())?;
    let y = run.up(Pass::Forward, x, &u, &factors, None, bias)?;
    Ok((y, u))
}

/// The wanted gradients of x, w, A, B and bias.
pub(super) fn backward(
    device: &'static CudaDevice,
    dy: &Tensor,
    x: &Tensor,
    u: &Tensor,
    layer: &Layer,
    wanted: [bool; 5],
) -> Result<[Option<Tensor>; 5]> {
    let run = Run::new(device, x, layer)?;
    let [want_x, want_w, want_a, want_b, want_bias] = wanted;
    let (mut v, mut dx, mut kept) = (None, None, None);
    if want_x || want_a {
        let factors = run.factors(Pass::Backward)?;
        kept = run.kept()?;
        let of_dy = run.down(Pass::Backward, dy, &factors, None)?;
        if want_x {
            dx = Some(run.up(Pass::Backward, dy, &of_dy, &factors, kept.as_ref(), None)?);
        }
        v = Some(of_dy);
    }
    let x_v = v.as_ref().filter(|_| want_a).map(|v| (x, v));
    let dy_u = want_b.then_some((dy, u));
    let [da, db] = run.factor_grads(x_v, dy_u, kept.as_ref())?;
    let dw = want_w.then(|| matmul::cuda::grad_weight(device, dy, x)).transpose()?;
    let dbias = want_bias.then(|| matmul::cuda::column_sums(device, dy)).transpose()?;
    Ok([dx, dw, da, db, dbias])
}

#[cfg(test)]
mod tests {
    use super::{Split, rank_tile};

    #[test]
    fn every_step_is_in_one_part() {
        for tiles in [0, 1, 2, 31, 64, 127, 128, 4096] {
            for steps in 0..700 {
                let split = Split::new(tiles, steps);
                assert!(split.parts >= 1 && split.steps >= 1);
                assert!(split.parts * split.steps >= steps, "{tiles} tiles, {steps} steps: {split:?}");
                assert!((split.parts - 1) * split.steps <= steps, "{tiles} tiles, {steps} steps: {split:?}");
                assert!(split.parts == 1 || tiles * (split.parts - 1) < 128);
            }
        }
        // 4096 rows of 4096 columns; long and short batches; a single token.
        assert_eq!(Split::new(32, 128), Split { parts: 4, steps: 32 });
        assert_eq!(Split::new(256, 128), Split { parts: 1, steps: 128 });
        assert_eq!(Split::new(1, 128), Split { parts: 16, steps: 8 });
    }

    #[test]
    fn tiles_hold_the_rank() {
        for padded in (8..=256).step_by(8) {
            let (tile, _) = rank_tile(padded, true);
            assert!(tile >= padded || tile == 64);
            assert!(tile / 2 < padded || tile == 16);
        }
    }
}
