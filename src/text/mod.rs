//! Tokenizers and chat templates.
//!
//! [`TextTokenizer`] turns text into token ids and back; [`ChatTemplate`] turns a [`Conversation`] into the text that
//! a model was trained to read, and says which parts of it the assistant wrote.

mod chat_template;
mod folder;
mod generation;
mod python;
mod stream;
mod tokenizer;
mod train_bpe;
mod turns;

pub use chat_template::{CHATML, ChatTemplate, Conversation, MaskSource, Rendered};
pub use folder::TOKENIZER_FILE;
pub use stream::StreamDecoder;
pub use tokenizer::{Encoded, SpecialTokens, TextTokenizer};
pub use train_bpe::{END_OF_TEXT, IM_END, IM_START, train_byte_level_bpe};

use crate::Error;

fn tokenizer_error(detail: impl Into<String>) -> Error {
    Error::Text { what: "tokenizer", detail: detail.into() }
}

fn template_error(detail: impl Into<String>) -> Error {
    Error::Text { what: "chat template", detail: detail.into() }
}
