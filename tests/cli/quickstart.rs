//! What quickstart needs: the embedded model, and examples that fit it. (.ci/run runs the command itself, in release.)

use std::path::Path;

use warptune::data::{SftOptions, load_sft};
use warptune::tensor::DType;
use warptune::train::base_model::{self, BaseModel};

use super::fail;
use crate::support::tiny::Tiny;

const ASSETS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets");

#[test]
fn the_embedded_examples_fit_the_embedded_model() {
    let assets = Path::new(ASSETS);
    let BaseModel { model, tokenizer } = base_model::load(&assets.join("base"), DType::F32).unwrap();
    let (template, note) = tokenizer.chat_template(false).unwrap();
    assert_eq!(note, None, "the embedded model has a chat template");
    // Its config.json names two tokens that end a text, its tokenizer files one.
    let end_of_turn = tokenizer.token_to_id("<|im_end|>").unwrap();
    assert!(tokenizer.eos_ids().contains(&end_of_turn), "a turn's end ends an answer");
    let options = SftOptions { max_tokens: model.config().max_positions, ..SftOptions::default() };
    let set = load_sft(assets.join("couplets.jsonl"), &tokenizer, &template, &options).unwrap();
    assert_eq!(set.format.to_string(), "messages");
    assert!(set.samples.len() >= 500, "{} examples", set.samples.len());
    let size = std::fs::metadata(assets.join("base/model.safetensors")).unwrap().len();
    assert!(size <= 6_000_000, "the embedded model has {size} bytes");
}

#[test]
fn a_folder_with_a_run_is_not_overwritten() {
    let tiny = Tiny::new();
    std::fs::create_dir_all(tiny.path("out/run")).unwrap();
    std::fs::write(tiny.path("out/run/keep"), "mine").unwrap();
    fail(&tiny, 2, &["quickstart", "--out", "out"], &["already holds a run"]);
    assert_eq!(std::fs::read(tiny.path("out/run/keep")).unwrap(), b"mine");
    assert!(!tiny.path("out/base").exists(), "nothing was written");
}
