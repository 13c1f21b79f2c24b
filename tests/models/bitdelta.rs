//! Models with a 1-bit delta: against PyTorch, and against themselves with the delta folded in.

use warptune::autograd::Tape;
use warptune::device::Device;
use warptune::formats::Checkpoint;
use warptune::formats::bitdelta::Delta;
use warptune::models::Decoder;
use warptune::nn::TokenBatch;
use warptune::ops::quantize::Quantization;
use warptune::peft::bitdelta::{apply, attach, detach, fold, load, save, scales};
use warptune::peft::lora;
use warptune::tensor::{DType, QuantKind, Tensor};

use crate::support::golden::{Golden, assert_near};
use crate::support::pair::{Pair, compressed};
use crate::support::{bits, devices};

fn logits(model: &Decoder, sequence: &[u32]) -> Tensor {
    let batch = TokenBatch::packed(&[sequence]).unwrap();
    model.logits(model.hidden(&Tape::inference(), &batch).unwrap().value()).unwrap()
}

fn golden_delta(golden: &Golden, out: &std::path::Path) -> Delta {
    compressed(&golden.folder().join("base"), &golden.folder().join("fine_tuned"), out, false)
}

#[test]
fn logits_of_the_golden_pair() {
    let golden = Golden::open_bitdelta();
    let folder = tempfile::tempdir().unwrap();
    let delta = golden_delta(&golden, folder.path());
    devices::on_each(|device| {
        let base = Checkpoint::open(&golden.folder().join("base")).unwrap();
        let model = load(base, &delta, DType::F32, None).unwrap();
        model.to_device(device).unwrap();
        assert_eq!(scales(&model).len(), model.linears().count());
        for (i, sequence) in golden.sequences().iter().enumerate() {
            golden.assert_close(&format!("logits.{i}"), &logits(&model, sequence).fetch_f32().unwrap());
        }
    });
}

/// Beside the weight, folded into it in memory, and applied to the files: the same model.
#[test]
fn the_delta_beside_the_weights_is_the_applied_delta() {
    for name in ["llama", "gpt2", "qwen2", "qwen3"] {
        let golden = Golden::open(name);
        let pair = Pair::of(golden.folder());
        for per_row in [false, true] {
            let delta = pair.delta(if per_row { "rows" } else { "whole" }, per_row);
            let out = pair.path(if per_row { "rows-model" } else { "model" });
            let open = || Checkpoint::open(pair.base()).unwrap();
            apply(open(), &delta, None, &out).unwrap();
            let checkpoint = Checkpoint::open(&out).unwrap();
            let applied = Decoder::load(&checkpoint, &checkpoint.config().unwrap(), DType::F32).unwrap();
            let mut model = load(open(), &delta, DType::F32, None).unwrap();
            let sequence = &golden.sequences()[0];
            let expected = logits(&applied, sequence).fetch_f32().unwrap();
            let largest = expected.iter().fold(0.0f32, |m, x| m.max(x.abs()));
            let apart = logits(&model, sequence).fetch_f32().unwrap();
            // x W + a x S against x (W + a S): another order of roundings.
            assert_near(name, &apart, &expected, f64::from(1e-4 * largest));
            assert!(model.save(&pair.path("never")).unwrap_err().to_string().contains("1-bit deltas"));
            fold(&mut model).unwrap();
            assert!(bits(&logits(&model, sequence)) == bits(&logits(&applied, sequence)), "{name}");
            let error = fold(&mut model).unwrap_err().to_string();
            assert!(error.contains("there is none"), "{error}");
        }
    }
}

#[test]
fn attaching_and_detaching() {
    let golden = Golden::open("llama");
    let pair = Pair::of(golden.folder());
    let delta = pair.delta("delta", false);
    let mut model = golden.model();
    let sequence = &golden.sequences()[0];
    let before = bits(&logits(&model, sequence));
    attach(&mut model, &delta).unwrap();
    assert!(scales(&model).iter().all(|scale| !scale.is_trainable()));
    assert!(bits(&logits(&model, sequence)) != before);
    // What is written from memory is what was read.
    save(&model, &delta, delta.config().recipe.clone(), &pair.path("again")).unwrap();
    for file in ["delta.safetensors", "delta_config.json", "config.json"] {
        let read = |folder: &str| std::fs::read(pair.path(folder).join(file)).unwrap();
        assert!(read("delta") == read("again"), "{file}");
    }
    detach(&mut model);
    assert!(bits(&logits(&model, sequence)) == before);
    assert!(scales(&model).is_empty());
    assert!(save(&model, &delta, Default::default(), &pair.path("none")).is_err());
    // Another model's delta changes nothing.
    let mut other = Golden::open("qwen2").model();
    let error = attach(&mut other, &delta).unwrap_err().to_string();
    assert!(error.contains("not the base"), "{error}");
    assert!(scales(&other).is_empty());
}

/// On a base in 4 bits, and under an adapter.
#[test]
fn beside_other_weights_and_adapters() {
    let golden = Golden::open_lora("llama");
    let pair = Pair::of(golden.folder());
    let delta = pair.delta("delta", false);
    let sequence = &golden.sequences()[0];
    let how = Quantization { kind: QuantKind::Nf4, block: 64, double: false };
    let base = || Checkpoint::open(pair.base()).unwrap();
    let mut model = load(base(), &delta, DType::F32, Some(&how)).unwrap();
    assert_eq!(model.quantized_weights().count(), scales(&model).len());
    lora::load(&mut model, &golden.adapter()).unwrap();
    let together = logits(&model, sequence).fetch_f32().unwrap();
    lora::merge(&mut model).unwrap();
    fold(&mut model).unwrap();
    assert_eq!(model.device(), Device::Cpu);
    let largest = together.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    assert_near(
        "merged",
        &logits(&model, sequence).fetch_f32().unwrap(),
        &together,
        f64::from(1e-4 * largest),
    );
    model.dequantize(DType::F32).unwrap();
    model.save(&pair.path("plain")).unwrap();
}
