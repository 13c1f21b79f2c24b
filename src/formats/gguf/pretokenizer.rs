//! The rules by which byte-level BPE tokenizers cut text before merging, named by `tokenizer.ggml.pre`.
//!
//! Each is what the named model's own tokenizer.json does; llama.cpp implements the same under the same name.

use tokenizers::normalizers::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{NormalizerWrapper, PreTokenizerWrapper, SplitDelimiterBehavior};

use crate::error::{Error, Result};

/// How a kind of tokenizer treats text before BPE.
pub(super) struct Rules {
    pub(super) normalizer: Option<NormalizerWrapper>,
    pub(super) pre_tokenizer: PreTokenizerWrapper,
    /// Whether a piece that is a token as a whole is taken without merging.
    pub(super) ignore_merges: bool,
    /// Whether the beginning-of-text token is added where the file does not say.
    pub(super) add_bos: bool,
}

/// Words, runs of up to three digits, punctuation, white space.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// As Llama 3, with single digits.
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Mistral's: capitals are cut from the small letters before them, single digits.
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The rules for a name; `architecture` stands in where an old file has no name.
///
/// # Errors
/// [`Error::Unsupported`] for a name that is not known, or none where the architecture leaves it open: a wrong guess
/// would tokenize wrongly in silence.
pub(super) fn rules(pre: Option<&str>, architecture: &str) -> Result<Rules> {
    let name = match (pre, architecture) {
        (Some(name), _) => name,
        (None, "gpt2") => "gpt-2",
        (None, "qwen2" | "qwen3") => "qwen2",
        (None, _) => {
            return Err(Error::unsupported(
                "a GGUF file without tokenizer.ggml.pre",
                "convert the model again with a present llama.cpp, or give a tokenizer.json",
            ));
        }
    };
    let plain =
        |pre_tokenizer| Rules { normalizer: None, pre_tokenizer, ignore_merges: false, add_bos: false };
    Ok(match name {
        "gpt-2" | "default" => plain(ByteLevel::new(false, true, true).into()),
        "smollm" | "starcoder" | "refact" => {
            plain(sequence(vec![Digits::new(true).into(), ByteLevel::new(false, true, true).into()]))
        }
        "llama-bpe" | "llama3" | "llama-v3" => {
            Rules { ignore_merges: true, add_bos: true, ..plain(split_then_bytes(LLAMA3)?) }
        }
        "tekken" => Rules { ignore_merges: true, add_bos: true, ..plain(split_then_bytes(TEKKEN)?) },
        "qwen2" | "deepseek-r1-qwen" => {
            Rules { normalizer: Some(NormalizerWrapper::NFC(NFC)), ..plain(split_then_bytes(QWEN2)?) }
        }
        other => {
            return Err(Error::unsupported(
                format!("the pre-tokenizer '{other}' of a GGUF file"),
                "gpt-2, smollm, llama-bpe, tekken and qwen2 are; a tokenizer.json of the model works in its place",
            ));
        }
    })
}

fn sequence(parts: Vec<PreTokenizerWrapper>) -> PreTokenizerWrapper {
    PreTokenizerWrapper::Sequence(Sequence::new(parts))
}

fn split_then_bytes(pattern: &str) -> Result<PreTokenizerWrapper> {
    let split = Split::new(SplitPattern::Regex(pattern.to_owned()), SplitDelimiterBehavior::Isolated, false)
        .map_err(|e| Error::Text { what: "tokenizer", detail: format!("pre-tokenizer pattern: {e}") })?;
    Ok(sequence(vec![split.into(), ByteLevel::new(false, true, false).into()]))
}
