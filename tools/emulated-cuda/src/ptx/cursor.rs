//! The parser's state and its steps over tokens.

use std::collections::HashSet;

use super::{
    Fail, Parsed,
    ast::{FunctionId, Module},
    body::Draft,
    function::Signature,
    lexer::{Kind, Token},
    names::Scopes,
};

/// How deep scopes, parentheses and braces may nest. It bounds the parser's stack and the search for a name.
pub(super) const MAX_DEPTH: usize = 128;

/// A parser half-way through its text.
pub(super) struct Parser<'a> {
    tokens: Vec<Token<'a>>,
    at: usize,
    /// Expressions and initialisers that are open.
    depth: usize,
    /// What has been read.
    pub module: Module,
    /// Names in force.
    pub scopes: Scopes<'a>,
    /// Of each function of the module.
    pub signatures: Vec<Signature>,
    /// Of each function: whether its body has been seen, if only begun.
    pub defined: Vec<bool>,
    /// Indices of `.file` that are taken.
    pub files: HashSet<u32>,
    /// Alias, what it stands for, and the line of the directive.
    pub aliases: Vec<(FunctionId, FunctionId, u32)>,
    /// The body being read.
    pub draft: Draft<'a>,
    /// Registers that may still be declared. Ranges such as `%r<999999999>` ask for more than a text can use, so the
    /// number is bounded by the length of the text.
    pub registers_left: u64,
    /// Bytes of initialisers that may still be laid out, bounded likewise: short rows of a large array leave gaps.
    pub bytes_left: u64,
}

impl<'a> Parser<'a> {
    /// A parser at the first of `tokens`, the last of which is [`Kind::End`].
    pub fn new(tokens: Vec<Token<'a>>, text_length: usize) -> Self {
        let length = text_length as u64;
        Self {
            tokens,
            at: 0,
            depth: 0,
            module: Module::default(),
            scopes: Scopes::new(),
            signatures: Vec::new(),
            defined: Vec::new(),
            files: HashSet::new(),
            aliases: Vec::new(),
            draft: Draft::default(),
            registers_left: (1 << 16) + length,
            bytes_left: (1 << 20) + 16 * length,
        }
    }

    /// The next token, not yet taken.
    pub fn peek(&self) -> Token<'a> {
        self.tokens[self.at]
    }

    /// The token after the next.
    pub fn peek_second(&self) -> Token<'a> {
        self.tokens[(self.at + 1).min(self.tokens.len() - 1)]
    }

    /// Takes a token; the end can be taken again and again.
    pub fn next(&mut self) -> Token<'a> {
        let token = self.peek();
        self.at = (self.at + 1).min(self.tokens.len() - 1);
        token
    }

    /// Whether the next token is this operator or bracket.
    pub fn sees(&self, symbol: &str) -> bool {
        let token = self.peek();
        token.kind == Kind::Symbol && token.text == symbol
    }

    /// Takes an operator or bracket if it is next.
    pub fn eat(&mut self, symbol: &str) -> bool {
        let found = self.sees(symbol);
        if found {
            self.next();
        }
        found
    }

    /// Takes `.name` if it is next.
    pub fn eat_dot(&mut self, name: &str) -> bool {
        let token = self.peek();
        let found = token.kind == Kind::Dot && token.text == name;
        if found {
            self.next();
        }
        found
    }

    /// Takes an operator or bracket that must be next. Where it is missing, the line is that of the token before.
    pub fn expect(&mut self, symbol: &str) -> Parsed<()> {
        if self.eat(symbol) {
            return Ok(());
        }
        let line = self.tokens[self.at.saturating_sub(1)].line;
        Err(Fail { line, ..self.unexpected(&format!("{symbol:?}")) })
    }

    /// Takes a token of a kind that must be next.
    pub fn take(&mut self, kind: Kind, wanted: &str) -> Parsed<Token<'a>> {
        if self.peek().kind == kind { Ok(self.next()) } else { Err(self.unexpected(wanted)) }
    }

    /// Takes a name to be declared: an identifier other than `_`.
    pub fn name(&mut self, wanted: &str) -> Parsed<Token<'a>> {
        if self.peek().text == "_" {
            return Err(self.unexpected(wanted));
        }
        self.take(Kind::Word, wanted)
    }

    /// Takes a plain number of 32 bits, not an expression.
    pub fn number(&mut self, wanted: &str) -> Parsed<u32> {
        let token = self.take(Kind::Number, wanted)?;
        super::constant::literal(token)?
            .integer()
            .and_then(|v| u32::try_from(v).ok())
            .ok_or_else(|| fail(token, format!("{} is not {wanted}", token.text)))
    }

    /// An error at the next token that says what should have been there.
    pub fn unexpected(&self, wanted: &str) -> Fail {
        let token = self.peek();
        let found = match token.kind {
            Kind::End => "the end of the text".to_owned(),
            Kind::Dot => format!("\".{}\"", shorten(token.text)),
            _ => format!("{:?}", shorten(token.text)),
        };
        fail(token, format!("expected {wanted}, found {found}"))
    }

    /// Runs a part of the parser that may call itself, unless it has done so too often.
    pub fn nested<T>(&mut self, parse: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        if self.depth >= MAX_DEPTH {
            return Err(fail(self.peek(), format!("nested more than {MAX_DEPTH} deep")));
        }
        self.depth += 1;
        let result = parse(self);
        self.depth -= 1;
        result
    }
}

/// An error at a token.
pub(super) fn fail(token: Token<'_>, message: impl Into<String>) -> Fail {
    Fail { line: token.line, message: message.into() }
}

/// The beginning of a text, so that a message stays readable.
pub(super) fn shorten(text: &str) -> &str {
    match text.char_indices().nth(120) {
        Some((at, _)) => &text[..at],
        None => text,
    }
}
