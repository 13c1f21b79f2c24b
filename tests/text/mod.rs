//! Tokenizers and chat templates.

pub mod fixtures;
mod golden_templates;
mod templates;
mod tokenizer;
