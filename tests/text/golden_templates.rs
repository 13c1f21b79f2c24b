//! Every template of tests/golden/templates, against what transformers renders.

use std::ops::Range;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use warptune::text::{ChatTemplate, Conversation, MaskSource, SpecialTokens};

fn files() -> Vec<(String, Value)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/templates");
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some())
        .collect();
    paths.sort();
    let read = |path: &PathBuf| serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    paths.iter().map(|path| (path.file_stem().unwrap().to_string_lossy().into_owned(), read(path))).collect()
}

fn conversation(case: &Value) -> Conversation {
    let some = |key: &str| case.get(key).filter(|v| !v.is_null()).cloned();
    let mut extra = some("extra").and_then(|e| e.as_object().cloned()).unwrap_or_default();
    extra.remove("now");
    Conversation {
        messages: case["messages"].as_array().unwrap().clone(),
        tools: some("tools"),
        documents: some("documents"),
        extra,
    }
}

/// "2024-07-26" as the time of that day's midnight.
fn time(case: &Value) -> SystemTime {
    let Some(date) = case.pointer("/extra/now").and_then(Value::as_str) else { return UNIX_EPOCH };
    let parts: Vec<i64> = date.split('-').map(|p| p.parse().unwrap()).collect();
    let leap_days = |year: i64| year / 4 - year / 100 + year / 400;
    let before: i64 = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334][parts[1] as usize - 1];
    let leap = i64::from(parts[1] > 2 && leap_days(parts[0]) > leap_days(parts[0] - 1));
    let days =
        (parts[0] - 1970) * 365 + leap_days(parts[0] - 1) - leap_days(1969) + before + leap + parts[2] - 1;
    UNIX_EPOCH + Duration::from_secs(days as u64 * 86_400)
}

fn template(file: &Value, case: &Value) -> ChatTemplate {
    let token = |key: &str| file[key].as_str().map(str::to_owned);
    let special =
        SpecialTokens { bos: token("bos_token"), eos: token("eos_token"), ..SpecialTokens::default() };
    ChatTemplate::at_time(file["template"].as_str().unwrap(), &special, time(case)).unwrap()
}

#[test]
fn golden_templates_render_as_in_transformers() {
    let mut wrong = Vec::new();
    let files = files();
    assert!(files.len() >= 12, "only {} golden templates", files.len());
    for (name, file) in &files {
        for (i, case) in file["cases"].as_array().unwrap().iter().enumerate() {
            let prompt = case["add_generation_prompt"].as_bool().unwrap();
            let result = template(file, case).render(&conversation(case), prompt);
            match (case.get("error").and_then(Value::as_str), result) {
                (None, Ok(text)) if Some(text.as_str()) == case["rendered"].as_str() => {}
                (Some(message), Err(e)) if e.to_string().contains(message) => {}
                (None, Ok(text)) => {
                    wrong.push(format!("{name} {i}: {}", first_difference(&text, &case["rendered"])))
                }
                (expected, got) => wrong.push(format!("{name} {i}: expected {expected:?}, got {got:?}")),
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

fn first_difference(got: &str, expected: &Value) -> String {
    let expected = expected.as_str().unwrap_or("an error");
    let at = got.chars().zip(expected.chars()).take_while(|(a, b)| a == b).count();
    let around = |text: &str| text.chars().skip(at.saturating_sub(30)).take(80).collect::<String>();
    format!("at character {at}: got {:?}, expected {:?}", around(got), around(expected))
}

#[test]
fn golden_templates_mark_as_in_transformers() {
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for (name, file) in files() {
        for (i, case) in file["cases"].as_array().unwrap().iter().enumerate() {
            let Some(expected) = case["assistant_spans"].as_array() else { continue };
            if case["add_generation_prompt"] == true || case.get("error").is_some() {
                continue;
            }
            let at = |pair: &Value, i: usize| pair[i].as_u64().unwrap() as usize;
            let expected: Vec<Range<usize>> =
                expected.iter().map(|pair| at(pair, 0)..at(pair, 1)).filter(|r| !r.is_empty()).collect();
            let rendered = template(&file, case).render_with_spans(&conversation(case)).unwrap();
            assert_eq!(rendered.source, MaskSource::GenerationBlocks);
            let chars = |byte: usize| rendered.text[..byte].chars().count();
            let got: Vec<Range<usize>> =
                rendered.spans.iter().map(|r| chars(r.start)..chars(r.end)).collect();
            seen += 1;
            if got != expected {
                wrong.push(format!("{name} {i}: got {got:?}, expected {expected:?}"));
            }
        }
    }
    assert!(seen > 0 && wrong.is_empty(), "{} of {seen} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// Where a template marks nothing, the turns found by rendering must hold every answer whole and nothing that others said.
#[test]
fn golden_templates_without_marks_give_the_assistants_turns() {
    let (mut wrong, mut seen, mut refused) = (Vec::new(), 0, Vec::new());
    for (name, file) in files() {
        for (i, case) in file["cases"].as_array().unwrap().iter().enumerate() {
            let template = template(&file, case);
            let conversation = conversation(case);
            if template.has_generation()
                || case["add_generation_prompt"] == true
                || case.get("error").is_some()
            {
                continue;
            }
            let rendered = match template.render_with_spans(&conversation) {
                Ok(rendered) => rendered,
                Err(e) => {
                    refused.push(format!("{name} {i}: {e}"));
                    continue;
                }
            };
            seen += 1;
            let pieces: Vec<&str> = rendered.spans.iter().map(|r| &rendered.text[r.clone()]).collect();
            let answers: Vec<&Value> =
                conversation.messages.iter().filter(|m| m["role"] == "assistant").collect();
            let mut good = pieces.len() == answers.len();
            for (piece, answer) in pieces.iter().zip(&answers) {
                let content = answer["content"].as_str().unwrap_or_default();
                let content = content.rsplit("</think>").next().unwrap_or_default().trim();
                good &= piece.contains(content);
            }
            for other in conversation.messages.iter().filter(|m| m["role"] != "assistant") {
                let content = other["content"].as_str().unwrap_or_default().trim();
                let repeated = answers
                    .iter()
                    .any(|answer| answer["content"].as_str().unwrap_or_default().contains(content));
                good &= repeated || pieces.iter().all(|piece| !piece.contains(content));
            }
            if !good {
                wrong.push(format!("{name} {i}: {pieces:?} of {:?}", rendered.text));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {seen} wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(
        refused.is_empty() && seen > 100,
        "{} of {} refused:\n{}",
        refused.len(),
        seen + refused.len(),
        refused.join("\n")
    );
}

/// The training templates without their marks: the turns found by rendering are what the marks say. White space is left aside,
/// and so are the turns' headers, which some of the templates mark though a generation prompt gives them.
#[test]
fn golden_turns_agree_with_the_marks() {
    let (mut wrong, mut seen, mut refused) = (Vec::new(), 0, Vec::new());
    let tags = regex::Regex::new(r"\{%(-?) *(?:end)?generation *(-?)%\}").unwrap();
    for (name, file) in files() {
        let mut bare = file.clone();
        let source = file["template"].as_str().unwrap();
        bare["template"] = tags.replace_all(source, "{%$1 if true %}{% endif $2%}").into_owned().into();
        for (i, case) in file["cases"].as_array().unwrap().iter().enumerate() {
            if !case["assistant_spans"].is_array() || case["add_generation_prompt"] == true {
                continue;
            }
            let marked = template(&file, case).render_with_spans(&conversation(case)).unwrap();
            let turns = match template(&bare, case).render_with_spans(&conversation(case)) {
                Ok(turns) => turns,
                Err(e) => {
                    refused.push(format!("{name} {i}: {e}"));
                    continue;
                }
            };
            assert_eq!((&turns.text, turns.source), (&marked.text, MaskSource::Turns));
            let text = |spans: &[Range<usize>]| {
                let mut text: String = spans.iter().map(|r| &marked.text[r.clone()]).collect();
                text.retain(|c| !c.is_whitespace());
                // R1's generation prompt begins the thinking; gpt-oss ends the last turn with <|return|>, others with <|end|>.
                let more = match name.as_str() {
                    "deepseek_r1_distill_training" => "<think>",
                    "gptoss_training" => "<|end|>",
                    _ => "<|start|>assistant",
                };
                ["<｜Assistant｜>", "<|start|>assistant", more]
                    .iter()
                    .fold(text, |text, header| text.replace(header, ""))
            };
            seen += 1;
            if text(&turns.spans) != text(&marked.spans) {
                wrong.push(format!(
                    "{name} {i}: got {:?}, marked {:?}",
                    text(&turns.spans),
                    text(&marked.spans)
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {seen} wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(
        refused.is_empty() && seen > 80,
        "{} of {} refused:\n{}",
        refused.len(),
        seen + refused.len(),
        refused.join("\n")
    );
}
