//! PTX text: lexer, parser, syntax tree.

pub mod ast;

/// A text that is not PTX as this crate reads it.
#[derive(Clone, Debug, thiserror::Error)]
#[error("line {line}: {message}\n  {text}")]
pub struct ParseError {
    /// Line, from 1.
    pub line: u32,
    /// What is wrong.
    pub message: String,
    /// The line's text.
    pub text: String,
}

/// Reads a module.
///
/// # Errors
/// An unknown directive, a name that is not declared, a malformed operand: the line and what was wrong.
pub fn parse(text: &str) -> Result<ast::Module, ParseError> {
    let _ = text;
    unimplemented!("the parser is being written")
}
