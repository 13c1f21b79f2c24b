//! Chat templates: a conversation to the text that a model was trained to read.
//!
//! Templates are Jinja programs that come with a model. They run in minijinja with what transformers gives them: Python's
//! string and dict methods, `tojson` as Python's json.dumps writes it, `raise_exception`, `strftime_now`, `{% generation %}`, trimmed
//! blocks. A template is a stranger's program: the number of its instructions, its recursion and its output are
//! limited. (A single string inside one can still grow up to what memory holds.)

use std::io;
use std::ops::Range;
use std::time::SystemTime;

use minijinja::{Environment, ErrorKind, context};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde_json::{Map, Value};

use super::{SpecialTokens, generation, python, template_error, turns};
use crate::Result;

/// The ChatML template, for models that bring none.
pub const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + \
     '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/// Instructions that one rendering may execute; the longest real templates take a few hundred a message.
const FUEL: u64 = 20_000_000;
/// Depth of nested macro calls.
const RECURSION: usize = 100;
/// Bytes that one rendering may write.
const MAX_OUTPUT: usize = 64 << 20;
const NAME: &str = "chat_template";

/// What a template is applied to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conversation {
    /// The messages: objects with `role`, `content` and whatever else the template reads (`tool_calls`, `reasoning_content`, ...).
    pub messages: Vec<Value>,
    /// Descriptions of the tools that the model may call.
    pub tools: Option<Value>,
    /// Documents to answer from.
    pub documents: Option<Value>,
    /// Further variables of the template, e.g. `enable_thinking`.
    pub extra: Map<String, Value>,
}

impl Conversation {
    /// A conversation of `(role, content)` turns.
    pub fn from_turns<'a>(turns: impl IntoIterator<Item = (&'a str, &'a str)>) -> Conversation {
        let message = |(role, content)| serde_json::json!({"role": role, "content": content});
        Conversation { messages: turns.into_iter().map(message).collect(), ..Conversation::default() }
    }

    /// The role of message `index`, if it has one.
    pub fn role(&self, index: usize) -> Option<&str> {
        self.messages.get(index)?.get("role")?.as_str()
    }
}

/// Where the assistant's spans come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaskSource {
    /// The template's own `{% generation %}` blocks.
    GenerationBlocks,
    /// Comparison of renderings of the conversation's beginnings. A span runs from the generation prompt to the end of the turn.
    Turns,
}

/// A rendered conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// The text.
    pub text: String,
    /// What the assistant wrote: byte ranges of `text`, in order.
    pub spans: Vec<Range<usize>>,
    /// How the spans were found.
    pub source: MaskSource,
}

/// A compiled chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    env: Environment<'static>,
    source: String,
    has_generation: bool,
    special: [(&'static str, Option<String>); 4],
}

impl ChatTemplate {
    /// Compiles a template; `special` gives `bos_token` and its siblings, which stay undefined if there are none. The time that
    /// `strftime_now` tells (in UTC) is the time of this call.
    ///
    /// # Errors
    /// A syntax error, with its line.
    pub fn new(source: &str, special: &SpecialTokens) -> Result<ChatTemplate> {
        ChatTemplate::at_time(source, special, SystemTime::now())
    }

    /// As [`ChatTemplate::new`], at the given time.
    pub fn at_time(source: &str, special: &SpecialTokens, now: SystemTime) -> Result<ChatTemplate> {
        let mut env = Environment::new();
        env.set_trim_blocks(true);
        env.set_lstrip_blocks(true);
        env.set_fuel(Some(FUEL));
        env.set_recursion_limit(RECURSION);
        env.set_debug(false);
        env.set_unknown_method_callback(unknown_method_callback);
        env.set_formatter(python::format);
        env.add_filter("tojson", python::tojson);
        env.add_filter("string", |value: minijinja::Value| python::to_str(&value));
        env.add_function("raise_exception", |message: String| -> Result<String, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        env.add_function("strftime_now", move |format: &str| python::strftime(format, now));
        // Jinja2 reads every line end as \n.
        let lines = source.replace("\r\n", "\n").replace('\r', "\n");
        let (rewritten, has_generation) = generation::rewrite(&lines);
        env.add_template_owned(NAME, rewritten).map_err(|e| template_error(describe(&e)))?;
        let special = [
            ("bos_token", special.bos.clone()),
            ("eos_token", special.eos.clone()),
            ("pad_token", special.pad.clone()),
            ("unk_token", special.unk.clone()),
        ];
        Ok(ChatTemplate { env, source: source.to_owned(), has_generation, special })
    }

    /// The template as it was given.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether the template itself marks what the assistant writes.
    pub fn has_generation(&self) -> bool {
        self.has_generation
    }

    /// The text of a conversation. With `generation_prompt` it ends where the assistant's answer begins.
    ///
    /// # Errors
    /// What the template itself refuses (`raise_exception`), what it does wrong, and what runs into a limit.
    pub fn render(&self, conversation: &Conversation, generation_prompt: bool) -> Result<String> {
        refuse_marks(conversation)?;
        Ok(generation::split(&self.run(conversation, &conversation.messages, generation_prompt)?)?.0)
    }

    /// The text of a conversation, and which parts of it the assistant wrote.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`]; also if the template has no `{% generation %}` blocks and the turns cannot be told from
    /// each other by rendering.
    pub fn render_with_spans(&self, conversation: &Conversation) -> Result<Rendered> {
        refuse_marks(conversation)?;
        let (text, spans) = generation::split(&self.run(conversation, &conversation.messages, false)?)?;
        if self.has_generation {
            return Ok(Rendered { text, spans, source: MaskSource::GenerationBlocks });
        }
        let spans = turns::assistant_spans(self, conversation, &text)?;
        Ok(Rendered { text, spans, source: MaskSource::Turns })
    }

    /// Renders `messages` in the setting of `conversation`; generation blocks are still marked.
    pub(super) fn run(
        &self,
        conversation: &Conversation,
        messages: &[Value],
        prompt: bool,
    ) -> Result<String> {
        let mut variables = Map::new();
        for (name, token) in &self.special {
            if let Some(token) = token {
                variables.insert((*name).to_owned(), Value::String(token.clone()));
            }
        }
        variables.extend(conversation.extra.clone());
        let context = context! {
            messages => messages,
            tools => conversation.tools,
            documents => conversation.documents,
            add_generation_prompt => prompt,
            ..minijinja::Value::from_serialize(&variables)
        };
        let template = self.env.get_template(NAME).map_err(|e| template_error(describe(&e)))?;
        let mut output = Limited { bytes: Vec::new() };
        template.render_captured_to(context, &mut output).map_err(|e| template_error(describe(&e)))?;
        String::from_utf8(output.bytes).map_err(|_| template_error("its output is not UTF-8"))
    }
}

/// minijinja's message with its cause and line.
fn describe(error: &minijinja::Error) -> String {
    if error.kind() == ErrorKind::OutOfFuel {
        return format!("it ran for more than {FUEL} instructions and was stopped");
    }
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Texts may not contain the characters that mark spans: they could fake what the assistant wrote.
fn refuse_marks(conversation: &Conversation) -> Result<()> {
    fn contains(value: &Value) -> bool {
        match value {
            Value::String(text) => text.contains(generation::MARKS),
            Value::Array(items) => items.iter().any(contains),
            Value::Object(map) => {
                map.iter().any(|(key, value)| key.contains(generation::MARKS) || contains(value))
            }
            _ => false,
        }
    }
    let others = [&conversation.tools, &conversation.documents];
    if conversation.messages.iter().any(contains)
        || others.into_iter().flatten().any(contains)
        || conversation.extra.values().any(contains)
    {
        return Err(template_error(
            "a message contains the noncharacter U+FDD0 or U+FDD1, which no text may contain: remove it from the data",
        ));
    }
    Ok(())
}

/// A writer that refuses to grow without end.
struct Limited {
    bytes: Vec<u8>,
}

impl io::Write for Limited {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + data.len() > MAX_OUTPUT {
            return Err(io::Error::other(format!("it wrote more than {MAX_OUTPUT} bytes and was stopped")));
        }
        self.bytes.extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
