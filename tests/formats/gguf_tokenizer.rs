//! Tokenizers inside GGUF files give the ids of the libraries that trained them.

use serde_json::Value;
use warptune::formats::gguf::{GgufFile, GgufTokenizer};

use super::golden;

fn open(name: &str) -> GgufTokenizer {
    GgufFile::open(&golden(&format!("gguf/tokenizer-{name}.gguf"))).unwrap().tokenizer().unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|i| i.as_u64().unwrap() as u32).collect()
}

#[test]
fn ids_equal_those_of_tokenizers_and_sentencepiece() {
    let text = std::fs::read_to_string(golden("gguf/tokenizers.json")).unwrap();
    let golden: Value = serde_json::from_str(&text).unwrap();
    let texts: Vec<&str> = golden["texts"].as_array().unwrap().iter().map(|t| t.as_str().unwrap()).collect();
    for (name, expected) in golden["ids"].as_object().unwrap() {
        let tokenizer = open(name).tokenizer;
        for (text, want) in texts.iter().zip(expected.as_array().unwrap()) {
            let got = tokenizer.encode_fast(*text, true).unwrap();
            assert_eq!(got.get_ids(), ids(want), "{name}: {text:?} as {:?}", got.get_tokens());
        }
    }
}

#[test]
fn decoding_gives_the_text_back() {
    // Without qwen2, which normalizes, and SentencePiece's unknown characters, which are bytes here.
    for name in ["gpt-2", "smollm", "llama-bpe", "sentencepiece"] {
        let tokenizer = open(name).tokenizer;
        for text in ["The capital of France is Paris", "  two  spaces, naïve café 日本語 🎉\n\n1234"] {
            let encoding = tokenizer.encode_fast(text, false).unwrap();
            assert_eq!(tokenizer.decode(encoding.get_ids(), true).unwrap(), text, "{name}");
        }
    }
}

#[test]
fn special_tokens_and_flags() {
    let llama3 = open("llama-bpe");
    assert_eq!((llama3.bos, llama3.eos, llama3.add_bos, llama3.add_eos), (Some(0), Some(2), true, false));
    assert_eq!(llama3.chat_template.as_deref(), Some("{{ messages }}"));
    let smollm = open("smollm");
    assert!(!smollm.add_bos);
    let hidden = smollm.tokenizer.decode(&[1, 2], true).unwrap();
    assert_eq!(
        (hidden.as_str(), smollm.tokenizer.decode(&[1, 2], false).unwrap().as_str()),
        ("", "<|im_start|><|im_end|>")
    );
    let spm = open("sentencepiece");
    assert_eq!(
        (spm.bos, spm.eos, spm.unk, spm.add_bos, spm.chat_template),
        (Some(1), Some(2), Some(0), true, None)
    );
}
