//! What an optimizer keeps of a parameter: where, in which form, and under which names it is saved.

use std::collections::BTreeMap;

use super::blockwise::{BLOCK, LEAST_ELEMENTS};
use super::{States, refuse};
use crate::Result;
use crate::autograd::Param;
use crate::device::Device;
use crate::tensor::{DType, Tensor};

/// Names of the state's parts, before the parameter's name.
const EXP_AVG: &str = "exp_avg.";
const EXP_AVG_SQ: &str = "exp_avg_sq.";
const MASTER: &str = "master.";
/// And of the scales of those in 8 bits.
const EXP_AVG_ABSMAX: &str = "exp_avg_absmax.";
const EXP_AVG_SQ_ABSMAX: &str = "exp_avg_sq_absmax.";

/// A parameter and its state.
pub(super) struct Slot {
    pub param: Param,
    pub decay: bool,
    pub averages: Averages,
    /// The f32 copy that takes the steps, if the parameter is bf16 and has one.
    pub master: Option<Tensor>,
    /// The number of its first element among those of all parameters, each of which starts at a multiple of 4.
    pub first_word: u64,
}

/// The averages of the gradient and of its square.
#[derive(Clone)]
pub(super) enum Averages {
    F32 { exp_avg: Tensor, exp_avg_sq: Tensor },
    Blockwise { exp_avg: Blocks, exp_avg_sq: Blocks },
}

/// A tensor in blocks of 8-bit codes.
#[derive(Clone)]
pub(super) struct Blocks {
    /// Of the parameter's shape.
    pub codes: Tensor,
    /// The largest magnitude of each block of the elements in a row.
    pub absmax: Tensor,
}

impl Averages {
    /// The form in which a parameter of `elements` elements has them.
    fn form(states: States, elements: usize) -> States {
        if elements < LEAST_ELEMENTS { States::F32 } else { states }
    }

    /// Zeros for a parameter.
    pub fn zeros(states: States, value: &Tensor) -> Result<Averages> {
        let zeros = |shape: &[usize], dtype| Tensor::zeros_on(value.device(), shape, dtype);
        Ok(match Averages::form(states, value.numel()) {
            States::F32 => Averages::F32 {
                exp_avg: zeros(value.shape(), DType::F32)?,
                exp_avg_sq: zeros(value.shape(), DType::F32)?,
            },
            States::Blockwise8 => {
                let blocks = || -> Result<Blocks> {
                    let absmax = zeros(&[value.numel().div_ceil(BLOCK)], DType::F32)?;
                    Ok(Blocks { codes: zeros(value.shape(), DType::U8)?, absmax })
                };
                Averages::Blockwise { exp_avg: blocks()?, exp_avg_sq: blocks()? }
            }
        })
    }

    /// The tensor of the parameter's shape that shows where the averages are.
    pub fn shown(&self) -> &Tensor {
        match self {
            Averages::F32 { exp_avg, .. } => exp_avg,
            Averages::Blockwise { exp_avg, .. } => &exp_avg.codes,
        }
    }

    /// Every tensor, by the part of its name before the parameter's.
    fn parts(&self) -> Vec<(&'static str, &Tensor)> {
        match self {
            Averages::F32 { exp_avg, exp_avg_sq } => vec![(EXP_AVG, exp_avg), (EXP_AVG_SQ, exp_avg_sq)],
            Averages::Blockwise { exp_avg, exp_avg_sq } => vec![
                (EXP_AVG, &exp_avg.codes),
                (EXP_AVG_ABSMAX, &exp_avg.absmax),
                (EXP_AVG_SQ, &exp_avg_sq.codes),
                (EXP_AVG_SQ_ABSMAX, &exp_avg_sq.absmax),
            ],
        }
    }

    /// As [`Averages::parts`], for changing them.
    fn parts_mut(&mut self) -> Vec<(&'static str, &mut Tensor)> {
        match self {
            Averages::F32 { exp_avg, exp_avg_sq } => vec![(EXP_AVG, exp_avg), (EXP_AVG_SQ, exp_avg_sq)],
            Averages::Blockwise { exp_avg, exp_avg_sq } => vec![
                (EXP_AVG, &mut exp_avg.codes),
                (EXP_AVG_ABSMAX, &mut exp_avg.absmax),
                (EXP_AVG_SQ, &mut exp_avg_sq.codes),
                (EXP_AVG_SQ_ABSMAX, &mut exp_avg_sq.absmax),
            ],
        }
    }
}

impl Slot {
    /// Its tensors by name, in host memory.
    pub fn saved(&self) -> Result<Vec<(String, Tensor)>> {
        let parts = self.averages.parts().into_iter();
        let master = self.master.as_ref().map(|master| (MASTER, master));
        let name = |part: &str| format!("{part}{}", self.param.name());
        parts.chain(master).map(|(part, tensor)| Ok((name(part), tensor.to_device(Device::Cpu)?))).collect()
    }

    /// What [`Slot::restore`] takes: the state among saved tensors, which are taken out and brought to where the parameter is. Nothing of
    /// the slot is changed.
    pub fn taken(&self, tensors: &mut BTreeMap<String, Tensor>) -> Result<(Averages, Option<Tensor>)> {
        let mut take = |part: &str, like: &Tensor| -> Result<Tensor> {
            let name = format!("{part}{}", self.param.name());
            let Some(tensor) = tensors.remove(&name) else {
                return Err(refuse(format!("the saved state lacks '{name}'")));
            };
            if tensor.dtype() != like.dtype() && part != MASTER {
                let kind = |dtype| if dtype == DType::U8 { States::Blockwise8 } else { States::F32 };
                let (have, want) = (kind(tensor.dtype()), kind(like.dtype()));
                let detail = format!(
                    "saved state '{name}' is {}, of an optimizer with {have} states; this one has {want} states (setting \
                     train.optimizer): go on with the setting that it was saved with",
                    tensor.dtype()
                );
                return Err(refuse(detail));
            }
            if tensor.dtype() != like.dtype() || tensor.shape() != like.shape() {
                let (dtype, shape) = (like.dtype(), like.shape());
                return Err(refuse(format!(
                    "saved state '{name}' is {tensor:?}, expected {dtype} {shape:?}"
                )));
            }
            tensor.to_device(like.device())
        };
        let mut averages = self.averages.clone();
        for (part, tensor) in averages.parts_mut() {
            *tensor = take(part, tensor)?;
        }
        let master = self.master.as_ref().map(|master| take(MASTER, master)).transpose()?;
        Ok((averages, master))
    }

    /// Goes on from a saved state.
    pub fn restore(&mut self, (averages, master): (Averages, Option<Tensor>)) {
        (self.averages, self.master) = (averages, master);
    }
}
