//! Deltas on models in memory.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};

use crate::autograd::Param;
use crate::formats::bitdelta::{Delta, Parts, scale_name, write_delta};
use crate::formats::safetensors::{SafetensorsFile, write_tensors};
use crate::formats::{Checkpoint, RawTensor};
use crate::models::Decoder;
use crate::nn::{self, Linear, Weight};
use crate::ops::quantize::{Quantization, dequantize};
use crate::tensor::{DType, SignTensor, Tensor};
use crate::{Error, Result};

use super::apply::add;

/// The scales alone, in a checkpoint of a run.
const SCALES_FILE: &str = "scales.safetensors";

/// The model that base and delta make, with the delta beside the base's weights (which are quantized as they are read, where that is asked for).
///
/// # Errors
/// Those of [`Delta::over`], [`Decoder::load`] and [`attach`].
pub fn load(base: Checkpoint, delta: &Delta, dtype: DType, how: Option<&Quantization>) -> Result<Decoder> {
    let checkpoint = delta.over(base)?;
    let mut model = match how {
        Some(how) => Decoder::load_quantized(&checkpoint, delta.model_config(), dtype, how)?,
        None => Decoder::load(&checkpoint, delta.model_config(), dtype)?,
    };
    attach(&mut model, delta)?;
    Ok(model)
}

/// Adds the signs and scales of a delta to the linear layers of its base, in place of any others, and freezes everything. The other tensors
/// have to be the delta's already: see [`load`].
///
/// # Errors
/// [`Error::Model`] when the model has no such projection (it is then as it was); [`Error::Cuda`] when they do not fit its device.
pub fn attach(model: &mut Decoder, delta: &Delta) -> Result<()> {
    let mut deltas = BTreeMap::new();
    for module in &delta.config().modules {
        let foreign = || {
            let detail = format!(
                "the model has no projection '{}' of {:?}: it is not the base",
                module.name, module.shape
            );
            Error::model(delta.folder().display().to_string(), detail)
        };
        let found = model
            .linears()
            .find(|(path, linear)| *path == module.name && linear.dims() == module.shape.into());
        let (path, linear) = found.ok_or_else(foreign)?;
        let of_file = nn::Delta::new(
            signs(delta, &module.name, module.shape)?,
            scale(&module.name, delta.scale(&module.name)?),
        );
        of_file.to_device(linear.device())?;
        deltas.insert(path.to_owned(), of_file);
    }
    detach(model);
    for (path, linear) in model.linears_mut() {
        if let Some(of_file) = deltas.remove(&path) {
            linear.set_delta(of_file)?;
        }
    }
    model.set_trainable(false);
    Ok(())
}

/// Takes the deltas off; the weights are the base's.
pub fn detach(model: &mut Decoder) {
    for (_, linear) in model.linears_mut() {
        linear.take_delta();
    }
}

/// The scales, in the order of the modules; named as in a delta's file. They are frozen.
pub fn scales(model: &Decoder) -> Vec<Param> {
    model.linears().filter_map(|(_, linear)| linear.delta()).map(|delta| delta.scale().clone()).collect()
}

/// Adds the deltas to the weights, W + scale S in f32 and rounded once to the weight's type (a weight in 4-bit blocks becomes one of the activations'
/// type), and takes them off.
///
/// # Errors
/// [`Error::Model`] when there is none; [`Error::Cuda`].
pub fn fold(model: &mut Decoder) -> Result<()> {
    let mut folded = 0;
    let dtype = model.dtype();
    for (_, linear) in model.linears_mut() {
        if let Some(delta) = linear.take_delta() {
            fold_one(linear, &delta, dtype)?;
            folded += 1;
        }
    }
    match folded {
        0 => Err(Error::model("delta", "there is none to fold in")),
        _ => Ok(()),
    }
}

fn fold_one(linear: &mut Linear, delta: &nn::Delta, dtype: DType) -> Result<()> {
    let (name, value, dtype) = match linear.weight() {
        Weight::Dense(weight) => (weight.name().to_owned(), weight.value(), weight.value().dtype()),
        Weight::Quantized(weight) => {
            (weight.name().to_owned(), dequantize(&weight.value(), DType::F32)?, dtype)
        }
    };
    let mut sum = value.fetch_f32()?;
    let signs = delta.signs().to_device(crate::device::Device::Cpu)?;
    add(&mut sum, signs.bits().as_u8()?, &delta.scale().value().fetch_f32()?, signs.shape()[1]);
    let folded = Tensor::from_f32(sum, signs.shape()).to_dtype(dtype)?.to_device(value.device())?;
    let param = Param::new(name, folded);
    param.set_trainable(false);
    linear.set_weight(Weight::Dense(param))
}

/// Writes the delta that a model has now, whose scales may have been trained, to a folder: signs, full tensors and config are those of
/// `source`, from which it was attached.
///
/// # Errors
/// [`Error::Model`] when the model has not the delta's modules; [`Error::Io`].
pub fn save(model: &Decoder, source: &Delta, recipe: Map<String, Value>, folder: &Path) -> Result<()> {
    let mut config = source.config().clone();
    config.recipe = recipe;
    let mut parts = Vec::with_capacity(config.modules.len());
    for module in &config.modules {
        let attached =
            model.linears().find(|(path, _)| *path == module.name).and_then(|(_, linear)| linear.delta());
        let Some(attached) = attached else {
            return Err(Error::model(module.name.as_str(), "has no delta to save"));
        };
        let scale = attached.scale().value().fetch_f32()?;
        parts.push(Parts { signs: source.signs(&module.name)?.bytes().to_vec().into(), scale });
    }
    let full = super::full_of(source)?;
    write_delta(folder, &config, &source.model_config().to_json(), &parts, &full, |name| {
        Ok(source.full_tensor(name)?.bytes().to_vec().into())
    })
}

/// Writes the scales into the checkpoint of a run.
///
/// # Errors
/// [`Error::Io`].
pub fn save_scales(model: &Decoder, folder: &Path) -> Result<()> {
    let params = scales(model);
    let values = params.iter().map(|param| param.value().fetch_f32()).collect::<Result<Vec<_>>>()?;
    let named = params.iter().zip(&values);
    let tensors = named
        .map(|(param, values)| RawTensor::from_f32(param.name(), vec![values.len()], values))
        .collect::<Result<Vec<_>>>()?;
    write_tensors(&folder.join(SCALES_FILE), &tensors, &[])
}

/// Reads them back.
///
/// # Errors
/// [`Error::Format`] when one is missing or of another length.
pub fn load_scales(model: &Decoder, folder: &Path) -> Result<()> {
    let file = SafetensorsFile::open(&folder.join(SCALES_FILE))?;
    for param in scales(model) {
        let raw = file.get(param.name())?;
        param.update(|value| {
            if raw.shape() != value.shape() {
                let detail = format!("has shape {:?}, the delta's is {:?}", raw.shape(), value.shape());
                return Err(Error::format_key(file.path(), param.name(), detail));
            }
            *value = Tensor::from_f32(raw.to_f32()?, raw.shape()).to_device(value.device())?;
            Ok(())
        })?;
    }
    Ok(())
}

/// A module's signs: of the mapped file, or copied where that is not possible.
fn signs(delta: &Delta, module: &str, shape: [usize; 2]) -> Result<SignTensor> {
    let raw = delta.signs(module)?;
    let mapped = raw
        .in_place()
        .and_then(|(file, start)| Tensor::from_shared_bytes(file, start, raw.shape(), DType::U8));
    let bits = mapped.unwrap_or_else(|| Tensor::from_u8(raw.bytes().to_vec(), raw.shape()));
    SignTensor::new(shape, bits)
}

fn scale(module: &str, values: Vec<f32>) -> Param {
    let len = values.len();
    let param = Param::new(scale_name(module), Tensor::from_f32(values, &[len]));
    param.set_trainable(false);
    param
}
