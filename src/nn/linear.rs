//! Linear layers: a weight of some kind, perhaps a bias, perhaps a 1-bit delta, perhaps an adapter.

use crate::autograd::{Param, Tape, Var};
use crate::device::Device;
use crate::nn::{Delta, QuantizedWeight};
use crate::ops::epilogue::Epilogue;
use crate::ops::lora_matmul::{Lora, lora_matmul, quantized_lora_matmul};
use crate::ops::matmul::matmul;
use crate::ops::quantized_matmul::quantized_matmul;
use crate::ops::sign_matmul::{SignBase, SignDelta, sign_matmul};
use crate::{Error, Result};

/// How a linear layer's weight `[out, in]` is stored.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Weight {
    /// One float an element.
    Dense(Param),
    /// 4-bit blocks; frozen.
    Quantized(QuantizedWeight),
}

impl Weight {
    /// The weight, if it is in 4-bit blocks.
    pub fn quantized(&self) -> Option<&QuantizedWeight> {
        match self {
            Weight::Dense(_) => None,
            Weight::Quantized(weight) => Some(weight),
        }
    }

    /// Output and input features.
    fn dims(&self) -> (usize, usize) {
        match self {
            // Whoever made the layer checked that its weight is a matrix.
            Weight::Dense(weight) => (weight.value().shape()[0], weight.value().shape()[1]),
            Weight::Quantized(weight) => {
                let [out, input] = *weight.value().shape();
                (out, input)
            }
        }
    }
}

/// A low-rank addition to a linear layer (LoRA): `scale * B A`.
#[derive(Clone, Debug)]
pub struct Adapter {
    /// A, `[r, in]`.
    pub a: Param,
    /// B, `[out, r]`.
    pub b: Param,
    /// alpha / r, or alpha / sqrt(r).
    pub scale: f32,
    /// Probability with which an element of the adapter's input is dropped in training.
    pub dropout: f32,
}

/// `y = x W^T + bias`, with a 1-bit delta `+ x (scale S)^T`, with an adapter `+ scale (dropout(x) A^T) B^T`. The delta is a part of the
/// weight, which adapters come and go beside.
#[derive(Clone, Debug)]
pub struct Linear {
    path: String,
    weight: Weight,
    bias: Option<Param>,
    delta: Option<Delta>,
    adapter: Option<Adapter>,
}

impl Linear {
    /// A layer without an adapter. `path` is the module's path as Hugging Face names it, e.g.
    /// `model.layers.0.self_attn.q_proj`.
    pub fn new(path: impl Into<String>, weight: Weight, bias: Option<Param>) -> Linear {
        Linear { path: path.into(), weight, bias, delta: None, adapter: None }
    }

    /// The module path.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The weight.
    pub fn weight(&self) -> &Weight {
        &self.weight
    }

    /// Output and input features.
    pub fn dims(&self) -> (usize, usize) {
        self.weight.dims()
    }

    /// Puts another weight in its place.
    ///
    /// # Errors
    /// A weight of other dimensions.
    pub fn set_weight(&mut self, weight: Weight) -> Result<()> {
        let (dims, new) = (self.dims(), weight.dims());
        if dims != new {
            return Err(Error::model(self.path.as_str(), format!("a weight {new:?} for one of {dims:?}")));
        }
        self.weight = weight;
        Ok(())
    }

    /// Where the weight is.
    pub fn device(&self) -> Device {
        match &self.weight {
            Weight::Dense(weight) => weight.value().device(),
            Weight::Quantized(weight) => weight.value().device(),
        }
    }

    /// The 1-bit delta, if there is one.
    pub fn delta(&self) -> Option<&Delta> {
        self.delta.as_ref()
    }

    /// Adds a 1-bit delta to the weight in place of any other.
    ///
    /// # Errors
    /// A delta whose shapes do not fit the weight.
    pub fn set_delta(&mut self, delta: Delta) -> Result<()> {
        let (out, input) = self.dims();
        let (signs, scale) = (delta.signs(), delta.scale().value());
        if *signs.shape() != [out, input] || (scale.shape() != [1] && scale.shape() != [out]) {
            let (signs, scale) = (signs.shape(), scale.shape());
            let detail = format!(
                "a delta of signs {signs:?} and scale {scale:?} does not fit a weight of shape [{out}, {input}]"
            );
            return Err(Error::model(self.path.as_str(), detail));
        }
        self.delta = Some(delta);
        Ok(())
    }

    /// Takes the 1-bit delta off, if there is one.
    pub fn take_delta(&mut self) -> Option<Delta> {
        self.delta.take()
    }

    /// The adapter, if one is attached.
    pub fn adapter(&self) -> Option<&Adapter> {
        self.adapter.as_ref()
    }

    /// Attaches an adapter in place of any other.
    ///
    /// # Errors
    /// An adapter whose shapes do not fit the weight.
    pub fn attach(&mut self, adapter: Adapter) -> Result<()> {
        let (out, input) = self.dims();
        let (a, b) = (adapter.a.value(), adapter.b.value());
        let fits = matches!((a.shape(), b.shape()), (&[r, i], &[o, s]) if r == s && i == input && o == out);
        if !fits {
            let (a, b) = (a.shape(), b.shape());
            let detail = format!(
                "an adapter with A {a:?} and B {b:?} does not fit a weight of shape [{out}, {input}]"
            );
            return Err(Error::model(self.path.as_str(), detail));
        }
        self.adapter = Some(adapter);
        Ok(())
    }

    /// Takes the adapter off, if there is one.
    pub fn detach(&mut self) -> Option<Adapter> {
        self.adapter.take()
    }

    /// x `[M, in]` to `[M, out]`; without the adapter if `adapters` is false.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn forward(&self, tape: &Tape, x: &Var, adapters: bool) -> Result<Var> {
        self.forward_with(tape, x, adapters, Epilogue::None)
    }

    /// As [`Linear::forward`], with what `epilogue` makes of it.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn forward_with(&self, tape: &Tape, x: &Var, adapters: bool, epilogue: Epilogue<'_>) -> Result<Var> {
        let _scope = tape.scope(self.path.as_str());
        let bias = self.bias.as_ref().map(|bias| tape.param(bias));
        let adapter = self.adapter.as_ref().filter(|_| adapters);
        let Some(delta) = &self.delta else { return self.base(tape, x, bias.as_ref(), adapter, epilogue) };
        let (signs, scale) = (delta.signs(), tape.param(delta.scale()));
        let delta = SignDelta { signs: &signs, scale: &scale };
        let (product, dense, quantized);
        let base = match (&self.weight, adapter) {
            // The weight's product is made together with the adapter's part.
            (_, Some(_)) => {
                product = self.base(tape, x, None, adapter, Epilogue::None)?;
                SignBase::Product(&product)
            }
            (Weight::Dense(weight), None) => {
                dense = tape.param(weight);
                SignBase::Dense(&dense)
            }
            (Weight::Quantized(weight), None) => {
                quantized = weight.value();
                SignBase::Quantized(&quantized)
            }
        };
        sign_matmul(tape, x, base, bias.as_ref(), &delta, epilogue)
    }

    /// Without the delta.
    fn base(
        &self,
        tape: &Tape,
        x: &Var,
        bias: Option<&Var>,
        adapter: Option<&Adapter>,
        epilogue: Epilogue<'_>,
    ) -> Result<Var> {
        match adapter {
            Some(adapter) => {
                let (a, b) = (tape.param(&adapter.a), tape.param(&adapter.b));
                let lora = Lora { a: &a, b: &b, scale: adapter.scale, dropout: adapter.dropout };
                match &self.weight {
                    Weight::Dense(weight) => lora_matmul(tape, x, &tape.param(weight), bias, &lora, epilogue),
                    Weight::Quantized(weight) => {
                        quantized_lora_matmul(tape, x, &weight.value(), bias, &lora, epilogue)
                    }
                }
            }
            None => match &self.weight {
                Weight::Dense(weight) => matmul(tape, x, &tape.param(weight), bias, epilogue),
                Weight::Quantized(weight) => quantized_matmul(tape, x, &weight.value(), bias, epilogue),
            },
        }
    }

    /// The layer's own parameters (not the adapter's), in the order in which they are saved. A weight in 4-bit blocks is none.
    pub fn parameters(&self) -> Vec<Param> {
        let weight = match &self.weight {
            Weight::Dense(weight) => Some(weight.clone()),
            Weight::Quantized(_) => None,
        };
        weight.into_iter().chain(self.bias.clone()).collect()
    }
}
