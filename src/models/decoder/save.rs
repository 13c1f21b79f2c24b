//! A model to a Hugging Face folder.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::path::Path;

use super::Decoder;
use super::load::transpose;
use super::quantize::{part_bytes, torch_name};
use crate::device::Device;
use crate::formats::bitsandbytes::{self, Layout, Part};
use crate::formats::safetensors::{TensorSpec, write};
use crate::formats::{Architecture, RawDType, write_json};
use crate::tensor::{BlockScales, DType, Element, QuantizedTensor, Tensor};
use crate::{Error, Result};

impl Decoder {
    /// Writes config.json and model.safetensors, in the names and layouts of Hugging Face, to `folder`, which is made if
    /// need be. Weights in 4-bit blocks stay so, in the layout of bitsandbytes.
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
        self.save_base(folder)
    }

    /// As [`Decoder::save`], without the adapters that may be attached.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save_base(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder).map_err(Error::io(folder, "cannot create the folder"))?;
        let (mut entries, mut specs) = (HashMap::new(), Vec::new());
        // GPT-2 stores its linear layers as [in, out].
        let gpt2 = self.config.architecture == Architecture::Gpt2;
        let linear: HashSet<String> = self.linears().map(|(path, _)| format!("{path}.weight")).collect();
        for param in self.parameters() {
            let (name, value) = (param.name().to_string(), param.value());
            let transposed = gpt2 && linear.contains(&name);
            let mut shape = value.shape().to_vec();
            if transposed {
                shape.reverse();
            }
            specs.push(TensorSpec { name: name.clone(), dtype: stored(value.dtype()), shape });
            entries.insert(name, Entry::Dense { value, transposed });
        }
        let mut quantized: Vec<(QuantizedTensor, Layout)> = Vec::new();
        for weight in self.quantized_weights() {
            let value = weight.value();
            let layout = layout(&value, torch_name(stored(self.dtype)));
            for (part, spec) in layout.specs(weight.name()) {
                entries.insert(spec.name.clone(), Entry::Part { of: quantized.len(), part });
                specs.push(spec);
            }
            quantized.push((value, layout));
        }
        let of_weights = specs.first().map_or(RawDType::F32, |spec| spec.dtype);
        write(&folder.join("model.safetensors"), &specs, &[("format", "pt")], |spec| {
            match entries.get(&spec.name) {
                Some(Entry::Dense { value, transposed }) => bytes(value, *transposed),
                Some(&Entry::Part { of, part }) => {
                    let (value, layout) = &quantized[of];
                    part_bytes(&value.to_device(Device::Cpu)?, layout, part).map(Cow::Owned)
                }
                None => Err(Error::model(spec.name.as_str(), "is not a parameter of the model")),
            }
        })?;
        let mut config = self.config.clone();
        let dtype = torch_name(of_weights);
        config.dtype = Some(dtype.to_string());
        // What is written may be quantized otherwise than what was read.
        config.raw.shift_remove(bitsandbytes::CONFIG_KEY);
        let mut json = config.to_json();
        if let Some((_, Layout { kind, nested_block, .. })) = quantized.first() {
            json.insert(
                bitsandbytes::CONFIG_KEY.into(),
                bitsandbytes::config(kind, nested_block.is_some(), dtype),
            );
        }
        write_json(&folder.join("config.json"), &json)
    }
}

/// What a tensor of the file is.
enum Entry {
    Dense {
        value: Tensor,
        transposed: bool,
    },
    /// A part of a quantized weight, by its number among these.
    Part {
        of: usize,
        part: Part,
    },
}

/// The layout of a weight in 4-bit blocks that stands for numbers of type `dtype`.
fn layout(value: &QuantizedTensor, dtype: &'static str) -> Layout {
    let nested_block = match value.scales() {
        BlockScales::Plain(_) => None,
        BlockScales::Nested(nested) => Some(nested.block),
    };
    Layout { kind: value.kind().name(), shape: *value.shape(), block: value.block(), nested_block, dtype }
}

/// How weights of a type are stored.
fn stored(dtype: DType) -> RawDType {
    match dtype {
        DType::BF16 => RawDType::BF16,
        DType::F16 => RawDType::F16,
        _ => RawDType::F32,
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
