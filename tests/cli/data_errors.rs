//! Models and data that cannot be used: an error before training, with the place, and exit code 1.

use std::path::Path;

use super::{fail, sft};
use crate::support::tiny::Tiny;

#[test]
fn a_bad_line_is_named() {
    let tiny = Tiny::new();
    let text = std::fs::read_to_string(tiny.data()).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let cases = [
        ("{\"prompt\": \"x\", ", "data.jsonl:3"),
        ("{\"prompt\": \"x\"}", "data.jsonl:3"),
        ("{\"messages\": [{\"role\": \"wizard\", \"content\": \"x\"}]}", "data.jsonl:3"),
    ];
    for (line, place) in cases {
        let mut changed = lines.clone();
        changed[2] = line;
        std::fs::write(tiny.data(), changed.join("\n")).unwrap();
        fail(&tiny, 1, &sft(&[]), &[place]);
    }
    std::fs::write(tiny.data(), "").unwrap();
    fail(&tiny, 1, &sft(&[]), &["data.jsonl", "empty"]);
    assert!(!tiny.path("runs").exists(), "nothing was started");
}

#[test]
fn a_model_that_is_none_is_named() {
    let tiny = Tiny::new();
    fail(&tiny, 1, &["sft", "--model", "no/such/model", "--data", "data.jsonl"], &["no/such/model"]);
    fail(&tiny, 1, &["generate", "--model", "data.jsonl", "--prompt", "x"], &["data.jsonl"]);
    fail(
        &tiny,
        1,
        &["generate", "--model", "model", "--adapter", "model", "--prompt", "x"],
        &["adapter_model.safetensors"],
    );
    let weights = tiny.model().join("model.safetensors");
    let whole = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &whole[..whole.len() / 2]).unwrap();
    fail(&tiny, 1, &sft(&[]), &["model.safetensors"]);
    std::fs::write(&weights, &whole).unwrap();
    std::fs::remove_file(tiny.model().join("tokenizer.json")).unwrap();
    fail(&tiny, 1, &sft(&[]), &["tokenizer.json"]);
    // The embedded model's tokenizer has more ids than this model has embeddings.
    let other = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/base/tokenizer.json");
    std::fs::copy(other, tiny.model().join("tokenizer.json")).unwrap();
    fail(&tiny, 1, &sft(&[]), &["tokenizer", "not of one kind"]);
    assert!(!tiny.path("runs").exists(), "nothing was started");
}
