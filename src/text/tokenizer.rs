//! Text to token ids and back.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use tokenizers::{DecoderWrapper, PreTokenizerWrapper, Tokenizer};

use super::{CHATML, ChatTemplate, IM_END, StreamDecoder, tokenizer_error};
use crate::Result;

/// The tokens with a meaning of their own, and the templates that use them.
#[derive(Clone, Debug, Default)]
pub struct SpecialTokens {
    /// Begins a sequence.
    pub bos: Option<String>,
    /// Ends a text or a turn.
    pub eos: Option<String>,
    /// Fills up batches; the engine never pads, templates may print it.
    pub pad: Option<String>,
    /// Stands for what the vocabulary lacks.
    pub unk: Option<String>,
    /// Further ids that end a generation, e.g. those of generation_config.json.
    pub stop_ids: Vec<u32>,
    /// Chat templates by name; the usual one is called "default".
    pub chat_templates: Vec<(String, String)>,
}

/// Token ids with the bytes of the text that each stands for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoded {
    /// The ids.
    pub ids: Vec<u32>,
    /// For each id its byte range in the text: together they cover the text without gaps, in order. Tokens that are parts of
    /// one character share its range; a token that stands for no text has an empty one.
    pub spans: Vec<Range<usize>>,
}

/// A tokenizer with its special tokens and chat templates.
#[derive(Clone, Debug)]
pub struct TextTokenizer {
    pub(super) inner: Tokenizer,
    pub(super) special: SpecialTokens,
    /// The files that it was loaded from, by name, for `save`: the folder may be gone by then, or have changed.
    pub(super) files: Option<Arc<BTreeMap<String, Vec<u8>>>>,
    /// The template is not the folder's own.
    pub(super) template_changed: bool,
    bos_id: Option<u32>,
    eos_ids: Vec<u32>,
    pad_id: Option<u32>,
    vocab_size: usize,
}

impl TextTokenizer {
    /// A tokenizer from its parts, e.g. those that a GGUF file carries. Truncation and padding settings inside `inner` are
    /// switched off: cutting is the data pipeline's decision.
    ///
    /// # Errors
    /// If `bos` or `eos` names a token that the vocabulary lacks, or the vocabulary is empty.
    pub fn from_parts(mut inner: Tokenizer, special: SpecialTokens) -> Result<TextTokenizer> {
        inner.with_truncation(None).map_err(|e| tokenizer_error(e.to_string()))?;
        inner.with_padding(None);
        let id = |token: &Option<String>, name: &str| match token {
            None => Ok(None),
            Some(token) => match inner.token_to_id(token) {
                Some(id) => Ok(Some(id)),
                None => Err(tokenizer_error(format!(
                    "the {name} token is said to be '{token}', but the vocabulary has no such token"
                ))),
            },
        };
        let bos_id = id(&special.bos, "bos")?;
        let eos_id = id(&special.eos, "eos")?;
        let pad_id = special.pad.as_deref().and_then(|pad| inner.token_to_id(pad));
        let mut eos_ids: Vec<u32> = eos_id.into_iter().collect();
        for &stop in &special.stop_ids {
            if !eos_ids.contains(&stop) {
                eos_ids.push(stop);
            }
        }
        let highest = inner.get_vocab(true).into_values().max();
        let Some(highest) = highest else {
            return Err(tokenizer_error("the vocabulary is empty"));
        };
        Ok(TextTokenizer {
            inner,
            special,
            files: None,
            template_changed: false,
            bos_id,
            eos_ids,
            pad_id,
            vocab_size: highest as usize + 1,
        })
    }

    /// The ids of `text`. With `add_special`, the tokenizer's own frame (e.g. a leading BOS) is added; texts from a chat
    /// template already have theirs and are encoded without.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>> {
        let encoding =
            self.inner.encode_fast(text, add_special).map_err(|e| tokenizer_error(e.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The ids of `text` and where in it each of them lies.
    pub fn encode_with_spans(&self, text: &str, add_special: bool) -> Result<Encoded> {
        let encoding = self.inner.encode(text, add_special).map_err(|e| tokenizer_error(e.to_string()))?;
        let mut spans = Vec::with_capacity(encoding.len());
        // Byte-level tokenizers may report a token without the spaces it begins with; the gap belongs to the token.
        let mut covered = 0;
        for (&(start, end), &special) in encoding.get_offsets().iter().zip(encoding.get_special_tokens_mask())
        {
            if special == 1 {
                spans.push(covered..covered);
                continue;
            }
            let end = end.clamp(start, text.len());
            spans.push(start.min(covered)..end);
            covered = covered.max(end);
        }
        Ok(Encoded { ids: encoding.get_ids().to_vec(), spans })
    }

    /// The text of `ids`; `skip_special` leaves out special tokens. Bytes that are no UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        self.inner.decode(ids, skip_special).map_err(|e| tokenizer_error(e.to_string()))
    }

    /// A decoder that takes ids one at a time.
    pub fn stream(&self, skip_special: bool) -> StreamDecoder<'_> {
        StreamDecoder::new(self, skip_special)
    }

    /// The id of a token, if the vocabulary has it.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The token with this id, as the vocabulary spells it.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Whether `id` is a special token: one of the frame, not of the text.
    pub fn is_special(&self, id: u32) -> bool {
        self.eos_ids.contains(&id)
            || self.bos_id == Some(id)
            || self
                .inner
                .id_to_token(id)
                .is_some_and(|t| self.inner.get_added_vocabulary().is_special_token(&t))
    }

    /// The id that begins a sequence.
    pub fn bos_id(&self) -> Option<u32> {
        self.bos_id
    }

    /// Adds ids that end a text, as the model's config.json names them. Ids that are not special tokens are passed over: a
    /// config without the key means a default that may be any token.
    pub fn add_eos_ids(&mut self, ids: &[u32]) {
        let new: Vec<u32> = ids.iter().copied().filter(|&id| self.is_special(id)).collect();
        for id in new {
            if !self.eos_ids.contains(&id) {
                self.eos_ids.push(id);
            }
        }
    }

    /// The id that ends a text: the first of [`TextTokenizer::eos_ids`].
    pub fn eos_id(&self) -> Option<u32> {
        self.eos_ids.first().copied()
    }

    /// All ids that end a generation.
    pub fn eos_ids(&self) -> &[u32] {
        &self.eos_ids
    }

    /// The BOS id, if the tokenizer itself puts it before a text.
    pub fn adds_bos(&self) -> Result<Option<u32>> {
        let frame = self.encode("", true)?;
        Ok(self.bos_id.filter(|bos| frame.first() == Some(bos)))
    }

    /// Whether a text may be cut before a line end between two letters without changing its tokens: byte-level tokenizers, whose
    /// patterns separate words there, if they add no space at the beginning.
    pub fn splits_at_line_ends(&self) -> bool {
        fn cuts(pre: &PreTokenizerWrapper) -> bool {
            match pre {
                PreTokenizerWrapper::ByteLevel(bytes) => !bytes.add_prefix_space,
                PreTokenizerWrapper::Sequence(all) => all.as_ref().iter().all(cuts),
                PreTokenizerWrapper::Split(_) | PreTokenizerWrapper::Digits(_) => true,
                _ => false,
            }
        }
        matches!(self.inner.get_decoder(), Some(DecoderWrapper::ByteLevel(_)))
            && self.inner.get_pre_tokenizer().is_some_and(cuts)
    }

    /// The padding id.
    pub fn pad_id(&self) -> Option<u32> {
        self.pad_id
    }

    /// The special tokens and templates, as text.
    pub fn special_tokens(&self) -> &SpecialTokens {
        &self.special
    }

    /// The highest id plus one.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Checks that a model with `model_vocab` rows of embeddings can be this tokenizer's.
    ///
    /// # Errors
    /// If an id lies outside the model, or the model has more than twice as many rows (padding of the vocabulary to a round
    /// size is usual, another tokenizer is not).
    pub fn check_vocab(&self, model_vocab: usize) -> Result<()> {
        let detail = if self.vocab_size > model_vocab {
            "so some ids would have no embedding"
        } else if self.vocab_size.saturating_mul(2) < model_vocab {
            "more than padding explains"
        } else {
            return Ok(());
        };
        Err(tokenizer_error(format!(
            "it has ids up to {}, but the model embeds {model_vocab} tokens, {detail}: tokenizer and model are not of one kind",
            self.vocab_size - 1
        )))
    }

    /// Whether the model came with a chat template.
    pub fn has_chat_template(&self) -> bool {
        !self.special.chat_templates.is_empty()
    }

    /// The source of the usual chat template, if the model came with one.
    pub fn default_chat_template(&self) -> Option<&str> {
        self.template_named("default")
    }

    fn template_named(&self, name: &str) -> Option<&str> {
        let templates = &self.special.chat_templates;
        templates.iter().find(|(n, _)| n == name).map(|(_, source)| source.as_str())
    }

    /// The chat template, compiled. With `tools`, the one named "tool_use" is preferred where there is one. If the model has
    /// none, ChatML is taken, and the second value says so in words for the user.
    ///
    /// # Errors
    /// If the template does not compile, or there are several and none is called "default".
    pub fn chat_template(&self, tools: bool) -> Result<(ChatTemplate, Option<String>)> {
        let for_tools = if tools { self.template_named("tool_use") } else { None };
        let source = for_tools.or_else(|| self.default_chat_template());
        let templates = &self.special.chat_templates;
        if let Some(source) = source {
            return Ok((ChatTemplate::new(source, &self.special)?, None));
        }
        if !templates.is_empty() {
            let names: Vec<&str> = templates.iter().map(|(n, _)| n.as_str()).collect();
            return Err(super::template_error(format!(
                "none is called 'default'; the tokenizer has: {}",
                names.join(", ")
            )));
        }
        let (source, note) = self.fallback_template();
        Ok((ChatTemplate::new(&source, &self.special)?, Some(note)))
    }

    fn fallback_template(&self) -> (String, String) {
        let note = "the model has no chat template: using ChatML (<|im_start|>role, text, end of turn)";
        match &self.special.eos {
            // Without the marker in the vocabulary a turn must end with a token that generation stops at.
            Some(eos) if self.token_to_id(IM_END).is_none() => (
                CHATML.replace("'<|im_end|>'", "eos_token"),
                format!("{note}, with '{eos}' as the end of a turn, since the vocabulary has no {IM_END}"),
            ),
            _ => (CHATML.to_owned(), note.to_owned()),
        }
    }

    /// Makes `source` the chat template, also in what [`TextTokenizer::save`] writes.
    pub fn set_chat_template(&mut self, source: impl Into<String>) {
        self.special.chat_templates = vec![("default".to_owned(), source.into())];
        self.template_changed = true;
    }
}
