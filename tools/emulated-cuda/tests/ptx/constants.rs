//! Constants and constant expressions.

use cuda::ptx::ast::Operand;
use proptest::prelude::*;

use super::{operands, parse_kernel};

/// The value of a constant expression as an operand.
fn value(expression: &str) -> Operand {
    operands(&format!("mov.b64 wide, {expression};")).remove(1)
}

#[test]
fn integers() {
    let cases = [
        ("0", 0),
        ("42", 42),
        ("-42", -42),
        ("+7", 7),
        ("0x1F", 31),
        ("0XfU", 15),
        ("017", 15),
        ("00", 0),
        ("017U", 15),
        ("0b101", 5),
        ("0B11U", 3),
        ("5U", 5),
        ("9223372036854775807", i64::MAX),
        ("-9223372036854775808", i64::MIN),
        ("18446744073709551615", -1),
        ("WARP_SZ", 32),
        ("WARP_SZ - 1", 31),
    ];
    for (text, expected) in cases {
        assert_eq!(value(text), Operand::Integer(expected), "{text}");
    }
}

#[test]
fn floating_point_numbers_keep_their_bits() {
    assert_eq!(value("0f3F800000"), Operand::F32(0x3f80_0000));
    assert_eq!(value("0F7fffffff"), Operand::F32(0x7fff_ffff));
    assert_eq!(value("0d3FF0000000000000"), Operand::F64(0x3ff0_0000_0000_0000));
    assert_eq!(value("0DfFf0000000000001"), Operand::F64(0xfff0_0000_0000_0001));
    for (text, expected) in [
        ("1.5", 1.5),
        ("-1.5", -1.5),
        ("1.", 1.0),
        (".5", 0.5),
        (".5e-3", 0.5e-3),
        ("1.e5", 1e5),
        ("2E+3", 2e3),
        ("0e5", 0.0),
        ("0.1", 0.1),
        ("09.5", 9.5),
        ("1.5 + 2 * 0.25", 2.0),
        ("(1.0 < 2.0) ? 3.0 : 4.0", 3.0),
    ] {
        assert_eq!(value(text), Operand::F64(f64::to_bits(expected)), "{text}");
    }
}

#[test]
fn operators_bind_as_in_c() {
    for (text, expected) in [
        ("1 + 2 * 3", 7),
        ("(1 + 2) * 3", 9),
        ("10 - 4 - 3", 3),
        ("100 / 7 % 4", 2),
        ("1 << 4 | 3", 19),
        ("6 & 3 ^ 1 | 8", 11),
        ("1 + 1 == 2 && 3 > 2", 1),
        ("0 || 5 <= 4", 0),
        ("1 < 2 == 1", 1),
        ("0 != 0 ? 1 : 0 ? 2 : 3", 3),
        ("-5 / 2", -2),
        ("-5 % 3", -2),
        ("-8 >> 1", -4),
        ("(.u64)-8 >> 60", 15),
        ("(.s64)(.u64)-1 < 0", 1),
        ("-1 < 0", 1),
        ("-1 < 0U", 0),
        ("~0", -1),
        ("~0 >> 63", 1),
        ("!5", 0),
        ("!!5 - - 3", 4),
        ("0U - 1", -1),
        ("1 >> 63", 0),
    ] {
        assert_eq!(value(text), Operand::Integer(expected), "{text}");
    }
}

#[test]
fn what_has_no_value_is_an_error() {
    for (text, message) in [
        ("18446744073709551616", "does not fit 64 bits"),
        ("9223372036854775807 + 1", "overflows"),
        ("-9223372036854775807 - 2", "overflows"),
        ("4611686018427387904 * 2", "overflows"),
        ("(-9223372036854775807 - 1) / -1", "overflows"),
        ("(-9223372036854775807 - 1) % -1", "overflows"),
        ("-(-9223372036854775807 - 1)", "overflows"),
        ("1 << 64", "overflows"),
        ("1 << -1", "overflows"),
        ("1U << 64", "overflows"),
        ("1 << 18446744073709551615", "overflows"),
        ("1 / 0", "division by zero"),
        ("1U % 0", "division by zero"),
        ("09", "malformed number"),
        ("0x", "malformed number"),
        ("0b2", "malformed number"),
        ("12abc", "malformed number"),
        ("5u", "malformed number"),
        ("1.5U", "malformed number"),
        ("1.5.5", "expected \";\""),
        ("0f3F8000", "malformed number"),
        ("0f3F8000000", "malformed number"),
        ("0d3FF", "malformed number"),
        ("1e999", "malformed number"),
        ("1e300 * 1e300", "overflows"),
        ("1.0 / 0", "overflows"),
        ("1.0 & 1", "needs integers"),
        ("~1.0", "needs an integer"),
        ("-0f3F800000", "hexadecimal floating-point"),
        ("0f3F800000 + 1.0", "hexadecimal floating-point"),
        ("(.u64)1.0", "cast"),
        ("(.u32)1", "cast"),
        ("1 +", "expected a constant"),
        ("(1", "expected \")\""),
        ("1 ? 2", "expected \":\""),
    ] {
        let error = parse_kernel(&format!("mov.b64 wide, {text};")).expect_err(text);
        assert!(error.message.contains(message), "{text}: {error}");
        assert_eq!(error.line, 6, "{text}: {error}");
    }
}

/// A random expression with its value, none where it has none.
#[derive(Clone, Debug)]
struct Expression(String, Option<i64>);

fn expression() -> impl Strategy<Value = Expression> {
    let leaf = prop_oneof![
        (0i64..100).prop_map(|v| Expression(v.to_string(), Some(v))),
        any::<i64>().prop_map(|v| Expression(format!("({v})"), Some(v).filter(|v| *v != i64::MIN))),
        (0i64..1 << 40).prop_map(|v| Expression(format!("{v:#x}"), Some(v))),
    ];
    // The most negative number is no signed literal: its digits are unsigned before the sign.
    let leaf = leaf.prop_filter("signed", |e| e.1.is_some());
    leaf.prop_recursive(5, 40, 2, |inner| {
        (inner.clone(), inner, 0usize..9).prop_map(|(a, b, operator)| {
            let name = ["+", "-", "*", "/", "%", "<", ">=", "==", "&&"][operator];
            let value = a.1.zip(b.1).and_then(|(a, b)| {
                let wide = (i128::from(a), i128::from(b));
                let result = match operator {
                    0 => wide.0 + wide.1,
                    1 => wide.0 - wide.1,
                    2 => wide.0 * wide.1,
                    3 if b != 0 => wide.0 / wide.1,
                    // The quotient of the smallest number by -1 has no representation, so its remainder is refused too.
                    4 if b != 0 && (a, b) != (i64::MIN, -1) => wide.0 % wide.1,
                    5 => (a < b).into(),
                    6 => (a >= b).into(),
                    7 => (a == b).into(),
                    8 => (a != 0 && b != 0).into(),
                    _ => return None,
                };
                i64::try_from(result).ok()
            });
            Expression(format!("({} {name} {})", a.0, b.0), value)
        })
    })
}

proptest! {
    #[test]
    fn expressions_have_their_exact_value_or_none(Expression(text, expected) in expression()) {
        let result = parse_kernel(&format!("mov.b64 wide, {text};"));
        match expected {
            Some(expected) => {
                let module = result.map_err(|e| TestCaseError::fail(e.to_string()))?;
                let body = super::kernel_of(&module).body.as_ref().unwrap();
                prop_assert_eq!(&body.instructions[0].operands[1], &Operand::Integer(expected));
            }
            None => prop_assert!(result.is_err(), "{}", text),
        }
    }
}
