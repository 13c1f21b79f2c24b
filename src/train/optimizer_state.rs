//! optimizer.safetensors in a checkpoint: AdamW's moments, bit for bit.

use std::path::Path;

use crate::autograd::Param;
use crate::formats::RawTensor;
use crate::formats::safetensors::{SafetensorsFile, write_tensors};
use crate::optim::adamw::AdamW;
use crate::{Error, Result};

const FILE: &str = "optimizer.safetensors";
const MOMENTS: [&str; 2] = ["exp_avg", "exp_avg_sq"];

/// Writes the moments of `params` into a checkpoint folder.
pub(super) fn save(folder: &Path, params: &[Param], optimizer: &AdamW) -> Result<()> {
    let mut tensors = Vec::with_capacity(2 * params.len());
    for (i, param) in params.iter().enumerate() {
        let (m, v) = optimizer.moments(i);
        for (moment, values) in MOMENTS.into_iter().zip([m, v]) {
            let name = format!("{moment}.{}", param.name());
            tensors.push(RawTensor::from_f32(name, param.value().shape().to_vec(), values)?);
        }
    }
    write_tensors(&folder.join(FILE), &tensors, &[])
}

/// Reads them back; `steps` is how many steps the optimizer has done.
pub(super) fn load(folder: &Path, params: &[Param], optimizer: &mut AdamW, steps: u64) -> Result<()> {
    let path = folder.join(FILE);
    let file = SafetensorsFile::open(&path)?;
    let read = |moment: &str, param: &Param| -> Result<Vec<f32>> {
        let name = format!("{moment}.{}", param.name());
        let tensor = file.get(&name)?;
        if tensor.shape() != param.value().shape() {
            let detail =
                format!("has shape {:?}; the parameter has {:?}", tensor.shape(), param.value().shape());
            return Err(Error::format_key(&path, name, detail));
        }
        tensor.to_f32()
    };
    let moments = params.iter().map(|p| Ok((read(MOMENTS[0], p)?, read(MOMENTS[1], p)?)));
    optimizer.restore(steps, moments.collect::<Result<_>>()?);
    Ok(())
}
