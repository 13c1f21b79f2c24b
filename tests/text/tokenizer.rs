//! Encoding, decoding, special tokens, folders.

use proptest::prelude::*;
use warptune::text::{SpecialTokens, TextTokenizer};

use super::fixtures::{byte_level, sentence_piece};

/// Text with spaces at odd places, characters of several bytes and special tokens.
fn texts() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        "[a-z ]{0,6}",
        Just(" the fox ".to_owned()),
        Just("🙂".to_owned()),
        Just("你好".to_owned()),
        Just("ö\n\n".to_owned()),
        Just("<|im_end|>".to_owned()),
        Just("</s>".to_owned()),
        any::<char>().prop_map(String::from),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

fn streamed(tokenizer: &TextTokenizer, ids: &[u32], skip_special: bool) -> String {
    let mut stream = tokenizer.stream(skip_special);
    let mut text: String = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
    text += &stream.finish().unwrap();
    text
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn byte_level_gives_every_text_back(text in texts()) {
        let ids = byte_level().encode(&text, false).unwrap();
        prop_assert_eq!(byte_level().decode(&ids, false).unwrap(), text);
    }

    #[test]
    fn spans_cover_the_text_in_order(text in texts()) {
        for tokenizer in [byte_level(), &sentence_piece()] {
            let encoded = tokenizer.encode_with_spans(&text, true).unwrap();
            prop_assert_eq!(&encoded.ids, &tokenizer.encode(&text, true).unwrap());
            let mut covered = 0;
            for span in &encoded.spans {
                prop_assert!(span.start <= covered && span.end >= covered && span.end <= text.len(), "{:?}", encoded);
                covered = span.end;
            }
            prop_assert_eq!(covered, text.len());
        }
    }

    #[test]
    fn streamed_text_is_the_decoded_text(text in texts(), skip in any::<bool>()) {
        for tokenizer in [byte_level(), &sentence_piece()] {
            let ids = tokenizer.encode(&text, true).unwrap();
            prop_assert_eq!(streamed(tokenizer, &ids, skip), tokenizer.decode(&ids, skip).unwrap());
        }
    }

    #[test]
    fn streamed_text_is_the_decoded_text_for_any_ids(ids in prop::collection::vec(0u32..420, 0..24), skip in any::<bool>()) {
        for tokenizer in [byte_level(), &sentence_piece()] {
            prop_assert_eq!(streamed(tokenizer, &ids, skip), tokenizer.decode(&ids, skip).unwrap());
        }
    }
}

#[test]
fn a_split_character_is_held_back_until_it_is_whole() {
    let tokenizer = byte_level();
    let bytes: Vec<u32> = ["ð", "Ł", "Ļ", "Ĥ"].iter().map(|t| tokenizer.token_to_id(t).unwrap()).collect();
    let mut stream = tokenizer.stream(true);
    let pieces: Vec<String> = bytes.iter().map(|&id| stream.push(id).unwrap()).collect();
    assert_eq!(pieces, ["", "", "", "🛂"].map(|s| s.replace('🛂', &tokenizer.decode(&bytes, true).unwrap())));
    assert_eq!(stream.finish().unwrap(), "");
}

#[test]
fn sentence_piece_keeps_inner_spaces_and_drops_the_first() {
    let tokenizer = sentence_piece();
    let ids = tokenizer.encode("the the a", true).unwrap();
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), "the the a");
    assert_eq!(streamed(&tokenizer, &ids, true), "the the a");
}

#[test]
fn bos_is_added_only_on_request() {
    let tokenizer = sentence_piece();
    assert_eq!(tokenizer.bos_id(), Some(1));
    assert_eq!(tokenizer.adds_bos().unwrap(), Some(1));
    assert_eq!(tokenizer.encode("a", true).unwrap()[0], 1);
    assert_ne!(tokenizer.encode("a", false).unwrap()[0], 1);
    assert_eq!(byte_level().adds_bos().unwrap(), None);
}

#[test]
fn the_vocabulary_must_fit_the_model() {
    let tokenizer = byte_level();
    let size = tokenizer.vocab_size();
    assert!(size <= 400);
    tokenizer.check_vocab(size).unwrap();
    tokenizer.check_vocab(size + 63).unwrap();
    let error = tokenizer.check_vocab(size - 1).unwrap_err().to_string();
    assert!(error.contains(&format!("ids up to {}", size - 1)) && error.contains("no embedding"), "{error}");
    assert!(tokenizer.check_vocab(10 * size).is_err());
}

#[test]
fn training_is_deterministic_and_makes_single_ids_of_the_chat_markers() {
    let lines =
        || ["the cat and the hat\n", "the bat and the rat\n"].map(str::to_owned).into_iter().cycle().take(50);
    let train = || warptune::text::train_byte_level_bpe(lines(), 300).unwrap();
    let ids = train().encode("the cat<|im_end|>", false).unwrap();
    assert_eq!(ids, train().encode("the cat<|im_end|>", false).unwrap());
    assert_eq!(ids.last(), Some(&2));
    assert_eq!(train().eos_ids(), [0, 2]);
    assert!(warptune::text::train_byte_level_bpe(lines(), 200).is_err());
}

#[test]
fn a_saved_tokenizer_is_the_same_when_loaded() {
    let folder = tempfile::tempdir().unwrap();
    byte_level().save(folder.path()).unwrap();
    let mut loaded = TextTokenizer::load(folder.path()).unwrap();
    let text = "The fox 🙂<|im_end|>";
    assert_eq!(loaded.encode(text, true).unwrap(), byte_level().encode(text, true).unwrap());
    assert_eq!(loaded.eos_ids(), byte_level().eos_ids());
    assert_eq!(loaded.special_tokens().chat_templates, byte_level().special_tokens().chat_templates);
    let again = tempfile::tempdir().unwrap();
    loaded.set_chat_template("{{ messages[0].content }}");
    loaded.save(again.path()).unwrap();
    let templates = TextTokenizer::load(again.path()).unwrap().special_tokens().chat_templates.clone();
    assert_eq!(templates, [("default".to_owned(), "{{ messages[0].content }}".to_owned())]);
}

#[test]
fn a_tokenizer_is_saved_whole_after_its_folder_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    byte_level().save(folder.path()).unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("generation_config.json", r#"{"eos_token_id": [2, 0], "temperature": 0.6}"#);
    write("chat_template.jinja", "J");
    std::fs::create_dir(folder.path().join("additional_chat_templates")).unwrap();
    write("additional_chat_templates/tool_use.jinja", "T");
    let mut tokenizer = TextTokenizer::load(folder.path()).unwrap();
    let read = |folder: &std::path::Path| -> Vec<(String, Vec<u8>)> {
        let names =
            ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"];
        let more = ["chat_template.jinja", "additional_chat_templates/tool_use.jinja"];
        let names = names.into_iter().chain(more).filter(|name| folder.join(name).exists());
        names.map(|name| (name.to_owned(), std::fs::read(folder.join(name)).unwrap())).collect()
    };
    let before = read(folder.path());
    assert_eq!(before.len(), 6);
    drop(folder);
    let copy = tempfile::tempdir().unwrap();
    tokenizer.save(copy.path()).unwrap();
    assert!(read(copy.path()) == before);
    // Another template replaces all that the folder held; the rest stays.
    let other = tempfile::tempdir().unwrap();
    tokenizer.set_chat_template("{{ messages[0].content }}");
    tokenizer.save(other.path()).unwrap();
    let other = TextTokenizer::load(other.path()).unwrap();
    assert_eq!(
        other.special_tokens().chat_templates,
        [("default".to_owned(), "{{ messages[0].content }}".to_owned())]
    );
    assert_eq!(other.eos_ids(), tokenizer.eos_ids());
}

#[test]
fn a_folder_gives_special_tokens_templates_and_stop_ids() {
    let folder = tempfile::tempdir().unwrap();
    byte_level().save(folder.path()).unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write(
        "tokenizer_config.json",
        r#"{"bos_token": {"content": "<|im_start|>", "lstrip": false}, "eos_token": "<|im_end|>",
            "chat_template": [{"name": "default", "template": "D"}, {"name": "tool_use", "template": "T"}]}"#,
    );
    write("generation_config.json", r#"{"eos_token_id": [2, 0]}"#);
    let tokenizer = TextTokenizer::load(folder.path()).unwrap();
    assert_eq!((tokenizer.bos_id(), tokenizer.eos_ids()), (Some(1), [2, 0].as_slice()));
    let source = |tools| tokenizer.chat_template(tools).unwrap().0.source().to_owned();
    assert_eq!((source(false), source(true)), ("D".to_owned(), "T".to_owned()));
    write("chat_template.jinja", "J");
    let (template, note) = TextTokenizer::load(folder.path()).unwrap().chat_template(false).unwrap();
    assert_eq!((template.source(), note), ("J", None));
}

#[test]
fn bad_folders_are_refused_with_file_and_key() {
    let folder = tempfile::tempdir().unwrap();
    let load = || TextTokenizer::load(folder.path()).unwrap_err().to_string();
    assert!(load().contains("tokenizer.json"));
    std::fs::write(folder.path().join("tokenizer.model"), "x").unwrap();
    assert!(load().contains("SentencePiece"), "{}", load());
    std::fs::write(folder.path().join("tokenizer.json"), "{").unwrap();
    assert!(load().contains("tokenizer.json: not a tokenizer"), "{}", load());
    byte_level().save(folder.path()).unwrap();
    std::fs::write(folder.path().join("tokenizer_config.json"), r#"{"bos_token": "<s>"}"#).unwrap();
    assert!(load().contains("'<s>'"), "{}", load());
    std::fs::write(folder.path().join("tokenizer_config.json"), r#"{"chat_template": 7}"#).unwrap();
    assert!(load().contains("chat_template"), "{}", load());
    std::fs::write(folder.path().join("tokenizer_config.json"), "{}").unwrap();
    std::fs::write(folder.path().join("generation_config.json"), r#"{"eos_token_id": "x"}"#).unwrap();
    assert!(load().contains("eos_token_id"), "{}", load());
}

#[test]
fn without_a_template_chatml_is_taken_and_said() {
    let mut special = SpecialTokens { eos: Some("</s>".to_owned()), ..SpecialTokens::default() };
    let tokenizer = sentence_piece();
    let (template, note) = tokenizer.chat_template(false).unwrap();
    assert!(note.unwrap().contains("ChatML"));
    let conversation = warptune::text::Conversation::from_turns([("user", "hi"), ("assistant", "yes")]);
    assert_eq!(
        template.render(&conversation, false).unwrap(),
        "<|im_start|>user\nhi</s>\n<|im_start|>assistant\nyes</s>\n"
    );
    special.eos = Some("<|endoftext|>".to_owned());
    let json = serde_json::to_string(&tokenizers_of(byte_level())).unwrap();
    let inner = tokenizers::Tokenizer::from_bytes(json).unwrap();
    let (template, _) = TextTokenizer::from_parts(inner, special).unwrap().chat_template(false).unwrap();
    assert_eq!(template.source(), warptune::text::CHATML);
}

fn tokenizers_of(tokenizer: &TextTokenizer) -> serde_json::Value {
    let folder = tempfile::tempdir().unwrap();
    tokenizer.save(folder.path()).unwrap();
    serde_json::from_slice(&std::fs::read(folder.path().join("tokenizer.json")).unwrap()).unwrap()
}
