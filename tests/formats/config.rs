//! config.json: both spellings, transformers' defaults, refusals by name, and the way back.

use std::path::Path;

use proptest::prelude::*;
use serde_json::{Map, Value, json};
use warptune::formats::{Activation, Architecture, DecoderConfig, GenerationConfig, RopeScaling, write_json};

fn map(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

fn parse(value: Value) -> Result<DecoderConfig, String> {
    DecoderConfig::from_json(Path::new("config.json"), &map(value)).map_err(|e| e.to_string())
}

/// SmolLM2-135M's config.json, in transformers 4's spelling.
fn smollm2() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0, "bos_token_id": 1,
        "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 576, "initializer_range": 0.041666666666666664,
        "intermediate_size": 1536, "is_llama_config": true, "max_position_embeddings": 8192, "mlp_bias": false,
        "model_type": "llama", "num_attention_heads": 9, "num_hidden_layers": 30, "num_key_value_heads": 3,
        "pad_token_id": 2, "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_interleaved": false, "rope_scaling": null,
        "rope_theta": 100000, "tie_word_embeddings": true, "torch_dtype": "bfloat16", "use_cache": true,
        "vocab_size": 49152,
    })
}

fn with(mut base: Value, changes: Value) -> Value {
    for (key, value) in changes.as_object().unwrap() {
        base[key] = value.clone();
    }
    base
}

fn without(mut base: Value, key: &str) -> Value {
    base.as_object_mut().unwrap().remove(key);
    base
}

#[test]
fn llama_in_both_spellings() {
    let old = parse(smollm2()).unwrap();
    assert_eq!(old.architecture, Architecture::Llama);
    assert_eq!((old.vocab_size, old.hidden_size, old.intermediate_size), (49152, 576, 1536));
    assert_eq!((old.num_layers, old.num_heads, old.num_kv_heads, old.head_dim), (30, 9, 3, 64));
    assert_eq!((old.max_positions, old.norm_eps), (8192, 1e-5));
    assert_eq!(old.rope.unwrap().theta, 100000.0);
    assert_eq!(old.rope.unwrap().scaling, RopeScaling::None);
    assert!(old.tie_word_embeddings && !old.qkv_bias && !old.o_bias && !old.mlp_bias && !old.qk_norm);
    assert_eq!((old.bos, old.eos.as_slice(), old.pad), (Some(1), &[2][..], Some(2)));
    assert_eq!(old.dtype.as_deref(), Some("bfloat16"));
    assert_eq!(old.activation, Activation::Silu);

    let mut new = without(without(without(smollm2(), "rope_theta"), "rope_scaling"), "torch_dtype");
    new = with(
        new,
        json!({"dtype": "bfloat16", "rope_parameters": {"rope_theta": 100000.0, "rope_type": "default"}}),
    );
    let new = parse(new).unwrap();
    assert_eq!(DecoderConfig { raw: Map::new(), ..new }, DecoderConfig { raw: Map::new(), ..old });
}

#[test]
fn llama3_and_linear_scaling() {
    let llama3 = json!({"factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192, "rope_type": "llama3"});
    let want = RopeScaling::Llama3 {
        factor: 32.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_positions: 8192,
    };
    let old = parse(with(smollm2(), json!({"rope_scaling": llama3, "rope_theta": 500000.0}))).unwrap();
    assert_eq!((old.rope.unwrap().scaling, old.rope.unwrap().theta), (want, 500000.0));
    let new = parse(with(
        without(smollm2(), "rope_theta"),
        json!({"rope_parameters": with(llama3, json!({"rope_theta": 5e5}))}),
    ))
    .unwrap();
    assert_eq!((new.rope.unwrap().scaling, new.rope.unwrap().theta), (want, 500000.0));
    let linear = parse(with(smollm2(), json!({"rope_scaling": {"type": "linear", "factor": 2}}))).unwrap();
    assert_eq!(linear.rope.unwrap().scaling, RopeScaling::Linear { factor: 2.0 });
}

#[test]
fn mistral_and_its_window() {
    let mistral = with(smollm2(), json!({"model_type": "mistral"}));
    let default = parse(mistral.clone()).unwrap();
    assert_eq!((default.sliding_window, default.window(29)), (Some(4096), Some(4096)));
    let none = parse(with(mistral.clone(), json!({"sliding_window": null}))).unwrap();
    assert_eq!((none.sliding_window, none.window(0)), (None, None));
    assert_eq!(parse(with(mistral, json!({"sliding_window": 16}))).unwrap().window(3), Some(16));
    // Llama has no window, whatever the file says.
    assert_eq!(parse(with(smollm2(), json!({"sliding_window": 16}))).unwrap().window(0), None);
}

#[test]
fn qwen_and_its_windows() {
    let qwen = with(smollm2(), json!({"model_type": "qwen2", "sliding_window": 32, "num_hidden_layers": 4}));
    let off = parse(qwen.clone()).unwrap();
    assert!(off.qkv_bias && !off.o_bias && off.sliding_window.is_none());
    let on = with(qwen, json!({"use_sliding_window": true, "max_window_layers": 3}));
    let windows = |c: &DecoderConfig| (0..4).map(|l| c.window(l)).collect::<Vec<_>>();
    assert_eq!(windows(&parse(on.clone()).unwrap()), [None, None, None, Some(32)]);
    let types = json!({"layer_types": ["sliding_attention", "full_attention", "full_attention", "sliding_attention"]});
    assert_eq!(windows(&parse(with(on.clone(), types)).unwrap()), [Some(32), None, None, Some(32)]);
    let qwen3 = parse(without(with(on, json!({"model_type": "qwen3"})), "head_dim")).unwrap();
    assert!(qwen3.qk_norm && !qwen3.qkv_bias);
    assert_eq!(qwen3.head_dim, 128);
}

#[test]
fn gpt2_with_its_own_names() {
    let gpt2 =
        parse(json!({"model_type": "gpt2", "vocab_size": 50257, "n_embd": 768, "n_layer": 12, "n_head": 12,
        "n_positions": 1024, "n_ctx": 1024, "layer_norm_epsilon": 1e-5, "activation_function": "gelu_new"}))
        .unwrap();
    assert_eq!(
        (gpt2.hidden_size, gpt2.intermediate_size, gpt2.head_dim, gpt2.num_kv_heads),
        (768, 3072, 64, 12)
    );
    assert!(gpt2.rope.is_none() && gpt2.tie_word_embeddings && gpt2.qkv_bias && gpt2.o_bias && gpt2.mlp_bias);
    assert_eq!((gpt2.activation, gpt2.bos, gpt2.eos), (Activation::GeluTanh, Some(50256), vec![50256]));
}

#[test]
fn token_ids_and_nulls() {
    let ids =
        parse(with(smollm2(), json!({"eos_token_id": [2, 5], "bos_token_id": null, "pad_token_id": -1})))
            .unwrap();
    assert_eq!((ids.bos, ids.eos, ids.pad), (None, vec![2, 5], None));
    let missing = parse(without(without(smollm2(), "eos_token_id"), "bos_token_id")).unwrap();
    assert_eq!((missing.bos, missing.eos), (Some(1), vec![2]));
    let null =
        parse(with(smollm2(), json!({"eos_token_id": null, "head_dim": null, "num_key_value_heads": null})))
            .unwrap();
    assert_eq!((null.eos, null.head_dim, null.num_kv_heads), (vec![], 64, 9));
}

#[test]
fn what_is_wrong_is_named() {
    let change = |key: &str, value: Value| with(smollm2(), json!({key: value}));
    let cases = [
        (without(smollm2(), "hidden_size"), "'hidden_size': is missing"),
        (without(smollm2(), "vocab_size"), "'vocab_size': is missing"),
        (without(smollm2(), "num_attention_heads"), "'num_attention_heads': is missing"),
        (without(without(smollm2(), "model_type"), "architectures"), "'model_type': is missing"),
        (change("model_type", json!("mamba")), "'mamba' is not supported"),
        (change("model_type", json!(3)), "'model_type': must be a string, not 3"),
        (
            change("num_hidden_layers", json!(1_000_000_000_000u64)),
            "'num_hidden_layers': must be between 1 and 10000",
        ),
        (change("num_hidden_layers", json!(0)), "'num_hidden_layers': must be between"),
        (change("num_attention_heads", json!(0)), "'num_attention_heads': must be between"),
        (change("num_attention_heads", json!(7)), "'num_attention_heads': is 7, which does not divide"),
        (change("num_key_value_heads", json!(2)), "'num_key_value_heads': is 2, which does not divide"),
        (change("hidden_size", json!(-576)), "'hidden_size': must be a whole number"),
        (change("hidden_size", json!(576.5)), "'hidden_size': must be a whole number"),
        (change("hidden_size", json!("576")), "'hidden_size': must be a whole number"),
        (change("hidden_size", json!(1e300)), "'hidden_size': must be a whole number"),
        (change("head_dim", json!(63)), "'head_dim': is 63; rotary positions need an even one"),
        (change("rms_norm_eps", json!(0)), "'rms_norm_eps': must be in (0, 1)"),
        (change("rope_theta", json!(-1)), "'rope_theta': must be positive"),
        (
            change("rope_scaling", json!({"rope_type": "yarn", "factor": 4})),
            "rope scaling 'yarn' is not supported",
        ),
        (change("rope_scaling", json!({"rope_type": "linear"})), "'rope_scaling.factor': is missing"),
        (
            change("rope_scaling", json!({"rope_type": "linear", "factor": 0.5})),
            "'rope_scaling.factor': must be at least 1",
        ),
        (change("rope_scaling", json!(7)), "'rope_scaling': must be an object"),
        (change("partial_rotary_factor", json!(0.5)), "partial_rotary_factor"),
        (change("hidden_act", json!("relu6")), "the activation 'relu6' (hidden_act) is not supported"),
        (change("eos_token_id", json!([2, "x"])), "'eos_token_id': must be a token id"),
        (change("quantization_config", json!({"quant_method": "gptq"})), "a checkpoint quantized by 'gptq'"),
        (
            with(change("model_type", json!("qwen3")), json!({"layer_types": ["full_attention"]})),
            "'layer_types': has 1 entries for 30 layers",
        ),
        (
            with(change("model_type", json!("qwen3")), json!({"layer_types": ["linear_attention"]})),
            "the layer type 'linear_attention' is not supported",
        ),
        (
            json!({"model_type": "gpt2", "vocab_size": 10, "n_embd": 8, "n_layer": 1, "n_head": 2, "scale_attn_weights": false}),
            "GPT-2 with scale_attn_weights = false",
        ),
    ];
    for (config, expected) in cases {
        let error = parse(config).unwrap_err();
        assert!(error.contains(expected), "expected {expected:?}, got {error:?}");
    }
}

#[test]
fn old_files_without_a_model_type_are_told_by_their_class() {
    assert_eq!(parse(without(smollm2(), "model_type")).unwrap().architecture, Architecture::Llama);
}

#[test]
fn round_trips() {
    let scaled = json!({"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 4096}});
    let gpt2 = json!({"model_type": "gpt2", "vocab_size": 50, "n_embd": 8, "n_layer": 3, "n_head": 2, "n_inner": 24});
    let qwen =
        with(smollm2(), json!({"model_type": "qwen2", "use_sliding_window": true, "max_window_layers": 7}));
    for config in [
        smollm2(),
        with(smollm2(), scaled),
        with(smollm2(), json!({"rope_scaling": {"type": "linear", "factor": 2.5}})),
        with(smollm2(), json!({"model_type": "mistral", "sliding_window": null, "eos_token_id": [1, 2]})),
        qwen,
        with(smollm2(), json!({"model_type": "qwen3", "attention_bias": true, "eos_token_id": null})),
        gpt2,
    ] {
        let first = parse(config.clone()).unwrap();
        let written = first.to_json();
        let again = parse(Value::Object(written.clone())).unwrap();
        assert_eq!(DecoderConfig { raw: first.raw.clone(), ..again }, first);
        // What we know nothing of is kept.
        for key in ["initializer_range", "is_llama_config", "use_cache"] {
            assert_eq!(written.get(key), config.get(key), "{key}");
        }
    }
}

#[test]
fn files_are_read_and_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    write_json(&path, &map(smollm2())).unwrap();
    assert_eq!(DecoderConfig::read(&path).unwrap(), parse(smollm2()).unwrap());
    for (text, expected) in
        [("{", "is not valid JSON"), ("[]", "must hold a JSON object"), ("", "is not valid JSON")]
    {
        std::fs::write(&path, text).unwrap();
        let error = DecoderConfig::read(&path).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains("config.json"), "{error}");
    }
    assert!(
        DecoderConfig::read(&folder.path().join("none.json"))
            .unwrap_err()
            .to_string()
            .contains("cannot open")
    );
}

#[test]
fn generation_config() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("generation_config.json");
    let content =
        json!({"bos_token_id": 1, "eos_token_id": [2, 7], "temperature": 0.6, "do_sample": true, "x": {}});
    write_json(&path, &map(content)).unwrap();
    let config = GenerationConfig::read(&path).unwrap();
    assert_eq!((config.bos, config.eos, config.temperature), (Some(1), vec![2, 7], Some(0.6)));
    assert_eq!((config.do_sample, config.top_k, config.pad), (Some(true), None, None));
}

/// Any JSON value, absurd numbers among them.
fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (0u64..64).prop_map(Value::from),
        prop_oneof![Just("linear"), Just("llama3"), Just("full_attention"), Just("gelu"), Just("")]
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 8, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map("rope_type|factor|type|rope_theta", inner, 0..3)
                .prop_map(|m| m.into_iter().collect::<Map<_, _>>().into()),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever a key holds, the answer is a config that fits together or an error; never a panic.
    #[test]
    fn any_value_anywhere(key in 0usize..26, value in any_value(), model in 0usize..5) {
        let kind = ["llama", "mistral", "qwen2", "qwen3", "gpt2"][model];
        let names = json!({"model_type": kind, "n_embd": 8, "n_layer": 2, "n_head": 2});
        let mut config = with(smollm2(), names);
        let key = config.as_object().unwrap().keys().nth(key).unwrap().clone();
        config[&key] = value;
        if let Ok(c) = parse(config) {
            prop_assert!(c.num_layers > 0 && c.num_heads % c.num_kv_heads == 0 && c.head_dim > 0);
            prop_assert_eq!(c.windowed_layers.len(), c.num_layers);
        }
    }
}
