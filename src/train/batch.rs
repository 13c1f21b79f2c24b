//! From the data's batches to the model's, and to losses.

use crate::autograd::{Tape, Var};
use crate::data::{Batch, Loader, Sample};
use crate::models::Decoder;
use crate::nn::TokenBatch;
use crate::tensor::Tensor;
use crate::{Error, Result};

/// The summed loss of a batch divided by `denominator`, for [`Stepper::step`](crate::train::step::Stepper::step).
pub fn batch_loss(model: &Decoder, tape: &Tape, batch: &Batch, denominator: f32) -> Result<Var> {
    let vector = |values: &[u32]| Tensor::from_u32(values.to_vec(), &[values.len()]);
    let tokens = TokenBatch::new(vector(&batch.ids), vector(&batch.positions), batch.cu_seqlens.clone())?;
    model.loss(tape, &tokens, &vector(&batch.labels), denominator)
}

/// The micro-batches of the next optimizer step: `accumulation` of them, fewer at the end of an epoch.
pub fn next_window(loader: &mut Loader, accumulation: usize) -> Vec<Batch> {
    let epoch = loader.cursor().epoch;
    let mut window = Vec::with_capacity(accumulation);
    while window.len() < accumulation && loader.cursor().epoch == epoch {
        window.push(loader.next_batch());
    }
    window
}

/// Mean loss over the labelled tokens of one pass over `loader`, in nats; nothing is recorded, dropout is off.
///
/// # Errors
/// [`Error::NonFinite`] if it is not finite; [`Error::Model`] if no token is labelled.
pub fn evaluate(model: &Decoder, loader: &Loader) -> Result<f64> {
    let labelled: usize = loader.pass().map(|b| b.loss_tokens).sum();
    if labelled == 0 {
        return Err(Error::model("evaluation", "no token of the validation set carries loss"));
    }
    let mut mean = 0.0;
    for batch in loader.pass() {
        // Each part is divided by its own labels alone in f32, and weighed in f64: the sum does not lose small parts.
        if batch.loss_tokens > 0 {
            let part = batch_loss(model, &Tape::inference(), &batch, batch.loss_tokens as f32)?;
            mean += f64::from(part.value().item()?) * (batch.loss_tokens as f64 / labelled as f64);
        }
    }
    if !mean.is_finite() {
        return Err(Error::NonFinite { what: "the evaluation loss".to_string(), place: None });
    }
    Ok(mean)
}

/// Identifies samples and their order, so that a resumed run can tell whether they are still the same.
pub fn fingerprint(samples: &[Sample]) -> String {
    let (mut crc, mut tokens) = (0, 0);
    for sample in samples {
        crc = crc32c::crc32c_append(crc, &(sample.ids.len() as u64).to_le_bytes());
        for (id, trained) in sample.ids.iter().zip(&sample.trained) {
            crc = crc32c::crc32c_append(crc, &id.to_le_bytes());
            crc = crc32c::crc32c_append(crc, &[u8::from(*trained)]);
        }
        tokens += sample.ids.len();
    }
    format!("{} samples, {tokens} tokens, crc {crc:08x}", samples.len())
}
