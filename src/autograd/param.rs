//! Parameters: named values that training may change.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use crate::Result;
use crate::device::Device;
use crate::tensor::Tensor;

/// Identifies a parameter in this process; ids grow in the order of creation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ParamId(u64);

struct Inner {
    id: ParamId,
    name: String,
    trainable: AtomicBool,
    value: RwLock<Tensor>,
}

/// A named value of a model. Clones are the same parameter (tied weights are one parameter used twice).
#[derive(Clone)]
pub struct Param(Arc<Inner>);

impl Param {
    /// A trainable parameter.
    pub fn new(name: impl Into<String>, value: Tensor) -> Param {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = ParamId(NEXT.fetch_add(1, Ordering::Relaxed));
        Param(Arc::new(Inner {
            id,
            name: name.into(),
            trainable: AtomicBool::new(true),
            value: RwLock::new(value),
        }))
    }

    /// The parameter's identity.
    pub fn id(&self) -> ParamId {
        self.0.id
    }

    /// The name under which it is saved, e.g. `model.layers.0.mlp.up_proj.weight`.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Whether gradients are computed for it.
    pub fn is_trainable(&self) -> bool {
        self.0.trainable.load(Ordering::Relaxed)
    }

    /// Freezes (false) or unfreezes it.
    pub fn set_trainable(&self, trainable: bool) {
        self.0.trainable.store(trainable, Ordering::Relaxed);
    }

    /// The present value.
    pub fn value(&self) -> Tensor {
        self.0.value.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Moves the value to a device, where it stays.
    pub fn to_device(&self, device: Device) -> Result<()> {
        self.update(|value| {
            *value = value.to_device(device)?;
            Ok(())
        })
    }

    /// Changes the value through `f`; in place where nobody else holds the tensor.
    pub fn update<R>(&self, f: impl FnOnce(&mut Tensor) -> Result<R>) -> Result<R> {
        f(&mut self.0.value.write().unwrap_or_else(PoisonError::into_inner))
    }
}

impl std::fmt::Debug for Param {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Param({}, {:?})", self.name(), self.value())
    }
}

/// Gradients of parameters, in f32, summed over every backward that was given this collection.
#[derive(Default)]
pub struct Gradients(BTreeMap<ParamId, Tensor>);

impl Gradients {
    /// No gradients.
    pub fn new() -> Gradients {
        Gradients::default()
    }

    /// The gradient of a parameter, if any backward reached it.
    pub fn get(&self, param: &Param) -> Option<&Tensor> {
        self.0.get(&param.id())
    }

    /// As [`Gradients::get`], for changing it (clipping, scaling).
    pub fn get_mut(&mut self, param: &Param) -> Option<&mut Tensor> {
        self.0.get_mut(&param.id())
    }

    /// Adds `grad` to what is there, in f32.
    pub fn add(&mut self, id: ParamId, grad: Tensor) -> Result<()> {
        match self.0.entry(id) {
            std::collections::btree_map::Entry::Vacant(slot) => {
                slot.insert(grad.to_dtype(crate::tensor::DType::F32)?);
                Ok(())
            }
            std::collections::btree_map::Entry::Occupied(mut slot) => slot.get_mut().add_assign(&grad),
        }
    }

    /// Forgets everything, for the next step.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Names of the trainable parameters that no backward reached: a wrongly wired model, or a forgotten freeze.
    pub fn missing<'a>(&self, params: impl IntoIterator<Item = &'a Param>) -> Vec<String> {
        let unreached = params.into_iter().filter(|p| p.is_trainable() && self.get(p).is_none());
        unreached.map(|p| p.name().to_string()).collect()
    }
}
