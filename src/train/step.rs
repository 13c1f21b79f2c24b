//! One optimizer step: micro-batches whose gradients add up to those of the whole batch.

use std::path::Path;

use crate::autograd::{Gradients, Param, Tape, Var};
use crate::optim::{AdamW, AdamWSettings, clip_grad_norm};
use crate::train::optimizer_state;
use crate::train::options::TrainOptions;
use crate::{Error, Result};

/// The micro-batches of one optimizer step.
#[derive(Debug)]
pub struct Window<'a, B> {
    /// The micro-batches.
    pub batches: &'a [B],
    /// Positions with a label in all of them: what the loss is a mean over.
    pub labelled: usize,
    /// Number of the step, from 1.
    pub step: u64,
    /// Forward passes of the run before this window: numbers the dropout masks.
    pub micro_step: u64,
}

/// What a step found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// Mean loss over the labelled positions of the window, in nats.
    pub loss: f64,
    /// Global gradient norm before clipping.
    pub grad_norm: f64,
}

/// Weight decay for matrices alone, not for norms and biases, as is usual.
pub fn decay_matrices(params: Vec<Param>) -> Vec<(Param, bool)> {
    let decays = |p: Param| {
        let matrix = p.value().shape().len() >= 2;
        (p, matrix)
    };
    params.into_iter().map(decays).collect()
}

/// Trains parameters.
pub struct Stepper {
    params: Vec<Param>,
    optimizer: AdamW,
    clip_norm: f64,
    seed: u64,
    gradients: Gradients,
}

impl Stepper {
    /// A stepper for trainable parameters, each with whether weight decay applies to it.
    ///
    /// # Errors
    /// Those of [`AdamW::new`].
    pub fn new(params: Vec<(Param, bool)>, options: &TrainOptions) -> Result<Stepper> {
        Stepper::beside(params, options, 0)
    }

    /// As [`Stepper::new`]; if the options say so, optimizer states are in host memory where the device would have less than `reserve` bytes left
    /// for the rest of a step.
    ///
    /// # Errors
    /// Those of [`AdamW::new`].
    pub fn beside(params: Vec<(Param, bool)>, options: &TrainOptions, reserve: usize) -> Result<Stepper> {
        let settings = AdamWSettings {
            betas: (options.beta1, options.beta2),
            eps: options.epsilon,
            weight_decay: options.weight_decay,
            states: options.states,
            paged: options.paged.then_some(reserve),
            ..AdamWSettings::default()
        };
        Ok(Stepper {
            params: params.iter().map(|(param, _)| param.clone()).collect(),
            optimizer: AdamW::new(settings, params)?,
            clip_norm: options.clip_norm.unwrap_or(f64::INFINITY),
            seed: options.seed,
            gradients: Gradients::new(),
        })
    }

    /// The parameters.
    pub fn params(&self) -> &[Param] {
        &self.params
    }

    /// Writes the optimizer's state into a checkpoint folder.
    pub fn save_optimizer(&self, folder: &Path) -> Result<()> {
        optimizer_state::save(folder, &self.optimizer)
    }

    /// Reads it back, for a run that goes on after step `step`.
    pub fn load_optimizer(&mut self, folder: &Path, step: u64) -> Result<()> {
        optimizer_state::load(folder, &mut self.optimizer, step)
    }

    /// One step at learning rate `rate`. `loss` gives a micro-batch's loss terms, summed and divided by its last argument. The loss is the sum of the cross-entropies over the window divided by the labelled
    /// positions of the *whole* window, so k micro-batches of b sequences give what one of k b sequences does.
    ///
    /// # Errors
    /// [`Error::Model`] at step 1 if a trainable parameter got no gradient; [`Error::NonFinite`], with the step, op and place, if the loss or
    /// the gradient norm is not finite: the parameters are then as they were.
    pub fn step<B>(
        &mut self,
        window: &Window<'_, B>,
        rate: f64,
        loss: &impl Fn(&Tape, &B, f32) -> Result<Var>,
    ) -> Result<StepReport> {
        let mean = loop {
            match self.accumulate(window, loss, |tape| tape) {
                // Nothing has been changed yet: with states out of the way the same is computed again.
                Err(Error::DeviceMemory { needed, .. }) if self.optimizer.page_out(needed << 20)? => {}
                mean => break mean?,
            }
        };
        if window.step == 1 {
            self.check_every_gradient()?;
        }
        let grad_norm = match clip_grad_norm(&mut self.gradients, &self.params, self.clip_norm) {
            Ok(norm) if mean.is_finite() && norm.is_finite() => norm,
            Ok(_) | Err(Error::NonFinite { .. }) => return Err(self.explain(window, loss)),
            Err(other) => return Err(other),
        };
        self.optimizer.step(rate, &self.gradients)?;
        Ok(StepReport { loss: mean, grad_norm })
    }

    /// Gradients of the window, on tapes that `prepare` has seen; returns the loss.
    fn accumulate<B>(
        &mut self,
        window: &Window<'_, B>,
        loss: &impl Fn(&Tape, &B, f32) -> Result<Var>,
        prepare: impl Fn(Tape) -> Tape,
    ) -> Result<f64> {
        self.gradients.clear();
        let mut losses = Vec::with_capacity(window.batches.len());
        for (batch, micro_step) in window.batches.iter().zip(window.micro_step..) {
            let tape = prepare(Tape::training(self.seed, micro_step));
            let part = loss(&tape, batch, window.labelled as f32)?;
            tape.backward(&part, &mut self.gradients)?;
            losses.push(part.into_value());
        }
        // Only now: reading one waits for the device.
        losses.iter().map(|loss| Ok(f64::from(loss.item()?))).sum()
    }

    fn check_every_gradient(&self) -> Result<()> {
        let missing = self.gradients.missing(&self.params);
        if missing.is_empty() {
            return Ok(());
        }
        let shown = missing.iter().take(8).cloned().collect::<Vec<_>>().join(", ");
        let more = if missing.len() > 8 { ", ..." } else { "" };
        let detail = format!(
            "{} trainable parameters got no gradient: {shown}{more}. They would never change; freeze them or use them",
            missing.len()
        );
        Err(Error::model("step 1", detail))
    }

    /// Runs the window again, looking at every value, to name the first that is not finite.
    fn explain<B>(&mut self, window: &Window<'_, B>, loss: &impl Fn(&Tape, &B, f32) -> Result<Var>) -> Error {
        let at =
            |what: String, place| Error::NonFinite { what: format!("step {}: {what}", window.step), place };
        for param in &self.params {
            match param.value().first_non_finite() {
                Ok(None) => {}
                Ok(Some(_)) => {
                    return at("a parameter, before the step".to_string(), Some(param.name().to_string()));
                }
                Err(error) => return error,
            }
        }
        match self.accumulate(window, loss, Tape::checking_finite) {
            Err(Error::NonFinite { what, place }) => at(what, place),
            Err(other) => other,
            // Each value is finite alone: a sum over micro-batches, or of squares, is not.
            Ok(_) => match clip_grad_norm(&mut self.gradients, &self.params, f64::INFINITY) {
                Err(Error::NonFinite { what, place }) => {
                    at(format!("{what}, summed over the micro-batches"), place)
                }
                _ => at("the loss or the gradient norm, summed over finite parts".to_string(), None),
            },
        }
    }
}
