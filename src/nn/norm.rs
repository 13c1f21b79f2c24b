//! Normalisation layers.

use crate::Result;
use crate::autograd::{Param, Tape, Var};
use crate::ops::add::add;
use crate::ops::layer_norm::layer_norm;
use crate::ops::rms_norm::{add_rms_norm, rms_norm};

/// A normalisation with its parameters, each of length D.
#[derive(Clone, Debug)]
pub enum Norm {
    /// x / sqrt(mean(x^2) + eps) * weight.
    Rms {
        /// The module path.
        path: String,
        /// Factors `[D]`.
        weight: Param,
        /// Added to the mean square.
        eps: f32,
    },
    /// (x - mean) / sqrt(var + eps) * weight + bias.
    Layer {
        /// The module path.
        path: String,
        /// Factors `[D]`.
        weight: Param,
        /// Offsets `[D]`.
        bias: Param,
        /// Added to the variance.
        eps: f32,
    },
}

impl Norm {
    /// Normalises each row of x `[T, D]` (RMS: each group of D elements of x `[T, n D]`).
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn forward(&self, tape: &Tape, x: &Var) -> Result<Var> {
        match self {
            Norm::Rms { path, weight, eps } => {
                let _scope = tape.scope(path.as_str());
                rms_norm(tape, x, &tape.param(weight), *eps)
            }
            Norm::Layer { path, weight, bias, eps } => {
                let _scope = tape.scope(path.as_str());
                layer_norm(tape, x, &tape.param(weight), &tape.param(bias), *eps)
            }
        }
    }

    /// The sum x = a + b, and [`Norm::forward`] of it.
    ///
    /// # Errors
    /// Shapes or types that do not fit.
    pub fn forward_sum(&self, tape: &Tape, a: &Var, b: &Var) -> Result<(Var, Var)> {
        match self {
            Norm::Rms { path, weight, eps } => {
                let _scope = tape.scope(path.as_str());
                add_rms_norm(tape, a, b, &tape.param(weight), *eps)
            }
            Norm::Layer { .. } => {
                let x = add(tape, a, b)?;
                let y = self.forward(tape, &x)?;
                Ok((x, y))
            }
        }
    }

    /// The parameters, in the order in which they are saved.
    pub fn parameters(&self) -> Vec<Param> {
        match self {
            Norm::Rms { weight, .. } => vec![weight.clone()],
            Norm::Layer { weight, bias, .. } => vec![weight.clone(), bias.clone()],
        }
    }
}
