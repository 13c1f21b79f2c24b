//! The layout of the method's published code, in safetensors: one file with `<module>.mask`, I32 `[in / 32, out]` (bit k of word w is the sign
//! of row 32 w + k, 1 for +), `<module>.coeff`, F32 scalar, and other tensors under their own names.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use super::delta::{Delta, sign_bytes};
use crate::error::{Error, Result};
use crate::formats::raw::{RawDType, RawTensor};
use crate::formats::safetensors::{SafetensorsFile, TensorSpec, write};

/// Rows whose signs share a word.
const WORD: usize = 32;

/// The name of a module's signs in the file.
pub fn mask_name(module: &str) -> String {
    format!("{module}.mask")
}

/// The name of a module's scale in the file.
pub fn coeff_name(module: &str) -> String {
    format!("{module}.coeff")
}

/// An open file in the reference layout.
#[derive(Debug)]
pub struct ReferenceFile {
    file: SafetensorsFile,
    modules: Vec<String>,
    full: Vec<String>,
}

impl ReferenceFile {
    /// Opens a file and checks its types and that masks and coefficients come in pairs.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a PyTorch pickle; those of [`SafetensorsFile::open`]; [`Error::Format`], naming the tensor.
    pub fn open(path: &Path) -> Result<ReferenceFile> {
        if path.extension().is_some_and(|e| e == "pt" || e == "pth" || e == "bin") {
            return Err(Error::unsupported(
                format!("{}: a PyTorch pickle", path.display()),
                "safetensors is; in Python: d = torch.load('diff.pt'); safetensors.torch.save_file({k: v.detach().contiguous() for k, v in \
                 d.items()}, 'diff.safetensors')",
            ));
        }
        let file = SafetensorsFile::open(path)?;
        let bad = |name: &str, detail: String| Err(Error::format_key(path, name, detail));
        let (mut masks, mut coeffs, mut full) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
        for name in file.names() {
            let (dtype, rank) = match name.rsplit_once('.') {
                Some((module, "mask")) => {
                    masks.insert(module.to_owned());
                    (RawDType::I32, 2)
                }
                Some((module, "coeff")) => {
                    coeffs.insert(module.to_owned());
                    (RawDType::F32, 0)
                }
                _ => {
                    full.push(name.to_owned());
                    continue;
                }
            };
            let raw = file.get(name)?;
            if raw.dtype() != dtype || (raw.shape().len() != rank && raw.elems() != 1) {
                return bad(
                    name,
                    format!("is {} {:?}; {dtype} with {rank} axes expected", raw.dtype(), raw.shape()),
                );
            }
        }
        if let Some(module) = masks.symmetric_difference(&coeffs).next() {
            let (there, gone) = match masks.contains(module) {
                true => (mask_name(module), coeff_name(module)),
                false => (coeff_name(module), mask_name(module)),
            };
            return bad(&gone, format!("is missing; '{there}' is there"));
        }
        if masks.is_empty() {
            return Err(Error::format(
                path,
                "holds no '<module>.mask': it is not a delta in the reference layout",
            ));
        }
        Ok(ReferenceFile { file, modules: masks.into_iter().collect(), full })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// The compressed modules, sorted.
    pub fn modules(&self) -> impl Iterator<Item = &str> {
        self.modules.iter().map(String::as_str)
    }

    /// The names of the other tensors, sorted.
    pub fn full(&self) -> impl Iterator<Item = &str> {
        self.full.iter().map(String::as_str)
    }

    /// One of the other tensors.
    ///
    /// # Errors
    /// [`Error::Format`] when there is none of this name.
    pub fn full_tensor(&self, name: &str) -> Result<RawTensor<'_>> {
        self.file.get(name)
    }

    /// The scale of a module.
    ///
    /// # Errors
    /// [`Error::Format`] when there is none, or it is not finite.
    pub fn coeff(&self, module: &str) -> Result<f32> {
        let name = coeff_name(module);
        match self.file.get(&name)?.to_f32()?[..] {
            [x] if x.is_finite() => Ok(x),
            _ => Err(Error::format_key(self.path(), name, "is not one finite number")),
        }
    }

    /// The signs of a module whose weight is `[out, in]`, as a delta folder has them.
    ///
    /// # Errors
    /// [`Error::Format`] when there are none, or their shape does not belong to such a weight.
    pub fn signs(&self, module: &str, shape: [usize; 2]) -> Result<Vec<u8>> {
        let name = mask_name(module);
        let raw = self.file.get(&name)?;
        let [out, input] = shape;
        if !input.is_multiple_of(WORD) || raw.shape() != [input / WORD, out] {
            let detail = format!(
                "has shape {:?}; [{} / 32, {out}] belongs to a weight of {shape:?}",
                raw.shape(),
                input
            );
            return Err(Error::format_key(self.path(), name, detail));
        }
        Ok(transposed(raw.bytes(), input / WORD, out))
    }
}

/// Writes a delta in the reference layout, whole or not at all.
///
/// # Errors
/// [`Error::Unsupported`], naming the module, for rows that are no multiple of 32 or have scales of their own; [`Error::Io`].
pub fn write_reference(path: &Path, delta: &Delta) -> Result<()> {
    let config = delta.config();
    if config.per_row {
        return Err(Error::unsupported(
            format!("{}: a scale for each row in the reference layout", delta.folder().display()),
            "one for each matrix is: compress without --per-row",
        ));
    }
    let mut of_modules = HashMap::new();
    let mut specs = Vec::new();
    for module in &config.modules {
        let [out, input] = module.shape;
        if !input.is_multiple_of(WORD) {
            return Err(Error::unsupported(
                format!("'{}' with {input} columns in the reference layout", module.name),
                "a multiple of 32 is; keep the delta in its folder",
            ));
        }
        let named = [
            (mask_name(&module.name), RawDType::I32, vec![input / WORD, out]),
            (coeff_name(&module.name), RawDType::F32, Vec::new()),
        ];
        for (name, dtype, shape) in named {
            of_modules.insert(name.clone(), (module, dtype));
            specs.push(TensorSpec { name, dtype, shape });
        }
    }
    for name in delta.full() {
        let raw = delta.full_tensor(name)?;
        specs.push(TensorSpec { name: name.to_owned(), dtype: raw.dtype(), shape: raw.shape().to_vec() });
    }
    write(path, &specs, &[("format", "pt")], |spec| match of_modules.get(&spec.name) {
        Some((module, RawDType::I32)) => {
            let [out, row] = sign_bytes(module.shape).unwrap_or_default();
            Ok(Cow::Owned(transposed(delta.signs(&module.name)?.bytes(), out, row / 4)))
        }
        Some((module, _)) => {
            Ok(Cow::Owned(delta.scale(&module.name)?.iter().flat_map(|x| x.to_le_bytes()).collect()))
        }
        None => Ok(Cow::Owned(delta.full_tensor(&spec.name)?.bytes().to_vec())),
    })
}

/// The transpose of a matrix of 4-byte words.
fn transposed(words: &[u8], rows: usize, columns: usize) -> Vec<u8> {
    let (words, _) = words.as_chunks::<4>();
    let mut out = vec![[0; 4]; words.len()];
    for (c, column) in out.chunks_exact_mut(rows.max(1)).enumerate() {
        column.iter_mut().enumerate().for_each(|(r, word)| *word = words[r * columns + c]);
    }
    out.into_flattened()
}
