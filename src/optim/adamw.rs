//! AdamW (Loshchilov and Hutter, arXiv 1711.05101).

use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;

use crate::autograd::{Gradients, Param};
use crate::device::cpu::lanes::{Kernel, Simd, dispatch};
use crate::device::cpu::parallel::GRAIN;
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

/// The settings of an [`AdamW`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWSettings {
    /// Decay rates of the averages of the gradient and of its square.
    pub betas: (f64, f64),
    /// Added to the root of the second average.
    pub eps: f64,
    /// Decoupled weight decay: a step first multiplies the parameter by 1 - lr * weight_decay.
    pub weight_decay: f64,
}

impl Default for AdamWSettings {
    /// Those of `torch.optim.AdamW`, but without weight decay.
    fn default() -> AdamWSettings {
        AdamWSettings { betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.0 }
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
/// m and v are f32. A bf16 parameter has an f32 master copy, which the steps change and which is rounded into the parameter:
/// an update too small for bf16 is not lost.
pub struct AdamW {
    settings: AdamWSettings,
    steps: u64,
    slots: Vec<Slot>,
}

/// A parameter and its state.
struct Slot {
    param: Param,
    decay: bool,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    master: Option<Tensor>,
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
        let AdamWSettings { betas, eps, weight_decay } = settings;
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
        for (param, decay) in params {
            if !names.insert(param.name().to_string()) {
                return Err(refuse(format!("two parameters are named '{}'", param.name())));
            }
            let value = param.value();
            let master = match value.dtype() {
                DType::F32 => None,
                DType::BF16 => Some(value.to_dtype(DType::F32)?),
                other => return Err(refuse(format!("parameter '{}' is {other}", param.name()))),
            };
            let zeros = || Tensor::zeros(value.shape(), DType::F32);
            slots.push(Slot { param, decay, exp_avg: zeros(), exp_avg_sq: zeros(), master });
        }
        Ok(AdamW { settings, steps: 0, slots })
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
    /// Errors: a gradient of another shape than its parameter; nothing has been changed then.
    pub fn step(&mut self, lr: f64, gradients: &Gradients) -> Result<()> {
        for slot in &self.slots {
            if let Some(grad) = gradients.get(&slot.param)
                && grad.shape() != slot.exp_avg.shape()
            {
                let (name, want) = (slot.param.name(), slot.exp_avg.shape());
                return Err(refuse(format!("gradient {:?} of parameter '{name}' {want:?}", grad.shape())));
            }
        }
        self.steps += 1;
        let AdamWSettings { betas, eps, weight_decay } = self.settings;
        let correction = |beta: f64| 1.0 - beta.powf(self.steps as f64);
        let update = Update {
            one_minus_beta1: (1.0 - betas.0) as f32,
            beta2: betas.1 as f32,
            one_minus_beta2: (1.0 - betas.1) as f32,
            root_correction2: correction(betas.1).sqrt() as f32,
            eps: eps as f32,
            minus_step_size: -(lr / correction(betas.0)) as f32,
            shrink: 1.0,
        };
        for slot in &mut self.slots {
            let Some(grad) = gradients.get(&slot.param) else { continue };
            let decay = if slot.decay { weight_decay } else { 0.0 };
            let update = Update { shrink: (1.0 - lr * decay) as f32, ..update };
            slot.step(grad.as_f32()?, &update)?;
        }
        Ok(())
    }

    /// The state for a checkpoint: `exp_avg.<parameter>`, `exp_avg_sq.<parameter>` and, of bf16 parameters, `master.<parameter>`, all
    /// f32. [`AdamW::steps`] belongs to it.
    pub fn state_tensors(&self) -> Vec<(String, Tensor)> {
        let parts = self.slots.iter().flat_map(|slot| {
            let named =
                |part: &str, tensor: &Tensor| (format!("{part}{}", slot.param.name()), tensor.clone());
            [Some(named(EXP_AVG, &slot.exp_avg)), Some(named(EXP_AVG_SQ, &slot.exp_avg_sq))]
                .into_iter()
                .chain([slot.master.as_ref().map(|master| named(MASTER, master))])
        });
        parts.flatten().collect()
    }

    /// Goes on from a saved state. The parameters themselves are not in it: whoever restores them does so before or after.
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
            Ok(tensor)
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
    fn step(&mut self, grad: &[f32], update: &Update) -> Result<()> {
        let m = self.exp_avg.make_mut_f32()?;
        let v = self.exp_avg_sq.make_mut_f32()?;
        match &mut self.master {
            None => self.param.update(|value| {
                apply(value.make_mut_f32()?, grad, m, v, update);
                Ok(())
            }),
            Some(master) => {
                apply(master.make_mut_f32()?, grad, m, v, update);
                let rounded = master.to_dtype(DType::BF16)?;
                self.param.update(|value| {
                    *value = rounded;
                    Ok(())
                })
            }
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
    /// 1 - lr * weight_decay.
    shrink: f32,
}

fn apply(p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], update: &Update) {
    let state = m.par_chunks_mut(GRAIN).zip(v.par_chunks_mut(GRAIN));
    let pieces = p.par_chunks_mut(GRAIN).zip(g.par_chunks(GRAIN)).zip(state);
    pieces.for_each(|((p, g), (m, v))| dispatch(Piece { p, g, m, v, update: *update }));
}

struct Piece<'a> {
    p: &'a mut [f32],
    g: &'a [f32],
    m: &'a mut [f32],
    v: &'a mut [f32],
    update: Update,
}

impl Kernel for Piece<'_> {
    type Output = ();

    /// A plain loop, which the compiler vectorises. Products and sums are rounded one by one whatever the instruction set:
    /// the same bits everywhere.
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Piece { p, g, m, v, update: u } = self;
        for (((p, &g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
            *p *= u.shrink;
            *m += u.one_minus_beta1 * (g - *m);
            *v = *v * u.beta2 + u.one_minus_beta2 * g * g;
            let root = v.sqrt() / u.root_correction2 + u.eps;
            *p += u.minus_step_size * *m / root;
        }
    }
}
