//! Models from files and to files.

use std::path::Path;

use warptune::Result;
use warptune::formats::safetensors::write_tensors;
use warptune::formats::{Checkpoint, RawDType, RawTensor};
use warptune::models::Decoder;
use warptune::tensor::DType;

use crate::support::bits;
use crate::support::golden::{Golden, MODELS, read_tensors};

fn load(folder: &Path, dtype: DType) -> Result<Decoder> {
    let checkpoint = Checkpoint::open(folder)?;
    Decoder::load(&checkpoint, &checkpoint.config()?, dtype)
}

/// A copy of a golden model, its tensors changed by `edit`.
fn edited(
    name: &str,
    edit: impl FnOnce(&mut std::collections::BTreeMap<String, (Vec<usize>, Vec<f32>)>),
) -> tempfile::TempDir {
    let golden = Golden::open(name);
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(golden.folder().join("config.json"), folder.path().join("config.json")).unwrap();
    let stored = read_tensors(&golden.folder().join("model.safetensors"));
    let mut tensors = stored.into_iter().map(|(name, t)| (name, (t.shape, t.values))).collect();
    edit(&mut tensors);
    let raw = tensors.iter().map(|(n, (s, v))| RawTensor::from_f32(n, s.clone(), v).unwrap());
    write_tensors(&folder.path().join("model.safetensors"), &raw.collect::<Vec<_>>(), &[]).unwrap();
    folder
}

#[test]
fn a_saved_model_is_the_same() {
    for name in MODELS {
        let golden = Golden::open(name);
        let folder = tempfile::tempdir().unwrap();
        let model = golden.model();
        model.save(folder.path()).unwrap();
        let file = "model.safetensors";
        let (ours, theirs) =
            (read_tensors(&folder.path().join(file)), read_tensors(&golden.folder().join(file)));
        assert!(ours.keys().eq(theirs.keys()), "{name}");
        for (key, stored) in &theirs {
            assert_eq!(ours[key].shape, stored.shape, "{name}: {key}");
            assert!(ours[key].values == stored.values, "{name}: {key}");
        }
        let again = load(folder.path(), DType::F32).unwrap();
        for (a, b) in model.parameters().iter().zip(again.parameters()) {
            assert_eq!(a.name(), b.name());
            assert!(bits(&a.value()) == bits(&b.value()), "{name}: {}", a.name());
        }
    }
}

#[test]
fn weights_of_16_bits_survive_a_round_trip() {
    let types = [(DType::BF16, RawDType::BF16, "bfloat16"), (DType::F16, RawDType::F16, "float16")];
    for (name, (dtype, raw, named)) in ["llama", "gpt2"].into_iter().flat_map(|name| types.map(|t| (name, t)))
    {
        let model = Golden::open(name).model_as(dtype);
        let folder = tempfile::tempdir().unwrap();
        model.save(folder.path()).unwrap();
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        assert_eq!(checkpoint.config().unwrap().dtype.as_deref(), Some(named));
        let embedding = model.parameters()[0].name().to_string();
        assert_eq!(checkpoint.get(&embedding).unwrap().dtype(), raw);
        let again = load(folder.path(), dtype).unwrap();
        for (a, b) in model.parameters().iter().zip(again.parameters()) {
            assert!(bits(&a.value()) == bits(&b.value()), "{}", a.name());
        }
    }
}

#[test]
fn a_weight_that_f16_does_not_hold_is_named() {
    let folder = edited("llama", |tensors| {
        tensors.get_mut("model.norm.weight").unwrap().1[3] = 70_000.0;
    });
    assert!(load(folder.path(), DType::BF16).is_ok());
    let error = load(folder.path(), DType::F16).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("'model.norm.weight' rounded to f16") && error.contains("65504"), "{error}");
}

#[test]
fn weights_of_the_right_type_stay_in_the_file() {
    let golden = Golden::open("llama");
    let checkpoint = Checkpoint::open(golden.folder()).unwrap();
    let model = Decoder::load(&checkpoint, &checkpoint.config().unwrap(), DType::F32).unwrap();
    for param in model.parameters() {
        let (value, raw) = (param.value(), checkpoint.get(param.name()).unwrap());
        assert_eq!(value.as_f32().unwrap().as_ptr().cast(), raw.bytes().as_ptr(), "{}", param.name());
    }
    // The model keeps the file's memory for as long as it needs it.
    let before = bits(&golden.model().parameters()[0].value());
    drop(checkpoint);
    assert!(bits(&model.parameters()[0].value()) == before);
}

#[test]
fn gpt2_without_its_prefix() {
    let folder = edited("gpt2", |tensors| {
        let bare = std::mem::take(tensors).into_iter();
        tensors.extend(bare.map(|(name, t)| (name.trim_start_matches("transformer.").to_string(), t)));
        // The causal mask that old checkpoints hold.
        tensors.insert("h.0.attn.bias".into(), (vec![1, 1, 2, 2], vec![1.0; 4]));
    });
    let (plain, bare) = (Golden::open("gpt2").model(), load(folder.path(), DType::F32).unwrap());
    for (a, b) in plain.parameters().iter().zip(bare.parameters()) {
        assert_eq!(a.name(), b.name());
        assert!(bits(&a.value()) == bits(&b.value()));
    }
}

#[test]
fn wrong_tensors_are_named() {
    let error = |folder: &tempfile::TempDir| load(folder.path(), DType::F32).err().unwrap().to_string();
    let (norm, up) = ("model.norm.weight", "model.layers.1.mlp.up_proj.weight");
    let lacking = edited("llama", |t| {
        t.remove(norm);
        t.remove(up);
    });
    assert!(error(&lacking).contains(norm) && error(&lacking).contains(up));
    let surplus = edited("llama", |t| {
        t.insert("model.layers.1.self_attn.q_proj.bias".into(), (vec![3], vec![0.0; 3]));
    });
    assert!(error(&surplus).contains("model.layers.1.self_attn.q_proj.bias"));
    let misshapen = edited("llama", |t| t.get_mut(up).unwrap().0.reverse());
    assert!(error(&misshapen).contains(up), "{}", error(&misshapen));
}

#[test]
fn a_copy_of_tied_embeddings_is_no_surplus() {
    let folder = edited("qwen2", |t| {
        let embedding = t["model.embed_tokens.weight"].clone();
        t.insert("lm_head.weight".into(), embedding);
    });
    assert!(load(folder.path(), DType::F32).is_ok());
}

#[test]
fn fresh_models_follow_the_seed_and_the_config() {
    for name in ["llama", "gpt2"] {
        let config = Golden::open(name).model().config().clone();
        let (one, same) =
            (Decoder::init(&config, 5, DType::F32).unwrap(), Decoder::init(&config, 5, DType::F32).unwrap());
        let other = Decoder::init(&config, 6, DType::F32).unwrap();
        let std = config.raw["initializer_range"].as_f64().unwrap();
        for ((a, b), c) in one.parameters().iter().zip(same.parameters()).zip(other.parameters()) {
            assert!(bits(&a.value()) == bits(&b.value()));
            let values = a.value().fetch_f32().unwrap();
            if values.iter().all(|&x| x == 1.0) || values.iter().all(|&x| x == 0.0) {
                assert!(a.name().contains("norm") || a.name().contains("ln_") || a.name().ends_with("bias"));
                continue;
            }
            assert!(bits(&a.value()) != bits(&c.value()), "{}", a.name());
            let residual = ["o_proj", "down_proj", "c_proj"].iter().any(|part| a.name().contains(part));
            let expected = if residual { std / (2.0 * config.num_layers as f64).sqrt() } else { std };
            let n = values.len() as f64;
            let measured = (values.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>() / n).sqrt();
            // The standard error of a standard deviation is std / sqrt(2 n).
            let allowed = 5.0 * expected / (2.0 * n).sqrt();
            assert!((measured - expected).abs() <= allowed, "{}: {measured}, expected {expected}", a.name());
        }
    }
}
