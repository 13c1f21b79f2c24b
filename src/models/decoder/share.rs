//! Models that share parameters.

use std::sync::Arc;

use super::Decoder;
use crate::Result;
use crate::nn::Weight;

impl Decoder {
    /// A model with this one's config and parameters (the same ones: what moves or trains one moves or trains the other), but for the weights of the
    /// linear layers, which `weight` gives by module path and dimensions `[out, in]`. It has neither adapters nor deltas.
    ///
    /// # Errors
    /// Whatever `weight` returns; a weight of other dimensions.
    pub fn sharing(&self, mut weight: impl FnMut(&str, [usize; 2]) -> Result<Weight>) -> Result<Decoder> {
        let mut other = Decoder {
            config: self.config.clone(),
            embedding: self.embedding.clone(),
            positions: self.positions.clone(),
            layers: self.layers.iter().map(|layer| Arc::new((**layer).clone())).collect(),
            norm: self.norm.clone(),
            head: self.head.clone(),
            dtype: self.dtype,
            checkpointing: self.checkpointing,
            adapters: self.adapters,
        };
        for (path, linear) in other.linears_mut() {
            let (out, input) = linear.dims();
            linear.set_weight(weight(&path, [out, input])?)?;
            linear.detach();
            linear.take_delta();
        }
        Ok(other)
    }
}
