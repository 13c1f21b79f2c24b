//! A model to a Hugging Face folder.

use std::borrow::Cow;
use std::collections::HashSet;
use std::path::Path;

use super::Decoder;
use super::load::transpose;
use crate::device::Device;
use crate::formats::safetensors::{TensorSpec, write};
use crate::formats::{Architecture, RawDType, write_json};
use crate::tensor::{DType, Element, Tensor};
use crate::{Error, Result};

impl Decoder {
    /// Writes config.json and model.safetensors, in the names and layouts of Hugging Face, to `folder`, which is made if
    /// need be.
    ///
    /// # Errors
    /// [`Error::Model`] while adapters or 1-bit deltas are attached (they would be lost: merge them, or take them off); [`Error::Io`].
    pub fn save(&self, folder: &Path) -> Result<()> {
        if self.linears().any(|(_, linear)| linear.adapter().is_some()) {
            return Err(Error::model(
                "model",
                "has adapters, which its weights do not hold: merge them first",
            ));
        }
        if self.linears().any(|(_, linear)| linear.delta().is_some()) {
            return Err(Error::model(
                "model",
                "has 1-bit deltas, which its weights do not hold: fold them in first",
            ));
        }
        if self.quantized_weights().next().is_some() {
            return Err(Error::model("model", "has weights in 4 bits: dequantize them first"));
        }
        std::fs::create_dir_all(folder).map_err(Error::io(folder, "cannot create the folder"))?;
        // GPT-2 stores its linear layers as [in, out].
        let transposed: HashSet<String> = match self.config.architecture {
            Architecture::Gpt2 => self.linears().map(|(path, _)| format!("{path}.weight")).collect(),
            _ => HashSet::new(),
        };
        let tensors: Vec<(String, Tensor)> =
            self.parameters().iter().map(|p| (p.name().to_string(), p.value())).collect();
        let mut specs = Vec::with_capacity(tensors.len());
        for (name, value) in &tensors {
            let mut shape = value.shape().to_vec();
            if transposed.contains(name) {
                shape.reverse();
            }
            let (dtype, _) = stored(value.dtype());
            specs.push(TensorSpec { name: name.clone(), dtype, shape });
        }
        write(&folder.join("model.safetensors"), &specs, &[("format", "pt")], |spec| {
            match tensors.iter().find(|(name, _)| *name == spec.name) {
                Some((name, value)) => bytes(value, transposed.contains(name)),
                None => Err(Error::model(spec.name.as_str(), "is not a parameter of the model")),
            }
        })?;
        let mut config = self.config.clone();
        let of_weights = tensors.first().map_or(DType::F32, |(_, value)| value.dtype());
        config.dtype = Some(stored(of_weights).1.to_string());
        // The base may have been quantized; what is written is not.
        config.raw.shift_remove("quantization_config");
        write_json(&folder.join("config.json"), &config.to_json())
    }
}

/// How weights of a type are stored, and what config.json calls it.
fn stored(dtype: DType) -> (RawDType, &'static str) {
    match dtype {
        DType::BF16 => (RawDType::BF16, "bfloat16"),
        DType::F16 => (RawDType::F16, "float16"),
        _ => (RawDType::F32, "float32"),
    }
}

/// A tensor's elements, little-endian, as the file holds them.
fn bytes(value: &Tensor, transposed: bool) -> Result<Cow<'_, [u8]>> {
    if value.device() != Device::Cpu {
        return Ok(Cow::Owned(bytes(&value.to_device(Device::Cpu)?, transposed)?.into_owned()));
    }
    crate::dispatch_float!("save", value.dtype(), T => {
        let data = T::slice(value)?;
        Ok(match *value.shape() {
            [rows, columns] if transposed => {
                Cow::Owned(bytemuck::cast_slice(&transpose(data, rows, columns)).to_vec())
            }
            _ => Cow::Borrowed(bytemuck::cast_slice(data)),
        })
    })
}
