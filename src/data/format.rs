//! The formats that instruction data comes in: detected by their keys, named, and turned into conversations.

use std::fmt;

use serde_json::{Map, Value, json};

use crate::text::Conversation;

/// A known format of a data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DataFormat {
    /// `messages`: `[{role, content}]`, with optional `tools`, `documents` and `chat_template_kwargs`.
    Messages,
    /// `conversations`: `[{from, value}]` (or `[{role, content}]`), with optional `system` and `tools`.
    ShareGpt,
    /// `prompt` and `completion`: two texts, or two lists of messages.
    PromptCompletion,
    /// `instruction` and `output`, with optional `input`, `system` and `history`.
    Alpaca,
    /// `question` and `answer`.
    QuestionAnswer,
    /// `text`: one text.
    Text,
    /// `chosen` and `rejected`, with or without `prompt`: pairs for preference training.
    Preference,
    /// `prompt`, `completion` and `label`: single answers with a verdict.
    UnpairedPreference,
    /// `completions` and `labels`: the steps of an answer with a verdict each.
    StepwiseLabels,
}

use DataFormat::*;

/// With the keys that a record must have; a format whose keys include another's comes before it.
const FORMATS: [(DataFormat, &[&str]); 9] = [
    (Messages, &["messages"]),
    (ShareGpt, &["conversations"]),
    (Preference, &["chosen", "rejected"]),
    (StepwiseLabels, &["completions", "labels"]),
    (UnpairedPreference, &["prompt", "completion", "label"]),
    (PromptCompletion, &["prompt", "completion"]),
    (Alpaca, &["instruction", "output"]),
    (QuestionAnswer, &["question", "answer"]),
    (Text, &["text"]),
];

impl DataFormat {
    /// All formats.
    pub fn all() -> impl Iterator<Item = DataFormat> {
        FORMATS.iter().map(|(format, _)| *format)
    }

    /// The name, e.g. "prompt+completion".
    pub fn name(self) -> &'static str {
        match self {
            Messages => "messages",
            ShareGpt => "sharegpt",
            PromptCompletion => "prompt+completion",
            Alpaca => "alpaca",
            QuestionAnswer => "question+answer",
            Text => "text",
            Preference => "prompt+chosen+rejected",
            UnpairedPreference => "prompt+completion+label",
            StepwiseLabels => "completions+labels",
        }
    }

    /// The format called `name`.
    pub fn from_name(name: &str) -> Option<DataFormat> {
        DataFormat::all().find(|format| format.name() == name)
    }

    /// Whether a record has this format's keys.
    pub fn fits(self, fields: &Map<String, Value>) -> bool {
        FORMATS
            .iter()
            .any(|(format, keys)| *format == self && keys.iter().all(|key| fields.contains_key(*key)))
    }

    /// The format of a record.
    ///
    /// # Errors
    /// In words, without the place: that no format fits, or that several do.
    pub fn detect(fields: &Map<String, Value>) -> Result<DataFormat, String> {
        let mut fitting: Vec<DataFormat> = DataFormat::all().filter(|format| format.fits(fields)).collect();
        if fitting.contains(&UnpairedPreference) {
            fitting.retain(|format| *format != PromptCompletion);
        }
        match fitting.as_slice() {
            [format] => Ok(*format),
            [] => Err(format!("unknown format: the keys are {}. {}", key_list(fields), known())),
            several => Err(format!(
                "the keys {} fit more than one format ({}): say which one with data.format",
                key_list(fields),
                several.iter().map(|f| f.name()).collect::<Vec<_>>().join(", ")
            )),
        }
    }

    /// What a record means for supervised fine-tuning.
    ///
    /// # Errors
    /// In words, without the place: a key that is missing or of the wrong type, an unknown role, a format that is for other recipes.
    pub fn example(self, fields: &Map<String, Value>) -> Result<Example, String> {
        if !self.fits(fields) {
            return Err(format!(
                "this record is not in the format '{}' of the records before: its keys are {}. One file holds one format. {}",
                self.name(),
                key_list(fields),
                known()
            ));
        }
        match self {
            Text => Ok(Example::Text(text(fields, "text")?.to_owned())),
            Messages => {
                let messages = list(fields, "messages")?.iter().enumerate().map(|(i, m)| check(i, m));
                Example::chat(messages.collect::<Result<_, _>>()?).with_context(fields)
            }
            ShareGpt => sharegpt(fields),
            PromptCompletion => prompt_completion(fields),
            Alpaca => alpaca(fields),
            QuestionAnswer => {
                let turns = [("user", text(fields, "question")?), ("assistant", text(fields, "answer")?)];
                Ok(Example::chat(Conversation::from_turns(turns).messages))
            }
            Preference | UnpairedPreference | StepwiseLabels => Err(format!(
                "this is a data set for preference or reward training ('{}'), supervised fine-tuning has no use for it. {}",
                self.name(),
                known()
            )),
        }
    }
}

impl fmt::Display for DataFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One record, as supervised fine-tuning sees it.
#[derive(Clone, Debug, PartialEq)]
pub enum Example {
    /// A plain text.
    Text(String),
    /// A conversation.
    Chat {
        /// The turns.
        conversation: Box<Conversation>,
        /// The first message that may be trained: those before it are the prompt.
        first_trained: usize,
    },
}

impl Example {
    fn chat(messages: Vec<Value>) -> Example {
        Example::Chat {
            conversation: Box::new(Conversation { messages, ..Conversation::default() }),
            first_trained: 0,
        }
    }

    /// Adds what a record says beside the messages.
    fn with_context(self, fields: &Map<String, Value>) -> Result<Example, String> {
        let Example::Chat { mut conversation, first_trained } = self else {
            return Ok(self);
        };
        let list = |key: &str| match fields.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Array(items)) if items.is_empty() => Ok(None),
            Some(Value::Array(items)) => Ok(Some(Value::Array(items.clone()))),
            Some(Value::String(text)) if text.trim().is_empty() => Ok(None),
            Some(Value::String(text)) => match serde_json::from_str(text) {
                Ok(Value::Array(items)) if items.is_empty() => Ok(None),
                Ok(Value::Array(items)) => Ok(Some(Value::Array(items))),
                _ => Err(format!("'{key}' is a text, but not that of a JSON list")),
            },
            Some(other) => Err(format!("'{key}' must be a list, is {}", kind(other))),
        };
        conversation.tools = list("tools")?;
        conversation.documents = list("documents")?;
        match fields.get("chat_template_kwargs") {
            None | Some(Value::Null) => {}
            Some(Value::Object(extra)) => conversation.extra = extra.clone(),
            Some(other) => {
                return Err(format!("'chat_template_kwargs' must be an object, is {}", kind(other)));
            }
        }
        Ok(Example::Chat { conversation, first_trained })
    }
}

const ROLES: [&str; 6] = ["system", "developer", "user", "assistant", "tool", "function"];

/// Checks a message's role and content.
fn check(index: usize, message: &Value) -> Result<Value, String> {
    let Value::Object(fields) = message else {
        return Err(format!(
            "message {} must be an object with role and content, is {}",
            index + 1,
            kind(message)
        ));
    };
    let role = match fields.get("role") {
        Some(Value::String(role)) if ROLES.contains(&role.as_str()) => role.as_str(),
        Some(Value::String(role)) => {
            return Err(format!(
                "unknown role '{role}' in message {}: known are {}",
                index + 1,
                ROLES.join(", ")
            ));
        }
        _ => return Err(format!("message {} has no role", index + 1)),
    };
    match fields.get("content") {
        Some(Value::String(_)) => {}
        Some(Value::Array(parts)) => {
            if let Some(other) = parts.iter().find(|part| part.get("text").and_then(Value::as_str).is_none())
            {
                let what = other.get("type").and_then(Value::as_str).unwrap_or("unknown");
                return Err(format!(
                    "message {} has a part of type '{what}': only text parts are supported",
                    index + 1
                ));
            }
        }
        None | Some(Value::Null) if role == "assistant" && fields.contains_key("tool_calls") => {}
        None | Some(Value::Null) => return Err(format!("message {} ({role}) has no content", index + 1)),
        Some(other) => {
            return Err(format!("the content of message {} must be a text, is {}", index + 1, kind(other)));
        }
    }
    Ok(message.clone())
}

fn sharegpt(fields: &Map<String, Value>) -> Result<Example, String> {
    let mut messages = Vec::new();
    if let Some(system) = optional_text(fields, "system")? {
        messages.push(json!({"role": "system", "content": system}));
    }
    for (i, turn) in list(fields, "conversations")?.iter().enumerate() {
        let Some(from) = turn.get("from") else {
            messages.push(check(i, turn)?);
            continue;
        };
        let role = match from.as_str().unwrap_or_default() {
            "human" | "user" => "user",
            "gpt" | "assistant" | "model" | "chatgpt" | "bing" | "bard" => "assistant",
            "system" => "system",
            "tool" | "observation" | "function_response" => "tool",
            _ => {
                return Err(format!(
                    "unknown role {from} in turn {}: known are human, user, gpt, assistant, model, system, tool, observation",
                    i + 1
                ));
            }
        };
        let Some(value) = turn.get("value").and_then(Value::as_str) else {
            return Err(format!("turn {} has no text 'value'", i + 1));
        };
        messages.push(json!({"role": role, "content": value}));
    }
    Example::chat(messages).with_context(fields)
}

fn prompt_completion(fields: &Map<String, Value>) -> Result<Example, String> {
    let (mut messages, completion) = match (&fields["prompt"], &fields["completion"]) {
        (Value::Array(prompt), Value::Array(completion)) => (prompt.clone(), completion.clone()),
        (Value::Array(prompt), Value::String(text)) => {
            (prompt.clone(), vec![json!({"role": "assistant", "content": text})])
        }
        _ => (
            vec![json!({"role": "user", "content": text(fields, "prompt")?})],
            vec![json!({"role": "assistant", "content": text(fields, "completion")?})],
        ),
    };
    let first_trained = messages.len();
    messages.extend(completion);
    let messages = messages.iter().enumerate().map(|(i, m)| check(i, m)).collect::<Result<_, _>>()?;
    match Example::chat(messages).with_context(fields)? {
        Example::Chat { conversation, .. } => Ok(Example::Chat { conversation, first_trained }),
        other => Ok(other),
    }
}

fn alpaca(fields: &Map<String, Value>) -> Result<Example, String> {
    let mut turns: Vec<(&str, &str)> = Vec::new();
    if let Some(system) = optional_text(fields, "system")? {
        turns.push(("system", system));
    }
    let history = match fields.get("history") {
        None | Some(Value::Null) => &[],
        Some(Value::Array(history)) => history.as_slice(),
        Some(other) => return Err(format!("'history' must be a list of pairs, is {}", kind(other))),
    };
    for (i, turn) in history.iter().enumerate() {
        let Some([Value::String(question), Value::String(answer)]) = turn.as_array().map(Vec::as_slice)
        else {
            return Err(format!("'history' entry {} must be a pair of texts", i + 1));
        };
        turns.extend([("user", question.as_str()), ("assistant", answer.as_str())]);
    }
    let mut question = text(fields, "instruction")?.to_owned();
    if let Some(input) = optional_text(fields, "input")? {
        question = format!("{question}\n{input}");
    }
    turns.extend([("user", question.as_str()), ("assistant", text(fields, "output")?)]);
    Ok(Example::chat(Conversation::from_turns(turns).messages))
}

fn text<'a>(fields: &'a Map<String, Value>, key: &str) -> Result<&'a str, String> {
    match &fields.get(key) {
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(format!("'{key}' must be a text, is {}", kind(other))),
        None => Err(format!("'{key}' is missing")),
    }
}

/// None if it is missing, null or empty.
fn optional_text<'a>(fields: &'a Map<String, Value>, key: &str) -> Result<Option<&'a str>, String> {
    match fields.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(_) => Ok(Some(text(fields, key)?).filter(|t| !t.is_empty())),
    }
}

fn list<'a>(fields: &'a Map<String, Value>, key: &str) -> Result<&'a [Value], String> {
    match fields.get(key) {
        Some(Value::Array(items)) if items.is_empty() => Err(format!("'{key}' is empty")),
        Some(Value::Array(items)) => Ok(items),
        Some(other) => Err(format!("'{key}' must be a list of messages, is {}", kind(other))),
        None => Err(format!("'{key}' is missing")),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn key_list(fields: &Map<String, Value>) -> String {
    let keys: Vec<&str> = fields.keys().take(20).map(String::as_str).collect();
    if keys.is_empty() { "(none)".to_owned() } else { format!("'{}'", keys.join("', '")) }
}

fn known() -> String {
    let formats = FORMATS.iter().map(|(format, keys)| format!("{} ({})", format.name(), keys.join(", ")));
    format!("Known formats: {}", formats.collect::<Vec<_>>().join("; "))
}
