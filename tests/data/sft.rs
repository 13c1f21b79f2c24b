//! Records to samples, and the mistakes that must not reach training.

use serde_json::{Value, json};
use warptune::data::{OverLong, PromptStyle, Sample, SftOptions, SftSet, TrainOn, load_sft, preview};
use warptune::text::{CHATML, ChatTemplate, TextTokenizer};

use super::sources::file;
use crate::text::fixtures::{byte_level, sentence_piece};

fn load_with(
    tokenizer: &TextTokenizer,
    template: &str,
    records: &[Value],
    options: &SftOptions,
) -> Result<SftSet, String> {
    let lines: Vec<String> = records.iter().map(Value::to_string).collect();
    let (_folder, path) = file("d.jsonl", lines.join("\n"));
    let template = ChatTemplate::new(template, tokenizer.special_tokens()).unwrap();
    load_sft(&path, tokenizer, &template, options).map_err(|e| e.to_string())
}

fn load(records: &[Value], options: &SftOptions) -> Result<SftSet, String> {
    load_with(byte_level(), CHATML, records, options)
}

fn trained(tokenizer: &TextTokenizer, sample: &Sample) -> String {
    let ids: Vec<u32> =
        sample.ids.iter().zip(&sample.trained).filter(|(_, t)| **t).map(|(id, _)| *id).collect();
    tokenizer.decode(&ids, false).unwrap()
}

fn chat(turns: &[(&str, &str)]) -> Value {
    let messages: Vec<Value> =
        turns.iter().map(|(role, content)| json!({"role": role, "content": content})).collect();
    json!({"messages": messages})
}

fn two_turns() -> Value {
    chat(&[
        ("system", "be kind"),
        ("user", "one 🙂"),
        ("assistant", " two  🙂"),
        ("user", "three"),
        ("assistant", "four\n"),
    ])
}

#[test]
fn the_assistants_tokens_are_trained_with_their_end() {
    let set = load(&[two_turns()], &SftOptions::default()).unwrap();
    assert_eq!(set.format.name(), "messages");
    let sample = &set.samples[0];
    assert_eq!(trained(byte_level(), sample), " two  🙂<|im_end|>four\n<|im_end|>");
    assert_eq!(
        byte_level().decode(&sample.ids, false).unwrap(),
        "<|im_start|>system\nbe kind<|im_end|>\n<|im_start|>user\none 🙂<|im_end|>\n<|im_start|>assistant\n two  🙂<|im_end|>\n\
         <|im_start|>user\nthree<|im_end|>\n<|im_start|>assistant\nfour\n<|im_end|>\n"
    );
    assert_eq!((set.stats.examples, set.stats.tokens), (1, sample.ids.len()));
    assert_eq!(set.stats.loss_tokens, sample.loss_tokens());
    assert!(set.notes.is_empty(), "{:?}", set.notes);
}

#[test]
fn all_or_only_the_last_turn_can_be_trained() {
    let last = SftOptions { train_on: TrainOn::Last, ..SftOptions::default() };
    assert_eq!(trained(byte_level(), &load(&[two_turns()], &last).unwrap().samples[0]), "four\n<|im_end|>");
    let all = SftOptions { train_on: TrainOn::All, ..SftOptions::default() };
    let sample = &load(&[two_turns()], &all).unwrap().samples[0];
    assert_eq!(sample.loss_tokens(), sample.ids.len() - 1);
}

#[test]
fn assistant_turns_of_a_prompt_are_not_trained() {
    let message = |role: &str, content: &str| json!({"role": role, "content": content});
    let record = json!({"prompt": [message("user", "a"), message("assistant", "b"), message("user", "c")],
        "completion": [message("assistant", "d")]});
    assert_eq!(
        trained(byte_level(), &load(&[record], &SftOptions::default()).unwrap().samples[0]),
        "d<|im_end|>"
    );
}

#[test]
fn the_end_of_a_turn_is_trained_where_the_last_turn_ends_differently() {
    let template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ '\\n' + m.content }}{% if loop.last %}<|endoftext|>{% else %}\
        <|im_end|>{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{{ '\\n' }}{% endif %}";
    let set = load_with(byte_level(), template, &[two_turns()], &SftOptions::default()).unwrap();
    assert_eq!(trained(byte_level(), &set.samples[0]), " two  🙂<|im_end|>four\n<|endoftext|>");
}

#[test]
fn generation_blocks_decide_what_is_trained() {
    let template = "{% for m in messages %}{{ m.role }}:{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}\
        {% else %}{{ m.content }}{% endif %};{% endfor %}";
    let set = load_with(byte_level(), template, &[two_turns()], &SftOptions::default()).unwrap();
    assert_eq!(trained(byte_level(), &set.samples[0]), " two  🙂four\n");
    assert!(set.notes[0].contains("end-of-turn"), "{:?}", set.notes);
}

#[test]
fn plain_prompts_and_texts_need_no_template() {
    let plain = SftOptions { style: PromptStyle::Plain, ..SftOptions::default() };
    let set = load(&[json!({"prompt": "The answer", "completion": " is 42."})], &plain).unwrap();
    assert_eq!(trained(byte_level(), &set.samples[0]), " is 42.<|endoftext|>");
    let tokenizer = sentence_piece();
    let pair = json!({"prompt": "the", "completion": " cat"});
    let sample = &load_with(&tokenizer, CHATML, &[pair], &plain).unwrap().samples[0];
    assert_eq!(tokenizer.decode(&sample.ids, false).unwrap(), "<s> the cat</s>");
    assert_eq!(sample.ids[0], 1);
    assert_eq!(trained(&tokenizer, sample), "cat</s>");
    let sample = &load_with(&tokenizer, CHATML, &[json!({"text": "the cat"})], &plain).unwrap().samples[0];
    assert_eq!((sample.ids[0], sample.loss_tokens()), (1, sample.ids.len() - 1));
    assert!(load(&[two_turns()], &plain).unwrap_err().contains("d.jsonl:1: the plain style is for"));
}

#[test]
fn bos_is_never_doubled() {
    let tokenizer = sentence_piece();
    let template = "{{ bos_token }}{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}";
    let record = chat(&[("user", "a"), ("assistant", "b")]);
    let options = SftOptions::default();
    let sample = &load_with(&tokenizer, template, &[record], &options).unwrap().samples[0];
    assert_eq!(sample.ids.iter().filter(|&&id| id == 1).count(), 1);
    let sample =
        &load_with(&tokenizer, template, &[json!({"text": "<s>the cat"})], &options).unwrap().samples[0];
    assert_eq!(sample.ids.iter().filter(|&&id| id == 1).count(), 1);
    for (template, record) in [
        (template, chat(&[("user", "<s>a"), ("assistant", "b")])),
        (template, json!({"text": "<s><s>a"})),
        ("{{ bos_token }}{{ bos_token }}{{ messages[0].content }}", chat(&[("assistant", "b")])),
    ] {
        let error = load_with(&tokenizer, template, &[record], &options).unwrap_err();
        assert!(error.contains("d.jsonl:1: the text begins with the BOS token '<s>' twice"), "{error}");
    }
}

#[test]
fn a_set_without_a_token_to_train_is_an_error() {
    let none = chat(&[("user", "a")]);
    let error = load(&[none.clone(), none.clone()], &SftOptions::default()).unwrap_err();
    assert!(error.contains("none of the 2 examples has a token to train on, the first on line 1"), "{error}");
    let set = load(&[two_turns(), none.clone(), none], &SftOptions::default()).unwrap();
    assert_eq!(set.samples.len(), 1);
    assert!(
        set.notes[0].starts_with("2 example(s) have no token to train on")
            && set.notes[0].ends_with("line 2")
    );
}

#[test]
fn long_examples_are_refused_dropped_or_cut() {
    let records = [
        chat(&[("user", "a"), ("assistant", "b")]),
        chat(&[("user", "a"), ("assistant", &"word ".repeat(50))]),
    ];
    let short = load(&records[..1], &SftOptions::default()).unwrap().samples[0].ids.len();
    let options = |over_long, max_tokens| SftOptions { over_long, max_tokens, ..SftOptions::default() };
    let error = load(&records, &options(OverLong::Error, short)).unwrap_err();
    assert!(error.contains("d.jsonl:2: the example has") && error.contains("data.max_tokens"), "{error}");
    let set = load(&records, &options(OverLong::Drop, short)).unwrap();
    assert_eq!((set.samples.len(), set.notes[0].ends_with("on line 2")), (1, true));
    let set = load(&records, &options(OverLong::Truncate, short + 5)).unwrap();
    assert_eq!((set.samples[1].ids.len(), set.notes.len()), (short + 5, 1));
    let error = load(&records[1..], &options(OverLong::Drop, short)).unwrap_err();
    assert!(error.contains("no example is left"), "{error}");
}

#[test]
fn an_answer_that_would_be_cut_away_is_an_error() {
    let record = chat(&[("user", &"word ".repeat(50)), ("assistant", "b")]);
    let options = SftOptions { over_long: OverLong::Truncate, max_tokens: 20, ..SftOptions::default() };
    let error = load(&[record], &options).unwrap_err();
    assert!(error.contains("d.jsonl:1:") && error.contains("every token that is trained"), "{error}");
}

#[test]
fn mistakes_in_the_data_are_named_with_their_line() {
    let good = two_turns();
    let bad_role = chat(&[("narrator", "x")]);
    let mixed = json!({"prompt": "a", "completion": "b"});
    for (record, expected) in [
        (bad_role, "d.jsonl:2: unknown role 'narrator'"),
        (mixed, "d.jsonl:2: this record is not in the format 'messages'"),
        (json!({"x": 1}), "its keys are 'x'"),
    ] {
        let error = load(&[good.clone(), record], &SftOptions::default()).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
    assert!(load(&[], &SftOptions::default()).unwrap_err().contains("the file is empty"));
    let refusing = "{{ raise_exception('no system role') }}";
    let error = load_with(byte_level(), refusing, &[good], &SftOptions::default()).unwrap_err();
    assert!(error.contains("d.jsonl:1: chat template:") && error.contains("no system role"), "{error}");
}

#[test]
fn a_preview_marks_what_is_trained() {
    let set = load(&[two_turns()], &SftOptions::default()).unwrap();
    let mut plain = Vec::new();
    preview(&mut plain, byte_level(), &set, 1, false).unwrap();
    let plain = String::from_utf8(plain).unwrap();
    assert!(plain.starts_with("format: messages\nexamples: 1, tokens: "), "{plain}");
    assert!(plain.contains("assistant\n[[ two  🙂<|im_end|>]]\n<|im_start|>user\nthree"), "{plain}");
    let mut coloured = Vec::new();
    preview(&mut coloured, byte_level(), &set, 1, true).unwrap();
    assert!(String::from_utf8(coloured).unwrap().contains("\u{1b}[32m\u{1b}[1mfour\n<|im_end|>\u{1b}[0m"));
}

/// GSM8K, if WARPTUNE_GSM8K names the file: every answer is trained, whole and with its end.
#[test]
fn gsm8k_answers_are_trained_whole() {
    let Ok(path) = std::env::var("WARPTUNE_GSM8K") else { return };
    let template = ChatTemplate::new(CHATML, byte_level().special_tokens()).unwrap();
    let set = load_sft(&path, byte_level(), &template, &SftOptions::default()).unwrap();
    assert_eq!(set.format.name(), "question+answer");
    for (sample, line) in set.samples.iter().zip(std::fs::read_to_string(&path).unwrap().lines()) {
        let record: Value = serde_json::from_str(line).unwrap();
        assert_eq!(
            trained(byte_level(), sample),
            format!("{}<|im_end|>", record["answer"].as_str().unwrap())
        );
    }
}
