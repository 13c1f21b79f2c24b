//! Models in 4-bit blocks against transformers, bitsandbytes and PEFT.

use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use serde_json::{Map, Value};
use warptune::autograd::{Gradients, Tape};
use warptune::device::Device;
use warptune::formats::safetensors::{SafetensorsFile, write_tensors};
use warptune::formats::{Checkpoint, RawTensor, read_json};
use warptune::models::{Decoder, quantize_checkpoint};
use warptune::nn::TokenBatch;
use warptune::ops::quantize::{Quantization, dequantize};
use warptune::peft::lora;
use warptune::tensor::{BlockScales, DType, QuantKind, QuantizedTensor, Tensor};

use super::architectures::assert_stays_near;
use crate::support::devices::{assert_no_reports, cuda};
use crate::support::golden::{Golden, QUANTIZED};
use crate::support::{bits, values};

fn base_of(name: &str) -> Golden {
    Golden::open(name.split('_').next().unwrap())
}

/// How the golden model was quantized.
fn how(name: &str) -> Quantization {
    let kind = if name.ends_with("nf4") { QuantKind::Nf4 } else { QuantKind::Fp4 };
    Quantization { kind, block: 64, double: kind == QuantKind::Nf4 }
}

/// The golden models, each on each device.
fn on_devices() -> impl Iterator<Item = (&'static str, Device)> {
    QUANTIZED.into_iter().flat_map(|name| [Device::Cpu, cuda()].map(|device| (name, device)))
}

fn logits(model: &Decoder, sequence: &[u32]) -> Tensor {
    let batch = TokenBatch::packed(&[sequence]).unwrap();
    model.logits(model.hidden(&Tape::inference(), &batch).unwrap().value()).unwrap()
}

/// Every part of every quantized weight.
fn parts(model: &Decoder) -> Vec<(String, Vec<u8>, Vec<u32>, u32)> {
    let of = |x: &QuantizedTensor| {
        let (scales, offset) = match x.scales() {
            BlockScales::Plain(scales) => (bits(scales), 0),
            BlockScales::Nested(n) => {
                let codes = n.codes.as_u8().unwrap().iter().map(|&c| u32::from(c));
                (codes.chain(bits(&n.absmax)).chain(bits(&n.map)).collect(), n.offset.to_bits())
            }
        };
        (x.codes().as_u8().unwrap().to_vec(), scales, offset)
    };
    let part = |w: &warptune::nn::QuantizedWeight| {
        let (codes, scales, offset) = of(&w.value());
        (w.name().to_string(), codes, scales, offset)
    };
    model.quantized_weights().map(part).collect()
}

#[test]
fn logits_and_loss_of_folders_that_transformers_wrote() {
    for (name, device) in on_devices() {
        let golden = Golden::open_quantized(name, "golden");
        let model = golden.model_at(device);
        assert_eq!(model.quantized_weights().count(), model.linears().count(), "{name}");
        for (i, sequence) in golden.sequences().iter().enumerate() {
            golden.assert_close(&format!("logits.{i}"), &logits(&model, sequence).fetch_f32().unwrap());
        }
        let tape = Tape::inference();
        let loss = model.loss(&tape, &golden.batch(), &golden.labels(), golden.denominator()).unwrap();
        golden.assert_scalar("loss", f64::from(loss.value().fetch_f32().unwrap()[0]));
    }
    assert_no_reports();
}

#[test]
fn adapters_on_them() {
    for (name, device) in on_devices() {
        let golden = Golden::open_quantized(name, "lora");
        let mut model = golden.model();
        lora::load(&mut model, &golden.adapter()).unwrap();
        model.to_device(device).unwrap();
        for (i, sequence) in golden.sequences().iter().enumerate() {
            golden.assert_close(&format!("logits.{i}"), &logits(&model, sequence).fetch_f32().unwrap());
        }
        for checkpointing in [false, true] {
            model.set_checkpointing(checkpointing);
            let tape = Tape::recording();
            let loss = model.loss(&tape, &golden.batch(), &golden.labels(), golden.denominator()).unwrap();
            golden.assert_scalar("loss", f64::from(loss.value().fetch_f32().unwrap()[0]));
            let mut gradients = Gradients::new();
            tape.backward(&loss, &mut gradients).unwrap();
            let mut trained = Vec::new();
            for param in lora::adapter_parameters(&model) {
                let grad = gradients.get(&param).unwrap();
                golden.assert_close(&format!("grad.{}", param.name()), &grad.fetch_f32().unwrap());
                trained.push(param.name().to_string());
            }
            trained.sort();
            assert_eq!(trained, golden.names("grad."), "{name}");
        }
    }
    assert_no_reports();
}

#[test]
fn bf16_stays_near_f32() {
    for (name, device) in on_devices() {
        let golden = Golden::open_quantized(name, "golden");
        let rounded = golden.model_as(DType::BF16);
        rounded.to_device(device).unwrap();
        for (i, sequence) in golden.sequences().iter().enumerate() {
            let exact = &golden.tensor(&format!("logits.{i}")).values;
            let rounded = logits(&rounded, sequence).fetch_f32().unwrap();
            assert_stays_near(name, DType::BF16, &rounded, exact);
        }
    }
    assert_no_reports();
}

/// Merging: the logits stay, the weights are numbers again, and what is saved is a plain model.
#[test]
fn merging_into_4_bits_gives_a_plain_model() {
    for name in QUANTIZED {
        let golden = Golden::open_quantized(name, "lora");
        let mut model = golden.model();
        lora::load(&mut model, &golden.adapter()).unwrap();
        let sequence = &golden.sequences()[0];
        let folder = tempfile::tempdir().unwrap();
        let error = model.save(folder.path()).unwrap_err().to_string();
        assert!(error.contains("adapters"), "{error}");
        lora::merge(&mut model).unwrap();
        model.dequantize(DType::F32).unwrap();
        assert_eq!(model.quantized_weights().count(), 0);
        model.save(folder.path()).unwrap();
        let config = read_json(&folder.path().join("config.json")).unwrap();
        assert!(!config.contains_key("quantization_config"));
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        let saved = Decoder::load(&checkpoint, &checkpoint.config().unwrap(), DType::F32).unwrap();
        assert!(bits(&logits(&saved, sequence)) == bits(&logits(&model, sequence)));
        // Merging rounds W + scale B A once more than the product of the layers does.
        let stored = &golden.tensor("logits.0").values;
        let largest = stored.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        for (a, b) in logits(&model, sequence).as_f32().unwrap().iter().zip(stored) {
            assert!((a - b).abs() <= 1e-4 * largest, "{name}: {a} {b}");
        }
        // In 4 bits again, saved and read.
        model.quantize(&how(name)).unwrap();
        model.save(folder.path()).unwrap();
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        let again = Decoder::load(&checkpoint, &checkpoint.config().unwrap(), DType::F32).unwrap();
        assert!(parts(&again) == parts(&model) && !parts(&again).is_empty(), "{name}");
        assert!(bits(&logits(&again, sequence)) == bits(&logits(&model, sequence)));
    }
}

#[test]
fn quantizing_while_loading_gives_the_same_weights() {
    for name in QUANTIZED {
        let (theirs, base) = (Golden::open_quantized(name, "golden").model(), base_of(name));
        let checkpoint = Checkpoint::open(base.folder()).unwrap();
        let config = checkpoint.config().unwrap();
        let ours = Decoder::load_quantized(&checkpoint, &config, DType::F32, &how(name)).unwrap();
        assert!(parts(&ours) == parts(&theirs), "{name}");
        let rest = |model: &Decoder| {
            model.parameters().iter().map(|p| (p.name().to_string(), bits(&p.value()))).collect::<Vec<_>>()
        };
        assert!(rest(&ours) == rest(&theirs), "{name}");
        // A quantized folder stays as it is, whatever is asked for.
        let folder = Golden::open_quantized(name, "golden").folder().to_path_buf();
        let checkpoint = Checkpoint::open(&folder).unwrap();
        let other = Quantization { block: 256, ..how(name) };
        let again =
            Decoder::load_quantized(&checkpoint, &checkpoint.config().unwrap(), DType::F32, &other).unwrap();
        assert!(parts(&again) == parts(&theirs), "{name}");
    }
}

/// The bytes of every tensor but the JSON of the state, which has spaces behind it.
fn same_files(name: &str, ours: &Path, theirs: &Path) {
    let [ours, theirs] =
        [ours, theirs].map(|folder| std::fs::read(folder.join("model.safetensors")).unwrap());
    let [ours, theirs] = [&ours, &theirs].map(|bytes| SafeTensors::deserialize(bytes).unwrap());
    let names = |file: &SafeTensors<'_>| {
        let mut names: Vec<String> = file.names().into_iter().map(|name| name.to_string()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&ours), names(&theirs), "{name}");
    for key in names(&theirs) {
        let (a, b) = (ours.tensor(&key).unwrap(), theirs.tensor(&key).unwrap());
        assert_eq!(a.dtype(), b.dtype(), "{name}: {key}");
        if key.contains("quant_state") {
            let json = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap();
            assert_eq!(json(a.data()), json(b.data()), "{name}: {key}");
        } else {
            assert_eq!(a.shape(), b.shape(), "{name}: {key}");
            assert!(a.data() == b.data(), "{name}: {key}");
        }
    }
}

#[test]
fn the_folder_that_transformers_writes() {
    for name in QUANTIZED {
        let (theirs, base) = (Golden::open_quantized(name, "golden"), base_of(name));
        let checkpoint = Checkpoint::open(base.folder()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("new");
        quantize_checkpoint(&checkpoint, &checkpoint.config().unwrap(), &how(name), &out).unwrap();
        same_files(name, &out, theirs.folder());
        let config =
            |folder: &Path| -> Map<String, Value> { read_json(&folder.join("config.json")).unwrap() };
        assert_eq!(config(&out)["quantization_config"], config(theirs.folder())["quantization_config"]);
        let back = Checkpoint::open(&out).unwrap();
        let back = Decoder::load(&back, &back.config().unwrap(), DType::F32).unwrap();
        assert!(parts(&back) == parts(&theirs.model()), "{name}");
        // Once is enough.
        let again = Checkpoint::open(&out).unwrap();
        let config = again.config().unwrap();
        let error =
            quantize_checkpoint(&again, &config, &how(name), &folder.path().join("again")).unwrap_err();
        assert!(error.to_string().contains("quantized already"), "{error}");
    }
}

#[test]
fn the_decoded_model_is_near_the_quantized_one() {
    let golden = Golden::open_quantized("llama_nf4", "golden");
    let (model, mut plain) = (golden.model(), golden.model());
    plain.dequantize(DType::F32).unwrap();
    for weight in model.quantized_weights() {
        let param = plain.parameters().into_iter().find(|p| p.name() == weight.name()).unwrap();
        assert!(!param.is_trainable());
        assert_eq!(values(&param.value()), values(&dequantize(&weight.value(), DType::F32).unwrap()));
    }
}

/// Copies the golden folder with one tensor changed, and returns what loading says.
fn error_with(change: impl Fn(&str, &[u8]) -> Option<Vec<u8>>) -> String {
    let golden = Golden::open_quantized("llama_nf4", "golden");
    let folder = tempfile::tempdir().unwrap();
    let target: PathBuf = folder.path().into();
    std::fs::copy(golden.folder().join("config.json"), target.join("config.json")).unwrap();
    let file = SafetensorsFile::open(&golden.folder().join("model.safetensors")).unwrap();
    let mut tensors = Vec::new();
    for name in file.names() {
        let raw = file.get(name).unwrap();
        match change(name, raw.bytes()) {
            None => tensors.push(raw),
            Some(bytes) if bytes.is_empty() => {}
            Some(bytes) => {
                let shape = vec![bytes.len() / raw.dtype().block_bytes()];
                tensors.push(RawTensor::new(name, raw.dtype(), shape, bytes).unwrap());
            }
        }
    }
    write_tensors(&target.join("model.safetensors"), &tensors, &[]).unwrap();
    let checkpoint = Checkpoint::open(&target).unwrap();
    let loaded = Decoder::load(&checkpoint, &checkpoint.config().unwrap(), DType::F32);
    loaded.err().map_or(String::new(), |e| e.to_string())
}

#[test]
fn broken_parts_are_named() {
    let of = "model.layers.0.mlp.up_proj.weight";
    assert_eq!(error_with(|_, _| None), "");
    let shorter = |part: &'static str| {
        error_with(move |name, bytes| {
            (name == format!("{of}{part}")).then(|| bytes[..bytes.len() - bytes.len() / 4].to_vec())
        })
    };
    for part in ["", ".absmax", ".quant_map", ".nested_quant_map"] {
        let error = shorter(part);
        assert!(error.contains(&format!("{of}{part}'")) && error.contains("expected"), "{part}: {error}");
    }
    let gone = |part: &'static str| error_with(move |name, _| (name == format!("{of}{part}")).then(Vec::new));
    assert!(gone(".absmax").contains(&format!("no tensor '{of}.absmax'")));
    // Without its state it is no quantized weight: bytes of a wrong shape, with parts that nobody needs.
    assert!(gone(".quant_state.bitsandbytes__nf4").contains("up_proj.weight"));
    let state = |from: &'static str, to: &'static str| {
        error_with(move |name, bytes| {
            let text = String::from_utf8_lossy(bytes).replace(from, to).into_bytes();
            (name == format!("{of}.quant_state.bitsandbytes__nf4")).then_some(text)
        })
    };
    assert!(state("{", "[").contains("JSON"));
    assert!(state("\"nf4\"", "\"fp4\"").contains("quant_type"));
    assert!(state("\"blocksize\": 64", "\"blocksize\": 0").contains("blocksize"));
    assert!(state("\"blocksize\": 64", "\"blocksize\": 48").contains("expected"));
    assert!(state("[80, 32]", "[32, 80]").contains("the config calls for"));
    assert!(state("[80, 32]", "[80]").contains("shape"));
    assert!(state("[80, 32]", "[18446744073709551615, 32]").contains("overflows"));
    assert!(state("nested_offset", "offset").contains("nested_offset"));
    let map = error_with(|name, bytes| {
        let mut bytes = bytes.to_vec();
        bytes[3] ^= 0x80;
        (name == format!("{of}.quant_map")).then_some(bytes)
    });
    assert!(map.contains("other levels"), "{map}");
}
