//! LoftQ against PEFT, and against what it promises.

use std::path::Path;

use serde_json::Value;
use warptune::Error;
use warptune::autograd::Tape;
use warptune::formats::Checkpoint;
use warptune::formats::peft::{LoraConfig, Targets};
use warptune::models::Decoder;
use warptune::nn::TokenBatch;
use warptune::ops::quantize::{Quantization, dequantize, quantize};
use warptune::peft::loftq::{self, Split, split};
use warptune::peft::lora;
use warptune::tensor::{DType, QuantKind, Tensor};

use crate::support::golden::{Golden, read_tensors};
use crate::support::random::Random;
use crate::support::{bits, values};

const NF4: Quantization = Quantization { kind: QuantKind::Nf4, block: 64, double: false };

/// B A in f64.
fn product(split: &Split) -> Vec<f64> {
    let (a, b) = (values(&split.a), values(&split.b));
    let (r, input) = (split.a.shape()[0], split.a.shape()[1]);
    let row = |b: &[f64]| -> Vec<f64> {
        (0..input).map(|j| b.iter().enumerate().map(|(i, b)| b * a[i * input + j]).sum()).collect()
    };
    b.chunks(r).flat_map(row).collect()
}

/// The norm of W - Q - B A.
fn error(weight: &Tensor, split: &Split) -> f64 {
    let base = values(&dequantize(&split.base, DType::F32).unwrap());
    let sum = base.iter().zip(product(split)).map(|(q, p)| q + p);
    values(weight).iter().zip(sum).map(|(w, s)| (w - s).powi(2)).sum::<f64>().sqrt()
}

#[test]
fn the_split_of_peft() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/quantize");
    let tensors = read_tensors(&folder.join("loftq.safetensors"));
    let fields: Value = serde_json::from_slice(&std::fs::read(folder.join("loftq.json")).unwrap()).unwrap();
    for (i, case) in fields["cases"].as_array().unwrap().iter().enumerate() {
        let stored = |part: &str| {
            let stored = &tensors[&format!("{i}.{part}")];
            Tensor::from_f32(stored.values.clone(), &stored.shape)
        };
        let size = |field: &str| case[field].as_u64().unwrap() as usize;
        let ours = split(&stored("weight"), size("r"), &NF4, size("iterations")).unwrap();
        let decoded = dequantize(&ours.base, DType::F32).unwrap();
        if size("iterations") == 1 {
            assert!(bits(&decoded) == bits(&stored("base")), "case {i}: the quantized part");
        }
        // Later iterations quantize what a decomposition left, roundings included: scales differ in their last bits, codes do not.
        for (a, b) in values(&decoded).iter().zip(values(&stored("base"))) {
            assert!((a - b).abs() <= 1e-4 * b.abs(), "case {i}: the quantized part: {a} and {b}");
        }
        // Singular vectors may be turned around; their product may not.
        let theirs = product(&Split { a: stored("a"), b: stored("b"), base: ours.base.clone() });
        let largest = theirs.iter().fold(0.0f64, |m, x| m.max(x.abs()));
        for (a, b) in product(&ours).iter().zip(&theirs) {
            assert!((a - b).abs() <= 1e-4 * largest, "case {i}: {a} and {b} (largest {largest})");
        }
    }
}

#[test]
fn more_rank_and_more_iterations_leave_less() {
    let mut random = Random::new(3);
    for shape in [[24, 80], [80, 24], [64, 64]] {
        let weight = random.tensor(&shape, DType::F32, 1.0);
        let plain = values(&dequantize(&quantize(&weight, &NF4).unwrap(), DType::F32).unwrap());
        let of_quantization: f64 =
            values(&weight).iter().zip(plain).map(|(w, q)| (w - q).powi(2)).sum::<f64>().sqrt();
        let mut last = of_quantization;
        for r in [1, 4, 16] {
            let once = error(&weight, &split(&weight, r, &NF4, 1).unwrap());
            assert!(once < last, "{shape:?}, rank {r}: {once} after {last}");
            last = once;
            let often = error(&weight, &split(&weight, r, &NF4, 4).unwrap());
            assert!(
                often < 1.02 * once,
                "{shape:?}, rank {r}: {often} after four iterations, {once} after one"
            );
        }
        // With full rank nothing is left but roundings.
        let full = error(&weight, &split(&weight, shape[0].min(shape[1]), &NF4, 1).unwrap());
        assert!(full < 1e-5 * of_quantization, "{shape:?}: {full} of {of_quantization}");
    }
    let weight = random.tensor(&[8, 64], DType::F32, 1.0);
    for (r, iterations, key) in [(9, 1, "lora.r"), (4, 0, "lora.loftq")] {
        let error = split(&weight, r, &NF4, iterations).err().unwrap();
        assert!(matches!(&error, Error::Config { .. }) && error.to_string().contains(key), "{error}");
    }
    let nan = Tensor::from_f32(vec![f32::NAN; 64], &[1, 64]);
    assert!(matches!(split(&nan, 1, &NF4, 1), Err(Error::NonFinite { .. })));
}

fn logits(model: &Decoder, sequence: &[u32]) -> Vec<f64> {
    let batch = TokenBatch::packed(&[sequence]).unwrap();
    values(&model.logits(model.hidden(&Tape::inference(), &batch).unwrap().value()).unwrap())
}

/// The adapters bring the logits nearer to those of the unquantized model, whatever their scale, on every architecture's layouts.
#[test]
fn a_model_starts_nearer_to_the_unquantized_one() {
    for name in ["llama", "qwen3", "gpt2"] {
        let golden = Golden::open(name);
        let checkpoint = Checkpoint::open(golden.folder()).unwrap();
        let config = checkpoint.config().unwrap();
        let how = Quantization::new(QuantKind::Nf4);
        let exact = golden.model();
        let distance = |model: &Decoder| -> f64 {
            let of = |sequence: &Vec<u32>| -> f64 {
                let (a, b) = (logits(model, sequence), logits(&exact, sequence));
                a.iter().zip(&b).map(|(a, b)| (a - b).powi(2)).sum()
            };
            golden.sequences().iter().map(of).sum::<f64>().sqrt()
        };
        let mut model = Decoder::load_quantized(&checkpoint, &config, DType::F32, &how).unwrap();
        let before = distance(&model);
        for (alpha, rslora, iterations) in [(8.0, false, 1), (2.0, true, 3)] {
            let mut lora_config = LoraConfig::new(8, alpha, Targets::AllLinear);
            lora_config.use_rslora = rslora;
            lora::attach(&mut model, &lora_config, 0).unwrap();
            loftq::init(&model, &checkpoint, &how, iterations).unwrap();
            let after = distance(&model);
            assert!(after < 0.8 * before, "{name}: {before} -> {after} after {iterations} iterations");
        }
        // What LoftQ changed is saved and comes back.
        let folder = tempfile::tempdir().unwrap();
        model.save_base(folder.path()).unwrap();
        let saved = Checkpoint::open(folder.path()).unwrap();
        let mut back = Decoder::load(&saved, &saved.config().unwrap(), DType::F32).unwrap();
        lora::unload(&mut model);
        let sequence = &golden.sequences()[0];
        assert_eq!(logits(&back, sequence), logits(&model, sequence), "{name}");

        lora::attach(&mut back, &LoraConfig::new(8, 8.0, Targets::AllLinear), 0).unwrap();
        let error = loftq::init(&back, &saved, &how, 1).unwrap_err().to_string();
        assert!(error.contains("4 bits"), "{error}");
        let mut dense = golden.model();
        lora::attach(&mut dense, &LoraConfig::new(8, 8.0, Targets::AllLinear), 0).unwrap();
        let error = loftq::init(&dense, &checkpoint, &how, 1).unwrap_err().to_string();
        assert!(error.contains("not quantized"), "{error}");
    }
}
