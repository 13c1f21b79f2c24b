//! The tokenizer inside a GGUF file.

use std::collections::HashMap;

use serde_json::{Map, Value, json};
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as Decoders;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::{Prepend, Replace, Sequence as Normalizers};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, NormalizerWrapper, Tokenizer};

use super::metadata::View;
use super::pretokenizer::rules;
use super::read::GgufFile;
use crate::error::{Error, Result};

/// SentencePiece marks the start of a word with this.
const WORD_START: &str = "\u{2581}";
/// No learned piece comes near this; finding the merges of a token takes time quadratic in its length.
const MAX_PIECE_BYTES: usize = 512;

// The values of tokenizer.ggml.token_type that matter.
const NORMAL: i64 = 1;
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

/// The tokenizer of a GGUF file, with what the metadata says of its special tokens.
#[derive(Debug)]
pub struct GgufTokenizer {
    /// The tokenizer; with special tokens asked for, it adds those that `add_bos` and `add_eos` say.
    pub tokenizer: Tokenizer,
    /// Beginning of text.
    pub bos: Option<u32>,
    /// End of text.
    pub eos: Option<u32>,
    /// End of a turn, where the file names one beside `eos`.
    pub eot: Option<u32>,
    /// Unknown text.
    pub unk: Option<u32>,
    /// Padding.
    pub pad: Option<u32>,
    /// Whether texts begin with `bos`.
    pub add_bos: bool,
    /// Whether texts end with `eos`.
    pub add_eos: bool,
    /// The chat template (Jinja), if there is one.
    pub chat_template: Option<String>,
}

impl GgufFile {
    /// Builds the tokenizer: byte-level BPE (`tokenizer.ggml.model` "gpt2") or SentencePiece BPE ("llama").
    ///
    /// # Errors
    /// [`Error::Format`], naming the metadata key, when something is missing or contradicts itself;
    /// [`Error::Unsupported`] for other tokenizer models and unknown pre-tokenizers.
    pub fn tokenizer(&self) -> Result<GgufTokenizer> {
        let view = self.view();
        let vocabulary = Vocabulary::read(&view)?;
        let model = view.str("tokenizer.ggml.model")?.ok_or_else(|| view.missing("tokenizer.ggml.model"))?;
        let (mut tokenizer, default_bos) = match model {
            "gpt2" => byte_level(&view, &vocabulary)?,
            "llama" => sentence_piece(&view, &vocabulary)?,
            other => {
                let what = format!("{}: the tokenizer model '{other}'", self.path().display());
                return Err(Error::unsupported(what, "gpt2 (byte-level BPE) and llama (SentencePiece) are"));
            }
        };
        tokenizer.add_tokens(&vocabulary.added_tokens());
        let id = |key: &str| -> Result<Option<u32>> {
            let id = view.token_id(key)?;
            match id {
                Some(id) if id as usize >= vocabulary.tokens.len() => {
                    Err(view.error(key, format!("{id} is outside the {} tokens", vocabulary.tokens.len())))
                }
                id => Ok(id),
            }
        };
        let (bos, eos) = (id("tokenizer.ggml.bos_token_id")?, id("tokenizer.ggml.eos_token_id")?);
        let add_bos = view.bool("tokenizer.ggml.add_bos_token")?.unwrap_or(default_bos) && bos.is_some();
        let add_eos = view.bool("tokenizer.ggml.add_eos_token")?.unwrap_or(false) && eos.is_some();
        let around = [bos.filter(|_| add_bos), eos.filter(|_| add_eos)];
        if let Some(template) = template(&vocabulary, around)? {
            tokenizer.with_post_processor(Some(template));
        }
        Ok(GgufTokenizer {
            tokenizer,
            bos,
            eos,
            eot: id("tokenizer.ggml.eot_token_id")?,
            unk: id("tokenizer.ggml.unknown_token_id")?,
            pad: id("tokenizer.ggml.padding_token_id")?,
            add_bos,
            add_eos,
            chat_template: view.str("tokenizer.chat_template")?.map(str::to_owned),
        })
    }
}

/// The tokens, their kinds and their ids.
struct Vocabulary<'a> {
    tokens: Vec<&'a str>,
    /// Empty, or one a token.
    kinds: Vec<i64>,
    ids: HashMap<&'a str, u32>,
}

impl<'a> Vocabulary<'a> {
    fn read(view: &View<'a>) -> Result<Vocabulary<'a>> {
        let key = "tokenizer.ggml.tokens";
        let tokens = view.strings(key)?.ok_or_else(|| view.missing(key))?;
        let kinds_key = "tokenizer.ggml.token_type";
        let kinds = view.ints(kinds_key)?.unwrap_or_default();
        if !kinds.is_empty() && kinds.len() != tokens.len() {
            return Err(
                view.error(kinds_key, format!("has {} entries for {} tokens", kinds.len(), tokens.len()))
            );
        }
        let mut ids = HashMap::new();
        for (id, &token) in tokens.iter().enumerate() {
            let id = u32::try_from(id).map_err(|_| view.error(key, "has more than 2^32 tokens"))?;
            if let Some(first) = ids.insert(token, id) {
                return Err(view.error(key, format!("has {token:?} twice, as {first} and {id}")));
            }
        }
        Ok(Vocabulary { tokens, kinds, ids })
    }

    fn kind(&self, id: u32) -> i64 {
        self.kinds.get(id as usize).copied().unwrap_or(NORMAL)
    }

    /// The map that the `tokenizers` crate wants.
    fn to_map(&self) -> Vocab {
        self.ids.iter().map(|(&token, &id)| (token.to_owned(), id)).collect()
    }

    /// Control tokens (hidden when decoding) and user-defined ones (visible), both found in text before anything else.
    fn added_tokens(&self) -> Vec<AddedToken> {
        let added = |(id, &token): (usize, &&str)| {
            let special = match self.kinds.get(id) {
                Some(&CONTROL) => true,
                Some(&USER_DEFINED) => false,
                _ => return None,
            };
            Some(AddedToken::from(token, special).normalized(false))
        };
        self.tokens.iter().enumerate().filter_map(added).collect()
    }
}

/// GPT-2's kind: text as bytes, bytes as printable characters, merges by rank.
fn byte_level(view: &View<'_>, vocabulary: &Vocabulary<'_>) -> Result<(Tokenizer, bool)> {
    let key = "tokenizer.ggml.merges";
    let merges = view.strings(key)?.ok_or_else(|| view.missing(key))?;
    let pair = |merge: &&str| {
        merge
            .split_once(' ')
            .map(|(a, b)| (a.to_owned(), b.to_owned()))
            .ok_or_else(|| view.error(key, format!("{merge:?} must be two pieces with a space between")))
    };
    let merges = merges.iter().map(pair).collect::<Result<Vec<_>>>()?;
    let rules =
        rules(view.str("tokenizer.ggml.pre")?, view.str("general.architecture")?.unwrap_or_default())?;
    let bpe = BPE::builder()
        .vocab_and_merges(vocabulary.to_map(), merges)
        .ignore_merges(rules.ignore_merges)
        .build()
        .map_err(|e| view.error(key, e.to_string()))?;
    let mut tokenizer = Tokenizer::new(bpe);
    tokenizer
        .with_normalizer(rules.normalizer)
        .with_pre_tokenizer(Some(rules.pre_tokenizer))
        .with_decoder(Some(ByteLevel::default()));
    Ok((tokenizer, rules.add_bos))
}

/// SentencePiece's BPE: spaces as U+2581, the pair that makes the best-scored piece merged first, unknown characters
/// as byte tokens.
fn sentence_piece(view: &View<'_>, vocabulary: &Vocabulary<'_>) -> Result<(Tokenizer, bool)> {
    let unknown = view.token_id("tokenizer.ggml.unknown_token_id")?.unwrap_or(0);
    let Some(&unknown) = vocabulary.tokens.get(unknown as usize) else {
        return Err(view.error("tokenizer.ggml.unknown_token_id", format!("{unknown} is not a token")));
    };
    let bpe = BPE::builder()
        .vocab_and_merges(vocabulary.to_map(), merges_by_score(view, vocabulary)?)
        .unk_token(unknown.to_owned())
        .fuse_unk(true)
        .byte_fallback(true)
        .build()
        .map_err(|e| view.error("tokenizer.ggml.tokens", e.to_string()))?;
    let add_prefix = view.bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let broken = |e: tokenizers::Error| Error::Text { what: "tokenizer", detail: e.to_string() };
    let mut normalizers: Vec<NormalizerWrapper> = Vec::new();
    if add_prefix {
        normalizers.push(Prepend::new(WORD_START.to_owned()).into());
    }
    normalizers.push(Replace::new(" ", WORD_START).map_err(broken)?.into());
    let mut decoders = vec![
        Replace::new(WORD_START, " ").map_err(broken)?.into(),
        ByteFallback::new().into(),
        Fuse::new().into(),
    ];
    if add_prefix {
        decoders.push(Strip::new(' ', 1, 0).into());
    }
    let mut tokenizer = Tokenizer::new(bpe);
    tokenizer
        .with_normalizer(Some(Normalizers::new(normalizers)))
        .with_decoder(Some(Decoders::new(decoders)));
    Ok((tokenizer, true))
}

/// The pairs that make up each learned piece, best score first: what a BPE by rank needs to merge as SentencePiece does.
fn merges_by_score(view: &View<'_>, vocabulary: &Vocabulary<'_>) -> Result<Vec<(String, String)>> {
    let key = "tokenizer.ggml.scores";
    let scores = view.floats(key)?.ok_or_else(|| view.missing(key))?;
    if scores.len() != vocabulary.tokens.len() {
        return Err(
            view.error(key, format!("has {} entries for {} tokens", scores.len(), vocabulary.tokens.len()))
        );
    }
    let learned = |piece: &str| vocabulary.ids.get(piece).is_some_and(|&id| vocabulary.kind(id) == NORMAL);
    let mut merges = Vec::new();
    for ((id, &token), score) in vocabulary.tokens.iter().enumerate().zip(scores) {
        if vocabulary.kind(id as u32) != NORMAL {
            continue;
        }
        if token.len() > MAX_PIECE_BYTES {
            return Err(view.error("tokenizer.ggml.tokens", format!("token {id} has {} bytes", token.len())));
        }
        for (at, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(at);
            if learned(left) && learned(right) {
                merges.push((score, left, right));
            }
        }
    }
    // A stable sort: of equal scores the token with the smaller id comes first.
    merges.sort_by(|a, b| b.0.total_cmp(&a.0));
    Ok(merges.into_iter().map(|(_, left, right)| (left.to_owned(), right.to_owned())).collect())
}

/// The processor that puts the given tokens before and after a text.
fn template(
    vocabulary: &Vocabulary<'_>,
    [first, last]: [Option<u32>; 2],
) -> Result<Option<TemplateProcessing>> {
    let name =
        |id: Option<u32>| id.and_then(|id| vocabulary.tokens.get(id as usize).map(|&token| (token, id)));
    let (first, last) = (name(first), name(last));
    if first.is_none() && last.is_none() {
        return Ok(None);
    }
    // The template's own syntax would take a token with a colon or a dollar sign apart; its JSON form does not.
    let special = |&(token, _): &(&str, u32)| json!({"SpecialToken": {"id": token, "type_id": 0}});
    let around = |sequence: &str, type_id: u32| -> Vec<Value> {
        let text = json!({"Sequence": {"id": sequence, "type_id": type_id}});
        first.iter().map(special).chain([text]).chain(last.iter().map(special)).collect()
    };
    let specials: Map<String, Value> = first
        .iter()
        .chain(&last)
        .map(|&(token, id)| (token.to_owned(), json!({"id": token, "ids": [id], "tokens": [token]})))
        .collect();
    let pair = [around("A", 0), around("B", 1)].concat();
    let template = json!({
        "single": around("A", 0),
        "pair": pair,
        "special_tokens": specials,
    });
    serde_json::from_value(template)
        .map(Some)
        .map_err(|e| Error::Text { what: "tokenizer", detail: format!("special tokens: {e}") })
}
