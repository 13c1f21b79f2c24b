//! What a model's checkpoint holds, for those who work on its tensors one at a time.

use super::build::{Slot, Start, Value, build};
use super::load::{checked_values, exact, stored_shape, transpose};
use crate::Result;
use crate::formats::{DecoderConfig, RawTensor};
use crate::tensor::{DType, Tensor};

/// A tensor that a model is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSlot {
    /// Its name in a Hugging Face checkpoint.
    pub name: String,
    /// Its shape in memory.
    pub shape: Vec<usize>,
    /// Whether checkpoints hold the transpose (GPT-2's Conv1D).
    pub transposed: bool,
    /// Whether it is the weight of a linear layer (the output projection is none).
    pub linear: bool,
}

impl TensorSlot {
    /// The module and the dimensions `[out, in]`, of the weight of a linear layer.
    pub fn linear(&self) -> Option<(&str, [usize; 2])> {
        match (self.shape.as_slice(), self.name.strip_suffix(".weight")) {
            (&[out, input], Some(module)) if self.linear => Some((module, [out, input])),
            _ => None,
        }
    }

    /// The shape in which `raw`, which must have it, is stored.
    ///
    /// # Errors
    /// [`Error::Model`](crate::Error::Model), naming the tensor, when it has another.
    pub fn check(&self, raw: &RawTensor<'_>) -> Result<Vec<usize>> {
        stored_shape(raw, &self.slot())
    }

    /// The exact values of `raw`, in the order of the shape in memory.
    ///
    /// # Errors
    /// As [`TensorSlot::check`]; a type that holds no weights.
    pub fn values(&self, raw: &RawTensor<'_>) -> Result<Vec<f32>> {
        checked_values(raw, &self.slot())
    }

    /// The value of `raw` as a tensor: of the mapped file, where it is as the model has it.
    ///
    /// # Errors
    /// As [`TensorSlot::values`].
    pub fn tensor(&self, raw: &RawTensor<'_>, dtype: DType) -> Result<Tensor> {
        exact(raw, &self.slot(), dtype)
    }

    /// Values in the order in which checkpoints hold them.
    pub fn stored(&self, values: Vec<f32>) -> Vec<f32> {
        match *self.shape {
            [rows, columns] if self.transposed => transpose(&values, rows, columns),
            _ => values,
        }
    }

    fn slot(&self) -> Slot<'_> {
        let (name, shape) = (self.name.as_str(), self.shape.as_slice());
        Slot { name, shape, start: Start::Zeros, transposed: self.transposed, linear: self.linear }
    }
}

/// The tensors of the model that `config` describes, in the model's order.
///
/// # Errors
/// [`Error::Unsupported`](crate::Error::Unsupported) for a config that is none of a model here.
pub fn tensor_slots(config: &DecoderConfig) -> Result<Vec<TensorSlot>> {
    let mut slots = Vec::new();
    build(config, DType::F32, &mut |slot: &Slot<'_>| {
        slots.push(TensorSlot {
            name: slot.name.to_string(),
            shape: slot.shape.to_vec(),
            transposed: slot.transposed,
            linear: slot.linear,
        });
        Ok(Value::Dense(Tensor::zeros(&vec![0; slot.shape.len()], DType::F32)))
    })?;
    Ok(slots)
}
