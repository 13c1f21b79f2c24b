//! The assistant's spans under a template without `{% generation %}` blocks, found by rendering.

use std::cell::OnceCell;
use std::ops::Range;

use serde_json::Value;

use super::generation::{self, CLOSE, OPEN};
use super::{ChatTemplate, Conversation, template_error};
use crate::Result;

/// The spans of all assistant turns in `full`, the rendering of the whole conversation.
///
/// A turn begins where the conversation before it, with a generation prompt, ends, if that is the beginning of `full`. It ends
/// where the rendering with the turn ends. Templates that drop the thinking of earlier turns render less of a turn in `full`
/// than when it comes last: then the part of it that is left is taken.
///
/// Where that does not explain `full` (some templates move the system prompt into the last user turn), marks are put around the
/// assistant's contents, and if taking them out of the rendering gives `full`, they tell where each content lies. The text that
/// follows a content when its turn comes last (the end-of-turn token) is added, as far as it is the same in `full`.
pub(super) fn assistant_spans(
    template: &ChatTemplate,
    conversation: &Conversation,
    full: &str,
) -> Result<Vec<Range<usize>>> {
    let mut renderer = Renderer { template, conversation, always: String::new() };
    renderer.always = renderer.unconditional_prompt();
    let full = full.strip_suffix(renderer.always.as_str()).unwrap_or(full);
    let turns: Vec<usize> =
        (0..conversation.messages.len()).filter(|&i| conversation.role(i) == Some("assistant")).collect();
    let marks = OnceCell::new();
    let marked = |turn: usize| {
        let spans = marks.get_or_init(|| renderer.by_marks(&turns, full));
        spans.iter().find(|(t, _)| *t == turn).map(|(_, span)| span.clone())
    };
    let span = |turn: usize| {
        let start = renderer.start(turn, full);
        let end = start.and_then(|start| renderer.end(turn, start, full));
        Some(match (start, end) {
            (Some(start), Some(end)) => start..end,
            (Some(start), None) => start..marked(turn)?.end,
            _ => marked(turn)?,
        })
    };
    let spans: Option<Vec<_>> = turns.iter().map(|&turn| span(turn)).collect();
    spans.filter(|spans| spans.windows(2).all(|pair| pair[0].end <= pair[1].start)).ok_or_else(|| {
        template_error(
            "cannot tell which part of the text the assistant wrote: the template renders a turn differently when more turns \
             follow. Put {% generation %} ... {% endgeneration %} around the assistant's text in the template, or train on all tokens",
        )
    })
}

const END_OF_THINKING: &str = "</think>";

struct Renderer<'a> {
    template: &'a ChatTemplate,
    conversation: &'a Conversation,
    /// What the template prints behind every conversation: no part of its last turn.
    always: String,
}

impl Renderer<'_> {
    /// None where the template refuses, as some do when a conversation does not end as they expect.
    fn render(&self, messages: &[Value], prompt: bool) -> Option<String> {
        self.template.run(self.conversation, messages, prompt).ok()
    }

    /// Some templates print the generation prompt whether it is asked for or not; then it is all that they print when there
    /// are no messages.
    fn unconditional_prompt(&self) -> String {
        let asked = self.render(&[], true);
        self.render(&[], false).filter(|prompt| Some(prompt) == asked.as_ref()).unwrap_or_default()
    }

    /// Without a generation prompt, even if the template always prints one.
    fn render_turns(&self, messages: &[Value]) -> Option<String> {
        let mut text = self.render(messages, false)?;
        if let Some(turns) = text.strip_suffix(self.always.as_str()) {
            text.truncate(turns.len());
        }
        Some(text)
    }

    /// Behind the generation prompt, or behind the part of it that a finished turn begins with too (a prompt may open a thinking
    /// block that `full` does not show).
    fn start(&self, turn: usize, full: &str) -> Option<usize> {
        let before = &self.conversation.messages[..turn];
        let prompted = self.render(before, true)?;
        if full.starts_with(&prompted) {
            return Some(prompted.len());
        }
        let unprompted = self.render_turns(before).filter(|text| full.starts_with(text))?;
        let prompt = prompted.strip_prefix(&unprompted)?;
        Some(unprompted.len() + shared_beginning(prompt, &full[unprompted.len()..]))
    }

    fn end(&self, turn: usize, start: usize, full: &str) -> Option<usize> {
        let messages = &self.conversation.messages;
        if turn + 1 == messages.len() {
            return Some(full.len());
        }
        let with_turn = self.render_turns(&messages[..=turn])?;
        let as_last = with_turn.get(start..).filter(|_| with_turn.starts_with(&full[..start]))?;
        if as_last.trim().is_empty() {
            return None;
        }
        if full.starts_with(&with_turn) {
            return Some(with_turn.len());
        }
        longest_suffix_that_begins(as_last, &full[start..]).map(|kept| start + kept)
    }

    /// Turns and the spans of their contents and ends; those without a content are left out, and all if the marks disturb.
    fn by_marks(&self, turns: &[usize], full: &str) -> Vec<(usize, Range<usize>)> {
        let mut messages = self.conversation.messages.clone();
        let mut marked = Vec::new();
        for &turn in turns {
            let Some(content) = self.conversation.messages[turn].get("content").and_then(Value::as_str)
            else {
                continue;
            };
            // Marks go inside the white space at the ends and behind the thinking: templates cut both off.
            let thought = content.rfind(END_OF_THINKING).map_or(0, |at| at + END_OF_THINKING.len());
            let core = content[thought..].trim();
            if core.is_empty() {
                continue;
            }
            let from = content.trim_end().len() - core.len();
            let (lead, trail) = (&content[..from], &content[from + core.len()..]);
            messages[turn]["content"] = Value::String(format!("{lead}{OPEN}{core}{CLOSE}{trail}"));
            marked.push((turn, lead.to_owned()));
        }
        let split =
            |messages: &[Value]| self.render_turns(messages).and_then(|text| generation::split(&text).ok());
        let Some((_, spans)) =
            split(&messages).filter(|(text, spans)| text == full && spans.len() == marked.len())
        else {
            return Vec::new();
        };
        let whole = |((turn, lead), span): ((usize, String), Range<usize>)| {
            let tail =
                split(&messages[..=turn]).and_then(|(text, ends)| Some(text[ends.last()?.end..].to_owned()));
            let shared = tail.map_or(0, |tail| shared_beginning(&tail, &full[span.end..]));
            (turn, span.start - shared_end(&lead, &full[..span.start])..span.end + shared)
        };
        marked.into_iter().zip(spans).map(whole).collect()
    }
}

/// Length of the longest suffix of `turn` that `rest` begins with and that is more than white space.
fn longest_suffix_that_begins(turn: &str, rest: &str) -> Option<usize> {
    turn.char_indices()
        .map(|(at, _)| &turn[at..])
        .find(|s| rest.starts_with(s) && !s.trim().is_empty())
        .map(str::len)
}

/// Length of what `a` and `b` begin with alike, without a beginning of something in brackets: `<|end|>` and `<|user|>` share nothing.
fn shared_beginning(a: &str, b: &str) -> usize {
    let length = a.chars().zip(b.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum();
    let shared = &a[..length];
    let cut = [('<', '>'), ('[', ']')].into_iter().filter_map(|(open, close)| {
        let last = shared.rfind(open)?;
        (!shared[last..].contains(close)).then_some(last)
    });
    cut.min().unwrap_or(length)
}

/// Length of what `a` and `b` end with alike.
fn shared_end(a: &str, b: &str) -> usize {
    a.chars().rev().zip(b.chars().rev()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum()
}
