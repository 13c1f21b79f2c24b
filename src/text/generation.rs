//! `{% generation %}`: transformers' tag around what the assistant writes. minijinja has no tags of one's own, so the tag
//! becomes a `{% call %}` of a function that puts marks around its body; the marks are taken out of the rendered text again.

use std::ops::Range;
use std::sync::LazyLock;

use minijinja::value::Kwargs;
use minijinja::{Environment, State, Value};
use regex::{Captures, Regex};

use super::template_error;
use crate::Result;

pub(super) const OPEN: char = '\u{FDD0}';
pub(super) const CLOSE: char = '\u{FDD1}';
/// Noncharacters: no text has them (Unicode 23.7), so they cannot be mistaken.
pub(super) const MARKS: [char; 2] = [OPEN, CLOSE];

const FUNCTION: &str = "__generation__";

#[allow(clippy::unwrap_used)] // a constant pattern
static TAG: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}").unwrap());

/// The template with its generation tags replaced, and whether there were any.
pub(super) fn rewrite(source: &str) -> (String, bool) {
    let text = TAG.replace_all(source, |tag: &Captures| {
        let (left, right) = (&tag[1], &tag[3]);
        if tag.get(2).is_some() {
            format!("{{%{left} endcall {right}%}}")
        } else {
            format!("{{%{left} call {FUNCTION}() {right}%}}")
        }
    });
    let found = matches!(text, std::borrow::Cow::Owned(_));
    (text.into_owned(), found)
}

pub(super) fn add_function(env: &mut Environment<'static>) {
    env.add_function(FUNCTION, |state: &State, options: Kwargs| -> Result<Value, minijinja::Error> {
        let caller: Value = options.get("caller")?;
        let body = caller.call(state, &[])?;
        Ok(Value::from(format!("{OPEN}{body}{CLOSE}")))
    });
}

/// Takes the marks out: the text and the byte ranges that lay between them. Empty ranges are left out.
pub(super) fn split(marked: &str) -> Result<(String, Vec<Range<usize>>)> {
    let mut text = String::with_capacity(marked.len());
    let mut spans = Vec::new();
    let mut open = None;
    for piece in marked.split_inclusive(MARKS) {
        let body = piece.trim_end_matches(MARKS);
        text.push_str(body);
        match (piece.chars().next_back().filter(|c| MARKS.contains(c)), open) {
            (Some(OPEN), None) => open = Some(text.len()),
            (Some(CLOSE), Some(start)) => {
                if start < text.len() {
                    spans.push(start..text.len());
                }
                open = None;
            }
            (None, _) => {}
            _ => return Err(template_error("its {% generation %} blocks are nested or cut in two")),
        }
    }
    if open.is_some() {
        return Err(template_error("its {% generation %} blocks are nested or cut in two"));
    }
    Ok((text, spans))
}
