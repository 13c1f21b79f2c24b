//! Caches on a CUDA device: pages of keys and values, and the table by which kernels find them (kernels/kv_attention.cu).

use super::{KvAttentionSpec, OP, cuda, prefill};
use crate::device::cuda::CudaDevice;
use crate::ops::place::extent;
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

/// Tokens of a page.
pub(crate) const PAGE: usize = 256;

/// New tokens up to which a sequence's pages are shared out over blocks. More keep the device busy by themselves, and partial
/// outputs of all of them would take more memory than the cache.
const FEW: usize = 16;

/// New tokens from which on a sequence's attention is flash attention over the pages (kernels/kv_prefill.cu), whose tiles have so many
/// queries or more. It is each sequence's own number that decides, so that its bits do not depend on its company.
const MANY: usize = 64;

/// The largest head that kernels have.
const MAX_HEAD_DIM: usize = 256;

/// What the pages of a cache hold, and where: `[layers, 2 (keys, values), kv_heads, PAGE, padded]`.
#[derive(Clone, Copy)]
pub(crate) struct PageShape {
    device: &'static CudaDevice,
    dtype: DType,
    layers: usize,
    kv_heads: usize,
    head_dim: usize,
}

impl PageShape {
    /// For a model of `layers` layers with `kv_heads` key/value heads of `head_dim` elements of type `dtype`.
    pub(crate) fn new(
        device: &'static CudaDevice,
        dtype: DType,
        layers: usize,
        [kv_heads, head_dim]: [usize; 2],
    ) -> PageShape {
        PageShape { device, dtype, layers, kv_heads, head_dim }
    }

    pub(crate) fn device(&self) -> &'static CudaDevice {
        self.device
    }

    pub(crate) fn layers(&self) -> usize {
        self.layers
    }

    /// Elements of a token's key in a layer.
    pub(crate) fn width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// The length of a head's vectors in a page: whole packs of 16 bytes.
    fn padded(&self) -> usize {
        self.head_dim.next_multiple_of(self.dtype.pack())
    }

    /// A page for [`PAGE`] tokens, not initialised.
    pub(crate) fn page(&self) -> Result<Tensor> {
        if !self.dtype.is_float() || self.head_dim > MAX_HEAD_DIM {
            let detail =
                format!("heads of {} {} elements; f32, bf16 or f16, at most 256", self.head_dim, self.dtype);
            return Err(Error::unsupported("a key/value cache on a CUDA device", detail));
        }
        let shape = [self.layers, 2, self.kv_heads, PAGE, self.padded()];
        Tensor::uninitialised(self.device, &shape, self.dtype)
    }

    /// Whether pages of two caches can be in one pass.
    pub(crate) fn matches(&self, other: &PageShape) -> bool {
        let sizes = |x: &PageShape| (x.dtype, x.layers, x.kv_heads, x.head_dim);
        std::ptr::eq(self.device, other.device) && sizes(self) == sizes(other)
    }
}

/// One sequence of a pass: its pages, which have room for the new tokens too, the tokens in them before, and the new ones.
pub(crate) struct Paged<'a> {
    pub pages: &'a [Tensor],
    pub past: usize,
    pub new: usize,
}

/// Where the sequences of a pass have their rows and pages, in device memory: for all layers. It keeps the pages alive.
pub(crate) struct KvTable {
    shape: PageShape,
    /// u32: for each sequence its first row, new tokens, tokens before them and first split row (or [`WHOLE`]); then
    /// the addresses of each sequence's pages, `page_capacity` of 64 bits each; then the tiles of sequences with many new tokens:
    /// sequence, first query; then for each sequence the tokens before it that belong to the others.
    entries: Tensor,
    pages: Vec<Tensor>,
    sizes: Sizes,
}

/// What launches depend on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sizes {
    pub sequences: usize,
    pub page_capacity: usize,
    /// New tokens: in all, of one sequence at most, and of all that are split.
    pub tokens: usize,
    pub most_new: usize,
    pub part_rows: usize,
    /// The longest sequence that is split.
    pub longest: usize,
    /// New tokens of sequences that have fewer than [`MANY`]; the tiles of the others.
    pub less_than_many: usize,
    pub tiles: usize,
}

impl Sizes {
    /// New tokens of a sequence that is split, at most.
    pub(super) fn most_few(&self) -> usize {
        self.most_new.min(FEW)
    }
}

/// Of a sequence that is not split.
const WHOLE: u32 = u32::MAX;

impl KvTable {
    /// The table of one pass.
    ///
    /// Errors: lengths that do not fit 32 bits; memory.
    pub(crate) fn new(shape: PageShape, sequences: &[Paged<'_>]) -> Result<KvTable> {
        let is_split = |s: &&Paged<'_>| s.new <= FEW;
        let tiles = tiles(sequences, prefill::tile_rows(shape.dtype, shape.head_dim)?);
        let sizes = Sizes {
            sequences: sequences.len(),
            page_capacity: sequences.iter().map(|s| s.pages.len()).max().unwrap_or(0),
            tokens: sequences.iter().map(|s| s.new).sum(),
            most_new: sequences.iter().map(|s| s.new).max().unwrap_or(0),
            part_rows: sequences.iter().filter(is_split).map(|s| s.new).sum(),
            longest: sequences.iter().filter(is_split).map(|s| s.past + s.new).max().unwrap_or(0),
            less_than_many: sequences.iter().filter(|s| s.new < MANY).map(|s| s.new).sum(),
            tiles: tiles.len(),
        };
        let entries = entries(&shape, &sizes, sequences, &tiles)?;
        let entries = entries.to_device(crate::device::Device::Cuda(shape.device.ordinal()))?;
        let pages = sequences.iter().flat_map(|s| s.pages.iter().cloned()).collect();
        Ok(KvTable { shape, entries, pages, sizes })
    }

    /// A table at one place in device memory for steps of one new token for each of `sequences` sequences, which have up to
    /// `page_capacity` pages. It is to be [filled](KvTable::fill) before each step.
    ///
    /// Errors: memory.
    pub(crate) fn for_steps(shape: PageShape, sequences: usize, page_capacity: usize) -> Result<KvTable> {
        let sizes = Sizes {
            sequences,
            page_capacity,
            tokens: sequences,
            most_new: 1,
            part_rows: sequences,
            longest: page_capacity * PAGE,
            less_than_many: sequences,
            tiles: 0,
        };
        let words = sizes.words();
        let entries = Tensor::uninitialised(shape.device, &[words], DType::U32)?;
        Ok(KvTable { shape, entries, pages: Vec::new(), sizes })
    }

    /// Writes where the sequences of the next step are.
    ///
    /// Errors: [`Error::Shape`] for other steps than it was made for.
    pub(crate) fn fill(&mut self, sequences: &[Paged<'_>]) -> Result<()> {
        let most_pages = sequences.iter().map(|s| s.pages.len()).max().unwrap_or(0);
        let fits = sequences.len() == self.sizes.sequences && most_pages <= self.sizes.page_capacity;
        if !fits || sequences.iter().any(|s| s.new != 1) {
            let detail =
                format!("{} sequences of up to {most_pages} pages, for {:?}", sequences.len(), self.sizes);
            return Err(Error::Shape { op: OP, detail });
        }
        self.entries.overwrite(&entries(&self.shape, &self.sizes, sequences, &[])?)?;
        self.pages = sequences.iter().flat_map(|s| s.pages.iter().cloned()).collect();
        Ok(())
    }

    /// Lets go of the pages, which nobody else may share when they are written.
    pub(crate) fn release(&mut self) {
        self.pages.clear();
    }

    /// Sequences, and pages of one at most.
    pub(crate) fn capacity(&self) -> (usize, usize) {
        (self.sizes.sequences, self.sizes.page_capacity)
    }

    pub(super) fn shape(&self) -> &PageShape {
        &self.shape
    }

    pub(super) fn sizes(&self) -> &Sizes {
        &self.sizes
    }

    /// The sequences, and the addresses of their pages, in device memory.
    pub(super) fn parts(&self) -> Result<[Tensor; 2]> {
        let words = self.sizes.sequences * SEQUENCE_WORDS;
        Ok([self.entries.rows(0, words)?, self.entries.rows(words, self.sizes.page_words())?])
    }

    /// The tiles of sequences with many new tokens, and for each sequence the tokens before it that belong to the others.
    pub(super) fn tiles_and_tokens_before(&self) -> Result<[Tensor; 2]> {
        let (sequences, tiles) = (self.sizes.sequences, 2 * self.sizes.tiles);
        let start = sequences * SEQUENCE_WORDS + self.sizes.page_words();
        Ok([self.entries.rows(start, tiles)?, self.entries.rows(start + tiles, sequences)?])
    }
}

impl Sizes {
    /// Words of the addresses of pages.
    fn page_words(&self) -> usize {
        2 * self.sequences * self.page_capacity
    }

    /// Words of a table.
    fn words(&self) -> usize {
        self.sequences * (SEQUENCE_WORDS + 1) + self.page_words() + 2 * self.tiles
    }
}

/// The tiles of `rows` queries that sequences with many new tokens fall into: sequence, and first query. Longest work first, so that the
/// blocks that run last are short.
fn tiles(sequences: &[Paged<'_>], rows: usize) -> Vec<[u32; 2]> {
    let mut tiles = Vec::new();
    for (i, sequence) in sequences.iter().enumerate().filter(|(_, s)| s.new >= MANY) {
        for first in (0..sequence.new).step_by(rows) {
            let keys = sequence.past + sequence.new.min(first + rows);
            tiles.push((keys, [i as u32, first as u32]));
        }
    }
    tiles.sort_by_key(|(keys, _)| std::cmp::Reverse(*keys));
    tiles.into_iter().map(|(_, tile)| tile).collect()
}

/// Words of a sequence's entry.
const SEQUENCE_WORDS: usize = 4;

/// The table's words on the host.
fn entries(shape: &PageShape, sizes: &Sizes, sequences: &[Paged<'_>], tiles: &[[u32; 2]]) -> Result<Tensor> {
    let mut words = Vec::with_capacity(sizes.words());
    let (mut row, mut part) = (0, 0);
    for sequence in sequences {
        let end = extent(OP, sequence.past + sequence.new)?;
        if sequence.pages.len() * PAGE < sequence.past + sequence.new {
            let detail = format!("{end} tokens in {} pages of {PAGE}", sequence.pages.len());
            return Err(Error::Shape { op: OP, detail });
        }
        let new = sequence.new as u32;
        let is_split = sequence.new <= FEW;
        words.extend([extent(OP, row)?, new, end - new, if is_split { part } else { WHOLE }]);
        row += sequence.new;
        part += if is_split { new } else { 0 };
    }
    for sequence in sequences {
        let start = words.len();
        for page in sequence.pages {
            let address = page.pointer(OP, shape.device)?.0;
            words.extend([address as u32, (address >> 32) as u32]);
        }
        words.resize(start + 2 * sizes.page_capacity, 0);
    }
    words.extend_from_slice(tiles.as_flattened());
    let mut before = 0;
    for sequence in sequences {
        words.push(before);
        before += if sequence.new < MANY { sequence.new as u32 } else { 0 };
    }
    let len = words.len();
    Ok(Tensor::from_u32(words, &[len]))
}

/// [`kv_attention`](super::kv_attention) over pages that hold the new tokens' keys and values already; q as the pages' type.
///
/// Errors: [`Error::Shape`] or [`Error::DType`] if q does not fit the table's pages; operands elsewhere.
pub(crate) fn paged_attention(
    table: &KvTable,
    layer: usize,
    q: &Tensor,
    spec: &KvAttentionSpec,
) -> Result<Tensor> {
    let geometry = spec.geometry();
    geometry.check(OP)?;
    check_layer(OP, table, layer)?;
    if (spec.kv_heads, spec.head_dim) != (table.shape.kv_heads, table.shape.head_dim) {
        let detail = format!(
            "{} key/value heads of {} elements, a cache of {} of {}",
            spec.kv_heads, spec.head_dim, table.shape.kv_heads, table.shape.head_dim
        );
        return Err(Error::Shape { op: OP, detail });
    }
    check(OP, table, q, geometry.q_cols())?;
    let out = Tensor::uninitialised(table.shape.device, q.shape(), q.dtype())?;
    let attention = Attention { table, layer, q, out: &out, spec };
    if table.sizes.less_than_many > 0 {
        cuda::forward(&attention)?;
    }
    if table.sizes.tiles > 0 {
        prefill::forward(&attention)?;
    }
    Ok(out)
}

/// What is asked of the kernels of attention: to write the rows of `out` that belong to their sequences. All has been checked.
#[derive(Clone, Copy)]
pub(super) struct Attention<'a> {
    pub table: &'a KvTable,
    pub layer: usize,
    pub q: &'a Tensor,
    pub out: &'a Tensor,
    pub spec: &'a KvAttentionSpec,
}

impl Attention<'_> {
    /// The window as kernels take it; the widest where there is none.
    pub(super) fn window(&self) -> u32 {
        self.spec.window.map_or(u32::MAX, |window| u32::try_from(window).unwrap_or(u32::MAX))
    }
}

pub(super) fn check_layer(op: &'static str, table: &KvTable, layer: usize) -> Result<()> {
    match layer < table.shape.layers {
        true => Ok(()),
        false => {
            let detail = format!("layer {layer} of a cache of {} layers", table.shape.layers);
            Err(Error::Shape { op, detail })
        }
    }
}

/// Whether an operand has a row for each new token, and the cache's type.
pub(super) fn check(op: &'static str, table: &KvTable, x: &Tensor, cols: usize) -> Result<()> {
    if x.shape() != [table.sizes.tokens, cols] {
        let detail = format!("{:?}; [{}, {cols}] expected", x.shape(), table.sizes.tokens);
        return Err(Error::Shape { op, detail });
    }
    if x.dtype() != table.shape.dtype {
        let detail = format!("a {} operand, a cache of {}", x.dtype(), table.shape.dtype);
        return Err(Error::DType { op, detail });
    }
    Ok(())
}

impl PageShape {
    /// Type, key/value heads and the length of their vectors.
    pub(super) fn head(&self) -> (DType, usize, usize) {
        (self.dtype, self.kv_heads, self.head_dim)
    }
}
