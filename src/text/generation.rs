//! `{% generation %}`: transformers' tag around what the assistant writes. minijinja has no tags of one's own, so the tag
//! becomes tags that it knows, with marks printed around the body; the marks are taken out of the rendered text again.

use std::ops::Range;
use std::sync::LazyLock;

use regex::{Captures, Regex};

use super::template_error;
use crate::Result;

pub(super) const OPEN: char = '\u{FDD0}';
pub(super) const CLOSE: char = '\u{FDD1}';
/// Noncharacters: no text has them (Unicode 23.7), so they cannot be mistaken.
pub(super) const MARKS: [char; 2] = [OPEN, CLOSE];

#[allow(clippy::unwrap_used)] // a constant pattern
static TAG: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}").unwrap());

/// The template with its generation tags replaced, and whether there were any.
///
/// The body becomes that of a `{% with %}`, since what it sets must not be seen outside, while it sees loops and namespaces
/// (a `{% call %}` block would not). Each replacement begins and ends with a block tag, so that white space around it is trimmed as
/// around the original.
pub(super) fn rewrite(source: &str) -> (String, bool) {
    let text = TAG.replace_all(source, |tag: &Captures| {
        let (left, right) = (&tag[1], &tag[3]);
        if tag.get(2).is_some() {
            format!("{{%{left} endwith %}}{{{{ '{CLOSE}' }}}}{{% endif {right}%}}")
        } else {
            format!("{{%{left} if true %}}{{{{ '{OPEN}' }}}}{{% with {right}%}}")
        }
    });
    let found = matches!(text, std::borrow::Cow::Owned(_));
    (text.into_owned(), found)
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
