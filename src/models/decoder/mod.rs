//! Decoder language models: Llama 2/3, SmolLM2, Mistral, Qwen2, Qwen3 and GPT-2, one implementation driven by the config.

mod build;
mod cached;
mod decode_step;
mod init;
mod layer;
mod load;
mod quantize;
mod save;
mod share;
mod slots;
mod untrained;

use std::sync::Arc;

use crate::autograd::{Param, Tape, Var};
use crate::device::Device;
use crate::formats::DecoderConfig;
use crate::nn::{Embedding, Linear, Norm, TokenBatch};
use crate::ops::add::add;
use crate::ops::cast::cast;
use crate::ops::epilogue::Epilogue;
use crate::ops::linear_cross_entropy::{check_labels, linear_cross_entropy};
use crate::ops::matmul::matmul;
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};
pub use decode_step::DecodeStep;
use layer::Layer;
pub use quantize::quantize_checkpoint;
pub use slots::{TensorSlot, tensor_slots};

/// A decoder language model. T is the number of tokens of a packed batch.
pub struct Decoder {
    config: DecoderConfig,
    embedding: Embedding,
    /// Learned positions (GPT-2).
    positions: Option<Embedding>,
    /// Shared with the closures of checkpointed layers.
    layers: Vec<Arc<Layer>>,
    norm: Norm,
    /// The output projection `[vocab, hidden]`: with tied embeddings, the embedding's own parameter.
    head: Param,
    dtype: DType,
    checkpointing: bool,
    adapters: bool,
}

impl Decoder {
    /// The config that it was built from.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// The type of the activations.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Changes the type of the activations (f32, bf16 or f16); at first it is that of the weights.
    ///
    /// # Errors
    /// A type that is not a float.
    pub fn set_dtype(&mut self, dtype: DType) -> Result<()> {
        check_float(dtype)?;
        self.dtype = dtype;
        Ok(())
    }

    /// Where its parameters are, and so where it computes.
    pub fn device(&self) -> Device {
        self.head.value().device()
    }

    /// Moves every parameter, adapters and 1-bit deltas included, to a device, one at a time. Batches are moved to where the model is.
    ///
    /// # Errors
    /// [`Error::Cuda`] when it does not fit.
    pub fn to_device(&self, device: Device) -> Result<()> {
        let adapters = self.linears().filter_map(|(_, linear)| linear.adapter());
        let adapters = adapters.flat_map(|adapter| [adapter.a.clone(), adapter.b.clone()]);
        self.quantized_weights().try_for_each(|weight| weight.to_device(device))?;
        self.linears()
            .filter_map(|(_, linear)| linear.delta())
            .try_for_each(|delta| delta.to_device(device))?;
        self.parameters().into_iter().chain(adapters).try_for_each(|param| param.to_device(device))
    }

    /// Whether the layers' saved state is dropped in the forward and computed again in the backward: less memory, the same
    /// gradients, about a third more time. Off at first.
    pub fn set_checkpointing(&mut self, on: bool) {
        self.checkpointing = on;
    }

    /// Whether adapters take part. Switched off, the model computes what its base does.
    pub fn set_adapters_enabled(&mut self, on: bool) {
        self.adapters = on;
    }

    /// Whether adapters take part.
    pub fn adapters_enabled(&self) -> bool {
        self.adapters
    }

    /// The parameters, adapters' and weights in 4-bit blocks excluded, each once, in a stable order. Their names are those of a Hugging Face checkpoint.
    pub fn parameters(&self) -> Vec<Param> {
        let mut all = vec![self.embedding.weight().clone()];
        all.extend(self.positions.iter().map(|p| p.weight().clone()));
        all.extend(self.layers.iter().flat_map(|layer| layer.parameters()));
        all.extend(self.norm.parameters());
        if !self.config.tie_word_embeddings {
            all.push(self.head.clone());
        }
        all
    }

    /// The linear layers by module path (`model.layers.0.self_attn.q_proj`), the output projection excluded.
    pub fn linears(&self) -> impl Iterator<Item = (&str, &Linear)> {
        self.layers.iter().flat_map(|layer| layer.linears()).map(|linear| (linear.path(), linear))
    }

    /// As [`Decoder::linears`], for changing them.
    pub fn linears_mut(&mut self) -> impl Iterator<Item = (String, &mut Linear)> {
        let layers = self.layers.iter_mut();
        // A layer that a tape still holds is copied; the copy's parameters are the same parameters.
        let linears = layers.flat_map(|layer| Arc::make_mut(layer).linears_mut());
        linears.map(|linear| (linear.path().to_string(), linear))
    }

    /// Freezes (false) or unfreezes every parameter, adapters' excluded.
    pub fn set_trainable(&self, trainable: bool) {
        self.parameters().iter().for_each(|p| p.set_trainable(trainable));
    }

    /// The output of the final norm, `[T, hidden]`.
    ///
    /// # Errors
    /// An id outside the vocabulary, a position that the model has no embedding for.
    pub fn hidden(&self, tape: &Tape, batch: &TokenBatch) -> Result<Var> {
        let batch = &self.place(batch)?;
        let mut x = self.embed(tape, batch.ids(), batch.positions())?;
        // Read once, so that a checkpointed layer computes the same the second time.
        let adapters = self.adapters;
        for layer in &self.layers {
            let (positions, cu_seqlens) = (batch.positions().clone(), batch.cu_seqlens().clone());
            let attend = move |tape: &Tape, a: &layer::Attention, qkv: &[Var; 3]| {
                a.attend_packed(tape, qkv, &positions, &cu_seqlens)
            };
            x = if self.checkpointing && tape.is_recording() {
                let layer = Arc::clone(layer);
                tape.checkpoint(&[&x], move |tape, inputs| {
                    layer.forward(tape, &inputs[0], adapters, |a, qkv| attend(tape, a, qkv))
                })?
            } else {
                layer.forward(tape, &x, adapters, |a, qkv| attend(tape, a, qkv))?
            };
        }
        self.norm.forward(tape, &x)
    }

    /// The sum of the cross-entropies of the labelled positions, divided by `denominator` (the number of labelled
    /// positions of the whole step). `labels`: u32 `[T]`, the token that should follow each position, or
    /// [`IGNORE_LABEL`](crate::ops::linear_cross_entropy::IGNORE_LABEL). The logits of the batch are never all in memory.
    ///
    /// # Errors
    /// As [`Decoder::hidden`]; labels that do not fit.
    pub fn loss(&self, tape: &Tape, batch: &TokenBatch, labels: &Tensor, denominator: f32) -> Result<Var> {
        check_labels(labels.as_u32()?, self.config.vocab_size)?;
        let hidden = self.hidden(tape, batch)?;
        let _scope = tape.scope("lm_head");
        let labels = labels.to_device(self.device())?;
        linear_cross_entropy(tape, &hidden, &tape.param(&self.head), &labels, denominator)
    }

    /// Logits `[N, vocab]` in f32 of rows `[N, hidden]` of [`Decoder::hidden`]. No gradient.
    ///
    /// # Errors
    /// Rows of another width.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        let tape = Tape::inference();
        // In f32 whatever the activations are: rounded logits would tie.
        let x = Var::constant(hidden.to_dtype(DType::F32)?);
        Ok(matmul(&tape, &x, &Var::constant(self.head.value()), None, Epilogue::None)?.into_value())
    }

    /// Logits `[T, vocab]` in f32 of the output of [`Decoder::hidden`], through which gradients flow. All of them are in memory.
    ///
    /// # Errors
    /// Rows of another width.
    pub fn logits_of(&self, tape: &Tape, hidden: &Var) -> Result<Var> {
        let _scope = tape.scope("lm_head");
        let x = cast(tape, hidden, DType::F32)?;
        matmul(tape, &x, &tape.param(&self.head), None, Epilogue::None)
    }

    /// Checks a batch in host memory and moves it to where the model is.
    fn place(&self, batch: &TokenBatch) -> Result<TokenBatch> {
        self.check_ids(batch.ids())?;
        self.check_positions(batch.positions())?;
        batch.to_device(self.device())
    }

    fn check_ids(&self, ids: &Tensor) -> Result<()> {
        self.check_range("token id", ids, self.config.vocab_size, "rows of the embedding")
    }

    fn check_positions(&self, positions: &Tensor) -> Result<()> {
        match self.positions {
            Some(_) => {
                let of = "positions that the model was made for";
                self.check_range("position", positions, self.config.max_positions, of)
            }
            None => Ok(()),
        }
    }

    /// The residual stream at the entrance of the first layer.
    fn embed(&self, tape: &Tape, ids: &Tensor, positions: &Tensor) -> Result<Var> {
        let x = self.embedding.forward(tape, ids, self.dtype)?;
        let Some(table) = &self.positions else { return Ok(x) };
        add(tape, &x, &table.forward(tape, positions, self.dtype)?)
    }

    fn check_range(&self, what: &str, values: &Tensor, limit: usize, of: &str) -> Result<()> {
        match values.as_u32()?.iter().find(|&&v| v as usize >= limit) {
            Some(v) => Err(Error::model("model input", format!("{what} {v} is outside the {limit} {of}"))),
            None => Ok(()),
        }
    }
}

fn check_float(dtype: DType) -> Result<()> {
    match dtype.is_float() {
        true => Ok(()),
        false => Err(Error::config("dtype", format!("'{dtype}' is none of f32, bf16, f16"))),
    }
}
