//! Weights in 4-bit blocks: frozen, and so no parameters.

use std::sync::{Arc, PoisonError, RwLock};

use crate::device::Device;
use crate::tensor::QuantizedTensor;
use crate::{Error, Result};

/// A named weight `[out, in]` in 4-bit blocks. Clones are the same weight.
#[derive(Clone)]
pub struct QuantizedWeight(Arc<Inner>);

struct Inner {
    name: String,
    value: RwLock<QuantizedTensor>,
}

impl QuantizedWeight {
    /// A weight, named as in a checkpoint, e.g. `model.layers.0.mlp.up_proj.weight`.
    pub fn new(name: impl Into<String>, value: QuantizedTensor) -> QuantizedWeight {
        QuantizedWeight(Arc::new(Inner { name: name.into(), value: RwLock::new(value) }))
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The value.
    pub fn value(&self) -> QuantizedTensor {
        self.0.value.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts another value in its place.
    ///
    /// # Errors
    /// One of another shape.
    pub fn set(&self, new: QuantizedTensor) -> Result<()> {
        let mut value = self.0.value.write().unwrap_or_else(PoisonError::into_inner);
        if value.shape() != new.shape() {
            let detail = format!("{:?} for a weight of shape {:?}", new.shape(), value.shape());
            return Err(Error::model(self.name(), detail));
        }
        *value = new;
        Ok(())
    }

    /// Moves the value to a device, where it stays.
    ///
    /// # Errors
    /// [`Error::Cuda`](crate::Error::Cuda) when it does not fit.
    pub fn to_device(&self, device: Device) -> Result<()> {
        let mut value = self.0.value.write().unwrap_or_else(PoisonError::into_inner);
        *value = value.to_device(device)?;
        Ok(())
    }
}

impl std::fmt::Debug for QuantizedWeight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "QuantizedWeight({}, {:?})", self.name(), self.value())
    }
}
