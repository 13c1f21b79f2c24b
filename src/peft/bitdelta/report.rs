//! What a delta weighs, and how far it is from the model that it stands for.

use crate::formats::Checkpoint;
use crate::formats::bitdelta::{Delta, sign_bytes};
use crate::models::tensor_slots;
use crate::{Error, Result};

use super::apply::{add, modules_of};

/// Bytes of a parameter in bf16.
const BF16: u64 = 2;

/// The sizes of a delta, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Signs and scales of the projections.
    pub projections: u64,
    /// The same projections in bf16.
    pub projections_bf16: u64,
    /// Tensors in full, and how many there are.
    pub full: u64,
    /// Their number.
    pub full_tensors: usize,
    /// Everything in the delta.
    pub total: u64,
    /// The whole model in bf16.
    pub model_bf16: u64,
}

/// The sizes of a delta, and of what it stands for.
///
/// # Errors
/// [`Error::Model`] when the delta's modules are not those of its config.
pub fn sizes(delta: &Delta) -> Result<Sizes> {
    let slots = tensor_slots(delta.model_config())?;
    modules_of(delta, &slots)?;
    let modules = &delta.config().modules;
    let elements = |shape: &[usize]| shape.iter().map(|&d| d as u64).product::<u64>();
    let scales = |out: usize| 4 * if delta.config().per_row { out as u64 } else { 1 };
    let packed =
        modules.iter().map(|m| elements(&sign_bytes(m.shape).unwrap_or_default()) + scales(m.shape[0]));
    let projections = packed.sum();
    let names: Vec<&str> = delta.full().collect();
    let full =
        names.iter().map(|name| Ok(delta.full_tensor(name)?.bytes().len() as u64)).sum::<Result<u64>>()?;
    Ok(Sizes {
        projections,
        projections_bf16: BF16 * modules.iter().map(|m| elements(&m.shape)).sum::<u64>(),
        full,
        full_tensors: names.len(),
        total: projections + full,
        model_bf16: BF16 * slots.iter().map(|slot| elements(&slot.shape)).sum::<u64>(),
    })
}

/// How far a compressed projection is from the fine-tuned one.
#[derive(Clone, Debug, PartialEq)]
pub struct MatrixError {
    /// The module.
    pub module: String,
    /// |D - scale S| / |D| in the 2-norm over all elements, with D = W_fine - W_base; 0 where D is.
    pub of_delta: f64,
    /// |D - scale S| / |W_fine|.
    pub of_weight: f64,
}

/// The error of each projection, in f64.
///
/// # Errors
/// Those of [`Delta::check_base`]; [`Error::Model`] when `fine` is of another shape.
pub fn errors(delta: &Delta, base: &Checkpoint, fine: &Checkpoint) -> Result<Vec<MatrixError>> {
    delta.check_base(base)?;
    let slots = tensor_slots(delta.model_config())?;
    let modules = modules_of(delta, &slots)?;
    let mut all = Vec::with_capacity(modules.len());
    for slot in &slots {
        let Some(module) = slot.linear().and_then(|(name, _)| modules.get(name)) else { continue };
        if !fine.contains(&slot.name) {
            return Err(Error::model(
                fine.path().display().to_string(),
                format!("has no tensor '{}'", slot.name),
            ));
        }
        let (base, fine) = (slot.values(&base.get(&slot.name)?)?, slot.values(&fine.get(&slot.name)?)?);
        let mut ours = vec![0.0; base.len()];
        add(&mut ours, delta.signs(&module.name)?.bytes(), &delta.scale(&module.name)?, module.shape[1]);
        let (mut error, mut difference, mut weight) = (0.0, 0.0, 0.0);
        for ((base, fine), ours) in base.iter().zip(&fine).zip(&ours) {
            let d = f64::from(*fine) - f64::from(*base);
            error += (d - f64::from(*ours)).powi(2);
            difference += d * d;
            weight += f64::from(*fine).powi(2);
        }
        let ratio = |of: f64| if of > 0.0 { (error / of).sqrt() } else { 0.0 };
        let (of_delta, of_weight) = (ratio(difference), ratio(weight));
        all.push(MatrixError { module: module.name.clone(), of_delta, of_weight });
    }
    Ok(all)
}
