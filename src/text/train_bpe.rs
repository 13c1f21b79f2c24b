//! Training a byte-level BPE tokenizer.

use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::models::{ModelWrapper, TrainerWrapper};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Tokenizer};

use super::{CHATML, SpecialTokens, TextTokenizer, tokenizer_error};
use crate::Result;

/// Ends a document.
pub const END_OF_TEXT: &str = "<|endoftext|>";
/// Begins a turn in ChatML.
pub const IM_START: &str = "<|im_start|>";
/// Ends a turn in ChatML.
pub const IM_END: &str = "<|im_end|>";

/// Trains a byte-level BPE tokenizer (GPT-2's kind: every text can be encoded, decoding gives it back exactly) on `texts`.
/// The three special tokens take ids 0 to 2, the 256 bytes follow, then merges until `vocab_size` or until no pair
/// occurs twice. [`END_OF_TEXT`] is the eos token, [`IM_END`] ends a generation too, and ChatML is the template. The same texts give
/// the same tokenizer.
///
/// # Errors
/// If `vocab_size` has no room for the special tokens and the 256 bytes.
pub fn train_byte_level_bpe<I>(texts: I, vocab_size: usize) -> Result<TextTokenizer>
where
    I: Iterator<Item = String> + Send,
{
    let special = [END_OF_TEXT, IM_START, IM_END];
    if vocab_size < special.len() + 256 {
        return Err(tokenizer_error(format!(
            "a byte-level vocabulary needs at least {} tokens, {vocab_size} were asked for",
            special.len() + 256
        )));
    }
    let bytes = || ByteLevel::new(false, false, true);
    let mut inner = Tokenizer::new(ModelWrapper::BPE(BPE::default()));
    inner.with_pre_tokenizer(Some(bytes()));
    inner.with_decoder(Some(bytes()));
    let mut trainer = TrainerWrapper::BpeTrainer(
        BpeTrainer::builder()
            .show_progress(false)
            .vocab_size(vocab_size)
            .min_frequency(2)
            .special_tokens(special.iter().map(|t| AddedToken::from(*t, true)).collect())
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .build(),
    );
    inner.train(&mut trainer, texts).map_err(|e| tokenizer_error(format!("training failed: {e}")))?;
    let stop_ids = inner.token_to_id(IM_END).into_iter().collect();
    TextTokenizer::from_parts(
        inner,
        SpecialTokens {
            eos: Some(END_OF_TEXT.to_owned()),
            pad: Some(END_OF_TEXT.to_owned()),
            stop_ids,
            chat_templates: vec![("default".to_owned(), CHATML.to_owned())],
            ..SpecialTokens::default()
        },
    )
}
