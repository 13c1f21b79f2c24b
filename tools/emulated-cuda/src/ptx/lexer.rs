//! Tokens of PTX text.

use super::Fail;

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// An identifier, `%r1` and `$L__BB0_1` included; a lone `_` is one too.
    Word,
    /// `.global`, `.shared::cta`: the text is what follows the dot.
    Dot,
    /// A number as written: `12`, `0x1fU`, `0f3F800000`, `1.5e-3`, but unchecked: `12abc` is one token.
    Number,
    /// A string: the text between the quotes, its escapes as they stand.
    Str,
    /// An operator or a bracket.
    Symbol,
    /// The end of the text.
    End,
}

/// A token and its line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Token<'a> {
    pub kind: Kind,
    pub text: &'a str,
    /// From 1.
    pub line: u32,
}

/// Operators of two characters; `::` is part of the word after a dot.
const PAIRS: [&str; 8] = ["<<", ">>", "<=", ">=", "==", "!=", "&&", "||"];
/// Operators and brackets of one character.
const SINGLES: &[u8] = b",;:()[]{}<>@!|&^~+-*/%=?";

/// Whether an identifier can go on with this byte.
fn continues(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$'
}

/// Splits a text. The last token is always [`Kind::End`].
pub(super) fn lex(text: &str) -> Result<Vec<Token<'_>>, Fail> {
    let mut lexer = Lexer { text, at: 0, line: 1 };
    if u32::try_from(text.len()).is_err() {
        return Err(lexer.fail("the text is longer than 4 GiB"));
    }
    let mut tokens = Vec::new();
    loop {
        let token = lexer.token()?;
        tokens.push(token);
        if token.kind == Kind::End {
            return Ok(tokens);
        }
    }
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
    line: u32,
}

impl<'a> Lexer<'a> {
    /// The byte `ahead` of the current one; 0 past the end.
    fn byte(&self, ahead: usize) -> u8 {
        self.text.as_bytes().get(self.at + ahead).copied().unwrap_or(0)
    }

    fn fail(&self, message: impl Into<String>) -> Fail {
        Fail { line: self.line, message: message.into() }
    }

    /// How many bytes from `from` on satisfy a condition.
    fn run(&self, from: usize, accepts: fn(u8) -> bool) -> usize {
        let rest = self.text.as_bytes().get(self.at + from..).unwrap_or(&[]);
        rest.iter().take_while(|&&b| accepts(b)).count()
    }

    fn skip_blanks_and_comments(&mut self) -> Result<(), Fail> {
        loop {
            match (self.byte(0), self.byte(1)) {
                (b'\n', _) => {
                    self.line += 1;
                    self.at += 1;
                }
                (b' ' | b'\t' | b'\r' | 0x0b | 0x0c, _) => self.at += 1,
                (b'/', b'/') => self.at += self.run(0, |b| b != b'\n'),
                (b'/', b'*') => {
                    let Some(length) = self.text[self.at + 2..].find("*/") else {
                        return Err(self.fail("this comment has no end"));
                    };
                    let end = self.at + 2 + length + 2;
                    self.line += self.text[self.at..end].bytes().filter(|&b| b == b'\n').count() as u32;
                    self.at = end;
                }
                _ => return Ok(()),
            }
        }
    }

    fn token(&mut self) -> Result<Token<'a>, Fail> {
        self.skip_blanks_and_comments()?;
        let line = self.line;
        if self.at == self.text.len() {
            return Ok(Token { kind: Kind::End, text: "", line });
        }
        let (kind, length) = match self.byte(0) {
            b'"' => return self.string(),
            b'_' => (Kind::Word, 1 + self.run(1, continues)),
            b'a'..=b'z' | b'A'..=b'Z' => (Kind::Word, self.run(0, continues)),
            b'$' | b'%' if continues(self.byte(1)) => (Kind::Word, 1 + self.run(1, continues)),
            b'0'..=b'9' => (Kind::Number, self.number()),
            b'.' => match self.fraction() {
                Some(length) => (Kind::Number, length),
                None => {
                    let length = self.dot_word();
                    if length == 0 {
                        return Err(self.fail("a name is missing after the dot"));
                    }
                    let text = &self.text[self.at + 1..self.at + 1 + length];
                    self.at += 1 + length;
                    return Ok(Token { kind: Kind::Dot, text, line });
                }
            },
            byte => {
                let rest = self.text.as_bytes().get(self.at..self.at + 2).unwrap_or(&[]);
                if PAIRS.iter().any(|p| p.as_bytes() == rest) {
                    (Kind::Symbol, 2)
                } else if SINGLES.contains(&byte) {
                    (Kind::Symbol, 1)
                } else {
                    let found = self.text[self.at..].chars().next().unwrap_or('\0');
                    return Err(self.fail(format!("unexpected character {found:?}")));
                }
            }
        };
        let text = &self.text[self.at..self.at + length];
        self.at += length;
        Ok(Token { kind, text, line })
    }

    /// A string, which ends on its own line.
    fn string(&mut self) -> Result<Token<'a>, Fail> {
        let start = self.at + 1;
        let mut end = start;
        let bytes = self.text.as_bytes();
        loop {
            match bytes.get(end) {
                Some(b'"') => break,
                Some(b'\\') => end += 2,
                None | Some(b'\n') => return Err(self.fail("this string has no end")),
                Some(_) => end += 1,
            }
        }
        self.at = end + 1;
        Ok(Token { kind: Kind::Str, text: &self.text[start..end], line: self.line })
    }

    /// Length of a number that begins with a digit, with whatever letters hang on to it.
    fn number(&self) -> usize {
        let mut length = self.run(0, |b| b.is_ascii_digit());
        let prefixed = length == 1 && self.byte(0) == b'0' && b"xXbBfFdD".contains(&self.byte(1));
        if !prefixed {
            if self.byte(length) == b'.' {
                length += 1;
                length += self.run(length, |b| b.is_ascii_digit());
            }
            length += self.exponent(length);
        }
        length + self.run(length, continues)
    }

    /// Length of a number without digits before its point, such as `.05`; none for a modifier such as `.2d`.
    fn fraction(&self) -> Option<usize> {
        let digits = self.run(1, |b| b.is_ascii_digit());
        let length = 1 + digits + self.exponent(1 + digits);
        (digits > 0 && !continues(self.byte(length))).then_some(length)
    }

    /// Length of `e-3` at an offset, 0 where there is none.
    fn exponent(&self, at: usize) -> usize {
        if !matches!(self.byte(at), b'e' | b'E') {
            return 0;
        }
        let sign = usize::from(matches!(self.byte(at + 1), b'+' | b'-'));
        match self.run(at + 1 + sign, |b| b.is_ascii_digit()) {
            0 => 0,
            digits => 1 + sign + digits,
        }
    }

    /// Length of what follows a dot: a word, or several joined by `::`.
    fn dot_word(&self) -> usize {
        let mut length = self.run(1, continues);
        while length > 0 && self.byte(1 + length) == b':' && self.byte(2 + length) == b':' {
            match self.run(3 + length, continues) {
                0 => break,
                more => length += 2 + more,
            }
        }
        length
    }
}
