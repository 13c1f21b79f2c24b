//! Whole-number expressions of a problem file: `2 * m * n * k`, `ceil_div(m, 64)`.

use std::collections::BTreeMap;

use serde::Deserialize;

/// The sizes that an expression may name.
pub type Sizes = BTreeMap<String, u64>;

/// How deep parentheses may nest.
const DEPTH: usize = 64;

/// A number, or the text of an expression.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "a whole number, or an expression of sizes as text")]
pub enum Expr {
    /// A number.
    Number(u64),
    /// An expression: numbers, sizes by name, `+ - * / %` (division rounds down), parentheses, and `ceil_div(a, b)`, `min(a, b)`,
    /// `max(a, b)`.
    Text(String),
}

impl Default for Expr {
    fn default() -> Expr {
        Expr::Number(0)
    }
}

impl Expr {
    /// Its value.
    ///
    /// # Errors
    /// What is wrong with it, in words: what does not parse, unknown names, overflow, division by zero, a negative result.
    pub fn value(&self, sizes: &Sizes) -> Result<u64, String> {
        let text = match self {
            Expr::Number(number) => return Ok(*number),
            Expr::Text(text) => text,
        };
        let mut parser = Parser { rest: text.trim_start(), sizes, depth: 0 };
        let value = parser.sum().and_then(|value| match parser.rest {
            "" => u64::try_from(value).map_err(|_| format!("is {value}, which is out of range")),
            rest => Err(format!("ends before '{rest}'")),
        });
        value.map_err(|why| format!("'{text}': {why}"))
    }
}

struct Parser<'a> {
    rest: &'a str,
    sizes: &'a Sizes,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn take(&mut self, symbol: char) -> bool {
        match self.rest.strip_prefix(symbol) {
            Some(rest) => {
                self.rest = rest.trim_start();
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, symbol: char) -> Result<(), String> {
        match self.take(symbol) {
            true => Ok(()),
            false => Err(format!("'{symbol}' is missing before '{}'", self.rest)),
        }
    }

    /// The letters, digits or both at the front.
    fn word(&mut self) -> &'a str {
        let end =
            self.rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest.trim_start();
        word
    }

    fn sum(&mut self) -> Result<i128, String> {
        let mut value = self.product()?;
        loop {
            value = if self.take('+') {
                checked(value.checked_add(self.product()?))?
            } else if self.take('-') {
                checked(value.checked_sub(self.product()?))?
            } else {
                return Ok(value);
            };
        }
    }

    fn product(&mut self) -> Result<i128, String> {
        let mut value = self.atom()?;
        loop {
            value = if self.take('*') {
                checked(value.checked_mul(self.atom()?))?
            } else if self.take('/') {
                divided(value.checked_div_euclid(self.atom()?))?
            } else if self.take('%') {
                divided(value.checked_rem_euclid(self.atom()?))?
            } else {
                return Ok(value);
            };
        }
    }

    fn atom(&mut self) -> Result<i128, String> {
        self.depth += 1;
        if self.depth > DEPTH {
            return Err("is nested too deeply".to_string());
        }
        let value = self.atom_at_depth();
        self.depth -= 1;
        value
    }

    fn atom_at_depth(&mut self) -> Result<i128, String> {
        if self.take('(') {
            let value = self.sum()?;
            self.expect(')')?;
            return Ok(value);
        }
        let word = self.word();
        if word.is_empty() {
            return Err(match self.rest {
                "" => "ends where a number or a name belongs".to_string(),
                rest => format!("has no number or name before '{rest}'"),
            });
        }
        if word.starts_with(|c: char| c.is_ascii_digit()) {
            let number = word.replace('_', "").parse::<u64>();
            return number.map(i128::from).map_err(|_| format!("'{word}' is not a number"));
        }
        if !self.take('(') {
            let known = || self.sizes.keys().cloned().collect::<Vec<_>>().join(", ");
            let size = self.sizes.get(word).copied().map(i128::from);
            return size.ok_or_else(|| format!("there is no size '{word}'; there are: {}", known()));
        }
        let a = self.sum()?;
        self.expect(',')?;
        let b = self.sum()?;
        self.expect(')')?;
        match word {
            "min" => Ok(a.min(b)),
            "max" => Ok(a.max(b)),
            "ceil_div" if b > 0 => checked(a.checked_add(b - 1)).map(|a| a.div_euclid(b)),
            "ceil_div" => divided(None),
            _ => Err(format!("there is no function '{word}'; there are: ceil_div, max, min")),
        }
    }
}

fn checked(value: Option<i128>) -> Result<i128, String> {
    value.ok_or_else(|| "is too large".to_string())
}

fn divided(value: Option<i128>) -> Result<i128, String> {
    value.ok_or_else(|| "divides by zero".to_string())
}
