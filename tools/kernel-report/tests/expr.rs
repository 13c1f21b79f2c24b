//! Expressions of sizes.

use kernel_report::expr::{Expr, Sizes};
use proptest::prelude::*;

fn sizes() -> Sizes {
    Sizes::from([("m".to_string(), 100), ("n_2".to_string(), 7)])
}

fn value(text: &str) -> Result<u64, String> {
    Expr::Text(text.to_string()).value(&sizes())
}

#[test]
fn values() {
    for (text, expected) in [
        ("7", 7),
        (" 2 * m + n_2 ", 207),
        ("2 + 3 * 4 - 5", 9),
        ("100 / 7 / 2", 7),
        ("m % n_2", 2),
        ("(2 + 3) * (m - 90)", 50),
        ("ceil_div(m, 64) * 64", 128),
        ("ceil_div(128, 64)", 2),
        ("min(m, n_2) + max(m, n_2)", 107),
        ("10 - 3 - 2", 5),
        ("1_000", 1000),
        ("18446744073709551615", u64::MAX),
    ] {
        assert_eq!(value(text), Ok(expected), "{text}");
    }
    assert_eq!(Expr::Number(5).value(&sizes()), Ok(5));
}

#[test]
fn mistakes_are_named() {
    for (text, part) in [
        ("", "ends where"),
        ("2 *", "ends where"),
        ("k", "no size 'k'; there are: m, n_2"),
        ("2 m", "ends before 'm'"),
        ("(2", "')' is missing"),
        ("m - 101", "out of range"),
        ("m / (n_2 - 7)", "divides by zero"),
        ("ceil_div(m, 0)", "divides by zero"),
        ("log(m, 2)", "no function 'log'"),
        ("2x", "'2x' is not a number"),
        ("18446744073709551616", "not a number"),
        ("18446744073709551615 * 2", "out of range"),
        ("-1", "no number or name before '-1'"),
    ] {
        let error = value(text).unwrap_err();
        assert!(error.contains(part) && error.contains(text), "{text}: {error}");
    }
    assert!(value(&"(".repeat(100_000)).unwrap_err().contains("deeply"));
    let product = ["18446744073709551615"; 4].join(" * ");
    assert!(value(&product).unwrap_err().contains("too large"));
}

proptest! {
    #[test]
    fn sums_of_products(terms in prop::collection::vec((0u64..1000, 1u64..1000), 1..8)) {
        let text = terms.iter().map(|(a, b)| format!("{a}*{b}")).collect::<Vec<_>>().join(" + ");
        let expected: u64 = terms.iter().map(|(a, b)| a * b).sum();
        prop_assert_eq!(value(&text), Ok(expected));
    }

    #[test]
    fn any_text_is_a_value_or_an_error(text in "[m0-9+*/%(), _a-z-]{0,24}") {
        let _ = value(&text);
    }
}
