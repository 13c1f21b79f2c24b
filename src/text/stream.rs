//! Decoding while tokens arrive.

use super::TextTokenizer;
use crate::Result;

const REPLACEMENT: char = '\u{FFFD}';

/// Decodes ids one at a time. What it emits, joined, is what decoding all ids at once gives: pieces are held back while a
/// later token could still change them (a character whose bytes are split over tokens), and each is decoded behind the
/// piece before it, since decoders drop the space at the beginning of a text.
pub struct StreamDecoder<'a> {
    tokenizer: &'a TextTokenizer,
    skip_special: bool,
    /// Ids that are emitted already: left context of the pending ones.
    context: Vec<u32>,
    /// Ids that are not emitted yet, behind `context` in the same buffer when decoding.
    pending: Vec<u32>,
}

impl<'a> StreamDecoder<'a> {
    pub(super) fn new(tokenizer: &'a TextTokenizer, skip_special: bool) -> StreamDecoder<'a> {
        StreamDecoder { tokenizer, skip_special, context: Vec::new(), pending: Vec::new() }
    }

    /// Takes the next id; returns the text that is now certain, possibly empty.
    pub fn push(&mut self, id: u32) -> Result<String> {
        // An id that decodes to nothing must not become the left context: the next piece would lose its space.
        let Some(token) = self.tokenizer.id_to_token(id) else {
            return Ok(String::new());
        };
        if self.skip_special && self.tokenizer.inner.get_added_vocabulary().is_special_token(&token) {
            return Ok(String::new());
        }
        self.pending.push(id);
        // SentencePiece's byte tokens are decoded run by run: one bad byte turns its whole run into U+FFFD.
        if is_byte_token(&token) {
            return Ok(String::new());
        }
        let (before, all) = self.decode()?;
        if all.ends_with(REPLACEMENT) || !all.starts_with(&before) {
            return Ok(String::new());
        }
        self.context = std::mem::take(&mut self.pending);
        Ok(all[before.len()..].to_owned())
    }

    /// The rest that was held back. The decoder is then empty and can be used again.
    pub fn finish(&mut self) -> Result<String> {
        let (before, all) = self.decode()?;
        self.context.clear();
        self.pending.clear();
        let common = before.bytes().zip(all.bytes()).take_while(|(a, b)| a == b).count();
        Ok(all[all.floor_char_boundary(common)..].to_owned())
    }

    fn decode(&self) -> Result<(String, String)> {
        let before = self.tokenizer.decode(&self.context, false)?;
        let ids = [self.context.as_slice(), self.pending.as_slice()].concat();
        Ok((before, self.tokenizer.decode(&ids, false)?))
    }
}

fn is_byte_token(token: &str) -> bool {
    token.len() == 6 && token.starts_with("<0x") && token.ends_with('>')
}
