//! Stop strings.

use crate::{Error, Result};

/// Turns tokens into text.
type Decode<'a> = dyn Fn(&[u32]) -> Result<String> + 'a;

/// Texts that end an answer, and how to read tokens as text.
#[derive(Clone)]
pub struct StopStrings<'a> {
    strings: Vec<String>,
    decode: &'a Decode<'a>,
    /// Length of the longest, in bytes.
    longest: usize,
}

impl<'a> StopStrings<'a> {
    /// Stops at any of `strings`; `decode` is the tokenizer's.
    ///
    /// # Errors
    /// [`Error::Config`] for an empty string: it would stop at once.
    pub fn new(strings: Vec<String>, decode: &'a Decode<'a>) -> Result<StopStrings<'a>> {
        if strings.iter().any(String::is_empty) {
            return Err(Error::config("stop", "a stop string must not be empty"));
        }
        let longest = strings.iter().map(String::len).max().unwrap_or(0);
        Ok(StopStrings { strings, decode, longest })
    }

    /// The stop string that the newest tokens of `answer` hold, the longest if several do. Called after every token, it
    /// need only look at the end.
    pub(super) fn find(&self, answer: &[u32]) -> Result<Option<&str>> {
        // Every token but a special one adds at least a byte. The margin keeps clear of the beginning of the window, where
        // a character may be cut and where some tokenizers strip a space.
        let window = self.longest + 8;
        let text = (self.decode)(&answer[answer.len().saturating_sub(window)..])?;
        let found = self.strings.iter().filter(|s| text.contains(s.as_str()));
        Ok(found.max_by_key(|s| s.len()).map(String::as_str))
    }
}
