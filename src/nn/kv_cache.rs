//! Keys and values of the tokens that a model has already seen.

use crate::ops::kv_attention::KvView;

/// Tokens by which the memory grows: few enough that a short answer wastes little, enough that a long one seldom copies.
const BLOCK_TOKENS: usize = 256;

#[derive(Clone, Default)]
struct LayerCache {
    k: Vec<f32>,
    v: Vec<f32>,
}

/// The keys and values of one sequence, for every layer, in f32.
#[derive(Clone)]
pub struct KvCache {
    layers: Vec<LayerCache>,
    width: usize,
}

impl KvCache {
    /// An empty cache for a model of `layers` layers whose keys have `width` (kv_heads * head_dim) elements a token.
    pub fn new(layers: usize, width: usize) -> KvCache {
        KvCache { layers: vec![LayerCache::default(); layers], width }
    }

    /// The number of layers.
    pub fn layers(&self) -> usize {
        self.layers.len()
    }

    /// Elements of a token's key (and of its value) in a layer.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Tokens whose keys and values are there for every layer.
    pub fn len(&self) -> usize {
        self.layers.last().map_or(0, |layer| layer.k.len() / self.width.max(1))
    }

    /// Whether no token is there.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets all but the first `len` tokens.
    pub fn truncate(&mut self, len: usize) {
        for layer in &mut self.layers {
            layer.k.truncate(len * self.width);
            layer.v.truncate(len * self.width);
        }
    }

    /// Adds the keys and values of new tokens to a layer: whole rows of `width` elements, as many of each.
    pub(crate) fn append(&mut self, layer: usize, k: &[f32], v: &[f32]) {
        let block = BLOCK_TOKENS * self.width;
        let layer = &mut self.layers[layer];
        for (held, new) in [(&mut layer.k, k), (&mut layer.v, v)] {
            let needed = held.len() + new.len();
            if needed > held.capacity() {
                held.reserve_exact(needed.next_multiple_of(block.max(1)) - held.len());
            }
            held.extend_from_slice(new);
        }
    }

    /// The keys and values of a layer.
    pub(crate) fn view(&self, layer: usize) -> KvView<'_> {
        let LayerCache { k, v } = &self.layers[layer];
        KvView { k, v, len: k.len() / self.width.max(1) }
    }
}
