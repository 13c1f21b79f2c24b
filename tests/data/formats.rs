//! Detecting and reading data formats.

use serde_json::{Value, json};
use warptune::data::{DataFormat, Example};
use warptune::text::Conversation;

fn detect(record: Value) -> Result<DataFormat, String> {
    DataFormat::detect(record.as_object().unwrap())
}

fn example(record: Value) -> Result<Example, String> {
    let fields = record.as_object().unwrap();
    DataFormat::detect(fields)?.example(fields)
}

/// The messages as (role, content), and the first that is trained.
fn turns(record: Value) -> (Vec<(String, String)>, usize) {
    let Example::Chat { conversation, first_trained } = example(record).unwrap() else {
        panic!("not a chat")
    };
    let text = |message: &Value, key: &str| message[key].as_str().unwrap().to_owned();
    (conversation.messages.iter().map(|m| (text(m, "role"), text(m, "content"))).collect(), first_trained)
}

fn pairs(turns: &[(&str, &str)]) -> Vec<(String, String)> {
    turns.iter().map(|(role, content)| (role.to_string(), content.to_string())).collect()
}

#[test]
fn formats_are_detected_and_named() {
    for (record, name) in [
        (json!({"messages": [], "id": 1, "prompt": "x"}), "messages"),
        (json!({"conversations": []}), "sharegpt"),
        (json!({"prompt": "a", "completion": "b"}), "prompt+completion"),
        (json!({"instruction": "a", "input": "", "output": "b"}), "alpaca"),
        (json!({"question": "a", "answer": "b"}), "question+answer"),
        (json!({"text": "a"}), "text"),
        (json!({"prompt": "a", "chosen": "b", "rejected": "c"}), "prompt+chosen+rejected"),
        (json!({"chosen": [], "rejected": []}), "prompt+chosen+rejected"),
        (json!({"prompt": "a", "completion": "b", "label": true}), "prompt+completion+label"),
        (json!({"prompt": "a", "completions": ["b"], "labels": [true]}), "completions+labels"),
    ] {
        assert_eq!(detect(record).unwrap().name(), name);
        assert_eq!(DataFormat::from_name(name).unwrap().name(), name);
    }
    let error = detect(json!({"foo": 1, "bar": 2})).unwrap_err();
    assert!(error.contains("'foo', 'bar'") && DataFormat::all().all(|f| error.contains(f.name())), "{error}");
    let error = detect(json!({"text": "a", "messages": []})).unwrap_err();
    assert!(error.contains("messages, text") && error.contains("data.format"), "{error}");
}

#[test]
fn instruction_formats_become_conversations() {
    let pair = pairs(&[("user", "q"), ("assistant", "a")]);
    assert_eq!(turns(json!({"question": "q", "answer": "a"})), (pair.clone(), 0));
    assert_eq!(turns(json!({"prompt": "q", "completion": "a"})), (pair.clone(), 1));
    assert_eq!(
        turns(json!({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]})),
        (pair, 0)
    );
    let long = [("system", "s"), ("user", "q"), ("assistant", "a"), ("user", "r\nx"), ("assistant", "b")];
    assert_eq!(
        turns(
            json!({"instruction": "r", "input": "x", "output": "b", "system": "s", "history": [["q", "a"]]})
        )
        .0,
        pairs(&long)
    );
    assert_eq!(
        turns(json!({"system": "s", "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"},
            {"from": "human", "value": "r\nx"}, {"role": "assistant", "content": "b"}]})).0,
        pairs(&long)
    );
    let prompt = json!([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}, {"role": "user", "content": "r"}]);
    let completion = json!([{"role": "assistant", "content": "b"}]);
    assert_eq!(turns(json!({"prompt": prompt, "completion": completion})).1, 3);
    assert_eq!(example(json!({"text": "t"})).unwrap(), Example::Text("t".to_owned()));
}

#[test]
fn tools_and_template_variables_are_kept() {
    let tool = json!({"type": "function", "function": {"name": "f"}});
    let messages = json!([{"role": "user", "content": "q"}, {"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]},
        {"role": "tool", "content": "1"}, {"role": "assistant", "content": "a"}]);
    let expected = |extra: Value| Conversation {
        messages: messages.as_array().unwrap().clone(),
        tools: Some(json!([tool])),
        documents: None,
        extra: extra.as_object().unwrap().clone(),
    };
    for tools in [json!([tool]), json!(json!([tool]).to_string())] {
        let record =
            json!({"messages": messages, "tools": tools, "chat_template_kwargs": {"enable_thinking": false}});
        let Example::Chat { conversation, .. } = example(record).unwrap() else { panic!("not a chat") };
        assert_eq!(*conversation, expected(json!({"enable_thinking": false})));
    }
}

#[test]
fn bad_records_are_refused_in_words() {
    let user = |content: Value| json!({"messages": [{"role": "user", "content": content}]});
    for (record, expected) in [
        (json!({"messages": [{"role": "narrator", "content": "x"}]}), "unknown role 'narrator' in message 1"),
        (json!({"messages": [{"content": "x"}]}), "message 1 has no role"),
        (json!({"messages": ["x"]}), "must be an object with role and content, is a text"),
        (json!({"messages": []}), "'messages' is empty"),
        (json!({"messages": "x"}), "must be a list of messages, is a text"),
        (user(Value::Null), "has no content"),
        (user(json!(1)), "must be a text, is a number"),
        (user(json!([{"type": "image", "url": "x"}])), "part of type 'image'"),
        (json!({"conversations": [{"from": "elf", "value": "x"}]}), "unknown role \"elf\" in turn 1"),
        (json!({"conversations": [{"from": "gpt", "value": 1}]}), "no text 'value'"),
        (json!({"prompt": 1, "completion": "a"}), "'prompt' must be a text, is a number"),
        (json!({"instruction": "a", "output": "b", "history": "h"}), "'history' must be a list"),
        (json!({"instruction": "a", "output": "b", "history": [["x"]]}), "entry 1 must be a pair"),
        (json!({"messages": [{"role": "user", "content": "q"}], "tools": "x"}), "'tools' is a text, but not"),
        (json!({"prompt": "a", "chosen": "b", "rejected": "c"}), "preference"),
    ] {
        let error = example(record).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}
