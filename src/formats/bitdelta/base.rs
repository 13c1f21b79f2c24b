//! Which base a delta belongs to.

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::formats::checkpoint::Checkpoint;

/// A linear projection, by its name and the dimensions of its weight `[out, in]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModuleShape {
    /// The module's name, e.g. `model.layers.0.self_attn.q_proj`.
    pub name: String,
    /// Rows and columns of the weight as it is in memory (GPT-2 stores the transpose).
    pub shape: [usize; 2],
}

/// A projection's weight in the base's checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseMatrix {
    /// The type that it is stored in, as safetensors names it.
    pub dtype: String,
    /// SHA-256 of its stored bytes, in hex.
    pub sha256: String,
}

/// What the weights of `modules` are in a checkpoint, in their order, on all threads: SHA-256 of the bytes as they are stored (of a GGUF
/// file, in the row order of Hugging Face).
///
/// # Errors
/// Those of [`Checkpoint::get`].
pub fn digest<'a>(checkpoint: &Checkpoint, modules: &[&'a str]) -> Result<Vec<(&'a str, BaseMatrix)>> {
    let of = |&name: &&'a str| {
        let raw = checkpoint.get(&format!("{name}.weight"))?;
        Ok((name, BaseMatrix { dtype: raw.dtype().to_string(), sha256: hex(&Sha256::digest(raw.bytes())) }))
    };
    modules.par_iter().map(of).collect()
}

/// SHA-256, in hex, over a line `name out in dtype sha256` for each projection, in the order of their names: all that a delta depends on.
pub fn fingerprint<'a>(matrices: impl IntoIterator<Item = (&'a str, [usize; 2], &'a BaseMatrix)>) -> String {
    let mut lines: Vec<String> = matrices
        .into_iter()
        .map(|(name, [out, input], base)| format!("{name} {out} {input} {} {}\n", base.dtype, base.sha256))
        .collect();
    lines.sort_unstable();
    let mut hasher = Sha256::new();
    lines.iter().for_each(|line| hasher.update(line));
    hex(&hasher.finalize())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Compares a checkpoint with what a delta was made from.
pub(super) fn check<'a>(
    checkpoint: &Checkpoint,
    delta: &str,
    base_model: Option<&str>,
    expected: &[(&'a str, &'a BaseMatrix)],
) -> Result<()> {
    let made_from = base_model.map(|name| format!(" ({name})")).unwrap_or_default();
    let refuse = |name: &str, detail: String| {
        Err(Error::model(
            checkpoint.path().display().to_string(),
            format!(
                "is not the base of the delta in {delta}: '{name}.weight' {detail}. Give the model that the delta was made \
                 from{made_from}, as it was then (another type or file format is another base), or compress again"
            ),
        ))
    };
    if let Some((name, _)) = expected.iter().find(|(name, _)| !checkpoint.contains(&format!("{name}.weight")))
    {
        return refuse(name, "is missing".into());
    }
    let names: Vec<&str> = expected.iter().map(|(name, _)| *name).collect();
    let found = digest(checkpoint, &names)?;
    match expected.iter().zip(&found).find(|((_, then), (_, now))| *then != now) {
        None => Ok(()),
        Some(((name, then), (_, now))) if then.dtype != now.dtype => {
            refuse(name, format!("is {}, and was {}", now.dtype, then.dtype))
        }
        Some(((name, _), _)) => refuse(name, "is the first that has other values".into()),
    }
}
