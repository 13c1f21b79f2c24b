//! BitDelta (arXiv 2402.10193): a fine-tuned model as its base and, for each linear projection, the sign of every difference and a scale:
//! W_fine is about W_base + a sign(W_fine - W_base), sign(0) = +1. Everything else that differs is kept in full.

mod apply;
mod attach;
mod compress;
mod convert;
mod report;

pub use apply::apply;
pub use attach::{attach, detach, fold, load, load_scales, save, save_scales, scales};
pub use compress::{CompressOptions, compress};
pub use convert::from_reference;
pub use report::{MatrixError, Sizes, errors, sizes};

use crate::Result;
use crate::formats::bitdelta::{Delta, Full};

/// The tensors that a delta holds in full.
fn full_of(delta: &Delta) -> Result<Vec<Full>> {
    let of = |name: &str| {
        let raw = delta.full_tensor(name)?;
        Ok(Full { name: name.to_owned(), dtype: raw.dtype(), shape: raw.shape().to_vec() })
    };
    delta.full().map(of).collect()
}
