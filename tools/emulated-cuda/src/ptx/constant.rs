//! Constants and constant expressions, with the types that the PTX ISA gives them (section 4.5).

use super::{
    Fail, Parsed,
    ast::{Operand, Type},
    cursor::{Parser, fail, shorten},
    lexer::{Kind, Token},
};

/// Threads of a warp.
const WARP_SIZE: i64 = 32;

/// The value of a constant expression.
#[derive(Clone, Copy, Debug)]
pub(super) enum Constant {
    /// `.s64`
    Signed(i64),
    /// `.u64`
    Unsigned(u64),
    /// A decimal floating-point number, of 64 bits until it is used.
    Decimal(f64),
    /// `0f3F800000`, its bits.
    Single(u32),
    /// `0d3FF0000000000000`, its bits.
    Double(u64),
}

impl Constant {
    /// Its value if it is an integer.
    pub fn integer(self) -> Option<i128> {
        match self {
            Constant::Signed(value) => Some(value.into()),
            Constant::Unsigned(value) => Some(value.into()),
            _ => None,
        }
    }

    /// As an operand of an instruction.
    pub fn operand(self) -> Operand {
        match self {
            Constant::Signed(value) => Operand::Integer(value),
            Constant::Unsigned(value) => Operand::Integer(value as i64),
            Constant::Decimal(value) => Operand::F64(value.to_bits()),
            Constant::Single(bits) => Operand::F32(bits),
            Constant::Double(bits) => Operand::F64(bits),
        }
    }

    /// Its little-endian bytes as an initial value of a type, or why it cannot be one.
    pub fn bytes(self, ty: Type) -> Result<Vec<u8>, String> {
        let size = ty.size() as usize;
        match (ty, self.integer()) {
            (Type::Pred, _) => Err("a predicate cannot lie in memory".into()),
            (Type::F16 | Type::F16x2 | Type::Bf16 | Type::Bf16x2, _) => {
                Err("half-precision variables cannot be initialised (.b16 can)".into())
            }
            (Type::F32 | Type::F64, Some(_)) => {
                Err("an integer cannot initialise a floating-point variable".into())
            }
            (_, Some(value)) => {
                let bits = 8 * size as u32;
                let fits = bits == 128 || (-(1i128 << (bits - 1))..1i128 << bits).contains(&value);
                if fits {
                    Ok(value.to_le_bytes()[..size].to_vec())
                } else {
                    Err(format!("{value} does not fit {bits} bits"))
                }
            }
            (Type::F32 | Type::B32, None) => Ok(match self {
                Constant::Single(bits) => bits,
                other => (other.decimal() as f32).to_bits(),
            }
            .to_le_bytes()
            .to_vec()),
            (Type::F64 | Type::B64, None) => Ok(self.decimal().to_le_bytes().to_vec()),
            (_, None) => Err("a floating-point number cannot initialise an integer variable".into()),
        }
    }

    /// Its value as a floating-point number.
    fn decimal(self) -> f64 {
        match self {
            Constant::Signed(value) => value as f64,
            Constant::Unsigned(value) => value as f64,
            Constant::Decimal(value) => value,
            Constant::Single(bits) => f32::from_bits(bits).into(),
            Constant::Double(bits) => f64::from_bits(bits),
        }
    }

    fn is_true(self) -> bool {
        self.integer().map_or_else(|| self.decimal() != 0.0, |value| value != 0)
    }

    /// Its bits as an unsigned integer.
    fn unsigned(self) -> Option<u64> {
        self.integer().map(|value| value as u64)
    }
}

/// Reads a number.
pub(super) fn literal(token: Token<'_>) -> Parsed<Constant> {
    let text = token.text;
    let malformed = || fail(token, format!("malformed number {:?}", shorten(text)));
    let hexadecimal = |digits: &str, count: usize| {
        let valid = digits.len() == count && digits.bytes().all(|b| b.is_ascii_hexdigit());
        valid.then(|| u64::from_str_radix(digits, 16).ok()).flatten().ok_or_else(malformed)
    };
    match text.get(..2) {
        Some("0f" | "0F") => return Ok(Constant::Single(hexadecimal(&text[2..], 8)? as u32)),
        Some("0d" | "0D") => return Ok(Constant::Double(hexadecimal(&text[2..], 16)?)),
        _ => {}
    }
    let (digits, unsigned) = text.strip_suffix('U').map_or((text, false), |digits| (digits, true));
    let (digits, radix) = match digits.get(..2) {
        Some("0x" | "0X") => (&digits[2..], 16),
        Some("0b" | "0B") => (&digits[2..], 2),
        Some(start) if start.starts_with('0') && !digits.contains(['.', 'e', 'E']) => (&digits[1..], 8),
        _ => (digits, 10),
    };
    if !digits.is_empty() && digits.chars().all(|c| c.is_digit(radix)) {
        let value = u64::from_str_radix(digits, radix)
            .map_err(|_| fail(token, format!("{} does not fit 64 bits", shorten(text))))?;
        return Ok(match i64::try_from(value) {
            Ok(value) if !unsigned => Constant::Signed(value),
            _ => Constant::Unsigned(value),
        });
    }
    let decimal =
        !unsigned && radix == 10 && digits.bytes().all(|b| b.is_ascii_digit() || b".eE+-".contains(&b));
    match digits.parse::<f64>() {
        Ok(value) if decimal && value.is_finite() => Ok(Constant::Decimal(value)),
        _ => Err(malformed()),
    }
}

impl<'a> Parser<'a> {
    /// Whether the next token can begin a constant expression.
    pub fn sees_constant(&self) -> bool {
        let token = self.peek();
        match token.kind {
            Kind::Number => true,
            Kind::Word => token.text == "WARP_SZ",
            Kind::Symbol => matches!(token.text, "+" | "-" | "~" | "!" | "("),
            _ => false,
        }
    }

    /// A constant expression.
    pub fn constant(&mut self) -> Parsed<Constant> {
        self.nested(|p| {
            let condition = p.binary(1)?;
            if !p.eat("?") {
                return Ok(condition);
            }
            let yes = p.constant()?;
            p.expect(":")?;
            let no = p.constant()?;
            Ok(if condition.is_true() { yes } else { no })
        })
    }

    /// A constant expression with an integer value.
    pub fn integer_constant(&mut self, wanted: &str) -> Parsed<i128> {
        let token = self.peek();
        if !self.sees_constant() {
            return Err(self.unexpected(wanted));
        }
        self.constant()?.integer().ok_or_else(|| fail(token, format!("{wanted} must be an integer")))
    }

    /// A chain of binary operators that bind at least as strongly as `weakest`.
    fn binary(&mut self, weakest: u8) -> Parsed<Constant> {
        let mut left = self.unary()?;
        loop {
            let operator = self.peek();
            let strength = if operator.kind == Kind::Symbol { strength(operator.text) } else { 0 };
            if strength < weakest || strength == 0 {
                return Ok(left);
            }
            self.next();
            let right = self.nested(|p| p.binary(strength + 1))?;
            left = apply(operator, left, right)?;
        }
    }

    fn unary(&mut self) -> Parsed<Constant> {
        let token = self.peek();
        match (token.kind, token.text) {
            (Kind::Number, _) => literal(self.next()),
            (Kind::Word, "WARP_SZ") => {
                self.next();
                Ok(Constant::Signed(WARP_SIZE))
            }
            (Kind::Symbol, "+" | "-" | "~" | "!") => {
                self.next();
                let value = self.nested(Self::unary)?;
                negate(token, value)
            }
            (Kind::Symbol, "(") => {
                self.next();
                let cast = self.peek();
                if cast.kind != Kind::Dot {
                    let value = self.constant()?;
                    self.expect(")")?;
                    return Ok(value);
                }
                self.next();
                self.expect(")")?;
                let value = self.nested(Self::unary)?;
                match (cast.text, value.unsigned()) {
                    ("s64", Some(bits)) => Ok(Constant::Signed(bits as i64)),
                    ("u64", Some(bits)) => Ok(Constant::Unsigned(bits)),
                    _ => Err(fail(cast, "a constant can only be cast from integer to .s64 or .u64")),
                }
            }
            _ => Err(self.unexpected("a constant")),
        }
    }
}

/// How strongly a binary operator binds; 0 for what is none.
fn strength(operator: &str) -> u8 {
    match operator {
        "||" => 1,
        "&&" => 2,
        "|" => 3,
        "^" => 4,
        "&" => 5,
        "==" | "!=" => 6,
        "<" | "<=" | ">" | ">=" => 7,
        "<<" | ">>" => 8,
        "+" | "-" => 9,
        "*" | "/" | "%" => 10,
        _ => 0,
    }
}

fn overflow(operator: Token<'_>) -> Fail {
    fail(operator, "this constant expression overflows")
}

fn no_hexadecimal(operator: Token<'_>) -> Fail {
    fail(operator, format!("{:?} cannot be applied to a hexadecimal floating-point number", operator.text))
}

/// A unary operator.
fn negate(operator: Token<'_>, value: Constant) -> Parsed<Constant> {
    use Constant::{Decimal, Signed, Unsigned};
    Ok(match (operator.text, value) {
        (_, Constant::Single(_) | Constant::Double(_)) => return Err(no_hexadecimal(operator)),
        ("+", value) => value,
        ("-", Signed(value)) => Signed(value.checked_neg().ok_or_else(|| overflow(operator))?),
        ("-", Unsigned(value)) => Unsigned(value.wrapping_neg()),
        ("-", Decimal(value)) => Decimal(-value),
        ("!", value) => Signed((!value.is_true()).into()),
        (_, Signed(value)) => Unsigned(!value as u64),
        (_, Unsigned(value)) => Unsigned(!value),
        (_, Decimal(_)) => return Err(fail(operator, "~ needs an integer")),
    })
}

/// A binary operator.
fn apply(operator: Token<'_>, left: Constant, right: Constant) -> Parsed<Constant> {
    use Constant::{Decimal, Signed};
    if matches!(left, Constant::Single(_) | Constant::Double(_))
        || matches!(right, Constant::Single(_) | Constant::Double(_))
    {
        return Err(no_hexadecimal(operator));
    }
    let truth = |value: bool| Ok(Signed(value.into()));
    match operator.text {
        "&&" => return truth(left.is_true() && right.is_true()),
        "||" => return truth(left.is_true() || right.is_true()),
        _ => {}
    }
    match (left, right) {
        (Decimal(_), _) | (_, Decimal(_)) => {
            let (a, b) = (left.decimal(), right.decimal());
            let value = match operator.text {
                "+" => a + b,
                "-" => a - b,
                "*" => a * b,
                "/" => a / b,
                "<" => return truth(a < b),
                "<=" => return truth(a <= b),
                ">" => return truth(a > b),
                ">=" => return truth(a >= b),
                "==" => return truth(a == b),
                "!=" => return truth(a != b),
                _ => return Err(fail(operator, format!("{:?} needs integers", operator.text))),
            };
            if value.is_finite() { Ok(Decimal(value)) } else { Err(overflow(operator)) }
        }
        (Signed(a), Signed(b)) => signed(operator, a, b),
        _ => {
            // One of them is unsigned, so both are taken as unsigned; a shift has the type of what it shifts.
            let (a, b) = (left.unsigned().unwrap_or(0), right.unsigned().unwrap_or(0));
            match (operator.text, left) {
                ("<<" | ">>", Signed(a)) => signed(operator, a, b.min(64) as i64),
                _ => unsigned(operator, a, b),
            }
        }
    }
}

fn signed(operator: Token<'_>, a: i64, b: i64) -> Parsed<Constant> {
    use Constant::{Signed, Unsigned};
    let amount = u32::try_from(b).ok();
    let value = match operator.text {
        "+" => a.checked_add(b),
        "-" => a.checked_sub(b),
        "*" => a.checked_mul(b),
        "/" | "%" if b == 0 => return Err(fail(operator, "division by zero")),
        "/" => a.checked_div(b),
        "%" => a.checked_rem(b),
        "<<" => amount.and_then(|n| a.checked_shl(n)),
        ">>" => amount.and_then(|n| a.checked_shr(n)),
        "<" => Some((a < b).into()),
        "<=" => Some((a <= b).into()),
        ">" => Some((a > b).into()),
        ">=" => Some((a >= b).into()),
        "==" => Some((a == b).into()),
        "!=" => Some((a != b).into()),
        "&" => return Ok(Unsigned((a & b) as u64)),
        "|" => return Ok(Unsigned((a | b) as u64)),
        "^" => return Ok(Unsigned((a ^ b) as u64)),
        _ => None,
    };
    value.map(Signed).ok_or_else(|| overflow(operator))
}

fn unsigned(operator: Token<'_>, a: u64, b: u64) -> Parsed<Constant> {
    use Constant::{Signed, Unsigned};
    let truth = |value: bool| Ok(Signed(value.into()));
    let amount = u32::try_from(b).ok();
    let value = match operator.text {
        // As in C, unsigned arithmetic wraps.
        "+" => Some(a.wrapping_add(b)),
        "-" => Some(a.wrapping_sub(b)),
        "*" => Some(a.wrapping_mul(b)),
        "/" | "%" if b == 0 => return Err(fail(operator, "division by zero")),
        "/" => Some(a / b),
        "%" => Some(a % b),
        "<<" => amount.and_then(|n| a.checked_shl(n)),
        ">>" => amount.and_then(|n| a.checked_shr(n)),
        "&" => Some(a & b),
        "|" => Some(a | b),
        "^" => Some(a ^ b),
        "<" => return truth(a < b),
        "<=" => return truth(a <= b),
        ">" => return truth(a > b),
        ">=" => return truth(a >= b),
        "==" => return truth(a == b),
        "!=" => return truth(a != b),
        _ => None,
    };
    value.map(Unsigned).ok_or_else(|| overflow(operator))
}
