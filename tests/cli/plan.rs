//! `warptune plan`.

use super::{fail, succeed};
use crate::support::tiny::Tiny;

#[test]
fn a_plan_needs_a_config_alone() {
    let tiny = Tiny::sized(64, 2);
    let plan = |more: &[&str]| succeed(&tiny, &[&["plan", "model"], more].concat()).out;
    let whole = plan(&[]);
    assert!(
        whole.contains("weights") && whole.contains("optimizer") && !whole.contains("in 4 bits"),
        "{whole}"
    );
    assert!(plan(&["--quantize", "nf4"]).contains("in 4 bits"));
    assert_ne!(plan(&["--full"]), whole);
    assert_ne!(plan(&["--max-tokens", "64"]), whole);
    assert_ne!(plan(&["--gradient-checkpointing", "true"]), whole);
    std::fs::remove_file(tiny.model().join("model.safetensors")).unwrap();
    assert_eq!(plan(&[]), whole);
    assert_eq!(succeed(&tiny, &["plan", "model/config.json"]).out, whole);
    fail(&tiny, 2, &["plan", "model", "--lora-r", "0"], &["lora-r", "at least 1"]);
    fail(&tiny, 2, &["plan", "model", "--lora-targets", "nothing"], &["nothing"]);
    fail(&tiny, 2, &["plan", "model", "--dtype", "f16"], &["dtype"]);
    fail(&tiny, 1, &["plan", "missing"], &["missing"]);
}
