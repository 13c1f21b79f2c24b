//! optimizer.safetensors in a checkpoint: the optimizer's state, bit for bit.

use std::collections::BTreeMap;
use std::path::Path;

use crate::Result;
use crate::formats::safetensors::{SafetensorsFile, write_tensors};
use crate::formats::{RawDType, RawTensor};
use crate::optim::AdamW;
use crate::tensor::{DType, Tensor};

const FILE: &str = "optimizer.safetensors";

/// Writes the state into a checkpoint folder.
pub(super) fn save(folder: &Path, optimizer: &AdamW) -> Result<()> {
    let state = optimizer.state_tensors()?;
    let mut tensors = Vec::with_capacity(state.len());
    for (name, tensor) in &state {
        let shape = tensor.shape().to_vec();
        tensors.push(match tensor.dtype() {
            DType::U8 => RawTensor::new(name.as_str(), RawDType::U8, shape, tensor.as_u8()?)?,
            _ => RawTensor::from_f32(name.as_str(), shape, tensor.as_f32()?)?,
        });
    }
    write_tensors(&folder.join(FILE), &tensors, &[])
}

/// Reads it back, for an optimizer that has done `steps` steps.
pub(super) fn load(folder: &Path, optimizer: &mut AdamW, steps: u64) -> Result<()> {
    let file = SafetensorsFile::open(&folder.join(FILE))?;
    let mut tensors = BTreeMap::new();
    for name in file.names() {
        let raw = file.get(name)?;
        let tensor = match raw.dtype() {
            RawDType::U8 => Tensor::from_u8(raw.bytes().to_vec(), raw.shape()),
            _ => Tensor::from_f32(raw.to_f32()?, raw.shape()),
        };
        tensors.insert(name.to_string(), tensor);
    }
    optimizer.load_state(steps, tensors)
}
