//! 1-bit deltas: the bits by plain loops and by the published layout, round trips, and what is refused.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde_json::{Map, Value, json};
use warptune::formats::bitdelta::{CONFIG_FILE, Delta, ReferenceFile, WEIGHTS_FILE, write_reference};
use warptune::formats::safetensors::{SafetensorsFile, write_tensors};
use warptune::formats::{Checkpoint, RawDType, RawTensor, read_json};
use warptune::peft::bitdelta::{CompressOptions, apply, errors, from_reference, sizes};
use warptune::tensor::DType;

use super::golden;
use crate::support::pair::{Matrix, Pair, compressed, matrices};

/// Models whose rows are no whole words, whose weights are stored transposed, or have biases.
const MODELS: [&str; 4] = ["llama", "gpt2", "qwen2", "smollm2"];

fn pair(name: &str) -> Pair {
    Pair::of(&golden(&format!("models/{name}")))
}

fn golden_delta(out: &Path) -> Delta {
    compressed(&golden("bitdelta/base"), &golden("bitdelta/fine_tuned"), out, false)
}

fn bit(signs: &RawTensor<'_>, row: usize, column: usize) -> bool {
    signs.bytes()[row * signs.shape()[1] + column / 8] >> (column % 8) & 1 == 1
}

#[track_caller]
fn check_bits(delta: &Delta, matrix: &Matrix) {
    let signs = delta.signs(&matrix.module).unwrap();
    let [out, input] = matrix.shape;
    assert_eq!((signs.dtype(), signs.shape()), (RawDType::U8, &[out, input.div_ceil(32) * 4][..]));
    for row in 0..out {
        for column in 0..signs.shape()[1] * 8 {
            let wanted = column < input && matrix.positive(row, column);
            assert_eq!(bit(&signs, row, column), wanted, "{} ({row}, {column})", matrix.module);
        }
    }
}

#[test]
fn signs_and_scales_by_plain_loops() {
    for name in MODELS {
        let pair = pair(name);
        let all = matrices(pair.base(), &pair.fine());
        for per_row in [false, true] {
            let delta = pair.delta(if per_row { "rows" } else { "whole" }, per_row);
            let names: Vec<&str> = delta.config().modules.iter().map(|m| m.name.as_str()).collect();
            assert_eq!(names, all.iter().map(|m| m.module.as_str()).collect::<Vec<_>>(), "{name}");
            for matrix in &all {
                check_bits(&delta, matrix);
                let scale = delta.scale(&matrix.module).unwrap();
                let wanted: Vec<f32> = match per_row {
                    true => (0..matrix.shape[0]).map(|r| matrix.mean(r..r + 1) as f32).collect(),
                    false => vec![matrix.mean(0..matrix.shape[0]) as f32],
                };
                assert_eq!(scale.len(), wanted.len());
                for (a, b) in scale.iter().zip(&wanted) {
                    // Another order of a sum in f64: the last bit of an f32 at most.
                    assert!((a - b).abs() <= f32::EPSILON * b, "{name} {}: {a} for {b}", matrix.module);
                }
            }
            // Of the others, those that differ.
            let full: Vec<&str> = delta.full().collect();
            let fine = Checkpoint::open(&pair.fine()).unwrap();
            let others = fine.names().filter(|n| !names.iter().any(|m| *n == format!("{m}.weight")));
            let wanted: Vec<&str> = others.filter(|n| !n.contains("norm")).collect();
            assert_eq!(full, wanted, "{name}");
            for tensor in full {
                let (ours, theirs) = (delta.full_tensor(tensor).unwrap(), fine.get(tensor).unwrap());
                assert!(ours.bytes() == theirs.bytes() && ours.dtype() == theirs.dtype(), "{name} {tensor}");
            }
        }
    }
}

#[test]
fn the_published_layout_both_ways() {
    let folder = tempfile::tempdir().unwrap();
    let delta = golden_delta(&folder.path().join("ours"));
    let theirs = golden("bitdelta/diff.safetensors");
    let written = folder.path().join("written.safetensors");
    write_reference(&written, &delta).unwrap();
    let read = |path: &Path| {
        let file = SafetensorsFile::open(path).unwrap();
        let of = |name: &str| {
            let raw = file.get(name).unwrap();
            (name.to_string(), raw.dtype(), raw.shape().to_vec(), raw.bytes().to_vec())
        };
        file.names().map(of).collect::<Vec<_>>()
    };
    let (ours, wanted) = (read(&written), read(&theirs));
    assert_eq!(
        ours.iter().map(|t| &t.0).collect::<Vec<_>>(),
        wanted.iter().map(|t| &t.0).collect::<Vec<_>>()
    );
    for (a, b) in ours.iter().zip(&wanted) {
        assert!(a == b, "{} differs", a.0);
    }

    // And back: the file does not say what it was made from.
    let base = Checkpoint::open(&golden("bitdelta/base")).unwrap();
    let config = Checkpoint::open(&golden("bitdelta/fine_tuned")).unwrap().config().unwrap();
    for (name, config) in [("known", Some(&config)), ("unknown", None)] {
        let back = folder.path().join(name);
        let file = ReferenceFile::open(&theirs).unwrap();
        from_reference(&file, &base, config, &CompressOptions::default(), &back).unwrap();
        assert_eq!(
            std::fs::read(back.join(WEIGHTS_FILE)).unwrap(),
            std::fs::read(folder.path().join("ours").join(WEIGHTS_FILE)).unwrap()
        );
        let back = Delta::open(&back).unwrap();
        assert_eq!(back.config().modules, delta.config().modules);
        assert_eq!(back.model_config().vocab_size, 97);
        back.check_base(&base).unwrap();
    }
}

#[test]
fn what_the_published_layout_cannot_say() {
    let pair = pair("qwen2");
    let out = pair.path("x.safetensors");
    let error = write_reference(&out, &pair.delta("delta", false)).unwrap_err().to_string();
    assert!(error.contains("model.layers.0.self_attn.q_proj") && error.contains("multiple of 32"), "{error}");
    let error = write_reference(&out, &pair.delta("rows", true)).unwrap_err().to_string();
    assert!(error.contains("each row") && error.contains("--per-row"), "{error}");
    assert!(!out.exists());
    // Files of the layout that are none.
    let file = |tensors: &[RawTensor<'_>]| {
        write_tensors(&out, tensors, &[]).unwrap();
        ReferenceFile::open(&out)
    };
    let mask = |shape: Vec<usize>| {
        let bytes = vec![0u8; shape.iter().product::<usize>() * 4];
        RawTensor::new("model.layers.0.self_attn.q_proj.mask", RawDType::I32, shape, bytes).unwrap()
    };
    let coeff = |name: &str, x: f32| {
        RawTensor::new(format!("{name}.coeff"), RawDType::F32, vec![], x.to_le_bytes().to_vec()).unwrap()
    };
    let q = "model.layers.0.self_attn.q_proj";
    let error = file(&[mask(vec![1, 32])]).unwrap_err().to_string();
    assert!(error.contains("q_proj.coeff") && error.contains("missing"), "{error}");
    assert!(file(&[coeff("x", 1.0)]).unwrap_err().to_string().contains("x.mask"));
    assert!(file(&[]).unwrap_err().to_string().contains("holds no"));
    let floats = RawTensor::new("a.mask", RawDType::F32, vec![1, 1], vec![0; 4]).unwrap();
    assert!(file(&[floats]).unwrap_err().to_string().contains("I32"));
    let error = ReferenceFile::open(Path::new("diff.pt")).unwrap_err().to_string();
    assert!(error.contains("pickle") && error.contains("save_file"), "{error}");
    let base = Checkpoint::open(&golden("bitdelta/base")).unwrap();
    let convert = |tensors: &[RawTensor<'_>]| {
        let file = file(tensors).unwrap();
        from_reference(&file, &base, None, &CompressOptions::default(), &pair.path("never"))
            .unwrap_err()
            .to_string()
    };
    let error = convert(&[mask(vec![2, 32]), coeff(q, 1.0)]);
    assert!(error.contains("q_proj.mask") && error.contains("[2, 32]"), "{error}");
    let error = convert(&[mask(vec![1, 32]), coeff(q, f32::NAN)]);
    assert!(error.contains("q_proj.coeff"), "{error}");
    let other = |name: &str| RawTensor::new(name, RawDType::F32, vec![1], vec![0; 4]).unwrap();
    let error = convert(&[mask(vec![1, 32]), coeff(q, 1.0), other("model.nothing.weight")]);
    assert!(error.contains("model.nothing.weight"), "{error}");
    assert!(!pair.path("never").exists());
}

/// W + a sign in f32, to the bit; the rest of the delta or of the base.
#[test]
fn applying_adds_exactly() {
    for name in MODELS {
        let pair = pair(name);
        let all = matrices(pair.base(), &pair.fine());
        for per_row in [false, true] {
            let out = pair.path(if per_row { "rows-model" } else { "model" });
            let delta = pair.delta(if per_row { "rows" } else { "delta" }, per_row);
            apply(Checkpoint::open(pair.base()).unwrap(), &delta, None, &out).unwrap();
            for (ours, matrix) in matrices(&out, &out).iter().zip(&all) {
                let scale = delta.scale(&matrix.module).unwrap();
                for (i, (got, base)) in ours.base.iter().zip(&matrix.base).enumerate() {
                    let (row, column) = (i / matrix.shape[1], i % matrix.shape[1]);
                    let a = scale[if per_row { row } else { 0 }];
                    let wanted = base + if matrix.positive(row, column) { a } else { -a };
                    assert_eq!(got.to_bits(), wanted.to_bits(), "{name} {} ({row}, {column})", matrix.module);
                }
            }
            let [ours, fine] = [&out, &pair.fine()].map(|folder| Checkpoint::open(folder).unwrap());
            let others = fine.names().filter(|n| !all.iter().any(|m| *n == format!("{}.weight", m.module)));
            for other in others {
                assert!(
                    ours.get(other).unwrap().bytes() == fine.get(other).unwrap().bytes(),
                    "{name} {other}"
                );
            }
            assert_eq!(ours.names().count(), fine.names().count());
        }
    }
}

#[test]
fn applying_in_other_types() {
    let pair = pair("llama");
    let delta = pair.delta("delta", false);
    for (dtype, stored, torch) in
        [(DType::BF16, RawDType::BF16, "bfloat16"), (DType::F16, RawDType::F16, "float16")]
    {
        let out = pair.path(torch);
        apply(Checkpoint::open(pair.base()).unwrap(), &delta, Some(dtype), &out).unwrap();
        let model = Checkpoint::open(&out).unwrap();
        assert!(model.names().all(|name| model.get(name).unwrap().dtype() == stored));
        assert_eq!(read_json(&out.join("config.json")).unwrap()["dtype"], json!(torch));
    }
}

#[test]
fn sizes_and_errors() {
    let pair = pair("llama");
    let delta = pair.delta("delta", false);
    let all = matrices(pair.base(), &pair.fine());
    let found = sizes(&delta).unwrap();
    let packed: usize = all.iter().map(|m| m.shape[0] * m.shape[1].div_ceil(32) * 4 + 4).sum();
    assert_eq!(found.projections, packed as u64);
    assert_eq!(found.projections_bf16, all.iter().map(|m| 2 * m.base.len() as u64).sum::<u64>());
    let file = std::fs::metadata(pair.path("delta").join(WEIGHTS_FILE)).unwrap().len();
    assert!(found.total <= file && file < found.total + 8192, "{found:?} in a file of {file} bytes");
    assert_eq!(found.total, found.projections + found.full);
    let open = |folder: &Path| Checkpoint::open(folder).unwrap();
    let of = errors(&delta, &open(pair.base()), &open(&pair.fine())).unwrap();
    assert_eq!(of.len(), all.len());
    for (error, matrix) in of.iter().zip(&all) {
        let a = f64::from(delta.scale(&matrix.module).unwrap()[0]);
        let d = |i: usize| f64::from(matrix.fine[i]) - f64::from(matrix.base[i]);
        let n = 0..matrix.base.len();
        // |d - a sign(d)|^2 = (|d| - a)^2; normal noise: sqrt(1 - 2 / pi).
        let squares: f64 = n.clone().map(|i| (d(i).abs() - a).powi(2)).sum();
        let wanted = (squares / n.map(|i| d(i) * d(i)).sum::<f64>()).sqrt();
        assert!((error.of_delta - wanted).abs() < 1e-4, "{error:?}, {wanted}");
        assert!((error.of_delta - (1.0 - 2.0 / std::f64::consts::PI).sqrt()).abs() < 0.1, "{error:?}");
        assert!(error.of_weight < error.of_delta && error.of_weight > 0.0);
    }
}

/// Another type and other bytes for a tensor, or nothing.
type Change<'a> = &'a dyn Fn(&str, &RawTensor<'_>) -> Option<(RawDType, Vec<u8>)>;

#[test]
fn another_base_is_refused() {
    let pair = pair("llama");
    let delta = pair.delta("delta", false);
    let refused = |folder: &Path| {
        let base = Checkpoint::open(folder).unwrap();
        apply(base, &delta, None, &pair.path("never")).unwrap_err().to_string()
    };
    let error = refused(&pair.fine());
    assert!(
        error.contains("model.layers.0.self_attn.q_proj.weight") && error.contains("other values"),
        "{error}"
    );
    assert!(error.contains("the-base") && error.contains("compress again"), "{error}");
    // One bit of one matrix.
    let other = pair.path("other");
    std::fs::create_dir(&other).unwrap();
    std::fs::copy(pair.base().join("config.json"), other.join("config.json")).unwrap();
    let file = SafetensorsFile::open(&pair.base().join("model.safetensors")).unwrap();
    let rewrite = |change: Change<'_>| {
        let one = |name: &str| {
            let raw = file.get(name).unwrap();
            let (dtype, bytes) = change(name, &raw).unwrap_or_else(|| (raw.dtype(), raw.bytes().to_vec()));
            RawTensor::new(name, dtype, raw.shape().to_vec(), bytes).unwrap()
        };
        write_tensors(&other.join("model.safetensors"), &file.names().map(one).collect::<Vec<_>>(), &[])
            .unwrap();
    };
    rewrite(&|name, raw| {
        let mut bytes = raw.bytes().to_vec();
        bytes[5] ^= 1;
        (name == "model.layers.1.mlp.down_proj.weight").then_some((raw.dtype(), bytes))
    });
    assert!(refused(&other).contains("model.layers.1.mlp.down_proj.weight"));
    // The same values in another type.
    rewrite(&|name, raw| {
        let bytes =
            raw.to_f32().unwrap().iter().flat_map(|x| half::bf16::from_f32(*x).to_le_bytes()).collect();
        (name == "model.layers.0.mlp.up_proj.weight").then_some((RawDType::BF16, bytes))
    });
    let error = refused(&other);
    assert!(error.contains("mlp.up_proj.weight") && error.contains("is BF16, and was F32"), "{error}");
    // What is not compressed may differ: the delta has it, or not.
    rewrite(&|name, raw| (name == "model.norm.weight").then(|| (raw.dtype(), vec![0; raw.bytes().len()])));
    delta.check_base(&Checkpoint::open(&other).unwrap()).unwrap();
    let error = refused(&golden("models/gpt2"));
    assert!(error.contains("is missing"), "{error}");
    assert!(!pair.path("never").exists());
}

#[test]
fn models_that_are_no_pair_are_refused() {
    let open = |name: &str| Checkpoint::open(&golden(name)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let refused = |base: &str, fine: &str| {
        let (base, fine, out) = (open(base), open(fine), folder.path().join("x"));
        let error = warptune::peft::bitdelta::compress(
            &base,
            &fine,
            &CompressOptions::default(),
            &out,
            &mut |_, _| {},
        );
        assert!(!out.join(CONFIG_FILE).exists());
        error.unwrap_err().to_string()
    };
    assert!(
        refused("models/gpt2", "models/llama")
            .contains("has no tensor 'model.layers.0.self_attn.q_proj.weight'")
    );
    let error = refused("models/qwen2", "models/llama");
    assert!(error.contains("not its base") && error.contains("q_proj"), "{error}");
    assert!(refused("quantized/llama_nf4", "models/llama").contains("4 bits"));
    assert!(refused("models/llama", "quantized/llama_nf4").contains("4 bits"));
}

/// Copies a delta folder with changed tensors and settings, and says what opening it says.
struct Broken {
    delta: tempfile::TempDir,
}

impl Broken {
    fn new() -> Broken {
        let delta = tempfile::tempdir().unwrap();
        golden_delta(delta.path());
        Broken { delta }
    }

    fn tensors(&self, change: impl Fn(RawTensor<'static>) -> Vec<RawTensor<'static>>) -> String {
        let file = SafetensorsFile::open(&self.delta.path().join(WEIGHTS_FILE)).unwrap();
        let owned = |name: &str| {
            let raw = file.get(name).unwrap();
            let bytes: Cow<'static, [u8]> = Cow::Owned(raw.bytes().to_vec());
            RawTensor::new(name, raw.dtype(), raw.shape().to_vec(), bytes).unwrap()
        };
        let tensors: Vec<RawTensor<'_>> = file.names().flat_map(|name| change(owned(name))).collect();
        let other = self.copy();
        write_tensors(&other.path().join(WEIGHTS_FILE), &tensors, &[]).unwrap();
        error_of(other.path())
    }

    fn settings(&self, change: impl Fn(&mut Map<String, Value>)) -> String {
        let other = self.copy();
        let path = other.path().join(CONFIG_FILE);
        let mut map = read_json(&path).unwrap();
        change(&mut map);
        std::fs::write(&path, serde_json::to_string(&map).unwrap()).unwrap();
        error_of(other.path())
    }

    fn copy(&self) -> tempfile::TempDir {
        let other = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(self.delta.path()).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            std::fs::copy(&path, other.path().join(path.file_name().unwrap())).unwrap();
        }
        other
    }
}

fn error_of(folder: &Path) -> String {
    Delta::open(folder).err().map_or(String::new(), |e| e.to_string())
}

const Q: &str = "model.layers.0.self_attn.q_proj";

#[test]
fn broken_tensors_are_named() {
    let broken = Broken::new();
    assert_eq!(broken.tensors(|raw| vec![raw]), "");
    let signs = format!("{Q}.signs");
    let scale = format!("{Q}.scale");
    let replace = |name: &str, dtype: RawDType, shape: &[usize], bytes: Vec<u8>| {
        let new = RawTensor::new(name, dtype, shape.to_vec(), bytes).unwrap();
        broken.tensors(|raw| vec![if raw.name() == name { new.clone() } else { raw }])
    };
    for name in [&signs, &scale] {
        let error = broken.tensors(|raw| if raw.name() == name.as_str() { vec![] } else { vec![raw] });
        assert!(error.contains(name.as_str()) && error.contains("is missing"), "{error}");
    }
    let error = replace(&signs, RawDType::U8, &[32, 8], vec![0; 256]);
    assert!(error.contains(&signs) && error.contains("[32, 4]"), "{error}");
    assert!(replace(&signs, RawDType::I8, &[32, 4], vec![0; 128]).contains("U8"));
    assert!(replace(&scale, RawDType::F32, &[32], vec![0; 128]).contains("[1]"));
    let error = replace(&scale, RawDType::F32, &[1], f32::INFINITY.to_le_bytes().to_vec());
    assert!(error.contains(&scale) && error.contains("finite"), "{error}");
    let stray = RawTensor::new("x.signs", RawDType::U8, vec![1], vec![0]).unwrap();
    let error =
        broken.tensors(|raw| if raw.name() == scale.as_str() { vec![raw, stray.clone()] } else { vec![raw] });
    assert!(error.contains("x.signs") && error.contains("no module"), "{error}");
}

/// 42 columns: the last 22 bits of a row are nothing.
#[test]
fn bits_past_the_last_column_are_refused() {
    let pair = pair("qwen2");
    pair.delta("delta", false);
    let path = pair.path("delta").join(WEIGHTS_FILE);
    let file = SafetensorsFile::open(&path).unwrap();
    let one = |name: &str| {
        let raw = file.get(name).unwrap();
        let mut bytes = raw.bytes().to_vec();
        if name == format!("{Q}.signs") {
            bytes[8 * 3 + 5] |= 1 << 2;
        }
        RawTensor::new(name, raw.dtype(), raw.shape().to_vec(), bytes).unwrap()
    };
    let tensors: Vec<RawTensor<'_>> = file.names().map(one).collect();
    write_tensors(&path, &tensors, &[]).unwrap();
    let error = error_of(&pair.path("delta"));
    assert!(error.contains(&format!("{Q}.signs")) && error.contains("row 3"), "{error}");
}

#[test]
fn broken_settings_are_named() {
    let broken = Broken::new();
    assert_eq!(broken.settings(|_| ()), "");
    let set = |key: &'static str, value: Value| {
        broken.settings(move |map| drop(map.insert(key.to_string(), value.clone())))
    };
    let module =
        |key: &'static str, value: Value| broken.settings(move |map| map["modules"][Q][key] = value.clone());
    assert!(set("format", json!("other")).contains("warptune-bitdelta"));
    assert!(set("format_version", json!(2)).contains("version 2"));
    assert!(set("format_version", json!("1")).contains("format_version"));
    assert!(set("per_row", Value::Null).contains("per_row"));
    assert!(set("modules", json!({})).contains("no projection"));
    assert!(set("modules", json!([])).contains("modules"));
    assert!(set("base_sha256", json!("00")).contains("base_sha256"));
    assert!(set("recipe", json!(1)).contains("recipe"));
    assert!(module("base_sha256", json!("00")).contains("base_sha256"));
    for shape in [json!([0, 32]), json!([32]), json!([-1, 32]), json!([u64::MAX, u64::MAX]), json!("32 x 32")]
    {
        let error = module("shape", shape);
        assert!(error.contains(&format!("modules.{Q}")) && error.contains("shape"), "{error}");
    }
    // Absurd, but a number: nothing of that size is there, and nothing is allocated.
    let error = module("shape", json!([1u64 << 40, 32]));
    assert!(error.contains("base_sha256"), "{error}");
}

#[test]
fn broken_files_are_refused() {
    let broken = Broken::new();
    let weights = std::fs::read(broken.delta.path().join(WEIGHTS_FILE)).unwrap();
    let with = |bytes: &[u8]| {
        let other = broken.copy();
        std::fs::write(other.path().join(WEIGHTS_FILE), bytes).unwrap();
        error_of(other.path())
    };
    for keep in [0, 7, 100, weights.len() / 2, weights.len() - 1] {
        let error = with(&weights[..keep]);
        assert!(error.contains(WEIGHTS_FILE), "{keep}: {error}");
    }
    let huge = [&u64::MAX.to_le_bytes(), &weights[8..]].concat();
    assert!(with(&huge).contains("claims a header"));
    for file in [WEIGHTS_FILE, CONFIG_FILE] {
        let other = broken.copy();
        std::fs::remove_file(other.path().join(file)).unwrap();
        let error = error_of(other.path());
        assert!(error.contains("bitdelta compress") && error.contains(CONFIG_FILE), "{error}");
    }
    assert!(error_of(Path::new("nowhere")).contains("nowhere"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn flipped_bits_never_panic(flips in prop::collection::vec((any::<prop::sample::Index>(), 0u8..8), 1..6), settings: bool) {
        let broken = Broken::new();
        let other = broken.copy();
        let path = other.path().join(if settings { CONFIG_FILE } else { WEIGHTS_FILE });
        let mut bytes = std::fs::read(&path).unwrap();
        // Of the tensors, the header.
        let within = if settings { bytes.len() } else { 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize };
        for (at, bit) in flips {
            bytes[at.index(within)] ^= 1 << bit;
        }
        std::fs::write(&path, bytes).unwrap();
        if let Ok(delta) = Delta::open(other.path()) {
            let _ = sizes(&delta);
            let base = Checkpoint::open(&golden("bitdelta/base")).unwrap();
            let _ = apply(base, &delta, None, &other.path().join("model"));
        }
    }
}
