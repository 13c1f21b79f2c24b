//! A model on paper.

use super::build::{Slot, Value, build};
use crate::Result;
use crate::formats::DecoderConfig;
use crate::tensor::{DType, Tensor};

/// A weight that a model of some config has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightShape {
    /// Its name in a Hugging Face checkpoint.
    pub name: String,
    /// Its shape in memory.
    pub shape: Vec<usize>,
    /// The path of the linear layer that it belongs to, where it is such a layer's weight (the output projection's is none): it may be
    /// quantized, and have an adapter.
    pub linear: Option<String>,
}

impl WeightShape {
    /// The number of elements.
    pub fn numel(&self) -> usize {
        self.shape.iter().product()
    }
}

/// The weights that a model of this config has, each once (tied weights too), without room for any of them.
///
/// # Errors
/// A config that calls for what there is not.
pub fn weight_shapes(config: &DecoderConfig) -> Result<Vec<WeightShape>> {
    let mut all = Vec::new();
    build(config, DType::F32, &mut |slot: &Slot<'_>| {
        let name = slot.name.to_string();
        let linear = slot.linear.then(|| slot.name.trim_end_matches(".weight").to_string());
        all.push(WeightShape { name, shape: slot.shape.to_vec(), linear });
        Ok(Value::Dense(Tensor::zeros(&vec![0; slot.shape.len()], DType::F32)))
    })?;
    Ok(all)
}
