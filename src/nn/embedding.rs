//! Embedding tables.

use crate::Result;
use crate::autograd::{Param, Tape, Var};
use crate::ops::embedding::embedding;
use crate::tensor::{DType, Tensor};

/// A table `[entries, D]` of which ids pick rows.
#[derive(Clone, Debug)]
pub struct Embedding {
    path: String,
    weight: Param,
}

impl Embedding {
    /// The table `weight` of the module at `path`, e.g. `model.embed_tokens`.
    pub fn new(path: impl Into<String>, weight: Param) -> Embedding {
        Embedding { path: path.into(), weight }
    }

    /// The table.
    pub fn weight(&self) -> &Param {
        &self.weight
    }

    /// Row `ids[t]` for each t: `[T, D]` of type `dtype`.
    ///
    /// # Errors
    /// Those of [`embedding`]; on a CUDA device whoever uploads ids checks them.
    pub fn forward(&self, tape: &Tape, ids: &Tensor, dtype: DType) -> Result<Var> {
        let _scope = tape.scope(self.path.as_str());
        embedding(tape, ids, &tape.param(&self.weight), dtype)
    }
}
