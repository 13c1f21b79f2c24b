//! What an optimizer keeps of a parameter: where, in which form, and under which names it is saved.

use std::collections::BTreeMap;

use super::blockwise::BLOCK;
use super::paging::form;
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

/// Where the large tensors of a state are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Home {
    /// Where the parameter is.
    Parameter,
    /// In host memory that the parameter's device reaches.
    Host,
}

impl Home {
    /// Zeros of a parameter's shape.
    fn zeros(self, value: &Tensor, dtype: DType) -> Result<Tensor> {
        match (self, value.cuda_device()) {
            (Home::Host, Some(device)) => Tensor::zeros_on_host(device, value.shape(), dtype),
            _ => Tensor::zeros_on(value.device(), value.shape(), dtype),
        }
    }

    /// An f32 copy of a parameter.
    fn widened(self, value: &Tensor) -> Result<Tensor> {
        match (self, value.cuda_device()) {
            (Home::Host, Some(_)) => {
                let mut copy = self.zeros(value, DType::F32)?;
                // On the way through the host nothing takes memory of the device.
                copy.overwrite(&value.to_device(Device::Cpu)?.to_dtype(DType::F32)?)?;
                Ok(copy)
            }
            _ => value.to_dtype(DType::F32),
        }
    }
}

/// The averages of the gradient and of its square.
pub(super) enum Averages {
    F32 { exp_avg: Tensor, exp_avg_sq: Tensor },
    Blockwise { exp_avg: Blocks, exp_avg_sq: Blocks },
}

/// A tensor in blocks of 8-bit codes.
pub(super) struct Blocks {
    /// Of the parameter's shape.
    pub codes: Tensor,
    /// The largest magnitude of each block of the elements in a row.
    pub absmax: Tensor,
}

impl Averages {
    /// Zeros for a parameter.
    fn zeros(states: States, value: &Tensor, home: Home) -> Result<Averages> {
        let average = |dtype| home.zeros(value, dtype);
        Ok(match form(states, value.numel()) {
            States::F32 => Averages::F32 { exp_avg: average(DType::F32)?, exp_avg_sq: average(DType::F32)? },
            States::Blockwise8 => {
                let blocks = || -> Result<Blocks> {
                    let scales = [value.numel().div_ceil(BLOCK)];
                    let absmax = Tensor::zeros_on(value.device(), &scales, DType::F32)?;
                    Ok(Blocks { codes: average(DType::U8)?, absmax })
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
    /// The tensors that may be in host memory.
    fn pageable(&mut self) -> impl Iterator<Item = &mut Tensor> {
        let averages = match &mut self.averages {
            Averages::F32 { exp_avg, exp_avg_sq } => [exp_avg, exp_avg_sq],
            Averages::Blockwise { exp_avg, exp_avg_sq } => [&mut exp_avg.codes, &mut exp_avg_sq.codes],
        };
        averages.into_iter().chain(&mut self.master)
    }

    /// Bytes of them that a device has.
    pub fn on_device(&mut self) -> usize {
        let there = self.pageable().filter(|tensor| tensor.cuda_device().is_some() && !tensor.is_on_host());
        there.map(|tensor| tensor.numel() * tensor.dtype().size()).sum()
    }

    /// Moves them to host memory; the bytes that a device has no longer.
    pub fn page_out(&mut self) -> Result<usize> {
        self.pageable().map(Tensor::move_to_host).sum()
    }

    /// The state of a parameter before its first step, with a master copy or without.
    pub fn new(
        (param, decay): (Param, bool),
        states: States,
        master: bool,
        first_word: u64,
        home: Home,
    ) -> Result<Slot> {
        let value = param.value();
        let averages = Averages::zeros(states, &value, home)?;
        let master = if master { Some(home.widened(&value)?) } else { None };
        Ok(Slot { param, decay, averages, master, first_word })
    }

    /// Its tensors by name, in host memory.
    pub fn saved(&self) -> Result<Vec<(String, Tensor)>> {
        let parts = self.averages.parts().into_iter();
        let master = self.master.as_ref().map(|master| (MASTER, master));
        let name = |part: &str| format!("{part}{}", self.param.name());
        parts.chain(master).map(|(part, tensor)| Ok((name(part), tensor.to_device(Device::Cpu)?))).collect()
    }

    /// What [`Slot::restore`] takes: the state among saved tensors, which are taken out and checked. Nothing of the slot is changed.
    pub fn taken(&self, tensors: &mut BTreeMap<String, Tensor>) -> Result<Vec<Tensor>> {
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
            Ok(tensor)
        };
        let averages = self.averages.parts().into_iter();
        let master = self.master.iter().map(|master| (MASTER, master));
        averages.chain(master).map(|(part, like)| take(part, like)).collect()
    }

    /// Goes on from a saved state. What is on a device is written where it is, so that no more memory is needed.
    pub fn restore(&mut self, state: Vec<Tensor>) -> Result<()> {
        let averages = self.averages.parts_mut().into_iter().map(|(_, tensor)| tensor);
        for (tensor, saved) in averages.chain(&mut self.master).zip(state) {
            match tensor.cuda_device() {
                Some(_) => tensor.overwrite(&saved)?,
                None => *tensor = saved.to_device(Device::Cpu)?,
            }
        }
        Ok(())
    }
}
