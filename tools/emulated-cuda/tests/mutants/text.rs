//! The instructions of a PTX text, where they stand. This reads just enough for mutation, and nothing of the emulator's.

use std::ops::Range;

/// An instruction.
#[derive(Clone, Debug)]
pub struct Statement<'a> {
    /// Its bytes in the text, from the guard to the semicolon.
    pub span: Range<usize>,
    /// The entry or function that it is part of.
    pub function: &'a str,
    /// `@%p` or `@!%p`, or nothing.
    pub guard: &'a str,
    /// The opcode with its modifiers.
    pub opcode: &'a str,
    /// What stands between the commas.
    pub operands: Vec<&'a str>,
}

/// Directives that end with their line.
const LINE_DIRECTIVES: [&str; 6] = [".version", ".target", ".address_size", ".file", ".loc", ".maxntid"];

/// Every instruction of a text, in order.
pub fn statements(text: &str) -> Vec<Statement<'_>> {
    let mut found = Vec::new();
    let mut function = "";
    let mut at = 0;
    while let Some(skip) = text[at..].find(|c: char| !c.is_whitespace()) {
        at += skip;
        let rest = &text[at..];
        if rest.starts_with("//") || LINE_DIRECTIVES.iter().any(|d| rest.starts_with(d)) {
            at += rest.find('\n').unwrap_or(rest.len());
        } else if rest.starts_with(['{', '}']) {
            at += 1;
        } else if let Some(name) = function_name(rest) {
            function = name;
            // To the body, or past a declaration.
            at += rest.find(['{', ';']).map_or(rest.len(), |end| end + 1);
        } else if let Some(len) = label(rest) {
            at += len;
        } else {
            let len = rest.find(';').map_or(rest.len(), |end| end + 1);
            if !rest.starts_with('.')
                && let Some(mut statement) = parse(&rest[..len])
            {
                statement.span = at..at + len;
                statement.function = function;
                found.push(statement);
            }
            at += len;
        }
    }
    found
}

/// The name, where a function or an entry starts.
fn function_name(rest: &str) -> Option<&str> {
    let head = &rest[..rest.find(['{', ';'])?];
    let at = [".entry", ".func"].iter().find_map(|d| head.find(d).map(|at| at + d.len()))?;
    let mut signature = head[at..].trim_start();
    if signature.starts_with('(') {
        // The returned parameter.
        signature = signature[signature.find(')')? + 1..].trim_start();
    }
    signature.split(|c: char| c == '(' || c.is_whitespace()).next()
}

/// The length of a label with its colon.
fn label(rest: &str) -> Option<usize> {
    let len = rest.find(|c: char| !(c.is_ascii_alphanumeric() || "_$%".contains(c)))?;
    (len > 0 && rest[len..].starts_with(':')).then_some(len + 1)
}

fn parse(text: &str) -> Option<Statement<'_>> {
    let mut body = text.strip_suffix(';')?.trim();
    let mut guard = "";
    if body.starts_with('@') {
        let (first, rest) = body.split_once(char::is_whitespace)?;
        (guard, body) = (first, rest.trim_start());
    }
    let (opcode, rest) = body.split_once(char::is_whitespace).unwrap_or((body, ""));
    let mut operands = Vec::new();
    let (mut depth, mut start) = (0, 0);
    for (i, c) in rest.char_indices() {
        match c {
            '{' | '[' | '(' => depth += 1,
            '}' | ']' | ')' => depth -= 1,
            ',' if depth == 0 => {
                operands.push(rest[start..i].trim());
                start = i + 1;
            }
            _ => {}
        }
    }
    if !rest.trim().is_empty() {
        operands.push(rest[start..].trim());
    }
    Some(Statement { span: 0..0, function: "", guard, opcode, operands })
}

#[test]
fn instructions_are_found_where_they_stand() {
    let text = "// @%p1 not.this;\n.version 7.0\n.visible .entry k(\n\t.param .u64 a\n)\n.maxntid 32, 1, 1\n{\n\t.reg .b32 %r<3>;\n\
                $L1:\n\t@!%p1 ld.shared.v2.u32 {%r1, %r2}, [%r0+8];\n\t{ .reg .b64 s; mbarrier.arrive.shared.b64 s, [%r0]; }\n\tret;\n}\n";
    let found = statements(text);
    let all: Vec<_> = found.iter().map(|s| (s.function, s.guard, s.opcode, s.operands.join(" / "))).collect();
    assert_eq!(
        all,
        [
            ("k", "@!%p1", "ld.shared.v2.u32", "{%r1, %r2} / [%r0+8]".to_owned()),
            ("k", "", "mbarrier.arrive.shared.b64", "s / [%r0]".to_owned()),
            ("k", "", "ret", String::new()),
        ]
    );
    assert_eq!(&text[found[0].span.clone()], "@!%p1 ld.shared.v2.u32 {%r1, %r2}, [%r0+8];");
}
