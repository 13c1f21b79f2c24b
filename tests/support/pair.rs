//! Pairs of models, one fine-tuned from the other, and plain loops for their 1-bit delta.

use std::path::{Path, PathBuf};

use warptune::formats::bitdelta::Delta;
use warptune::formats::safetensors::{SafetensorsFile, write_tensors};
use warptune::formats::{Checkpoint, RawTensor};
use warptune::models::tensor_slots;
use warptune::peft::bitdelta::{CompressOptions, compress};

use super::random::Random;

/// A base and a model that differs from it in every tensor but those whose name contains "norm".
pub struct Pair {
    folder: tempfile::TempDir,
    base: PathBuf,
}

impl Pair {
    /// The base in `base`, a Hugging Face folder with f32 weights in model.safetensors, and a copy of it with noise; the first number of each tensor
    /// stays as it is.
    pub fn of(base: &Path) -> Pair {
        let pair = Pair { folder: tempfile::tempdir().unwrap(), base: base.to_path_buf() };
        std::fs::create_dir(pair.fine()).unwrap();
        for entry in std::fs::read_dir(base).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() && path.file_name().unwrap() != "model.safetensors" {
                std::fs::copy(&path, pair.fine().join(path.file_name().unwrap())).unwrap();
            }
        }
        let file = SafetensorsFile::open(&base.join("model.safetensors")).unwrap();
        let mut random = Random::new(11);
        let mut tensors = Vec::new();
        for name in file.names() {
            let raw = file.get(name).unwrap();
            let mut values = raw.to_f32().unwrap();
            if !name.contains("norm") {
                values.iter_mut().skip(1).for_each(|x| *x += 0.02 * random.normal() as f32);
            }
            let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
            tensors.push(RawTensor::new(name, raw.dtype(), raw.shape().to_vec(), bytes).unwrap());
        }
        write_tensors(&pair.fine().join("model.safetensors"), &tensors, &[]).unwrap();
        pair
    }

    /// The base's folder.
    pub fn base(&self) -> &Path {
        &self.base
    }

    /// The fine-tuned model's folder.
    pub fn fine(&self) -> PathBuf {
        self.path("fine")
    }

    /// A path in the pair's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Their delta, in the folder `name`.
    pub fn delta(&self, name: &str, per_row: bool) -> Delta {
        compressed(&self.base, &self.fine(), &self.path(name), per_row)
    }
}

/// The delta of two folders.
pub fn compressed(base: &Path, fine: &Path, out: &Path, per_row: bool) -> Delta {
    let [base, fine] = [base, fine].map(|folder| Checkpoint::open(folder).unwrap());
    let how =
        CompressOptions { per_row, base: Some("the-base".into()), fine_tuned: Some("the-tuned".into()) };
    let mut last = (0, 0);
    compress(&base, &fine, &how, out, &mut |done, all| last = (done, all)).unwrap();
    assert!(last.0 == last.1 && last.0 > 0, "{last:?}");
    Delta::open(out).unwrap()
}

/// A linear layer by plain loops: its name, `[out, in]`, and W_base and W_fine in that order.
pub struct Matrix {
    pub module: String,
    pub shape: [usize; 2],
    pub base: Vec<f32>,
    pub fine: Vec<f32>,
}

impl Matrix {
    /// Whether the difference counts as +.
    pub fn positive(&self, row: usize, column: usize) -> bool {
        let i = row * self.shape[1] + column;
        self.fine[i] - self.base[i] >= 0.0
    }

    /// The mean of the magnitudes of the differences of some rows.
    pub fn mean(&self, rows: std::ops::Range<usize>) -> f64 {
        let range = rows.start * self.shape[1]..rows.end * self.shape[1];
        let sizes = range.clone().map(|i| f64::from((self.fine[i] - self.base[i]).abs()));
        sizes.sum::<f64>() / range.len() as f64
    }
}

/// Every linear layer of two folders, read without the code under test but for names and shapes.
pub fn matrices(base: &Path, fine: &Path) -> Vec<Matrix> {
    let config = Checkpoint::open(fine).unwrap().config().unwrap();
    let [base, fine] =
        [base, fine].map(|folder| super::golden::read_tensors(&folder.join("model.safetensors")));
    let slots = tensor_slots(&config).unwrap();
    let linear = slots.iter().filter(|slot| slot.linear);
    let in_order = |values: &[f32], [out, input]: [usize; 2], transposed: bool| -> Vec<f32> {
        let at = |r: usize, c: usize| if transposed { c * out + r } else { r * input + c };
        (0..out).flat_map(|r| (0..input).map(move |c| (r, c))).map(|(r, c)| values[at(r, c)]).collect()
    };
    linear
        .map(|slot| {
            let (module, shape) = slot.linear().unwrap();
            // A base model's file leaves out the prefix.
            let stored = |tensors: &std::collections::BTreeMap<String, super::golden::Stored>| {
                let short = slot.name.strip_prefix("transformer.").unwrap_or(&slot.name);
                let tensor = tensors.get(&slot.name).or_else(|| tensors.get(short)).unwrap();
                in_order(&tensor.values, shape, slot.transposed)
            };
            Matrix { module: module.to_string(), shape, base: stored(&base), fine: stored(&fine) }
        })
        .collect()
}
