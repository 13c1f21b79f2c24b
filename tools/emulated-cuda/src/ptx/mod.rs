//! PTX text: lexer, parser, syntax tree.
//!
//! [`parse`] reads what nvcc and clang emit (PTX 3.0 to 9.x with 64-bit addresses) in time linear in the text, and never
//! panics. It knows the directives and the shape of operands, and resolves every name; opcodes and modifiers stay text,
//! for the decoder to accept or refuse. What it knows but leaves out of the tree:
//!
//! - `.section` blocks named `.debug...` (DWARF): nothing here reads them, so they are skipped up to their closing brace;
//! - `.pragma`, `.ptr`, `.abi_preserve` and the like: hints that change no result;
//! - `.loc` attributes after the column (`function_name`, `inlined_at`): the line of the inlined code itself is kept.
//!
//! What it knows and does not support is an error that names it: clusters, textures, managed variables, masked addresses
//! in initialisers. Where the ISA leaves a choice, ptxas 13.0 decided it.

pub mod ast;
mod body;
mod constant;
mod cursor;
mod function;
mod lexer;
mod module;
mod names;
mod operand;
mod register;
mod variable;

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

/// An error whose line's text has not been looked up yet.
#[derive(Debug)]
struct Fail {
    line: u32,
    message: String,
}

/// What a step of the parser returns.
type Parsed<T> = Result<T, Fail>;

/// Reads a module.
///
/// # Errors
/// An unknown directive, a name that is not declared, a malformed operand: the line and what was wrong.
pub fn parse(text: &str) -> Result<ast::Module, ParseError> {
    lexer::lex(text).and_then(|tokens| cursor::Parser::new(tokens, text.len()).module()).map_err(|fail| {
        let line = text.lines().nth((fail.line as usize).saturating_sub(1)).unwrap_or_default();
        ParseError { line: fail.line, message: fail.message, text: cursor::shorten(line.trim()).to_owned() }
    })
}
