//! AdamW (Loshchilov and Hutter, arXiv 1711.05101).

mod cpu;
mod cuda;

use std::collections::{BTreeMap, BTreeSet};

use crate::autograd::{Gradients, Param};
use crate::device::Device;
use crate::device::philox::Philox;
use crate::optim::table::Table;
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

/// Streams of the rounding of steps, apart from those of dropout, fresh models, adapters and sampling.
const STREAM: u64 = 1 << 61;

/// The settings of an [`AdamW`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWSettings {
    /// Decay rates of the averages of the gradient and of its square.
    pub betas: (f64, f64),
    /// Added to the root of the second average.
    pub eps: f64,
    /// Decoupled weight decay: a step first multiplies the parameter by 1 - lr * weight_decay.
    pub weight_decay: f64,
    /// Whether bf16 parameters have no master copy, and are rounded up or down at random instead, so that the mean is right.
    pub stochastic_rounding: bool,
    /// Seed of that.
    pub seed: u64,
}

impl Default for AdamWSettings {
    /// Those of `torch.optim.AdamW`, but without weight decay.
    fn default() -> AdamWSettings {
        let (betas, eps, weight_decay) = ((0.9, 0.999), 1e-8, 0.0);
        AdamWSettings { betas, eps, weight_decay, stochastic_rounding: false, seed: 0 }
    }
}

/// The optimizer. A step t, in the order of operations of `torch.optim.AdamW`, in f32:
///
/// ```text
/// p -= lr * weight_decay * p
/// m += (1 - beta1) * (g - m)
/// v  = beta2 * v + (1 - beta2) * g * g
/// p -= lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps)
/// ```
///
/// m and v are f32, and lie where the parameter does. A bf16 parameter has an f32 master copy, which the steps change and which is rounded
/// into the parameter: an update too small for bf16 is not lost. With [`AdamWSettings::stochastic_rounding`] it has none (8 bytes of state
/// a parameter instead of 12): p is widened, and the result rounded to one of the two nearest bf16 numbers, the likelier the nearer, so that
/// small updates arrive on average. Random numbers are a function of the seed, the step and the element, which are numbered through all parameters.
///
/// Parameters on a CUDA device are stepped in one launch, in place where nobody else holds their tensors. Their bits are those that the CPU
/// would give.
pub struct AdamW {
    settings: AdamWSettings,
    steps: u64,
    slots: Vec<Slot>,
    /// What the devices were told of their parameters.
    tables: BTreeMap<usize, Table>,
}

/// A parameter and its state.
struct Slot {
    param: Param,
    decay: bool,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    master: Option<Tensor>,
    /// The number of its first element among those of all parameters, each of which starts at a multiple of 4.
    first_word: u64,
}

/// Names of the state's parts, before the parameter's name.
const EXP_AVG: &str = "exp_avg.";
const EXP_AVG_SQ: &str = "exp_avg_sq.";
const MASTER: &str = "master.";

fn refuse(detail: impl Into<String>) -> Error {
    Error::model("AdamW", detail)
}

impl AdamW {
    /// An optimizer of `params`, each with whether weight decay applies to it.
    ///
    /// Errors: settings out of range, a parameter that is not f32 or bf16, two parameters of one name.
    pub fn new(settings: AdamWSettings, params: Vec<(Param, bool)>) -> Result<AdamW> {
        let AdamWSettings { betas, eps, weight_decay, .. } = settings;
        for beta in [betas.0, betas.1] {
            if !(0.0..1.0).contains(&beta) {
                return Err(refuse(format!("beta {beta}, expected 0 <= beta < 1")));
            }
        }
        for (name, x) in [("eps", eps), ("weight decay", weight_decay)] {
            if !(0.0..f64::INFINITY).contains(&x) {
                return Err(refuse(format!("{name} {x}, expected a number that is not negative")));
            }
        }
        let mut names = BTreeSet::new();
        let mut slots = Vec::with_capacity(params.len());
        let mut first_word = 0;
        for (param, decay) in params {
            if !names.insert(param.name().to_string()) {
                return Err(refuse(format!("two parameters are named '{}'", param.name())));
            }
            let value = param.value();
            let master = match value.dtype() {
                DType::F32 => None,
                DType::BF16 if settings.stochastic_rounding => None,
                DType::BF16 => Some(value.to_dtype(DType::F32)?),
                DType::F16 => {
                    let detail = format!("parameter '{}' is f16: train it in f32 or bf16", param.name());
                    return Err(refuse(detail));
                }
                other => return Err(refuse(format!("parameter '{}' is {other}", param.name()))),
            };
            let zeros = || Tensor::zeros_on(value.device(), value.shape(), DType::F32);
            slots.push(Slot { param, decay, exp_avg: zeros()?, exp_avg_sq: zeros()?, master, first_word });
            first_word += (value.numel() as u64).next_multiple_of(4);
        }
        Ok(AdamW { settings, steps: 0, slots, tables: BTreeMap::new() })
    }

    /// The number of steps taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The parameters, in the order in which they were given.
    pub fn params(&self) -> impl Iterator<Item = &Param> {
        self.slots.iter().map(|slot| &slot.param)
    }

    /// One step with learning rate `lr`. Parameters without a gradient stay as they are, decay included.
    ///
    /// Errors: a gradient of another shape than its parameter, or elsewhere; a parameter that is no longer where its state is. Nothing has been
    /// changed then.
    pub fn step(&mut self, lr: f64, gradients: &Gradients) -> Result<()> {
        for slot in &self.slots {
            let Some(grad) = gradients.get(&slot.param) else { continue };
            let (name, state) = (slot.param.name(), &slot.exp_avg);
            if grad.shape() != state.shape() {
                let (have, want) = (grad.shape(), state.shape());
                return Err(refuse(format!("gradient {have:?} of parameter '{name}' {want:?}")));
            }
            let places = [grad.device(), slot.param.value().device()];
            if let Some(place) = places.into_iter().find(|&place| place != state.device()) {
                let detail = format!(
                    "parameter '{name}' or its gradient is on {place}, its state on {}",
                    state.device()
                );
                return Err(refuse(detail));
            }
        }
        self.steps += 1;
        let AdamWSettings { betas, eps, weight_decay, seed, .. } = self.settings;
        let correction = |beta: f64| 1.0 - beta.powf(self.steps as f64);
        let random = Philox { seed, stream: STREAM | self.steps };
        let update = Update {
            one_minus_beta1: (1.0 - betas.0) as f32,
            beta2: betas.1 as f32,
            one_minus_beta2: (1.0 - betas.1) as f32,
            root_correction2: correction(betas.1).sqrt() as f32,
            eps: eps as f32,
            minus_step_size: -(lr / correction(betas.0)) as f32,
            shrink: (1.0 - lr * weight_decay) as f32,
        };
        let mut on_devices: BTreeMap<usize, Vec<(&mut Slot, &Tensor)>> = BTreeMap::new();
        for slot in &mut self.slots {
            let Some(grad) = gradients.get(&slot.param) else { continue };
            match slot.exp_avg.device() {
                Device::Cuda(ordinal) => on_devices.entry(ordinal).or_default().push((slot, grad)),
                Device::Cpu => {
                    let shrink = if slot.decay { update.shrink } else { 1.0 };
                    slot.step(grad.as_f32()?, &Update { shrink, ..update }, random)?;
                }
            }
        }
        for (ordinal, mut slots) in on_devices {
            let table = self.tables.entry(ordinal).or_default();
            cuda::step(Device::Cuda(ordinal).cuda()?, &mut slots, &update, random, table)?;
        }
        Ok(())
    }

    /// The state for a checkpoint: `exp_avg.<parameter>`, `exp_avg_sq.<parameter>` and, of bf16 parameters that have one, `master.<parameter>`,
    /// all f32 in host memory. [`AdamW::steps`] belongs to it.
    ///
    /// Errors: a device that does not give its part.
    pub fn state_tensors(&self) -> Result<Vec<(String, Tensor)>> {
        let parts = self.slots.iter().flat_map(|slot| {
            let named = |part: &str, tensor: &Tensor| {
                Ok((format!("{part}{}", slot.param.name()), tensor.to_device(Device::Cpu)?))
            };
            [Some(named(EXP_AVG, &slot.exp_avg)), Some(named(EXP_AVG_SQ, &slot.exp_avg_sq))]
                .into_iter()
                .chain([slot.master.as_ref().map(|master| named(MASTER, master))])
        });
        parts.flatten().collect()
    }

    /// Goes on from a saved state, which is brought to where the parameters are. The parameters themselves are not in it: whoever restores
    /// them does so before or after.
    ///
    /// Errors: a missing tensor, one of another shape or type, or one that belongs to no parameter; nothing has been changed then.
    pub fn load_state(&mut self, steps: u64, mut tensors: BTreeMap<String, Tensor>) -> Result<()> {
        let mut take = |part: &str, slot: &Slot| -> Result<Tensor> {
            let name = format!("{part}{}", slot.param.name());
            let tensor =
                tensors.remove(&name).ok_or_else(|| refuse(format!("the saved state lacks '{name}'")))?;
            if tensor.dtype() != DType::F32 || tensor.shape() != slot.exp_avg.shape() {
                let want = slot.exp_avg.shape();
                return Err(refuse(format!("saved state '{name}' is {tensor:?}, expected f32 {want:?}")));
            }
            tensor.to_device(slot.exp_avg.device())
        };
        let mut loaded = Vec::with_capacity(self.slots.len());
        for slot in &self.slots {
            let master = slot.master.as_ref().map(|_| take(MASTER, slot)).transpose()?;
            loaded.push((take(EXP_AVG, slot)?, take(EXP_AVG_SQ, slot)?, master));
        }
        if let Some(name) = tensors.keys().next() {
            return Err(refuse(format!("saved state '{name}' belongs to no parameter that is trained")));
        }
        for (slot, (exp_avg, exp_avg_sq, master)) in self.slots.iter_mut().zip(loaded) {
            (slot.exp_avg, slot.exp_avg_sq, slot.master) = (exp_avg, exp_avg_sq, master);
        }
        self.steps = steps;
        Ok(())
    }
}

impl Slot {
    /// A step in host memory.
    fn step(&mut self, grad: &[f32], update: &Update, random: Philox) -> Result<()> {
        let m = self.exp_avg.make_mut_f32()?;
        let v = self.exp_avg_sq.make_mut_f32()?;
        match &mut self.master {
            Some(master) => {
                cpu::step(master.make_mut_f32()?, grad, m, v, update);
                let rounded = master.to_dtype(DType::BF16)?;
                self.param.update(|value| {
                    *value = rounded;
                    Ok(())
                })
            }
            None => self.param.update(|value| {
                if value.dtype() == DType::F32 {
                    cpu::step(value.make_mut_f32()?, grad, m, v, update);
                } else {
                    let p = value.as_bf16()?;
                    let p = cpu::step_rounding_at_random(p, grad, [m, v], update, random, self.first_word);
                    *value = Tensor::from_bf16(p, value.shape());
                }
                Ok(())
            }),
        }
    }
}

/// The numbers of a step, f32 as the arithmetic is.
#[derive(Clone, Copy)]
struct Update {
    one_minus_beta1: f32,
    beta2: f32,
    one_minus_beta2: f32,
    root_correction2: f32,
    eps: f32,
    minus_step_size: f32,
    /// 1 - lr * weight_decay; 1 where no decay applies.
    shrink: f32,
}
