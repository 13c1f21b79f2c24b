//! Generation's forward: new tokens after cached ones.

use super::Decoder;
use super::layer::Attention;
use crate::autograd::{Tape, Var};
use crate::nn::{KvCache, KvPass, TokenBatch};
use crate::ops::kv_attention::PageShape;
use crate::tensor::Tensor;
use crate::{Error, Result};

impl Decoder {
    /// An empty cache for one sequence, where the parameters are; on a device it has the activations' type.
    pub fn new_cache(&self) -> KvCache {
        let (layers, head) = (self.config.num_layers, [self.config.num_kv_heads, self.config.head_dim]);
        match self.head.value().cuda_device() {
            Some(device) => KvCache::paged(PageShape::new(device, self.dtype, layers, head)),
            None => KvCache::new(layers, head[0] * head[1]),
        }
    }

    /// The output of the final norm `[T, hidden]` for new tokens, whose keys and values are added to the caches: sequence i of
    /// `batch` goes on where `caches[i]` ends. Nothing is recorded.
    ///
    /// # Errors
    /// As [`Decoder::hidden`]; caches of another model, another number of caches than of sequences, positions that do not
    /// go on where the cache ends. After an error the caches are as before.
    pub fn forward_cached(&self, batch: &TokenBatch, caches: &mut [&mut KvCache]) -> Result<Tensor> {
        let lengths: Vec<usize> = batch.lengths().collect();
        self.check_caches(batch, &lengths, caches)?;
        let before: Vec<usize> = caches.iter().map(|cache| cache.len()).collect();
        let result = self.run_cached(batch, &lengths, caches);
        if result.is_err() {
            caches.iter_mut().zip(before).for_each(|(cache, len)| cache.truncate(len));
        }
        result
    }

    fn run_cached(
        &self,
        batch: &TokenBatch,
        lengths: &[usize],
        caches: &mut [&mut KvCache],
    ) -> Result<Tensor> {
        let batch = &self.place(batch)?;
        let mut caches = KvPass::begin(caches, lengths)?;
        self.through_layers(batch.ids(), batch.positions(), |layer, attention, [q, k, v]| {
            let [q, k, v] = [q, k, v].map(Var::value);
            let spec = attention.cached_spec();
            match &attention.rope {
                Some(table) => {
                    let q = caches.append_turned(layer, [q, k, v], batch.positions(), table)?;
                    caches.attend(layer, &q, &spec)
                }
                None => {
                    caches.append(layer, k, v)?;
                    caches.attend(layer, q, &spec)
                }
            }
        })
    }

    /// The output of the final norm for tokens that are where the model is. `attend` gives the attention of a layer's new
    /// tokens, whose queries and keys are not turned to their positions yet.
    pub(super) fn through_layers(
        &self,
        ids: &Tensor,
        positions: &Tensor,
        mut attend: impl FnMut(usize, &Attention, &[Var; 3]) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let tape = Tape::inference();
        let mut x = self.embed(&tape, ids, positions)?;
        for (index, layer) in self.layers.iter().enumerate() {
            x = layer.forward(&tape, &x, self.adapters, |attention, qkv| {
                Ok(Var::constant(attend(index, attention, qkv)?))
            })?;
        }
        Ok(self.norm.forward(&tape, &x)?.into_value())
    }

    fn check_caches(&self, batch: &TokenBatch, lengths: &[usize], caches: &[&mut KvCache]) -> Result<()> {
        if lengths.len() != caches.len() {
            return bad(format!("{} caches for {} sequences", caches.len(), lengths.len()));
        }
        let positions = batch.positions().as_u32()?;
        let mut start = 0;
        for (i, (cache, &len)) in caches.iter().zip(lengths).enumerate() {
            self.check_cache(cache)?;
            let new = &positions[start..start + len];
            if new.iter().enumerate().any(|(j, &p)| p as usize != cache.len() + j) {
                return bad(format!(
                    "sequence {i} has {} tokens in its cache, and its new ones do not go on from there",
                    cache.len()
                ));
            }
            start += len;
        }
        Ok(())
    }

    pub(super) fn check_cache(&self, cache: &KvCache) -> Result<()> {
        let (layers, width) = (self.config.num_layers, self.config.num_kv_heads * self.config.head_dim);
        if cache.layers() != layers || cache.width() != width {
            return bad(format!(
                "made for {} layers of width {}, the model has {layers} of {width}",
                cache.layers(),
                cache.width()
            ));
        }
        Ok(())
    }
}

pub(super) fn bad<T>(detail: String) -> Result<T> {
    Err(Error::model("key/value cache", detail))
}
