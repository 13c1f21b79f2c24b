//! Chat templates: what Python does, masks, limits.

use proptest::prelude::*;
use serde_json::{Value, json};
use warptune::text::{CHATML, ChatTemplate, Conversation, MaskSource, SpecialTokens};

fn template(source: &str) -> ChatTemplate {
    let special =
        SpecialTokens { bos: Some("<s>".into()), eos: Some("</s>".into()), ..SpecialTokens::default() };
    ChatTemplate::new(source, &special).unwrap()
}

fn render(source: &str, variables: Value) -> String {
    let extra = variables.as_object().unwrap().clone();
    template(source).render(&Conversation { extra, ..Conversation::default() }, false).unwrap()
}

/// Expected texts are those of Python 3.12's json.dumps and str.
#[test]
fn json_is_written_as_python_writes_it() {
    let x = json!({"b": [1, 2.0, true, null], "a": "<ä & 'ö'>\n\"\\\u{7f}\u{1}", "e": {}, "f": []});
    let cases = [
        (
            "{{ x | tojson }}",
            r#"{"b": [1, 2.0, true, null], "a": "<ä & 'ö'>\n\"\\"#.to_owned()
                + "\u{7f}\\u0001\", \"e\": {}, \"f\": []}",
        ),
        ("{{ x.b | tojson(indent=2) }}", "[\n  1,\n  2.0,\n  true,\n  null\n]".to_owned()),
        (
            "{{ {'a': {'b': 1}} | tojson(indent=4) }}",
            "{\n    \"a\": {\n        \"b\": 1\n    }\n}".to_owned(),
        ),
        ("{{ 'ä🙂' | tojson(ensure_ascii=True) }}", r#""\u00e4\ud83d\ude42""#.to_owned()),
        (
            "{{ {'b': 1, 'a': 2} | tojson(sort_keys=true, separators=(',', ':')) }}",
            r#"{"a":2,"b":1}"#.to_owned(),
        ),
        (
            "{{ [1e16, 1e15, 0.0001, 0.00001, 1.5e-7, -0.0, 123456789.125] | tojson }}",
            "[1e+16, 1000000000000000.0, 0.0001, 1e-05, 1.5e-07, -0.0, 123456789.125]".to_owned(),
        ),
    ];
    for (source, expected) in cases {
        assert_eq!(render(source, json!({"x": x})), expected, "{source}");
    }
}

#[test]
fn values_print_as_in_python() {
    let x = json!({"none": null, "yes": true, "list": ["it's", "a \"q\"", 1.0, null], "map": {"k": false}});
    assert_eq!(
        render("{{ x.none }} {{ x.yes }} {{ x.list }} {{ x.map }} {{ x.missing }}|", json!({"x": x})),
        "None True [\"it's\", 'a \"q\"', 1.0, None] {'k': False} |"
    );
    assert_eq!(render("{{ (x | string) ~ '!' }}", json!({"x": true})), "True!");
}

#[test]
fn dates_are_those_of_the_given_day() {
    let special = SpecialTokens::default();
    let at = |seconds| std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
    let show = |seconds: u64, format: &str| {
        let source = format!("{{{{ strftime_now('{format}') }}}}");
        ChatTemplate::at_time(&source, &special, at(seconds))
            .unwrap()
            .render(&Conversation::default(), false)
            .unwrap()
    };
    assert_eq!(
        show(1_709_210_096, "%d %b %Y, %A %B %-d %H:%M:%S %I%p %j %y %%"),
        "29 Feb 2024, Thursday February 29 12:34:56 12PM 060 24 %"
    );
    assert_eq!(show(0, "%Y-%m-%d %a"), "1970-01-01 Thu");
    assert_eq!(show(951_782_400, "%F %T"), "2000-02-29 00:00:00");
}

#[test]
fn blocks_are_trimmed_and_tokens_defined() {
    let source = "{{ bos_token }}\n  {% for m in messages %}\n{{ m.content.strip() }}\n  {% endfor %}\n{{ eos_token }}{% if pad_token is defined %}P{% endif %}\n";
    let conversation = Conversation::from_turns([("user", " a "), ("user", "b")]);
    assert_eq!(template(source).render(&conversation, false).unwrap(), "<s>\na\nb\n</s>");
}

#[test]
fn what_a_template_refuses_is_said() {
    let error =
        template("{{ raise_exception('roles must alternate') }}").render(&Conversation::default(), false);
    assert!(error.unwrap_err().to_string().contains("roles must alternate"));
    let error = ChatTemplate::new("{% for %}", &SpecialTokens::default()).unwrap_err().to_string();
    assert!(error.starts_with("chat template: ") && error.contains("chat_template:1"), "{error}");
}

#[test]
fn hostile_templates_are_stopped() {
    let loops = "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}";
    let error = template(loops).render(&Conversation::default(), false).unwrap_err().to_string();
    assert!(error.contains("instructions and was stopped"), "{error}");
    let huge = "{% set x = 'x' * 1000000 %}{% for a in range(100000) %}{{ x }}{% endfor %}";
    let error = template(huge).render(&Conversation::default(), false).unwrap_err().to_string();
    assert!(error.contains("bytes and was stopped"), "{error}");
    let deep = "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}";
    assert!(template(deep).render(&Conversation::default(), false).is_err());
}

#[test]
fn texts_cannot_fake_the_marks_of_spans() {
    let conversation = Conversation::from_turns([("user", "\u{FDD0}mine\u{FDD1}"), ("assistant", "a")]);
    assert!(template(CHATML).render_with_spans(&conversation).unwrap_err().to_string().contains("U+FDD0"));
}

/// The spans, as text.
fn spans(source: &str, messages: Value) -> Result<(Vec<String>, MaskSource), warptune::Error> {
    let conversation =
        Conversation { messages: messages.as_array().unwrap().clone(), ..Conversation::default() };
    let rendered = template(source).render_with_spans(&conversation)?;
    Ok((rendered.spans.iter().map(|r| rendered.text[r.clone()].to_owned()).collect(), rendered.source))
}

fn four_turns() -> Value {
    json!([{"role": "user", "content": "one"}, {"role": "assistant", "content": "<think>\nhm\n</think>\n\ntwo"},
        {"role": "user", "content": "three"}, {"role": "assistant", "content": "<think>\nhm\n</think>\n\nfour"}])
}

#[test]
fn generation_blocks_see_the_loop_and_their_own_variables() {
    let source = "{% for m in messages %}{% set x = loop.index %}[{{ m.role }}]\n{%- if m.role == 'assistant' %}\n\
        {%- generation -%}\n {{ m.content[-3:] }}{{ x }}{{ loop.last }}{{ eos_token }} {%- endgeneration -%}\n{%- endif %};{% endfor %}";
    let (texts, from) = spans(source, four_turns()).unwrap();
    assert_eq!(from, MaskSource::GenerationBlocks);
    assert_eq!(texts, ["two2False</s>", "our4True</s>"]);
    let conversation =
        Conversation { messages: four_turns().as_array().unwrap().clone(), ..Conversation::default() };
    assert_eq!(
        template(source).render(&conversation, false).unwrap(),
        "[user];[assistant]two2False</s>;[user];[assistant]our4True</s>;"
    );
}

#[test]
fn turns_are_found_where_a_template_marks_nothing() {
    let (texts, from) = spans(CHATML, four_turns()).unwrap();
    assert_eq!(from, MaskSource::Turns);
    assert_eq!(texts[1], "<think>\nhm\n</think>\n\nfour<|im_end|>\n");
    assert_eq!(texts.len(), 2);
}

#[test]
fn turns_are_found_where_earlier_thinking_is_dropped() {
    let source = "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' and not loop.last %}\
        {{ m.content.split('</think>')[-1].lstrip('\\n') }}{% else %}{{ m.content }}{% endif %}<end>\n{% endfor %}\
        {% if add_generation_prompt %}<assistant>{% endif %}";
    assert_eq!(
        spans(source, four_turns()).unwrap().0,
        ["two<end>\n", "<think>\nhm\n</think>\n\nfour<end>\n"]
    );
}

#[test]
fn turns_are_found_where_the_system_prompt_moves_to_the_last_user_turn() {
    let source = "{{ bos_token }}{% for m in messages[1:] %}{% if m.role == 'user' %}[INST] \
        {% if loop.index0 >= messages | length - 3 %}{{ messages[0].content }} {% endif %}{{ m.content }}[/INST]\
        {% else %} {{ m.content | trim }}{{ eos_token }}{% endif %}{% endfor %}";
    let messages = json!([{"role": "system", "content": "be kind"}, {"role": "user", "content": "one"},
        {"role": "assistant", "content": " two "}, {"role": "user", "content": "three"}, {"role": "assistant", "content": "four"}]);
    assert_eq!(spans(source, messages).unwrap().0, [" two</s>", " four</s>"]);
}

#[test]
fn turns_keep_their_thinking_where_the_system_prompt_moves() {
    let source = "{{ messages[-2].content }}{% for m in messages %}[{{ m.content }}]{% endfor %}";
    assert_eq!(
        spans(source, four_turns()).unwrap().0,
        ["<think>\nhm\n</think>\n\ntwo]", "<think>\nhm\n</think>\n\nfour]"]
    );
}

#[test]
fn turns_that_cannot_be_told_are_an_error() {
    let source = "{% for m in messages | reverse %}{{ m.content[0] }}{% endfor %}";
    let error = spans(source, four_turns()).unwrap_err().to_string();
    assert!(error.contains("{% generation %}"), "{error}");
}

#[test]
fn a_conversation_that_the_assistant_begins_is_marked() {
    let messages = json!([{"role": "assistant", "content": "hello"}, {"role": "user", "content": "x"}]);
    assert_eq!(spans(CHATML, messages).unwrap().0, ["hello<|im_end|>\n"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Against a renderer written out by hand, with and without generation blocks.
    #[test]
    fn spans_are_those_of_a_naive_renderer(
        turns in prop::collection::vec((0..3usize, "[a-z <>|\n🙂]{0,8}"), 1..7),
    ) {
        let marked = "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}\
            {{ m.content }}<|im_end|>{{ '\\n' }}{% endgeneration %}{% else %}{{ m.content }}<|im_end|>{{ '\\n' }}{% endif %}\
            {% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}".replace("\n{%", "{{ '\\n' }}{%");
        let (mut text, mut expected) = (String::new(), Vec::new());
        let roles = ["system", "user", "assistant"];
        for (role, content) in &turns {
            text += &format!("<|im_start|>{}\n", roles[*role]);
            let start = text.len();
            text += &format!("{content}<|im_end|>\n");
            if *role == 2 {
                expected.push(start..text.len());
            }
        }
        let conversation = Conversation::from_turns(turns.iter().map(|(role, content)| (roles[*role], content.as_str())));
        for source in [marked.as_str(), CHATML] {
            let rendered = template(source).render_with_spans(&conversation).unwrap();
            prop_assert_eq!(&rendered.text, &text);
            prop_assert_eq!(&rendered.spans, &expected);
        }
    }

    #[test]
    fn any_template_compiles_or_fails_in_words(source in "[{}%a-z'|() \\[\\]\n#-]{0,40}") {
        if let Ok(template) = ChatTemplate::new(&source, &SpecialTokens::default()) {
            let _ = template.render_with_spans(&Conversation::from_turns([("user", "a"), ("assistant", "b")]));
        }
    }
}
