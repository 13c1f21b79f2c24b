//! Text generation: prompts in, tokens out, with a key/value cache.

mod stop;

use std::ops::ControlFlow;

use crate::autograd::{Tape, Var};
use crate::device::Device;
use crate::device::philox::Philox;
use crate::models::{DecodeStep, Decoder};
use crate::nn::{KvCache, TokenBatch};
use crate::ops::embedding::embedding;
use crate::ops::sample::{History, NOT_FINITE, sample};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

pub use crate::ops::sample::{Sampler, Sampling};
pub use stop::StopStrings;

/// Streams of sampling, apart from those of dropout, fresh models and adapters.
const STREAM: u64 = 0b11 << 62;

/// What to generate.
#[derive(Clone, Default)]
pub struct GenerateOptions<'a> {
    /// Tokens of an answer at most.
    pub max_new_tokens: usize,
    /// How each token is chosen.
    pub sampling: Sampling,
    /// Random numbers are a function of the seed, the prompt's index and the position alone.
    pub seed: u64,
    /// Tokens that end an answer; they are not part of it.
    pub stop_ids: Vec<u32>,
    /// Texts that end an answer.
    pub stop_strings: Option<StopStrings<'a>>,
}

/// Why an answer ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finish {
    /// This stop token was chosen.
    StopId(u32),
    /// This stop string appeared; the answer's last tokens hold it, perhaps with text after it.
    StopString(String),
    /// As many tokens as allowed, or as the model has positions for.
    Length,
    /// The callback said so.
    Interrupted,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    /// The new tokens.
    pub ids: Vec<u32>,
    /// Why they end.
    pub finish: Finish,
}

/// A sequence that is not finished.
struct Running {
    index: usize,
    cache: KvCache,
    /// The prompt, then the answer.
    tokens: Vec<u32>,
    prompt_len: usize,
}

/// Continues each prompt. Prompts may differ in length (nothing is padded), and each answer is the one that its prompt would
/// get alone (greedy; with sampling, the one it would get with that index). `on_token(i, id)` hears of each new token of
/// prompt i as it is chosen; [`ControlFlow::Break`] ends all answers.
///
/// # Errors
/// An empty prompt, one that fills the model's context, settings out of range, logits that are not finite.
pub fn generate(
    model: &Decoder,
    prompts: &[Vec<u32>],
    options: &GenerateOptions<'_>,
    on_token: &mut dyn FnMut(usize, u32) -> ControlFlow<()>,
) -> Result<Vec<Completion>> {
    options.sampling.check()?;
    check_prompts(model, prompts)?;
    let mut done: Vec<Option<Completion>> = vec![None; prompts.len()];
    let mut running: Vec<Running> = Vec::with_capacity(prompts.len());
    for (index, prompt) in prompts.iter().enumerate() {
        let cache = model.new_cache();
        running.push(Running { index, cache, tokens: prompt.clone(), prompt_len: prompt.len() });
    }
    if options.max_new_tokens == 0 {
        running.drain(..).for_each(|r| done[r.index] = Some(r.complete(Finish::Length)));
    }
    let mut step = DecodeStep::new(model);
    while !running.is_empty() {
        let logits = next_logits(model, &mut step, &mut running)?;
        let chosen = choose(&logits, &running, options)?;
        let mut still = Vec::with_capacity(running.len());
        let mut interrupted = false;
        for (mut sequence, id) in running.drain(..).zip(chosen) {
            if interrupted {
                done[sequence.index] = Some(sequence.complete(Finish::Interrupted));
                continue;
            }
            if id == NOT_FINITE {
                return Err(Error::NonFinite { what: "the next token's logits".into(), place: None });
            }
            if options.stop_ids.contains(&id) {
                done[sequence.index] = Some(sequence.complete(Finish::StopId(id)));
                continue;
            }
            sequence.tokens.push(id);
            interrupted = on_token(sequence.index, id).is_break();
            match sequence.finish(model, options)? {
                Some(finish) => done[sequence.index] = Some(sequence.complete(finish)),
                None if interrupted => done[sequence.index] = Some(sequence.complete(Finish::Interrupted)),
                None => still.push(sequence),
            }
        }
        if interrupted {
            still.drain(..).for_each(|s| done[s.index] = Some(s.complete(Finish::Interrupted)));
        }
        running = still;
    }
    Ok(done.into_iter().flatten().collect())
}

impl Running {
    /// Whether the answer ends with the token that was just added.
    fn finish(&self, model: &Decoder, options: &GenerateOptions<'_>) -> Result<Option<Finish>> {
        let answer = &self.tokens[self.prompt_len..];
        if let Some(stop) = &options.stop_strings
            && let Some(found) = stop.find(answer)?
        {
            return Ok(Some(Finish::StopString(found.to_string())));
        }
        let full =
            answer.len() >= options.max_new_tokens || self.tokens.len() >= model.config().max_positions;
        Ok(full.then_some(Finish::Length))
    }

    fn complete(&self, finish: Finish) -> Completion {
        Completion { ids: self.tokens[self.prompt_len..].to_vec(), finish }
    }
}

/// Feeds each sequence's tokens that are not yet cached (the prompt, then one token at a time) and returns the logits of
/// what follows, `[sequences, vocab]`.
fn next_logits(model: &Decoder, step: &mut DecodeStep<'_>, running: &mut [Running]) -> Result<Tensor> {
    let starts: Vec<usize> = running.iter().map(|r| r.cache.len()).collect();
    let new: Vec<&[u32]> = running.iter().zip(&starts).map(|(r, &start)| &r.tokens[start..]).collect();
    if new.iter().all(|tokens| tokens.len() == 1) && starts.iter().all(|&start| start > 0) {
        let ids = Tensor::from_u32(new.concat(), &[running.len()]);
        let mut caches: Vec<&mut KvCache> = running.iter_mut().map(|r| &mut r.cache).collect();
        return Ok(step.step(&ids, &mut caches)?.clone());
    }
    let batch = TokenBatch::continued(&new, &starts)?;
    let mut caches: Vec<&mut KvCache> = running.iter_mut().map(|r| &mut r.cache).collect();
    let hidden = model.forward_cached(&batch, &mut caches)?;
    if batch.tokens() == caches.len() {
        return model.logits(&hidden);
    }
    // The hidden state of each sequence's last token.
    let last: Vec<u32> = batch.cu_seqlens()[1..].iter().map(|end| (end - 1) as u32).collect();
    let last = Tensor::from_u32(last, &[caches.len()]).to_device(hidden.device())?;
    let rows = embedding(&Tape::inference(), &last, &Var::constant(hidden), DType::F32)?;
    model.logits(rows.value())
}

/// A token for each sequence, chosen where the logits are; the host gets the tokens alone.
fn choose(logits: &Tensor, running: &[Running], options: &GenerateOptions<'_>) -> Result<Vec<u32>> {
    let (device, rows) = (logits.device(), running.len());
    let uniform = |r: &Running| {
        let random = Philox { seed: options.seed, stream: STREAM | r.index as u64 };
        random.uniform(r.tokens.len() as u64)
    };
    let uniforms = Tensor::from_f32(running.iter().map(uniform).collect(), &[rows]).to_device(device)?;
    let penalised = options.sampling.repetition_penalty != 1.0;
    let history = match penalised {
        true => {
            let longest = running.iter().map(|r| r.tokens.len()).max().unwrap_or(0);
            let padded = |r: &Running| {
                r.tokens.iter().copied().chain(std::iter::repeat(0)).take(longest).collect::<Vec<_>>()
            };
            let tokens: Vec<u32> = running.iter().flat_map(padded).collect();
            let lengths = running.iter().map(|r| r.tokens.len() as u32).collect();
            Some((
                Tensor::from_u32(tokens, &[rows, longest]).to_device(device)?,
                Tensor::from_u32(lengths, &[rows]).to_device(device)?,
            ))
        }
        false => None,
    };
    let history = history.as_ref().map(|(tokens, lengths)| History { tokens, lengths });
    let ids = sample(logits, history, &uniforms, &options.sampling)?;
    Ok(ids.to_device(Device::Cpu)?.as_u32()?.to_vec())
}

fn check_prompts(model: &Decoder, prompts: &[Vec<u32>]) -> Result<()> {
    let limit = model.config().max_positions;
    for (i, prompt) in prompts.iter().enumerate() {
        let bad = |detail: String| Err(Error::model(format!("prompt {i}"), detail));
        if prompt.is_empty() {
            return bad("has no tokens; give it some text, or the token that begins one".into());
        }
        if prompt.len() >= limit {
            return bad(format!("has {} tokens, which fill the model's context of {limit}", prompt.len()));
        }
    }
    Ok(())
}
