//! An answer on its way to the terminal.

use std::io::Write;
use std::ops::ControlFlow;

use crate::text::{StreamDecoder, TextTokenizer};
use crate::train::Interrupt;
use crate::{Error, Result};

/// Prints an answer token by token, up to the first stop string: text that may be the beginning of one waits.
pub(super) struct AnswerStream<'a> {
    decoder: StreamDecoder<'a>,
    stop: &'a [String],
    text: String,
    printed: usize,
    stopped: bool,
    failed: Option<Error>,
}

impl<'a> AnswerStream<'a> {
    /// An empty answer.
    pub fn new(tokenizer: &'a TextTokenizer, stop: &'a [String]) -> AnswerStream<'a> {
        let decoder = tokenizer.stream(true);
        AnswerStream { decoder, stop, text: String::new(), printed: 0, stopped: false, failed: None }
    }

    /// Takes the next token; breaks when the answer shall end: the user asked for it, or nobody reads it any more.
    pub fn push(&mut self, id: u32, interrupt: &Interrupt) -> ControlFlow<()> {
        let shown = match self.decoder.push(id) {
            Ok(piece) => self.show(&piece, false),
            Err(e) => {
                self.failed = Some(e);
                false
            }
        };
        if shown { interrupt.as_flow() } else { ControlFlow::Break(()) }
    }

    /// Prints what waited and ends the line; returns the whole answer.
    pub fn finish(mut self) -> Result<String> {
        if let Some(e) = self.failed {
            return Err(e);
        }
        let rest = self.decoder.finish()?;
        self.show(&rest, true);
        let _ = writeln!(std::io::stdout());
        self.text.truncate(self.printed);
        Ok(self.text)
    }

    /// Adds `piece` and prints what is certain (all of it if it is the `last`); false if nobody reads.
    fn show(&mut self, piece: &str, last: bool) -> bool {
        if self.stopped {
            return true;
        }
        self.text.push_str(piece);
        let found =
            self.stop.iter().filter_map(|s| Some(self.printed + self.text[self.printed..].find(s.as_str())?));
        let end = match found.min() {
            Some(start) => {
                self.stopped = true;
                start
            }
            None if last => self.text.len(),
            None => self.text.len() - self.waiting(),
        };
        let mut out = std::io::stdout().lock();
        let written = out.write_all(&self.text.as_bytes()[self.printed..end]).and_then(|()| out.flush());
        self.printed = end;
        written.is_ok()
    }

    /// Bytes at the end that a stop string may begin with.
    fn waiting(&self) -> usize {
        let text = &self.text[self.printed..];
        let begins = |stop: &String| {
            (1..stop.len().min(text.len() + 1))
                .rev()
                .find(|&n| stop.is_char_boundary(n) && text.ends_with(&stop[..n]))
        };
        self.stop.iter().filter_map(begins).max().unwrap_or(0)
    }
}
