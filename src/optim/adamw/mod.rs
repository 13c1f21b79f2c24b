//! AdamW (Loshchilov and Hutter, arXiv 1711.05101).

mod blockwise;
mod cpu;
mod cuda;
mod paging;
mod state;

use std::collections::{BTreeMap, BTreeSet};

use crate::autograd::{Gradients, Param};
use crate::device::Device;
use crate::device::philox::Philox;
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};
pub use paging::{StateBytes, in_host_memory};
use state::{Home, Slot};

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
    /// How the averages are kept.
    pub states: States,
    /// Whether states of parameters on a CUDA device may be in page-locked host memory, which its kernels reach over the bus: those for which
    /// it has no room, if so many bytes of its memory are to stay free for what is allocated later (see [`in_host_memory`]), and what
    /// [`AdamW::page_out`] moves. The steps have the same bits.
    pub paged: Option<usize>,
}

/// How averages of gradients and of their squares are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum States {
    /// In f32: 8 bytes an element.
    #[default]
    F32,
    /// In blocks of 256 elements, as 8-bit codes of bitsandbytes' dynamic maps (signed for the gradient, unsigned for its square) times the
    /// largest magnitude of the block, which is f32: 2.03 bytes an element. Tensors of fewer than 4096 elements keep f32.
    Blockwise8,
}

impl std::fmt::Display for States {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            States::F32 => "f32",
            States::Blockwise8 => "8-bit",
        })
    }
}

impl Default for AdamWSettings {
    /// Those of `torch.optim.AdamW`, but without weight decay.
    fn default() -> AdamWSettings {
        let (betas, eps, weight_decay) = ((0.9, 0.999), 1e-8, 0.0);
        let states = States::F32;
        AdamWSettings { betas, eps, weight_decay, stochastic_rounding: false, seed: 0, states, paged: None }
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
/// m and v lie where the parameter does, or, with [`AdamWSettings::paged`], in host memory that its device reaches. A bf16 parameter has an f32 master copy, which the steps change and which is rounded
/// into the parameter: an update too small for bf16 is not lost. With [`AdamWSettings::stochastic_rounding`] it has none (4 bytes of state
/// less a parameter): p is widened, and the result rounded to one of the two nearest bf16 numbers, the likelier the nearer, so that
/// small updates arrive on average. Random numbers are a function of the seed, the step and the element, which are numbered through all parameters.
///
/// With [`States::Blockwise8`] m and v are decoded, the step is made with what becomes of them in f32, and they are coded anew: each as the
/// nearest code of its map (of two, the one nearer to 0), except that a v that is not 0 takes the smallest code above 0 at least. So a
/// coded v may be larger than the true one by as much as 3.3e-7 of its block's largest, and steps are shorter than they should be there;
/// bitsandbytes rounds it to 0, and a later step is m / eps, without bound. A block with a number that is not finite is NaN from then on.
///
/// Parameters on a CUDA device are stepped in one launch (of each kind of states), in place where nobody else holds their tensors. Their bits are those that the CPU
/// would give.
pub struct AdamW {
    settings: AdamWSettings,
    steps: u64,
    slots: Vec<Slot>,
    /// What the devices were told of their parameters.
    tables: BTreeMap<usize, cuda::Tables>,
}

fn refuse(detail: impl Into<String>) -> Error {
    Error::model("AdamW", detail)
}

impl AdamW {
    /// An optimizer of `params`, each with whether weight decay applies to it.
    ///
    /// Errors: settings out of range, a parameter that is not f32 or bf16, two parameters of one name, states for which there is no memory.
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
        for (param, _) in &params {
            if !names.insert(param.name()) {
                return Err(refuse(format!("two parameters are named '{}'", param.name())));
            }
            match param.value().dtype() {
                DType::F32 | DType::BF16 => {}
                DType::F16 => {
                    let detail = format!("parameter '{}' is f16: train it in f32 or bf16", param.name());
                    return Err(refuse(detail));
                }
                other => return Err(refuse(format!("parameter '{}' is {other}", param.name()))),
            }
        }
        let homes = homes(&settings, &params)?;
        let mut slots = Vec::with_capacity(params.len());
        let mut first_word = 0;
        for (param, home) in params.into_iter().zip(homes) {
            let value = param.0.value();
            let master = value.dtype() == DType::BF16 && !settings.stochastic_rounding;
            let new = |home| Slot::new(param.clone(), settings.states, master, first_word, home);
            slots.push(match new(home) {
                // Free memory may be in pieces.
                Err(Error::DeviceMemory { .. }) if settings.paged.is_some() => new(Home::Host)?,
                slot => slot?,
            });
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
            let (name, state) = (slot.param.name(), slot.averages.shown());
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
            match slot.averages.shown().device() {
                Device::Cuda(ordinal) => on_devices.entry(ordinal).or_default().push((slot, grad)),
                Device::Cpu => {
                    let shrink = if slot.decay { update.shrink } else { 1.0 };
                    slot.step(grad.as_f32()?, &Update { shrink, ..update }, random)?;
                }
            }
        }
        for (ordinal, mut slots) in on_devices {
            let tables = self.tables.entry(ordinal).or_default();
            cuda::step(Device::Cuda(ordinal).cuda()?, &mut slots, &update, random, tables)?;
        }
        Ok(())
    }

    /// If states may be in host memory, moves those of parameters there, the largest that devices have first, until `bytes` bytes of device memory are
    /// free. False if there was nothing to move.
    ///
    /// Errors: a host that has not so much memory.
    pub fn page_out(&mut self, bytes: usize) -> Result<bool> {
        let mut freed = 0;
        while self.settings.paged.is_some() && freed < bytes.max(1) {
            let sizes = self.slots.iter_mut().map(Slot::on_device).enumerate();
            // The first of equal ones.
            match sizes.max_by_key(|&(i, size)| (size, std::cmp::Reverse(i))) {
                Some((i, size)) if size > 0 => freed += self.slots[i].page_out()?,
                _ => break,
            }
        }
        Ok(freed > 0)
    }

    /// The state for a checkpoint, in host memory: `exp_avg.<parameter>`, `exp_avg_sq.<parameter>` and, of bf16 parameters that have one,
    /// `master.<parameter>`, all f32. Of averages in 8 bits the first two are codes (u8), and `exp_avg_absmax.<parameter>` and
    /// `exp_avg_sq_absmax.<parameter>` are the scales of their blocks (f32). [`AdamW::steps`] belongs to it.
    ///
    /// Errors: a device that does not give its part.
    pub fn state_tensors(&self) -> Result<Vec<(String, Tensor)>> {
        let saved: Vec<_> = self.slots.iter().map(Slot::saved).collect::<Result<_>>()?;
        Ok(saved.into_iter().flatten().collect())
    }

    /// Goes on from a saved state, which is brought to where the parameters are. The parameters themselves are not in it: whoever restores
    /// them does so before or after.
    ///
    /// Errors: a missing tensor, one of another shape or type (also the state of an optimizer with other [`States`]), or one that belongs to
    /// no parameter; nothing has been changed then. A device that fails.
    pub fn load_state(&mut self, steps: u64, mut tensors: BTreeMap<String, Tensor>) -> Result<()> {
        let loaded: Vec<_> = self.slots.iter().map(|slot| slot.taken(&mut tensors)).collect::<Result<_>>()?;
        if let Some(name) = tensors.keys().next() {
            return Err(refuse(format!("saved state '{name}' belongs to no parameter that is trained")));
        }
        self.slots.iter_mut().zip(loaded).try_for_each(|(slot, state)| slot.restore(state))?;
        self.steps = steps;
        Ok(())
    }
}

/// Where the state of each parameter is to be.
fn homes(settings: &AdamWSettings, params: &[(Param, bool)]) -> Result<Vec<Home>> {
    let mut homes = vec![Home::Parameter; params.len()];
    let Some(reserve) = settings.paged else { return Ok(homes) };
    let mut on_devices: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (i, (param, _)) in params.iter().enumerate() {
        if let Device::Cuda(ordinal) = param.value().device() {
            on_devices.entry(ordinal).or_default().push(i);
        }
    }
    for (ordinal, numbers) in on_devices {
        let device = Device::Cuda(ordinal).cuda()?;
        let size = |&i: &usize| {
            let block = |bytes| device.block_bytes(bytes);
            let value = params[i].0.value();
            let master = !settings.stochastic_rounding;
            StateBytes::of(value.numel(), value.dtype(), settings.states, master, block)
        };
        let sizes: Vec<StateBytes> = numbers.iter().map(size).collect();
        let on_host = in_host_memory(&sizes, device.memory_room()?.saturating_sub(reserve));
        for (i, on_host) in numbers.into_iter().zip(on_host) {
            homes[i] = if on_host { Home::Host } else { Home::Parameter };
        }
    }
    Ok(homes)
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
