//! Small tokenizers to test with.

use std::sync::LazyLock;

use warptune::text::{SpecialTokens, TextTokenizer, train_byte_level_bpe};

const TEXT: &str = "The quick brown fox jumps over the lazy dog.\nWhat is the answer? The answer is 42.\n\
    How much is two and two? Two and two is four.\nSchöne Grüße, 你好 🙂!\nThe fox is quick, the dog is lazy.\n";

/// A byte-level BPE tokenizer of 400 tokens, trained on a few sentences, with ChatML.
pub fn byte_level() -> &'static TextTokenizer {
    static TOKENIZER: LazyLock<TextTokenizer> = LazyLock::new(|| {
        let lines = TEXT.repeat(4).lines().map(|l| format!("{l}\n")).collect::<Vec<_>>();
        train_byte_level_bpe(lines.into_iter(), 400).unwrap()
    });
    &TOKENIZER
}

/// A tokenizer as SentencePiece models have it: spaces as U+2581, one put before the text, bytes for unknown characters, and a
/// BOS token put before every text.
pub fn sentence_piece() -> TextTokenizer {
    let mut vocab = serde_json::Map::new();
    let mut add = |token: String| {
        let id = vocab.len();
        vocab.entry(token).or_insert(id.into());
    };
    ["<unk>", "<s>", "</s>"].into_iter().for_each(|t| add(t.to_owned()));
    (0..=255).for_each(|b| add(format!("<0x{b:02X}>")));
    "▁abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.,?!ö".chars().for_each(|c| add(c.to_string()));
    let merges = [("▁", "t"), ("h", "e"), ("▁t", "he"), ("▁", "a"), ("i", "s"), ("▁", "is"), ("▁", "▁")];
    merges.iter().for_each(|(a, b)| add(format!("{a}{b}")));
    let special = |id: usize, content: &str| {
        serde_json::json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    };
    let json = serde_json::json!({
        "version": "1.0",
        "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ]},
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ]},
        "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true, "vocab": vocab,
            "merges": merges.iter().map(|(a, b)| format!("{a} {b}")).collect::<Vec<_>>()},
    });
    let inner = tokenizers::Tokenizer::from_bytes(json.to_string()).unwrap();
    let special = SpecialTokens {
        bos: Some("<s>".to_owned()),
        eos: Some("</s>".to_owned()),
        unk: Some("<unk>".to_owned()),
        ..SpecialTokens::default()
    };
    TextTokenizer::from_parts(inner, special).unwrap()
}
