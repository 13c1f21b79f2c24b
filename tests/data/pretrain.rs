//! Texts to blocks.

use proptest::prelude::*;
use warptune::data::load_pretrain;

use super::sources::file;
use crate::text::fixtures::{byte_level, sentence_piece};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn blocks_predict_every_token_of_the_stream_once(texts in prop::collection::vec("[a-z \n🙂]{0,30}", 1..4), block in 2usize..9) {
        let files: Vec<_> = texts.iter().map(|text| file("a.txt", text)).collect();
        let paths: Vec<_> = files.iter().map(|(_, path)| path.clone()).collect();
        let mut stream = Vec::new();
        for text in &texts {
            stream.extend(byte_level().encode(text, true).unwrap());
            stream.push(0);
        }
        let Ok(set) = load_pretrain(&paths, byte_level(), block) else {
            prop_assert!(stream.len() < 2);
            return Ok(());
        };
        prop_assert_eq!(set.documents, texts.len());
        let mut predicted = vec![stream[0]];
        for (i, sample) in set.samples.iter().enumerate() {
            prop_assert_eq!(sample.ids[0], *predicted.last().unwrap());
            prop_assert!(sample.ids.len() == block || (i + 1 == set.samples.len() && sample.ids.len() > 1));
            predicted.extend(sample.ids.iter().zip(&sample.trained).filter(|(_, t)| **t).map(|(id, _)| *id));
        }
        prop_assert_eq!(predicted, stream);
    }
}

#[test]
fn long_texts_are_tokenized_as_a_whole() {
    let text =
        "The quick brown fox,\njumps over\nthe lazy dog.\n\n  What is\tthe answer?\nThe answer\nis 42\n"
            .repeat(2000);
    assert!(text.len() > 128 << 10);
    for tokenizer in [byte_level(), &sentence_piece()] {
        let (_folder, path) = file("a.txt", &text);
        let set = load_pretrain(&[path], tokenizer, 1 << 30).unwrap();
        let mut whole = tokenizer.encode(&text, true).unwrap();
        whole.extend(tokenizer.eos_id());
        assert_eq!(set.samples[0].ids, whole);
    }
}

#[test]
fn json_lines_give_a_document_each_and_mistakes_are_named() {
    let (_folder, path) = file("a.jsonl", "{\"text\": \"one\"}\n{\"text\": \"two\"}\n");
    assert_eq!(load_pretrain(&[path], byte_level(), 4).unwrap().documents, 2);
    for (name, content, expected) in [
        (
            "a.jsonl",
            &b"{\"text\": \"one\"}\n{\"prompt\": \"a\", \"completion\": \"b\"}\n"[..],
            "a.jsonl:2: pretraining needs",
        ),
        ("a.txt", b"abc\xff", "not UTF-8 at byte 4"),
        ("a.txt", b"", "there is no text"),
    ] {
        let (_folder, path) = file(name, content);
        let error = load_pretrain(&[path], byte_level(), 4).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let (_folder, path) = file("a.txt", "abc");
    assert!(load_pretrain(&[path], byte_level(), 1).unwrap_err().to_string().contains("at least 2"));
}
