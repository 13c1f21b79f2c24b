//! Checkpoints: folders, shards, old names.

use std::path::Path;

use serde_json::json;
use warptune::formats::safetensors::write_tensors;
use warptune::formats::{Checkpoint, RawTensor};

use super::golden;

fn write_shard(folder: &Path, file: &str, names: &[&str]) {
    let values: Vec<f32> = (0..names.len()).map(|i| i as f32).collect();
    let tensors: Vec<RawTensor<'_>> = names
        .iter()
        .zip(&values)
        .map(|(name, v)| RawTensor::from_f32(*name, vec![1], std::slice::from_ref(v)).unwrap())
        .collect();
    write_tensors(&folder.join(file), &tensors, &[("format", "pt")]).unwrap();
}

fn write_index(folder: &Path, map: &[(&str, &str)]) {
    let map: serde_json::Map<_, _> = map.iter().map(|&(name, file)| (name.to_owned(), json!(file))).collect();
    let index = json!({"metadata": {"total_size": 8}, "weight_map": map});
    std::fs::write(folder.join("model.safetensors.index.json"), index.to_string()).unwrap();
}

fn error_of(path: &Path) -> String {
    Checkpoint::open(path).unwrap_err().to_string()
}

#[test]
fn shards_are_one_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    write_shard(folder.path(), "model-00001-of-00002.safetensors", &["a", "b"]);
    write_shard(folder.path(), "model-00002-of-00002.safetensors", &["c"]);
    let (first, second) = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors");
    write_index(folder.path(), &[("a", first), ("b", first), ("c", second)]);
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["a", "b", "c"]);
    assert_eq!(checkpoint.get("b").unwrap().to_f32().unwrap(), [1.0]);
    assert!(checkpoint.contains("c") && !checkpoint.contains("d"));
    assert!(checkpoint.get("d").unwrap_err().to_string().contains("has no tensor 'd'"));
}

#[test]
fn broken_indexes_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    write_shard(folder.path(), "one.safetensors", &["a"]);
    write_shard(folder.path(), "two.safetensors", &["a", "b"]);
    for (index, expected) in [
        (&[("a", "one.safetensors"), ("x", "one.safetensors")][..], "'x': is not there"),
        (&[("a", "none.safetensors")], "none.safetensors: cannot open"),
        (&[("a", "../one.safetensors")], "without a folder"),
        (&[("a", "/etc/passwd")], "without a folder"),
        (&[("a", "one.safetensors"), ("b", "two.safetensors")], "'a': another shard"),
    ] {
        write_index(folder.path(), index);
        let error = error_of(folder.path());
        assert!(error.contains(expected), "{error}");
    }
    std::fs::write(folder.path().join("model.safetensors.index.json"), r#"{"weight_map": 3}"#).unwrap();
    assert!(error_of(folder.path()).contains("'weight_map': must be an object"));
}

#[test]
fn folders_without_weights_say_what_is_there() {
    let folder = tempfile::tempdir().unwrap();
    assert!(error_of(folder.path()).contains("has no model.safetensors"));
    assert!(error_of(&folder.path().join("none")).contains("no such file or folder"));
    std::fs::write(folder.path().join("pytorch_model.bin"), "").unwrap();
    assert!(error_of(folder.path()).contains("pickles"));
    std::fs::copy(golden("gguf/llama.gguf"), folder.path().join("a.gguf")).unwrap();
    assert!(Checkpoint::open(folder.path()).unwrap().gguf().is_some());
    std::fs::copy(golden("gguf/llama.gguf"), folder.path().join("b.gguf")).unwrap();
    assert!(error_of(folder.path()).contains("several .gguf files"));
    assert!(error_of(&golden("gguf/tokenizers.json")).contains("neither a folder nor"));
}

#[test]
fn old_names_are_evened_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    write_shard(
        folder.path(),
        "model.safetensors",
        &["wte.weight", "h.0.attn.bias", "h.0.attn.c_attn.bias", "lm_head.weight"],
    );
    let gpt2 = Checkpoint::open(&path).unwrap();
    assert_eq!(
        gpt2.names().collect::<Vec<_>>(),
        ["lm_head.weight", "transformer.h.0.attn.c_attn.bias", "transformer.wte.weight"]
    );
    assert_eq!(gpt2.get("transformer.wte.weight").unwrap().name(), "transformer.wte.weight");
    let names = ["embed_tokens.weight", "layers.0.self_attn.rotary_emb.inv_freq", "norm.weight"];
    write_shard(folder.path(), "model.safetensors", &names);
    let llama = Checkpoint::open(folder.path()).unwrap();
    assert_eq!(llama.names().collect::<Vec<_>>(), ["model.embed_tokens.weight", "model.norm.weight"]);
}
