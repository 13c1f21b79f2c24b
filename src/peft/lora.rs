//! LoRA (arXiv 2106.09685): y = x W^T + bias + scale (dropout(x) A^T) B^T with W frozen, A `[r, in]` and B `[out, r]` trained.

use std::path::Path;

use crate::autograd::Param;
use crate::device::Device;
use crate::device::cpu::parallel::rows_mut;
use crate::device::philox::Philox;
use crate::formats::peft::{self, LoraConfig, LoraPair, tensor_name};
use crate::formats::{Architecture, RawTensor};
use crate::models::Decoder;
use crate::nn::{Adapter, Linear, Weight};
use crate::ops::quantize::dequantize;
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

/// Streams of initial values, apart from those of dropout (numbered from 0) and of fresh models.
const STREAM: u64 = 1 << 63;

/// Attaches fresh adapters to the modules that `config` names, in place of any others, and freezes everything else. A is
/// uniform in +-1 / sqrt(in), as peft draws it, and the same for the same seed; B is zero, so that the model at first
/// computes what its base does. Both are f32, whatever the weights are.
///
/// # Errors
/// [`Error::Config`] when a target matches no module (it lists the modules), for a rank of 0, or for a dropout outside [0, 1).
pub fn attach(model: &mut Decoder, config: &LoraConfig, seed: u64) -> Result<()> {
    let selected = select(model, config)?;
    unload(model);
    for (index, (path, linear)) in model.linears_mut().enumerate() {
        if !selected.contains(&path) {
            continue;
        }
        let (r, (out, input)) = (config.rank_of(&path)?, linear.dims());
        if r == 0 {
            return Err(Error::config("lora.r", "must be at least 1"));
        }
        let bound = 1.0 / (input as f32).sqrt();
        let random = Philox { seed, stream: STREAM | index as u64 };
        let a = (0..(r * input) as u64).map(|i| (2.0 * random.uniform(i) - 1.0) * bound).collect();
        let a = Tensor::from_f32(a, &[r, input]);
        let b = Tensor::from_f32(vec![0.0; out * r], &[out, r]);
        let device = linear.device();
        linear.attach(adapter(config, &path, a.to_device(device)?, b.to_device(device)?)?)?;
    }
    model.set_trainable(false);
    Ok(())
}

/// The adapters' parameters (A, then B of each module), in the order of the modules; named as in a PEFT file.
pub fn adapter_parameters(model: &Decoder) -> Vec<Param> {
    let adapters = model.linears().filter_map(|(_, linear)| linear.adapter());
    adapters.flat_map(|adapter| [adapter.a.clone(), adapter.b.clone()]).collect()
}

/// Attaches the adapter of a PEFT folder, in place of any other, and freezes everything else. Returns its settings.
///
/// # Errors
/// Those of [`peft::Adapter::open`]; [`Error::Model`], naming the tensor, when the adapter was made for another model: a
/// module that this one lacks, or factors that do not fit its weight.
pub fn load(model: &mut Decoder, folder: &Path) -> Result<LoraConfig> {
    let file = peft::Adapter::open(folder)?;
    let config = file.config().clone();
    check_config(&config)?;
    let mut adapters = Vec::new();
    for path in file.modules() {
        let foreign = |factor, detail: String| {
            let what = format!("{}: {}", folder.display(), tensor_name(path, factor));
            Error::model(what, format!("{detail}; the adapter was made for another model"))
        };
        let Some((_, linear)) = model.linears().find(|(name, _)| *name == path) else {
            return Err(foreign('A', format!("the model has no linear module '{path}'")));
        };
        let (out, input) = linear.dims();
        let (pair, r) = (file.pair(path)?, config.rank_of(path)?);
        for (factor, tensor, expected) in [('A', &pair.a, [r, input]), ('B', &pair.b, [out, r])] {
            if tensor.shape() != expected {
                let detail = format!("has shape {:?}, the model needs {expected:?}", tensor.shape());
                return Err(foreign(factor, detail));
            }
        }
        let (a, b) = (pair.a.to_f32()?, pair.b.to_f32()?);
        let (a, b) = (Tensor::from_f32(a, &[r, input]), Tensor::from_f32(b, &[out, r]));
        let device = linear.device();
        let adapter = adapter(&config, path, a.to_device(device)?, b.to_device(device)?)?;
        adapters.push((path.to_string(), adapter));
    }
    unload(model);
    for (path, linear) in model.linears_mut() {
        if let Some(at) = adapters.iter().position(|(name, _)| *name == path) {
            linear.attach(adapters.swap_remove(at).1)?;
        }
    }
    model.set_trainable(false);
    Ok(config)
}

/// Writes the adapters to a folder that peft loads.
///
/// # Errors
/// [`Error::Model`] when there is no adapter; [`Error::Io`].
pub fn save(model: &Decoder, config: &LoraConfig, folder: &Path) -> Result<()> {
    let config = LoraConfig {
        // Tells peft how the base model stores its weights, not how the adapter does.
        fan_in_fan_out: model.config().architecture == Architecture::Gpt2,
        ..config.clone()
    };
    let values: Vec<(&str, Tensor, Tensor)> = model
        .linears()
        .filter_map(|(path, linear)| linear.adapter().map(|x| (path, x.a.value(), x.b.value())))
        .collect();
    if values.is_empty() {
        return Err(Error::model("adapter", "there is none to save"));
    }
    let data: Vec<(Vec<f32>, Vec<f32>)> =
        values.iter().map(|(_, a, b)| Ok((a.fetch_f32()?, b.fetch_f32()?))).collect::<Result<_>>()?;
    let mut pairs = Vec::with_capacity(values.len());
    for ((path, a, b), (a_data, b_data)) in values.iter().zip(&data) {
        let pair = LoraPair {
            a: RawTensor::from_f32(tensor_name(path, 'A'), a.shape().to_vec(), a_data)?,
            b: RawTensor::from_f32(tensor_name(path, 'B'), b.shape().to_vec(), b_data)?,
        };
        pairs.push((*path, pair));
    }
    peft::write_adapter(folder, &config, &pairs)
}

/// Adds the adapters to the weights, W + scale B A computed in f32 (on the host, wherever the model is) and rounded once to
/// the weight's type (a weight in 4-bit blocks becomes one of the activations' type), and takes them off.
///
/// # Errors
/// [`Error::Model`] when there is no adapter.
pub fn merge(model: &mut Decoder) -> Result<()> {
    let mut merged = 0;
    let dtype = model.dtype();
    for (_, linear) in model.linears_mut() {
        if let Some(adapter) = linear.detach() {
            merge_one(linear, &adapter, dtype)?;
            merged += 1;
        }
    }
    match merged {
        0 => Err(Error::model("adapter", "there is none to merge")),
        _ => Ok(()),
    }
}

/// Merges into one layer; a weight in 4-bit blocks becomes one of type `dtype`.
fn merge_one(linear: &mut Linear, adapter: &Adapter, dtype: DType) -> Result<()> {
    let (a, b) = (adapter.a.value().fetch_f32()?, adapter.b.value().fetch_f32()?);
    let (_, input) = linear.dims();
    let r = a.len() / input.max(1);
    let add = |sum: &mut [f32]| {
        rows_mut(sum, input, |first, rows| {
            let mut delta = vec![0.0f32; input];
            for (i, row) in rows.chunks_exact_mut(input).enumerate() {
                delta.fill(0.0);
                for (&factor, a_row) in b[(first + i) * r..][..r].iter().zip(a.chunks_exact(input)) {
                    delta.iter_mut().zip(a_row).for_each(|(d, x)| *d += factor * x);
                }
                row.iter_mut().zip(&delta).for_each(|(w, d)| *w += adapter.scale * d);
            }
        });
    };
    match linear.weight() {
        Weight::Dense(weight) => weight.update(|value| {
            let mut sum = value.fetch_f32()?;
            add(&mut sum);
            *value =
                Tensor::from_f32(sum, value.shape()).to_dtype(value.dtype())?.to_device(value.device())?;
            Ok(())
        }),
        Weight::Quantized(weight) => {
            let device = weight.value().device();
            let value = dequantize(&weight.value().to_device(Device::Cpu)?, DType::F32)?;
            let shape = value.shape().to_vec();
            let mut sum = value.into_vec_f32()?;
            add(&mut sum);
            let merged = Tensor::from_f32(sum, &shape).to_dtype(dtype)?.to_device(device)?;
            let param = Param::new(weight.name(), merged);
            param.set_trainable(false);
            linear.set_weight(Weight::Dense(param))
        }
    }
}

/// Takes the adapters off; the weights are as they were.
pub fn unload(model: &mut Decoder) {
    for (_, linear) in model.linears_mut() {
        linear.detach();
    }
}

fn select(model: &Decoder, config: &LoraConfig) -> Result<Vec<String>> {
    check_config(config)?;
    let names: Vec<&str> = model.linears().map(|(path, _)| path).collect();
    Ok(config.target_modules.select(&names)?.into_iter().map(str::to_string).collect())
}

fn check_config(config: &LoraConfig) -> Result<()> {
    if !(0.0..1.0).contains(&config.lora_dropout) {
        return Err(Error::config("lora.dropout", format!("{} is not in [0, 1)", config.lora_dropout)));
    }
    if !config.lora_alpha.is_finite() {
        return Err(Error::config("lora.alpha", format!("{} is not a number", config.lora_alpha)));
    }
    Ok(())
}

fn adapter(config: &LoraConfig, path: &str, a: Tensor, b: Tensor) -> Result<Adapter> {
    Ok(Adapter {
        a: Param::new(tensor_name(path, 'A'), a),
        b: Param::new(tensor_name(path, 'B'), b),
        scale: config.scale_of(path)? as f32,
        dropout: config.lora_dropout as f32,
    })
}
