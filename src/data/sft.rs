//! Supervised fine-tuning data: records to samples with a loss mask, and the mistakes that must not reach training.

use std::ops::Range;
use std::path::Path;

use rayon::prelude::*;

use super::{DataFormat, Example, Record, Sample, Stats, open};
use crate::text::{ChatTemplate, Conversation, Encoded, MaskSource, TextTokenizer};
use crate::{Error, Result};

/// Which tokens of a conversation carry loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrainOn {
    /// What the assistant wrote, with the tokens that end its turns.
    Assistant,
    /// Every token.
    All,
    /// The assistant's last turn.
    Last,
}

/// What happens to a sample of more than the allowed tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverLong {
    /// An error that names the line.
    Error,
    /// It is left out and counted.
    Drop,
    /// Its end is cut off; an error if nothing that is trained would be left.
    Truncate,
}

/// How `prompt+completion` data reaches the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PromptStyle {
    /// As a user's and an assistant's turn in the chat template.
    Chat,
    /// As prompt, completion and eos, without any template.
    Plain,
}

/// Settings of [`load_sft`].
#[derive(Clone, Debug)]
pub struct SftOptions {
    /// The most tokens a sample may have.
    pub max_tokens: usize,
    /// What to do with longer ones.
    pub over_long: OverLong,
    /// What carries loss.
    pub train_on: TrainOn,
    /// With or without the chat template.
    pub style: PromptStyle,
    /// The data format; detected if None.
    pub format: Option<DataFormat>,
}

impl Default for SftOptions {
    fn default() -> Self {
        SftOptions {
            max_tokens: 2048,
            over_long: OverLong::Error,
            train_on: TrainOn::Assistant,
            style: PromptStyle::Chat,
            format: None,
        }
    }
}

/// A tokenized data set.
#[derive(Clone, Debug)]
pub struct SftSet {
    /// The samples, in the order of the file.
    pub samples: Vec<Sample>,
    /// The format, detected or given.
    pub format: DataFormat,
    /// Figures of `samples`.
    pub stats: Stats,
    /// What the user should know: examples left out or cut, turns without an end.
    pub notes: Vec<String>,
}

/// Reads and tokenizes a data file.
///
/// # Errors
/// With file and line: a record that cannot be used, an unknown or changing format, an unknown role, two BOS tokens at the
/// beginning, a sample that is too long, an answer that would be cut away. For the whole file: no example, or none with a
/// token to train.
pub fn load_sft(
    path: impl AsRef<Path>,
    tokenizer: &TextTokenizer,
    template: &ChatTemplate,
    options: &SftOptions,
) -> Result<SftSet> {
    let path = path.as_ref();
    let mut builder =
        Builder { path, tokenizer, template, options, samples: Vec::new(), counts: Default::default() };
    let mut format = options.format;
    let mut records = open(path)?;
    loop {
        let chunk: Vec<Record> = records.by_ref().take(1024).collect::<Result<_>>()?;
        let Some(first) = chunk.first() else { break };
        let format = match format {
            Some(format) => format,
            None => {
                let detected =
                    DataFormat::detect(&first.fields).map_err(|e| Error::data(path, first.line, e))?;
                *format.insert(detected)
            }
        };
        builder.add(&chunk, format)?;
    }
    let whole =
        |detail: &str| Error::Data { path: path.to_path_buf(), line: None, detail: detail.to_owned() };
    builder.finish(format.ok_or_else(|| whole("there is no example in it"))?)
}

/// How often something happened, and the first line where it did.
#[derive(Clone, Copy, Default)]
struct Count {
    times: usize,
    first: usize,
}

impl Count {
    fn add(&mut self, line: usize) {
        if self.times == 0 {
            self.first = line;
        }
        self.times += 1;
    }

    fn note(&self, notes: &mut Vec<String>, what: &str) {
        if self.times > 0 {
            notes.push(format!("{} example(s) {what}, the first on line {}", self.times, self.first));
        }
    }
}

#[derive(Default)]
struct Counts {
    dropped: Count,
    truncated: Count,
    untrained: Count,
    unended: Count,
}

struct Builder<'a> {
    path: &'a Path,
    tokenizer: &'a TextTokenizer,
    template: &'a ChatTemplate,
    options: &'a SftOptions,
    samples: Vec<Sample>,
    counts: Counts,
}

impl Builder<'_> {
    fn add(&mut self, chunk: &[Record], format: DataFormat) -> Result<()> {
        let this = &*self;
        let samples: Vec<Result<Sample>> =
            chunk.par_iter().map(|record| this.sample(record, format)).collect();
        for sample in samples {
            let mut sample = sample?;
            let limit = self.options.max_tokens;
            if sample.loss_tokens() == 0 {
                self.counts.untrained.add(sample.line);
                continue;
            }
            if sample.ids.len() > limit {
                match self.options.over_long {
                    OverLong::Error => return Err(self.too_long(&sample, "")),
                    OverLong::Drop => {
                        self.counts.dropped.add(sample.line);
                        continue;
                    }
                    OverLong::Truncate => {
                        if !sample.trained[..limit].contains(&true) {
                            let more =
                                ", and cutting its end off would take away every token that is trained";
                            return Err(self.too_long(&sample, more));
                        }
                        sample.ids.truncate(limit);
                        sample.trained.truncate(limit);
                        self.counts.truncated.add(sample.line);
                    }
                }
            } else if self.options.style == PromptStyle::Chat
                && format != DataFormat::Text
                && !self.ends_with_stop(&sample)
            {
                self.counts.unended.add(sample.line);
            }
            self.samples.push(sample);
        }
        Ok(())
    }

    fn finish(self, format: DataFormat) -> Result<SftSet> {
        let counts = &self.counts;
        if self.samples.is_empty() {
            let detail = if counts.dropped.times > 0 {
                format!(
                    "no example is left: all with a token to train are longer than {} tokens",
                    self.options.max_tokens
                )
            } else if counts.untrained.times > 0 {
                format!(
                    "none of the {} examples has a token to train on, the first on line {}: is there an assistant turn in them, and \
                     does the chat template print it?",
                    counts.untrained.times, counts.untrained.first
                )
            } else {
                "there is no example in it".to_owned()
            };
            return Err(Error::Data { path: self.path.to_path_buf(), line: None, detail });
        }
        let mut notes = Vec::new();
        counts.untrained.note(&mut notes, "have no token to train on and are left out");
        counts.dropped.note(
            &mut notes,
            &format!("are longer than {} tokens and are left out", self.options.max_tokens),
        );
        counts.truncated.note(&mut notes, &format!("are cut at {} tokens", self.options.max_tokens));
        counts.unended.note(
            &mut notes,
            "end without a trained end-of-turn token, so the model may not learn to stop (the template prints none)",
        );
        Ok(SftSet { stats: Stats::of(&self.samples), samples: self.samples, format, notes })
    }

    fn sample(&self, record: &Record, format: DataFormat) -> Result<Sample> {
        let at = |detail: String| Error::data(self.path, record.line, detail);
        let example = format.example(&record.fields).map_err(at)?;
        let (ids, mut trained) = match &example {
            Example::Text(text) => self.text(text),
            Example::Chat { conversation, .. } if self.options.style == PromptStyle::Plain => {
                match (format, conversation.messages.as_slice()) {
                    (DataFormat::PromptCompletion, [prompt, completion]) => {
                        let text = |message: &serde_json::Value| {
                            message["content"].as_str().map(str::to_owned).ok_or_else(|| {
                                at("the plain style needs texts as prompt and completion".to_owned())
                            })
                        };
                        self.plain(&text(prompt)?, &text(completion)?)
                    }
                    _ => Err(at(format!(
                        "the plain style is for prompt+completion data of two texts, this is '{format}': use the chat style"
                    ))),
                }
            }
            Example::Chat { conversation, first_trained } => self.chat(conversation, *first_trained),
        }
        .map_err(|e| match e {
            Error::Text { what, detail } => at(format!("{what}: {detail}")),
            other => other,
        })?;
        if let (Some(bos), [first, second, ..]) = (self.tokenizer.bos_id(), ids.as_slice())
            && bos == *first
            && bos == *second
        {
            return Err(at(format!(
                "the text begins with the BOS token '{}' twice: take it out of the data, or out of the chat template",
                self.tokenizer.special_tokens().bos.as_deref().unwrap_or_default()
            )));
        }
        if let Some(first) = trained.first_mut() {
            *first = false;
        }
        Ok(Sample { ids, trained, line: record.line })
    }

    /// Every token carries loss; the tokenizer's frame is added, but no second BOS, and eos ends it.
    fn text(&self, text: &str) -> Result<(Vec<u32>, Vec<bool>)> {
        let has_bos = self.tokenizer.special_tokens().bos.as_deref().is_some_and(|bos| text.starts_with(bos));
        let mut ids = self.tokenizer.encode(text, !has_bos)?;
        self.end(&mut ids);
        let trained = vec![true; ids.len()];
        Ok((ids, trained))
    }

    /// Prompt and completion as one text, so that the tokens at the seam are those of the joined text.
    fn plain(&self, prompt: &str, completion: &str) -> Result<(Vec<u32>, Vec<bool>)> {
        let text = format!("{prompt}{completion}");
        let has_bos = self.tokenizer.special_tokens().bos.as_deref().is_some_and(|bos| text.starts_with(bos));
        let encoded = self.tokenizer.encode_with_spans(&text, !has_bos)?;
        let mut trained = match self.options.train_on {
            TrainOn::All => vec![true; encoded.ids.len()],
            TrainOn::Assistant | TrainOn::Last => {
                mask(&encoded, std::slice::from_ref(&(prompt.len()..text.len())))
            }
        };
        let mut ids = encoded.ids;
        self.end(&mut ids);
        trained.resize(ids.len(), true);
        Ok((ids, trained))
    }

    fn end(&self, ids: &mut Vec<u32>) {
        if let Some(eos) = self.tokenizer.eos_id()
            && ids.last() != Some(&eos)
        {
            ids.push(eos);
        }
    }

    /// The chat template prints all special tokens itself, so none is added when encoding.
    fn chat(&self, conversation: &Conversation, first_trained: usize) -> Result<(Vec<u32>, Vec<bool>)> {
        if self.options.train_on == TrainOn::All {
            let ids = self.tokenizer.encode(&self.template.render(conversation, false)?, false)?;
            let trained = vec![true; ids.len()];
            return Ok((ids, trained));
        }
        let rendered = self.template.render_with_spans(conversation)?;
        let mut spans = rendered.spans;
        let assistant =
            |range: Range<usize>| range.filter(|&i| conversation.role(i) == Some("assistant")).count();
        let prompt_turns = assistant(0..first_trained);
        if prompt_turns > 0 {
            let turns = assistant(0..conversation.messages.len());
            if spans.len() != turns {
                return Err(Error::Text {
                    what: "chat template",
                    detail: format!(
                        "it marks {} parts as the assistant's in a conversation with {turns} assistant turns, so those of the prompt \
                         cannot be told from the completion's",
                        spans.len()
                    ),
                });
            }
            spans.drain(..prompt_turns);
        }
        if self.options.train_on == TrainOn::Last {
            spans.drain(..spans.len().saturating_sub(1));
        }
        let encoded = self.tokenizer.encode_with_spans(&rendered.text, false)?;
        let mut trained = mask(&encoded, &spans);
        if rendered.source == MaskSource::Turns {
            self.settle_ends(&encoded, &spans, &mut trained);
        }
        Ok((encoded.ids, trained))
    }

    /// A turn that was found by rendering ends with its last special token. White space that the template prints behind it is not the
    /// assistant's; and where the span ends before it, since the template ends a conversation's last turn differently, it is the
    /// token that follows.
    fn settle_ends(&self, encoded: &Encoded, spans: &[Range<usize>], trained: &mut [bool]) {
        for span in spans {
            let first = encoded.spans.partition_point(|token| token.end <= span.start);
            let end = first + encoded.spans[first..].partition_point(|token| token.start < span.end);
            match encoded.ids[first..end].iter().rposition(|&id| self.tokenizer.is_special(id)) {
                Some(last) => {
                    let after = first + last + 1..end;
                    let text = self.tokenizer.decode(&encoded.ids[after.clone()], false);
                    if text.is_ok_and(|text| text.trim().is_empty()) {
                        trained[after].fill(false);
                    }
                }
                None => {
                    let next = encoded.ids.get(end).copied();
                    if next.is_some_and(|id| {
                        self.tokenizer.is_special(id) && self.tokenizer.bos_id() != Some(id)
                    }) {
                        trained[end] = true;
                    }
                }
            }
        }
    }

    fn ends_with_stop(&self, sample: &Sample) -> bool {
        let last = sample.trained.iter().rposition(|&t| t);
        last.is_some_and(|last| self.tokenizer.is_special(sample.ids[last]))
    }

    fn too_long(&self, sample: &Sample, more: &str) -> Error {
        Error::data(
            self.path,
            sample.line,
            format!(
                "the example has {} tokens, data.max_tokens allows {}{more}: raise data.max_tokens, shorten the example, or leave such \
                 examples out with data.over_long = \"drop\"",
                sample.ids.len(),
                self.options.max_tokens
            ),
        )
    }
}

/// Which tokens lie at least partly inside `spans`.
fn mask(encoded: &Encoded, spans: &[Range<usize>]) -> Vec<bool> {
    let mut trained = vec![false; encoded.ids.len()];
    // Both lists ascend, so a span's tokens begin no earlier than those of the span before.
    let mut from = 0;
    for span in spans {
        from += encoded.spans[from..].partition_point(|token| token.end <= span.start);
        for (token, trained) in encoded.spans[from..].iter().zip(&mut trained[from..]) {
            if token.start >= span.end {
                break;
            }
            *trained |= overlap(token, span);
        }
    }
    trained
}

fn overlap(a: &Range<usize>, b: &Range<usize>) -> bool {
    a.start.max(b.start) < a.end.min(b.end)
}
