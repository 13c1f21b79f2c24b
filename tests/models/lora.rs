//! LoRA against PEFT: logits, gradients, merging, files.

use warptune::autograd::{Gradients, Tape};
use warptune::formats::peft::{LoraConfig, Targets};
use warptune::models::Decoder;
use warptune::nn::TokenBatch;
use warptune::peft::lora;
use warptune::tensor::{DType, Tensor};

use crate::support::bits;
use crate::support::golden::{Golden, MODELS, read_tensors};

fn with_adapter(golden: &Golden) -> Decoder {
    let mut model = golden.model();
    lora::load(&mut model, &golden.adapter()).unwrap();
    model
}

fn logits(model: &Decoder, sequence: &[u32]) -> Tensor {
    let batch = TokenBatch::packed(&[sequence]).unwrap();
    model.logits(model.hidden(&Tape::inference(), &batch).unwrap().value()).unwrap()
}

fn small(targets: Targets) -> LoraConfig {
    LoraConfig::new(3, 6.0, targets)
}

fn names(list: &[&str]) -> Targets {
    Targets::Names(list.iter().map(|s| s.to_string()).collect())
}

#[test]
fn logits_with_the_adapter_and_merged() {
    for name in MODELS {
        let golden = Golden::open_lora(name);
        let mut model = with_adapter(&golden);
        for (i, sequence) in golden.sequences().iter().enumerate() {
            golden.assert_close(&format!("logits.{i}"), logits(&model, sequence).as_f32().unwrap());
        }
        lora::merge(&mut model).unwrap();
        assert!(lora::adapter_parameters(&model).is_empty());
        for (i, sequence) in golden.sequences().iter().enumerate() {
            golden.assert_close(&format!("merged_logits.{i}"), logits(&model, sequence).as_f32().unwrap());
        }
    }
}

#[test]
fn gradients_of_every_adapter_and_of_nothing_else() {
    for name in MODELS {
        let golden = Golden::open_lora(name);
        let mut model = with_adapter(&golden);
        let mut first: Option<Gradients> = None;
        for checkpointing in [false, true] {
            model.set_checkpointing(checkpointing);
            let tape = Tape::recording();
            let loss = model.loss(&tape, &golden.batch(), &golden.labels(), golden.denominator()).unwrap();
            golden.assert_scalar("loss", f64::from(loss.value().item().unwrap()));
            let mut gradients = Gradients::new();
            tape.backward(&loss, &mut gradients).unwrap();
            assert!(
                model.parameters().iter().all(|p| gradients.get(p).is_none()),
                "{name}: the base is frozen"
            );
            let mut trained: Vec<String> = Vec::new();
            for param in lora::adapter_parameters(&model) {
                let grad = gradients.get(&param).unwrap();
                golden.assert_close(&format!("grad.{}", param.name()), grad.as_f32().unwrap());
                if let Some(first) = &first {
                    assert!(
                        bits(grad) == bits(first.get(&param).unwrap()),
                        "{name}: checkpointing changed {}",
                        param.name()
                    );
                }
                trained.push(param.name().to_string());
            }
            trained.sort();
            assert_eq!(trained, golden.names("grad."), "{name}");
            first = Some(gradients);
        }
    }
}

#[test]
fn an_adapter_loaded_and_saved_is_the_same() {
    for name in MODELS {
        let golden = Golden::open_lora(name);
        let mut model = golden.model();
        let config = lora::load(&mut model, &golden.adapter()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        lora::save(&model, &config, folder.path()).unwrap();
        let file = "adapter_model.safetensors";
        let (ours, theirs) =
            (read_tensors(&folder.path().join(file)), read_tensors(&golden.adapter().join(file)));
        assert!(ours.keys().eq(theirs.keys()), "{name}");
        for (key, stored) in &theirs {
            assert_eq!(ours[key].shape, stored.shape, "{name}: {key}");
            assert!(ours[key].values == stored.values, "{name}: {key}");
        }
        let mut again = golden.model();
        assert_eq!(lora::load(&mut again, folder.path()).unwrap(), config, "{name}");
    }
}

#[test]
fn a_fresh_adapter_changes_nothing_and_off_is_the_base() {
    let golden = Golden::open_lora("qwen3");
    let base = golden.model();
    let sequence = &golden.sequences()[0];
    let expected = bits(&logits(&base, sequence));
    let mut model = golden.model();
    lora::attach(&mut model, &small(Targets::AllLinear), 7).unwrap();
    // B is zero: adding nothing leaves every value as it was (and -0 as 0).
    let fresh = logits(&model, sequence).fetch_f32().unwrap();
    assert!(fresh == logits(&base, sequence).fetch_f32().unwrap());
    lora::load(&mut model, &golden.adapter()).unwrap();
    assert!(bits(&logits(&model, sequence)) != expected);
    model.set_adapters_enabled(false);
    assert!(bits(&logits(&model, sequence)) == expected);
    model.set_adapters_enabled(true);
    lora::unload(&mut model);
    assert!(bits(&logits(&model, sequence)) == expected);
}

#[test]
fn fresh_values_are_uniform_and_depend_on_the_seed_alone() {
    let golden = Golden::open("llama");
    let fresh = |seed| {
        let mut model = golden.model();
        lora::attach(&mut model, &small(Targets::AllLinear), seed).unwrap();
        lora::adapter_parameters(&model)
    };
    let (one, same, other) = (fresh(1), fresh(1), fresh(2));
    for ((a, b), c) in one.iter().zip(&same).zip(&other) {
        let values = a.value().fetch_f32().unwrap();
        assert!(bits(&a.value()) == bits(&b.value()));
        if a.name().ends_with("lora_B.weight") {
            assert!(values.iter().all(|&x| x == 0.0));
            continue;
        }
        assert!(bits(&a.value()) != bits(&c.value()), "{}", a.name());
        let bound = 1.0 / (a.value().shape()[1] as f32).sqrt();
        assert!(values.iter().all(|x| x.abs() <= bound));
        let largest = values.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        assert!(largest > 0.9 * bound, "{}: the largest is {largest} of {bound}", a.name());
        // No two modules draw the same numbers.
        let twins = one.iter().filter(|other| bits(&other.value())[..8] == bits(&a.value())[..8]);
        assert_eq!(twins.count(), 1);
    }
}

#[test]
fn targets_by_suffix_by_pattern_and_all() {
    let attached = |model: &str, targets: Targets| {
        let mut model = Golden::open(model).model();
        lora::attach(&mut model, &small(targets), 0).map(|()| {
            let adapted = model.linears().filter(|(_, linear)| linear.adapter().is_some());
            adapted.map(|(path, _)| path.to_string()).collect::<Vec<_>>()
        })
    };
    let q = ["model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"];
    assert_eq!(attached("llama", names(&["q_proj"])).unwrap(), q);
    assert_eq!(attached("llama", names(&["layers.1.self_attn.q_proj"])).unwrap(), q[1..]);
    assert_eq!(attached("llama", Targets::Regex(r".*\.0\.self_attn\.q_proj".into())).unwrap(), q[..1]);
    let all = attached("llama", Targets::AllLinear).unwrap();
    assert_eq!(all.len(), 2 * 7);
    let c_proj = attached("gpt2", names(&["c_proj"])).unwrap();
    let expected = ["transformer.h.0.attn.c_proj", "transformer.h.0.mlp.c_proj"];
    assert_eq!(c_proj[..2], expected);
    // A suffix is whole parts of the name; a pattern matches all of it.
    for targets in [names(&["proj"]), Targets::Regex("q_proj".into()), names(&["q_proj", "c_attn"])] {
        let error = attached("llama", targets).unwrap_err().to_string();
        assert!(error.contains("gate_proj") && error.contains("q_proj"), "{error}");
    }
}

#[test]
fn the_adapter_of_another_model_is_refused_by_name() {
    let mut model = Golden::open("llama").model();
    let refused = |model: &mut Decoder, other: &str| {
        let error = lora::load(model, &Golden::open_lora(other).adapter()).unwrap_err().to_string();
        assert!(error.contains("another model") && error.contains("lora_"), "{other}: {error}");
    };
    refused(&mut model, "gpt2");
    refused(&mut model, "qwen2");
    assert!(lora::adapter_parameters(&model).is_empty(), "nothing is attached after an error");
}

#[test]
fn merging_rounds_once() {
    let golden = Golden::open_lora("smollm2");
    let mut model = golden.model_as(DType::BF16);
    lora::load(&mut model, &golden.adapter()).unwrap();
    let weight = |model: &Decoder, i: usize| model.linears().nth(i).unwrap().1.parameters()[0].value();
    let before = weight(&model, 0).fetch_f32().unwrap();
    let (_, linear) = model.linears().next().unwrap();
    let adapter = linear.adapter().unwrap().clone();
    let (a, b) = (adapter.a.value(), adapter.b.value());
    let (r, input) = (a.shape()[0], a.shape()[1]);
    let (a, b) = (a.fetch_f32().unwrap(), b.fetch_f32().unwrap());
    lora::merge(&mut model).unwrap();
    let after = weight(&model, 0);
    assert_eq!(after.dtype(), DType::BF16);
    for (i, (&old, new)) in before.iter().zip(after.fetch_f32().unwrap()).enumerate() {
        let (row, column) = (i / input, i % input);
        let delta: f64 = (0..r).map(|k| f64::from(b[row * r + k]) * f64::from(a[k * input + column])).sum();
        let exact = f64::from(old) + f64::from(adapter.scale) * delta;
        // One rounding to bf16, and the sum's in f32.
        let allowed =
            exact.abs() * DType::BF16.unit_roundoff() * 1.001 + 1e-6 * (f64::from(old).abs() + delta.abs());
        assert!((f64::from(new) - exact).abs() <= allowed, "element {i}: {new}, expected {exact}");
    }
}
