//! Golden files: what PyTorch, transformers and PEFT computed (tests/golden/README.md).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;
use warptune::device::Device;
use warptune::formats::Checkpoint;
use warptune::models::Decoder;
use warptune::nn::TokenBatch;
use warptune::ops::linear_cross_entropy::IGNORE_LABEL;
use warptune::tensor::{DType, Tensor};

/// Every architecture that there are golden files of.
pub const MODELS: [&str; 7] = ["llama", "llama3", "smollm2", "mistral", "qwen2", "qwen3", "gpt2"];

/// Every model in 4-bit blocks that there are golden files of.
pub const QUANTIZED: [&str; 3] = ["llama_nf4", "qwen3_fp4", "gpt2_nf4"];

/// Factor on PyTorch's own f32 error: twice that error from the f64 truth, and PyTorch's once more from PyTorch.
const ALLOWED: f64 = 3.0;

/// One model's golden files: those of the model itself, or those of the model with an adapter.
pub struct Golden {
    folder: PathBuf,
    /// Sequences and labels.
    inputs: Value,
    /// Losses and errors.
    results: Value,
    tensors: BTreeMap<String, Stored>,
}

/// A stored tensor.
pub struct Stored {
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

impl Golden {
    /// Reads golden.json and golden.safetensors of a model.
    pub fn open(name: &str) -> Golden {
        Golden::open_results(name, "golden")
    }

    /// As [`Golden::open`], with the results of the model with its adapter (lora.json, lora.safetensors).
    pub fn open_lora(name: &str) -> Golden {
        Golden::open_results(name, "lora")
    }

    /// The results (`golden` or `lora`) of a model in 4-bit blocks.
    pub fn open_quantized(name: &str, results: &str) -> Golden {
        Golden::open_in("quantized", name, results)
    }

    /// The golden files of 1-bit deltas; its folder holds two models, `base` and `fine_tuned`.
    pub fn open_bitdelta() -> Golden {
        Golden::open_in("", "bitdelta", "golden")
    }

    /// golden.json.
    pub fn json(&self) -> &Value {
        &self.inputs
    }

    fn open_results(name: &str, results: &str) -> Golden {
        Golden::open_in("models", name, results)
    }

    fn open_in(family: &str, name: &str, results: &str) -> Golden {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(family).join(name);
        let json = |file: &str| serde_json::from_slice(&std::fs::read(folder.join(file)).unwrap()).unwrap();
        let tensors = read_tensors(&folder.join(format!("{results}.safetensors")));
        Golden { inputs: json("golden.json"), results: json(&format!("{results}.json")), tensors, folder }
    }

    /// The folder with the model.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The folder with the adapter.
    pub fn adapter(&self) -> PathBuf {
        self.folder.join("adapter")
    }

    /// The greedy continuation of each sequence.
    pub fn greedy(&self) -> Vec<Vec<u32>> {
        ids(&self.inputs["greedy"])
    }

    /// The model, in f32.
    pub fn model(&self) -> Decoder {
        self.model_as(DType::F32)
    }

    /// The model.
    pub fn model_as(&self, dtype: DType) -> Decoder {
        let checkpoint = Checkpoint::open(&self.folder).unwrap();
        Decoder::load(&checkpoint, &checkpoint.config().unwrap(), dtype).unwrap()
    }

    /// The model, in f32, on a device.
    pub fn model_at(&self, device: Device) -> Decoder {
        let model = self.model();
        model.to_device(device).unwrap();
        model
    }

    /// The token ids of each sequence.
    pub fn sequences(&self) -> Vec<Vec<u32>> {
        ids(&self.inputs["sequences"])
    }

    /// All sequences, packed.
    pub fn batch(&self) -> TokenBatch {
        TokenBatch::packed(&self.sequences()).unwrap()
    }

    /// Labels of the packed batch: for each position the token that should follow.
    pub fn labels(&self) -> Tensor {
        let shifted = lists(&self.inputs["labels"]).into_iter().flat_map(|labels| {
            let next: Vec<i64> = labels[1..].iter().copied().chain([-100]).collect();
            next.into_iter().map(|label| u32::try_from(label).unwrap_or(IGNORE_LABEL))
        });
        let labels: Vec<u32> = shifted.collect();
        let len = labels.len();
        Tensor::from_u32(labels, &[len])
    }

    /// The number of positions with a label.
    pub fn denominator(&self) -> f32 {
        self.inputs["loss_tokens"].as_f64().unwrap() as f32
    }

    /// A stored tensor.
    pub fn tensor(&self, name: &str) -> &Stored {
        self.tensors.get(name).unwrap_or_else(|| panic!("the golden file has no '{name}'"))
    }

    /// The names of the stored tensors that begin with `prefix`, without it.
    pub fn names(&self, prefix: &str) -> Vec<&str> {
        self.tensors.keys().filter_map(|name| name.strip_prefix(prefix)).collect()
    }

    /// Panics unless `ours` is within three times PyTorch's own f32 error of the stored tensor.
    #[track_caller]
    pub fn assert_close(&self, name: &str, ours: &[f32]) {
        let stored = self.tensor(name);
        let error =
            self.results["f32_error"][name].as_f64().unwrap_or_else(|| panic!("no f32_error of '{name}'"));
        assert_near(name, ours, &stored.values, ALLOWED * error);
    }

    /// As [`Golden::assert_close`] for a scalar of golden.json: against the f64 run, within three times the error of
    /// PyTorch's f32 run or eight roundings.
    #[track_caller]
    pub fn assert_scalar(&self, key: &str, ours: f64) {
        let (f32_run, f64_run) =
            (self.results[key].as_f64().unwrap(), self.results["f64"][key].as_f64().unwrap());
        let rounding = 8.0 * DType::F32.unit_roundoff() * f64_run.abs();
        let allowed = ALLOWED * (f32_run - f64_run).abs() + rounding;
        assert!((ours - f64_run).abs() <= allowed, "{key}: {ours}, expected {f64_run} +- {allowed:e}");
    }
}

/// Panics unless every element of `ours` is within `allowed` of `expected`; names the worst.
#[track_caller]
pub fn assert_near(what: &str, ours: &[f32], expected: &[f32], allowed: f64) {
    assert_eq!(ours.len(), expected.len(), "{what}: number of elements");
    let error = |i: usize| (f64::from(ours[i]) - f64::from(expected[i])).abs();
    let worst = (0..ours.len()).max_by(|&a, &b| error(a).total_cmp(&error(b)));
    if let Some(i) = worst {
        // A NaN is the worst of all in total_cmp, and fails here.
        assert!(
            error(i) <= allowed,
            "{what}: element {i} is {}, expected {}: {:e} apart, {allowed:e} allowed",
            ours[i],
            expected[i],
            error(i)
        );
    }
}

/// A safetensors file of f32 tensors, read by the reference implementation.
pub fn read_tensors(path: &Path) -> BTreeMap<String, Stored> {
    let bytes = std::fs::read(path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let tensors = file.iter().map(|(name, view)| {
        assert_eq!(view.dtype(), safetensors::Dtype::F32, "{name}");
        let (values, _) = view.data().as_chunks::<4>();
        let values = values.iter().map(|b| f32::from_le_bytes(*b)).collect();
        (name.to_string(), Stored { shape: view.shape().to_vec(), values })
    });
    tensors.collect()
}

fn ids(value: &Value) -> Vec<Vec<u32>> {
    lists(value).into_iter().map(|list| list.into_iter().map(|id| id as u32).collect()).collect()
}

fn lists(value: &Value) -> Vec<Vec<i64>> {
    let list = |v: &Value| v.as_array().unwrap().iter().map(|x| x.as_i64().unwrap()).collect();
    value.as_array().unwrap().iter().map(list).collect()
}
