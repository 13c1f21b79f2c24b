//! 1-bit deltas of weights (BitDelta, arXiv 2402.10193).

use std::sync::{Arc, PoisonError, RwLock};

use crate::Result;
use crate::autograd::Param;
use crate::device::Device;
use crate::tensor::SignTensor;

/// A 1-bit addition to a linear layer's weight: `scale S`. Clones are the same delta.
#[derive(Clone)]
pub struct Delta {
    /// S, `[out, in]`; frozen.
    signs: Arc<RwLock<SignTensor>>,
    /// f32; `[1]`, or `[out]` for each row of S.
    scale: Param,
}

impl Delta {
    /// A delta; the layer that it is attached to checks whether it fits.
    pub fn new(signs: SignTensor, scale: Param) -> Delta {
        Delta { signs: Arc::new(RwLock::new(signs)), scale }
    }

    /// The signs.
    pub fn signs(&self) -> SignTensor {
        self.signs.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The scale.
    pub fn scale(&self) -> &Param {
        &self.scale
    }

    /// Moves signs and scale to a device, where they stay.
    ///
    /// # Errors
    /// [`Error::Cuda`](crate::Error::Cuda) when they do not fit.
    pub fn to_device(&self, device: Device) -> Result<()> {
        let mut signs = self.signs.write().unwrap_or_else(PoisonError::into_inner);
        *signs = signs.to_device(device)?;
        self.scale.to_device(device)
    }
}

impl std::fmt::Debug for Delta {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Delta({:?}, {:?})", self.signs(), self.scale)
    }
}
