//! Keys and values of the tokens that a model has already seen.

use crate::autograd::{Tape, Var};
use crate::device::Device;
use crate::ops::kv_attention::{
    KvAttentionSpec, KvTable, KvView, PAGE, PageShape, Paged, kv_append, kv_append_turned, kv_attention,
    paged_attention,
};
use crate::ops::rope::{RopeTable, rope_both};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

/// Tokens by which the host's memory grows: few enough that a short answer wastes little, enough that a long one seldom copies.
const BLOCK_TOKENS: usize = 256;

/// The keys and values of one sequence, for every layer.
///
/// In host memory they are f32. On a device they are in pages of 256 tokens for all layers, so that growing copies nothing;
/// clones share pages until one of them writes (the samples of one prompt hold it once).
pub struct KvCache {
    width: usize,
    held: Held,
}

#[derive(Clone)]
enum Held {
    Host(Vec<HostLayer>),
    Device(Pages),
}

#[derive(Clone, Default)]
struct HostLayer {
    k: Vec<f32>,
    v: Vec<f32>,
}

struct Pages {
    shape: PageShape,
    pages: Vec<Tensor>,
    len: usize,
}

impl Clone for KvCache {
    fn clone(&self) -> KvCache {
        KvCache { width: self.width, held: self.held.clone() }
    }
}

impl Clone for Pages {
    /// Shares the pages that hold tokens; what was reserved beyond them stays with the original.
    fn clone(&self) -> Pages {
        let pages = self.pages.iter().take(self.len.div_ceil(PAGE)).cloned().collect();
        Pages { shape: self.shape, pages, len: self.len }
    }
}

impl Pages {
    /// Makes pages for so many tokens in all, and those from the first free place on its own.
    fn prepare(&mut self, tokens: usize) -> Result<()> {
        while self.pages.len() * PAGE < tokens {
            self.pages.push(self.shape.page()?);
        }
        for page in &mut self.pages[self.len / PAGE..] {
            page.make_unshared()?;
        }
        Ok(())
    }
}

impl KvCache {
    /// An empty cache in host memory for a model of `layers` layers whose keys have `width` (kv_heads * head_dim) elements a
    /// token.
    pub fn new(layers: usize, width: usize) -> KvCache {
        KvCache { width, held: Held::Host(vec![HostLayer::default(); layers]) }
    }

    /// An empty cache on a device for a model of `layers` layers with `kv_heads` key/value heads of `head_dim` elements, which
    /// has activations of type `dtype`.
    ///
    /// # Errors
    /// [`Error::Cuda`] when the device cannot be opened.
    pub fn on(
        device: Device,
        layers: usize,
        [kv_heads, head_dim]: [usize; 2],
        dtype: DType,
    ) -> Result<KvCache> {
        Ok(match device {
            Device::Cpu => KvCache::new(layers, kv_heads * head_dim),
            Device::Cuda(_) => {
                KvCache::paged(PageShape::new(device.cuda()?, dtype, layers, [kv_heads, head_dim]))
            }
        })
    }

    /// An empty cache of pages.
    pub(crate) fn paged(shape: PageShape) -> KvCache {
        KvCache { width: shape.width(), held: Held::Device(Pages { shape, pages: Vec::new(), len: 0 }) }
    }

    /// The number of layers.
    pub fn layers(&self) -> usize {
        match &self.held {
            Held::Host(layers) => layers.len(),
            Held::Device(pages) => pages.shape.layers(),
        }
    }

    /// Elements of a token's key (and of its value) in a layer.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Tokens whose keys and values are there for every layer.
    pub fn len(&self) -> usize {
        match &self.held {
            Held::Host(layers) => layers.last().map_or(0, |layer| layer.k.len() / self.width.max(1)),
            Held::Device(pages) => pages.len,
        }
    }

    /// Whether no token is there.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets all but the first `len` tokens. The memory stays.
    pub fn truncate(&mut self, len: usize) {
        let width = self.width;
        match &mut self.held {
            Held::Host(layers) => layers.iter_mut().for_each(|layer| {
                layer.k.truncate(len * width);
                layer.v.truncate(len * width);
            }),
            Held::Device(pages) => pages.len = pages.len.min(len),
        }
    }

    /// Takes memory for `tokens` tokens in all at once.
    ///
    /// # Errors
    /// [`Error::Cuda`] when the device has not so much left.
    pub fn reserve(&mut self, tokens: usize) -> Result<()> {
        match &mut self.held {
            Held::Host(layers) => {
                for held in layers.iter_mut().flat_map(|layer| [&mut layer.k, &mut layer.v]) {
                    held.reserve_exact((tokens * self.width).saturating_sub(held.len()));
                }
                Ok(())
            }
            Held::Device(pages) => pages.prepare(tokens),
        }
    }
}

impl HostLayer {
    /// Adds whole rows of `width` elements, as many of each.
    fn append(&mut self, width: usize, k: &[f32], v: &[f32]) {
        let block = BLOCK_TOKENS * width;
        for (held, new) in [(&mut self.k, k), (&mut self.v, v)] {
            let needed = held.len() + new.len();
            if needed > held.capacity() {
                held.reserve_exact(needed.next_multiple_of(block.max(1)) - held.len());
            }
            held.extend_from_slice(new);
        }
    }
}

/// New tokens of several sequences on their way through a model's layers: each layer appends their keys and values, then
/// attends over the caches. When the last layer has appended, the tokens count as cached.
pub struct KvPass<'a, 'b> {
    caches: &'a mut [&'b mut KvCache],
    new_lens: &'a [usize],
    /// Where everything is, of caches on a device.
    table: Option<KvTable>,
}

impl<'a, 'b> KvPass<'a, 'b> {
    /// Begins a pass of `new_lens[i]` new tokens on `caches[i]`; on a device it makes room for them.
    ///
    /// # Errors
    /// [`Error::Model`] unless there is a length for each cache and all are for the same model in the same place;
    /// [`Error::Cuda`] when the device has not enough memory.
    pub fn begin(caches: &'a mut [&'b mut KvCache], new_lens: &'a [usize]) -> Result<KvPass<'a, 'b>> {
        if caches.len() != new_lens.len() {
            return bad(format!("{} caches for {} sequences", caches.len(), new_lens.len()));
        }
        let shape = common_shape(caches)?;
        let table = match shape {
            None => None,
            Some(shape) => {
                for (cache, new) in caches.iter_mut().zip(new_lens) {
                    let tokens = cache.len() + new;
                    cache.reserve(tokens)?;
                }
                Some(KvTable::new(shape, &paged(caches, new_lens))?)
            }
        };
        Ok(KvPass { caches, new_lens, table })
    }

    /// Adds the keys and values of the new tokens, each `[new tokens of all sequences, width]`, to a layer.
    ///
    /// # Errors
    /// Another shape; on a device another type than the cache's, or tensors elsewhere.
    pub fn append(&mut self, layer: usize, k: &Tensor, v: &Tensor) -> Result<()> {
        match &self.table {
            Some(table) => kv_append(table, layer, k, v)?,
            None => self.append_host(layer, k, v)?,
        }
        self.count(layer);
        Ok(())
    }

    /// As [`KvPass::append`] of keys that the rotary embedding has not turned yet to their positions, u32 `[new tokens of all
    /// sequences]`; returns the queries, turned. On a device it is one launch.
    ///
    /// # Errors
    /// As [`KvPass::append`] and [`rope`](crate::ops::rope::rope).
    pub fn append_turned(
        &mut self,
        layer: usize,
        [q, k, v]: [&Tensor; 3],
        positions: &Tensor,
        turns: &RopeTable,
    ) -> Result<Tensor> {
        let q = match &self.table {
            Some(table) => kv_append_turned(table, layer, [q, k, v], positions, turns)?,
            None => {
                let head_dim = 2 * turns.inverse_frequencies.len();
                let [q, k] = [q, k].map(|x| Var::constant(x.clone()));
                let [q, k] = rope_both(&Tape::inference(), &q, &k, positions, turns, head_dim)?;
                self.append_host(layer, k.value(), v)?;
                q.into_value()
            }
        };
        self.count(layer);
        Ok(q)
    }

    /// Counts the new tokens as cached when the last layer has them.
    fn count(&mut self, layer: usize) {
        for (cache, new) in self.caches.iter_mut().zip(self.new_lens) {
            if let Held::Device(pages) = &mut cache.held
                && layer + 1 == pages.shape.layers()
            {
                pages.len += new;
            }
        }
    }

    fn append_host(&mut self, layer: usize, k: &Tensor, v: &Tensor) -> Result<()> {
        let Some(width) = self.caches.first().map(|cache| cache.width) else { return Ok(()) };
        let expected = [self.new_lens.iter().sum(), width];
        if k.shape() != expected || v.shape() != expected {
            return bad(format!("keys {:?} and values {:?}; {expected:?} expected", k.shape(), v.shape()));
        }
        let (k, v) = (k.to_dtype(DType::F32)?, v.to_dtype(DType::F32)?);
        let (k, v) = (k.as_f32()?, v.as_f32()?);
        let mut start = 0;
        for (cache, len) in self.caches.iter_mut().zip(self.new_lens) {
            let range = start..start + len * width;
            start = range.end;
            let Held::Host(layers) = &mut cache.held else { continue };
            let Some(held) = layers.get_mut(layer) else {
                return bad(format!("layer {layer} of a cache of {} layers", layers.len()));
            };
            held.append(width, &k[range.clone()], &v[range]);
        }
        Ok(())
    }

    /// Attention of the new tokens, whose queries are `[new tokens of all sequences, heads * head_dim]`, over a layer to which they
    /// have been appended: see [`kv_attention`].
    ///
    /// # Errors
    /// As [`kv_attention`]; on a device queries of another type than the cache's, or elsewhere.
    pub fn attend(&self, layer: usize, q: &Tensor, spec: &KvAttentionSpec) -> Result<Tensor> {
        match &self.table {
            Some(table) => paged_attention(table, layer, q, spec),
            // Without sequences there is no place either: the queries' is right.
            None if self.caches.is_empty() && q.numel() == 0 => Ok(q.clone()),
            None => {
                let views: Option<Vec<KvView<'_>>> =
                    self.caches.iter().map(|cache| cache.view(layer)).collect();
                match views {
                    Some(views) => kv_attention(q, self.new_lens, &views, spec),
                    None => bad(format!("there is no layer {layer}")),
                }
            }
        }
    }
}

/// The pages' shape of caches on a device, none of caches in host memory.
fn common_shape(caches: &[&mut KvCache]) -> Result<Option<PageShape>> {
    let shape = caches.first().and_then(|cache| cache.page_shape());
    let alike = |cache: &&mut KvCache| match (&shape, &cache.held) {
        (None, Held::Host(_)) => true,
        (Some(shape), Held::Device(pages)) => shape.matches(&pages.shape),
        _ => false,
    };
    match caches.iter().all(alike) {
        true => Ok(shape),
        false => bad("the sequences' caches are not all of one kind and in one place".to_string()),
    }
}

/// Caches on a device as the table takes them.
fn paged<'a>(caches: &'a [&mut KvCache], new_lens: &[usize]) -> Vec<Paged<'a>> {
    let sequences = caches.iter().zip(new_lens).filter_map(|(cache, &new)| match &cache.held {
        Held::Device(held) => {
            // Without what is only reserved.
            let pages = &held.pages[..(held.len + new).div_ceil(PAGE).min(held.pages.len())];
            Some(Paged { pages, past: held.len, new })
        }
        Held::Host(_) => None,
    });
    sequences.collect()
}

/// Passes of one new token for each of some sequences on a device, all of which find what they need at the same place: so a graph of
/// one does for the others.
pub(crate) struct KvSteps {
    table: KvTable,
}

impl KvSteps {
    /// For steps of so many sequences as there are caches. They have room to grow to what is reserved, and to the next power of
    /// two of pages.
    ///
    /// Errors: caches that are not all on one device and for the same model; memory.
    pub(crate) fn new(caches: &[&mut KvCache]) -> Result<KvSteps> {
        let Some(shape) = common_shape(caches)? else {
            return bad("steps of a graph need caches on a device".to_string());
        };
        let pages = caches.iter().map(|cache| cache.pages().max((cache.len() + 1).div_ceil(PAGE)));
        let pages = pages.max().unwrap_or(0);
        Ok(KvSteps { table: KvTable::for_steps(shape, caches.len(), pages.next_power_of_two())? })
    }

    /// Whether the next step of these caches is one of them.
    pub(crate) fn fit(&self, caches: &[&mut KvCache]) -> bool {
        let (sequences, pages) = self.table.capacity();
        sequences == caches.len() && caches.iter().all(|cache| cache.len() < pages * PAGE)
    }

    /// Prepares the next step: makes room for its tokens and writes where they go.
    ///
    /// Errors: memory; caches that do not fit.
    pub(crate) fn prepare(&mut self, caches: &mut [&mut KvCache]) -> Result<()> {
        self.table.release();
        for cache in caches.iter_mut() {
            let tokens = cache.len() + 1;
            cache.reserve(tokens)?;
        }
        common_shape(caches)?;
        self.table.fill(&paged(caches, &vec![1; caches.len()]))
    }

    /// As [`KvPass::append`], but nothing counts as cached before [`KvSteps::commit`].
    pub(crate) fn append(&self, layer: usize, k: &Tensor, v: &Tensor) -> Result<()> {
        kv_append(&self.table, layer, k, v)
    }

    /// As [`KvPass::append_turned`], but nothing counts as cached before [`KvSteps::commit`].
    pub(crate) fn append_turned(
        &self,
        layer: usize,
        qkv: [&Tensor; 3],
        positions: &Tensor,
        turns: &RopeTable,
    ) -> Result<Tensor> {
        kv_append_turned(&self.table, layer, qkv, positions, turns)
    }

    /// As [`KvPass::attend`].
    pub(crate) fn attend(&self, layer: usize, q: &Tensor, spec: &KvAttentionSpec) -> Result<Tensor> {
        paged_attention(&self.table, layer, q, spec)
    }

    /// Counts the tokens of a step as cached.
    pub(crate) fn commit(caches: &mut [&mut KvCache]) {
        for cache in caches {
            if let Held::Device(pages) = &mut cache.held {
                pages.len += 1;
            }
        }
    }
}

impl KvCache {
    /// The keys and values of a layer in host memory.
    fn view(&self, layer: usize) -> Option<KvView<'_>> {
        let Held::Host(layers) = &self.held else { return None };
        let HostLayer { k, v } = layers.get(layer)?;
        Some(KvView { k, v, len: k.len() / self.width.max(1) })
    }

    /// Pages on a device.
    fn pages(&self) -> usize {
        match &self.held {
            Held::Host(_) => 0,
            Held::Device(pages) => pages.pages.len(),
        }
    }

    fn page_shape(&self) -> Option<PageShape> {
        match &self.held {
            Held::Host(_) => None,
            Held::Device(pages) => Some(pages.shape),
        }
    }
}

fn bad<T>(detail: String) -> Result<T> {
    Err(Error::model("key/value cache", detail))
}
