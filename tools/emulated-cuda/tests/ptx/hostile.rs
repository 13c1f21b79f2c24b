//! Whatever the text: a module or an error, soon, and never a panic.

use std::time::{Duration, Instant};

use cuda::ptx::parse;
use proptest::prelude::*;

use super::{HEADER, samples::ALL};

/// Far more than any text here needs.
const SOON: Duration = Duration::from_secs(10);

/// Parses and, where the text is refused, looks at the error: its line must exist and be the one that is shown.
fn check(text: &str) -> Result<(), TestCaseError> {
    let start = Instant::now();
    let result = parse(text);
    prop_assert!(start.elapsed() < SOON, "took {:?}", start.elapsed());
    if let Err(error) = result {
        let line = text.split('\n').nth(error.line as usize - 1);
        prop_assert!(line.is_some_and(|l| l.trim().starts_with(&error.text)), "{}", error);
        prop_assert!(!error.message.is_empty() && error.message.len() < 1000);
    }
    Ok(())
}

/// Cuts a text where a token may begin or end.
fn pieces(text: &str) -> Vec<&str> {
    text.split_inclusive([' ', '\t', '\n', ',', ';', '.', '{', '}', '(', ')', '[', ']']).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn flipped_bytes(
        sample in 0..ALL.len(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut bytes = ALL[sample].as_bytes().to_vec();
        for (at, byte) in flips {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        check(&String::from_utf8_lossy(&bytes))?;
    }

    #[test]
    fn deleted_ranges(
        sample in 0..ALL.len(),
        cuts in prop::collection::vec((any::<prop::sample::Index>(), 1usize..60), 1..4),
    ) {
        let mut bytes = ALL[sample].as_bytes().to_vec();
        for (at, length) in cuts {
            let at = at.index(bytes.len());
            bytes.drain(at..(at + length).min(bytes.len()));
        }
        check(&String::from_utf8_lossy(&bytes))?;
    }

    #[test]
    fn shuffled_tokens(
        sample in 0..ALL.len(),
        moves in prop::collection::vec(any::<[prop::sample::Index; 3]>(), 1..6),
    ) {
        let mut pieces = pieces(ALL[sample]);
        for [from, to, kind] in moves {
            let (from, to) = (from.index(pieces.len()), to.index(pieces.len()));
            match kind.index(3) {
                0 => pieces.swap(from, to),
                1 => pieces[to] = pieces[from],
                _ => pieces.insert(to, pieces[from]),
            }
        }
        check(&pieces.concat())?;
    }

    #[test]
    fn cut_off(sample in 0..ALL.len(), end in any::<prop::sample::Index>()) {
        check(&ALL[sample][..end.index(ALL[sample].len())])?;
    }

    #[test]
    fn soup(tokens in prop::collection::vec(prop::sample::select(pieces(ALL[0])), 0..60)) {
        check(&format!("{HEADER}{}", tokens.concat()))?;
        check(&format!("{HEADER}.entry k() {{ .reg .b32 %r<9>; {} }}", tokens.concat()))?;
    }

    #[test]
    fn any_text(text in any::<String>()) {
        check(&text)?;
        check(&format!("{HEADER}{text}"))?;
        check(&format!("{HEADER}.entry k() {{ {text}"))?;
    }
}

/// Texts that would exhaust the stack, the memory or the time of a parser that trusts them.
#[test]
fn oversized() {
    let many = 200_000;
    let body = |text: &str| format!("{HEADER}.entry k() {{ .reg .b32 a; .reg .pred p; {text} }}");
    let texts = [
        body(&"{".repeat(many)),
        body(&format!("mov.b32 a, {}", "(".repeat(many))),
        body(&format!("mov.b32 a, {}1;", "-".repeat(many))),
        body(&format!("mov.b32 a, {}1;", "1?".repeat(many))),
        body(&format!("mov.b32 a, {}1;", "(.u64)".repeat(many))),
        body(&format!("op {}", "{".repeat(many))),
        body(&format!("op {}", "a|".repeat(many))),
        body(&format!("op {}", "[".repeat(many))),
        body(&format!("op {}", "!".repeat(many))),
        body(".reg .b32 %r<4294967295>;"),
        body(&".reg .v4 .b32 %r<65000>;".repeat(100)),
        format!("{HEADER}.global .b8 x[1099511627777];"),
        format!("{HEADER}.global .b64 x{} = {}", "[1]".repeat(many), "{".repeat(many)),
        format!("{HEADER}.global .b8 x[2][1099511627776] = {{{{1}}, {{1}}}};"),
        format!("{HEADER}.global .b8 x[2][549755813888] = {{{{1}}, {{1}}}};"),
        format!("{HEADER}.global .b8 x[][1099511627776][1099511627776] = {{{{{{1}}}}, {{{{1}}}}}};"),
        format!("{HEADER}.global .b8 x{};", "[1000000]".repeat(many)),
        format!("{HEADER}.extern .shared .b8 x[]{};", "[1000000]".repeat(4)),
        format!("{HEADER}.section .debug_x {{ {}", "{".repeat(many)),
    ];
    for (index, text) in texts.iter().enumerate() {
        let start = Instant::now();
        let result = parse(text);
        assert!(start.elapsed() < SOON, "text {index} took {:?}", start.elapsed());
        // An open size is no size: what follows it does not matter.
        assert_eq!(result.is_ok(), index == 17, "text {index}: {:?}", result.err().map(|e| e.message));
    }
}

/// Long but honest texts, whose time must grow with their length and not with its square.
#[test]
fn long_texts_take_linear_time() {
    let many = 100_000;
    let repeated = |line: &dyn Fn(usize) -> String| (0..many).map(line).collect::<String>();
    let body = |text: String| format!("{HEADER}.func f() {{ }} .entry k() {{ .reg .b32 a; {text} }}");
    let texts = [
        body(repeated(&|i| format!("L{i}: bra L{};\n", many - 1 - i))),
        body(repeated(&|i| format!("{{ .reg .b32 r{i}; L: mov.b32 r{i}, a; bra L; }}\n"))),
        body(format!(
            "{} {} bra END; {} END:",
            "{".repeat(100),
            "bra END; call f;".repeat(many),
            "}".repeat(100)
        )),
        body(format!("list: .branchtargets {}E; E:", "E, ".repeat(many))),
        body(format!("op {{{}a}};", "a, ".repeat(many))),
        body(format!("mov.b32 a, {}1;", "1 + ".repeat(many))),
        repeated(&|i| format!(".file {i} \"f\"\n")),
        format!(
            "{}{}",
            repeated(&|i| format!(".func g{i}(); ")),
            repeated(&|i| format!(".func g{i}() {{ }}\n"))
        ),
        format!(
            ".func real() {{ }} .func a0(); .alias a0, real; {}",
            repeated(&|i| format!(".func a{}(); .alias a{}, a{i};\n", i + 1, i + 1))
        ),
        format!(".global .b8 x[] = {{{}0}};", "1, ".repeat(many)),
        repeated(&|i| format!(".global .b32 x{i}[2] = {{{i}, {i}}};\n")),
    ];
    for (index, text) in texts.iter().enumerate() {
        let text = if text.starts_with(HEADER) { text.clone() } else { format!("{HEADER}{text}") };
        let start = Instant::now();
        let result = parse(&text);
        assert!(start.elapsed() < SOON, "text {index} took {:?}", start.elapsed());
        assert!(result.is_ok(), "text {index}: {}", result.unwrap_err());
    }
}
