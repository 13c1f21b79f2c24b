//! The assistant's spans under a template without `{% generation %}` blocks, found by rendering.

use std::ops::Range;

use serde_json::Value;

use super::generation::{self, CLOSE, OPEN};
use super::{ChatTemplate, Conversation, template_error};
use crate::Result;

/// The spans of all assistant turns in `full`, the rendering of the whole conversation.
///
/// Two ways, the first that explains every turn:
/// 1. The conversation up to the turn, with a generation prompt, is the beginning of `full`; the turn ends where the rendering
///    with the turn ends. Templates that drop the thinking of earlier turns render less of a turn in `full` than when it comes
///    last: then the part of it that is left is taken.
/// 2. Marks around the assistant's contents, if taking them out of the rendering gives `full`. The text that follows a
///    content when its turn comes last (the end-of-turn token) is added, as far as it is the same in `full`. This serves templates
///    that move the system prompt into the last user turn.
pub(super) fn assistant_spans(
    template: &ChatTemplate,
    conversation: &Conversation,
    full: &str,
) -> Result<Vec<Range<usize>>> {
    let turns: Vec<usize> =
        (0..conversation.messages.len()).filter(|&i| conversation.role(i) == Some("assistant")).collect();
    let renderer = Renderer { template, conversation };
    let by_prefix: Option<Vec<_>> = turns.iter().map(|&turn| renderer.by_prefix(turn, full)).collect();
    if let Some(spans) = by_prefix.filter(|spans| spans.windows(2).all(|w| w[0].end <= w[1].start)) {
        return Ok(spans);
    }
    renderer.by_marks(&turns, full).ok_or_else(|| {
        template_error(
            "cannot tell which part of the text the assistant wrote: the template renders a turn differently when more turns \
             follow. Put {% generation %} ... {% endgeneration %} around the assistant's text in the template, or train on all tokens",
        )
    })
}

struct Renderer<'a> {
    template: &'a ChatTemplate,
    conversation: &'a Conversation,
}

impl Renderer<'_> {
    /// None where the template refuses, as some do when a conversation does not end as they expect.
    fn render(&self, messages: &[Value], prompt: bool) -> Option<String> {
        self.template.run(self.conversation, messages, prompt).ok()
    }

    fn by_prefix(&self, turn: usize, full: &str) -> Option<Range<usize>> {
        let messages = &self.conversation.messages;
        let prompt = self.render(&messages[..turn], true)?;
        let rest = full.strip_prefix(prompt.as_str())?;
        let start = prompt.len();
        if turn + 1 == messages.len() {
            return (!rest.is_empty()).then_some(start..full.len());
        }
        let with_turn = self.render(&messages[..=turn], false)?;
        let as_last = with_turn.strip_prefix(prompt.as_str())?;
        if as_last.trim().is_empty() {
            return None;
        }
        if full.starts_with(&with_turn) {
            return Some(start..with_turn.len());
        }
        let kept = longest_suffix_that_begins(as_last, rest)?;
        Some(start..start + kept)
    }

    fn by_marks(&self, turns: &[usize], full: &str) -> Option<Vec<Range<usize>>> {
        let mut marked = self.conversation.messages.clone();
        for &turn in turns {
            let content = marked[turn].get("content")?.as_str()?;
            // Marks go inside the white space at the ends: templates strip it.
            let core = content.trim();
            let from = content.len() - content.trim_start().len();
            let (lead, trail) = (&content[..from], &content[from + core.len()..]);
            if core.is_empty() {
                return None;
            }
            marked[turn]["content"] = Value::String(format!("{lead}{OPEN}{core}{CLOSE}{trail}"));
        }
        let (text, mut spans) = generation::split(&self.render(&marked, false)?).ok()?;
        if text != full || spans.len() != turns.len() {
            return None;
        }
        for (span, &turn) in spans.iter_mut().zip(turns) {
            let alone = self.render(&marked[..=turn], false).and_then(|text| generation::split(&text).ok());
            let Some((text, ends)) = alone else { continue };
            let tail = text.get(ends.last()?.end..)?;
            span.end += common_prefix(tail, &full[span.end..]);
        }
        Some(spans)
    }
}

/// Length of the longest suffix of `turn` that `rest` begins with and that is more than white space.
fn longest_suffix_that_begins(turn: &str, rest: &str) -> Option<usize> {
    turn.char_indices()
        .map(|(at, _)| &turn[at..])
        .find(|s| rest.starts_with(s) && !s.trim().is_empty())
        .map(str::len)
}

fn common_prefix(a: &str, b: &str) -> usize {
    a.chars().zip(b.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum()
}
