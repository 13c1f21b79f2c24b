//! Adapter folders: what peft wrote is read, what we write is peft's layout, what would compute something else is refused.

use std::path::Path;

use serde_json::{Map, Value, json};
use warptune::formats::RawTensor;
use warptune::formats::peft::{Adapter, LoraConfig, LoraPair, Targets, tensor_name, write_adapter};
use warptune::formats::safetensors::{SafetensorsFile, write_tensors};

use super::golden;

const LINEAR: [&str; 5] = [
    "model.layers.0.self_attn.q_proj",
    "model.layers.0.mlp.up_proj",
    "model.layers.1.self_attn.q_proj",
    "model.layers.1.mlp.up_proj",
    "lm_head",
];

fn map(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

fn parse(value: Value) -> Result<LoraConfig, String> {
    LoraConfig::from_json(Path::new("adapter_config.json"), &map(value)).map_err(|e| e.to_string())
}

fn base() -> Value {
    json!({"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"]})
}

fn with(changes: Value) -> Value {
    let mut base = base();
    for (key, value) in changes.as_object().unwrap() {
        base[key] = value.clone();
    }
    base
}

#[test]
fn reads_what_peft_saved() {
    let adapter = Adapter::open(&golden("peft/lora")).unwrap();
    let config = adapter.config();
    assert_eq!((config.r, config.lora_alpha, config.lora_dropout, config.use_rslora), (4, 8.0, 0.1, true));
    assert_eq!(config.rank_of("model.layers.1.mlp.down_proj").unwrap(), 6);
    assert_eq!(config.rank_of("model.layers.0.mlp.down_proj").unwrap(), 4);
    let modules: Vec<&str> = adapter.modules().collect();
    assert_eq!(modules.len(), 6, "{modules:?}");
    // peft's own scaling of every module.
    let text = std::fs::read_to_string(golden("peft/lora/scaling.json")).unwrap();
    let scaling: Map<String, Value> = serde_json::from_str(&text).unwrap();
    assert_eq!(scaling.len(), modules.len());
    for module in modules {
        let want = scaling[module].as_f64().unwrap();
        let got = config.scale_of(module).unwrap();
        assert!((got - want).abs() <= 1e-12 * want, "{module}: {got} for {want}");
        let pair = adapter.pair(module).unwrap();
        assert_eq!(pair.a.shape()[0], config.rank_of(module).unwrap());
        assert_eq!(pair.b.shape()[1], pair.a.shape()[0]);
    }
}

#[test]
fn a_saved_adapter_comes_back_as_it_was() {
    let original = Adapter::open(&golden("peft/lora")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("new/adapter");
    let pairs: Vec<(&str, LoraPair<'_>)> =
        original.modules().map(|m| (m, original.pair(m).unwrap())).collect();
    write_adapter(&target, original.config(), &pairs).unwrap();
    let copy = Adapter::open(&target).unwrap();
    assert_eq!(copy.modules().collect::<Vec<_>>(), original.modules().collect::<Vec<_>>());
    for module in original.modules() {
        let (a, b) = (original.pair(module).unwrap(), copy.pair(module).unwrap());
        assert_eq!((a.a.bytes(), a.b.bytes()), (b.a.bytes(), b.b.bytes()));
    }
    assert_eq!(
        LoraConfig { raw: original.config().raw.clone(), ..copy.config().clone() },
        *original.config()
    );
    let ours = SafetensorsFile::open(&target.join("adapter_model.safetensors")).unwrap();
    assert_eq!(ours.metadata()["format"], "pt");
    assert!(ours.contains("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"));
}

#[test]
fn targets_choose_modules_as_peft_does() {
    let select = |targets: Targets| targets.select(&LINEAR).map_err(|e| e.to_string());
    let names = |names: &[&str]| Targets::Names(names.iter().map(|&n| n.to_owned()).collect());
    assert_eq!(select(names(&["q_proj"])).unwrap(), [LINEAR[0], LINEAR[2]]);
    assert_eq!(select(names(&["1.mlp.up_proj", "lm_head"])).unwrap(), [LINEAR[3], LINEAR[4]]);
    assert_eq!(select(Targets::AllLinear).unwrap(), LINEAR[..4]);
    assert_eq!(select(Targets::Regex(r".*\.1\..*(q|up)_proj".into())).unwrap(), LINEAR[2..4]);
    // A regular expression must match the whole name, a suffix must begin at a dot.
    assert!(select(Targets::Regex("q_proj".into())).unwrap_err().contains("matches no module"));
    assert!(
        select(names(&["_proj"]))
            .unwrap_err()
            .contains("'_proj' matches no module of the model; it has lm_head, q_proj, up_proj")
    );
    assert!(select(names(&["q_proj", "qq_proj"])).unwrap_err().contains("'qq_proj'"));
    assert!(select(Targets::Regex("(".into())).unwrap_err().contains("is not a regular expression"));
}

#[test]
fn patterns_choose_ranks_and_alphas() {
    let config = parse(with(json!({
        "rank_pattern": {"model.layers.0.self_attn.q_proj": 2, "up_proj": 4, r"layers\.1\..*": 32},
        "alpha_pattern": {"up_proj": 1},
    })))
    .unwrap();
    assert_eq!(LINEAR.map(|m| config.rank_of(m).unwrap()), [2, 4, 32, 4, 8]);
    assert_eq!(LINEAR.map(|m| config.scale_of(m).unwrap()), [8.0, 0.25, 0.5, 0.25, 2.0]);
    let rs = LoraConfig { use_rslora: true, ..config };
    assert_eq!(rs.scale_of(LINEAR[4]).unwrap(), 16.0 / 8f64.sqrt());
}

#[test]
fn what_would_compute_something_else_is_refused_by_name() {
    for (config, expected) in [
        (json!({}), "'peft_type': is missing"),
        (with(json!({"peft_type": "IA3"})), "the adapter type IA3 is not supported"),
        (with(json!({"use_dora": true})), "use_dora is not supported"),
        (with(json!({"bias": "all"})), "bias = \"all\""),
        (with(json!({"modules_to_save": ["lm_head"]})), "modules_to_save is not supported"),
        (with(json!({"init_lora_weights": "pissa"})), "init_lora_weights = \"pissa\""),
        (with(json!({"layer_replication": [[0, 1]]})), "layer_replication"),
        (with(json!({"r": 0})), "'r': must be between 1 and"),
        (with(json!({"r": -3})), "'r': must be a whole number"),
        (with(json!({"r": null})), "'r': is missing"),
        (with(json!({"lora_dropout": 1.0})), "'lora_dropout': must be in [0, 1)"),
        (with(json!({"target_modules": 3})), "'target_modules': must be a list of names"),
        (with(json!({"target_modules": null})), "'target_modules': is missing"),
        (with(json!({"rank_pattern": {"q": "x"}})), "'rank_pattern.q': must be a whole number"),
        (with(json!({"rank_pattern": [1]})), "'rank_pattern': must be an object"),
    ] {
        let error = parse(config).unwrap_err();
        assert!(error.contains(expected), "expected {expected:?}, got {error:?}");
    }
    for fine in [
        json!({"modules_to_save": []}),
        json!({"init_lora_weights": "gaussian"}),
        json!({"unknown": {"x": 1}}),
    ] {
        let config = parse(with(fine.clone())).unwrap();
        for (key, value) in fine.as_object().unwrap() {
            assert_eq!(config.to_json().get(key), Some(value));
        }
    }
}

#[test]
fn tensors_that_do_not_fit_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let name = |factor| tensor_name("model.layers.0.self_attn.q_proj", factor);
    let config = parse(base()).unwrap();
    std::fs::write(folder.path().join("adapter_config.json"), Value::from(config.to_json()).to_string())
        .unwrap();
    let open = || Adapter::open(folder.path()).map(|_| ()).map_err(|e| e.to_string());
    assert!(open().unwrap_err().contains("has no adapter_model.safetensors"));
    let zeros = vec![0f32; 64];
    let tensor = |name: &str, shape: [usize; 2]| {
        RawTensor::from_f32(name, shape.to_vec(), &zeros[..shape[0] * shape[1]]).unwrap()
    };
    let good = [tensor(&name('A'), [8, 4]), tensor(&name('B'), [6, 8])];
    let cases: Vec<(Vec<RawTensor<'_>>, &str)> = vec![
        (vec![], "holds no LoRA factors"),
        (vec![good[0].clone()], "lora_B.weight': is missing"),
        (vec![good[1].clone()], "lora_A.weight': is missing"),
        (vec![good[0].clone(), tensor(&name('B'), [6, 4])], "says rank 8"),
        (vec![tensor(&name('A'), [4, 4]), tensor(&name('B'), [6, 4])], "says rank 8"),
        (good.iter().cloned().chain([tensor("x", [1, 1])]).collect(), "'x': does not begin with"),
        (
            good.iter().cloned().chain([tensor("base_model.model.x.lora_embedding_A", [1, 1])]).collect(),
            "is not a LoRA factor",
        ),
        (
            vec![RawTensor::from_f32(name('A'), vec![8], &zeros[..8]).unwrap()],
            "has shape [8]; a factor has two axes",
        ),
    ];
    for (tensors, expected) in cases {
        write_tensors(&folder.path().join("adapter_model.safetensors"), &tensors, &[]).unwrap();
        let error = open().unwrap_err();
        assert!(error.contains(expected), "expected {expected:?}, got {error:?}");
    }
    write_tensors(&folder.path().join("adapter_model.safetensors"), &good, &[]).unwrap();
    open().unwrap();
}
