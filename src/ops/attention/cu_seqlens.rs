//! Where the sequences of a packed batch end.

use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};

use crate::device::Device;
use crate::tensor::Tensor;
use crate::{Error, Result};

/// 0, then the end of each sequence of a packed batch: sequence s is rows `ends[s] .. ends[s + 1]`. Cheap to clone. What kernels
/// need of it is copied to a device once, by whoever asks first, and shared by all clones: so a batch uploads it once, not
/// each layer.
#[derive(Clone)]
pub struct CuSeqlens(Arc<Shared>);

struct Shared {
    ends: Box<[usize]>,
    copies: Mutex<Vec<Tensor>>,
}

impl CuSeqlens {
    /// The ends, u32 `[sequences + 1]`, on a device.
    ///
    /// # Errors
    /// [`Error::Shape`] if an end is 2^31 or more; [`Error::Cuda`] when the copy fails.
    pub fn on(&self, device: Device) -> Result<Tensor> {
        let mut copies = self.0.copies.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(copy) = copies.iter().find(|copy| copy.device() == device) {
            return Ok(copy.clone());
        }
        let ends = self.0.ends.iter().map(|&end| match i32::try_from(end) {
            Ok(_) => Ok(end as u32),
            Err(_) => {
                let detail = format!("a batch of {end} tokens, less than 2^31 expected");
                Err(Error::Shape { op: "attention", detail })
            }
        });
        let ends = ends.collect::<Result<Vec<u32>>>()?;
        let copy = Tensor::from_u32(ends, &[self.0.ends.len()]).to_device(device)?;
        copies.push(copy.clone());
        Ok(copy)
    }
}

impl Deref for CuSeqlens {
    type Target = [usize];

    fn deref(&self) -> &[usize] {
        &self.0.ends
    }
}

impl From<Box<[usize]>> for CuSeqlens {
    fn from(ends: Box<[usize]>) -> CuSeqlens {
        CuSeqlens(Arc::new(Shared { ends, copies: Mutex::default() }))
    }
}

impl From<Vec<usize>> for CuSeqlens {
    fn from(ends: Vec<usize>) -> CuSeqlens {
        ends.into_boxed_slice().into()
    }
}

impl From<&[usize]> for CuSeqlens {
    fn from(ends: &[usize]) -> CuSeqlens {
        Box::<[usize]>::from(ends).into()
    }
}

impl From<Arc<[usize]>> for CuSeqlens {
    fn from(ends: Arc<[usize]>) -> CuSeqlens {
        ends[..].into()
    }
}

impl<const N: usize> From<[usize; N]> for CuSeqlens {
    fn from(ends: [usize; N]) -> CuSeqlens {
        ends[..].into()
    }
}

impl FromIterator<usize> for CuSeqlens {
    fn from_iter<I: IntoIterator<Item = usize>>(ends: I) -> CuSeqlens {
        ends.into_iter().collect::<Box<[usize]>>().into()
    }
}

impl std::fmt::Debug for CuSeqlens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.ends.fmt(f)
    }
}

impl PartialEq for CuSeqlens {
    fn eq(&self, other: &CuSeqlens) -> bool {
        self.0.ends == other.0.ends
    }
}

impl Eq for CuSeqlens {}
