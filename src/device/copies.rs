//! What is made of a host value for a device, kept there.

use std::sync::{Mutex, PoisonError};

use super::Device;
use crate::Result;

/// Values made from something on the host, for each device that asked and each `K` of which there may be several: made once, by
/// whoever asks first.
pub(crate) struct Copies<T, K = ()>(Mutex<Vec<(Device, K, T)>>);

impl<T, K> Default for Copies<T, K> {
    fn default() -> Copies<T, K> {
        Copies::new()
    }
}

impl<T, K> Copies<T, K> {
    /// None yet.
    pub const fn new() -> Copies<T, K> {
        Copies(Mutex::new(Vec::new()))
    }
}

impl<T: Clone, K: PartialEq> Copies<T, K> {
    /// The value for a device and a key.
    ///
    /// # Errors
    /// Those of `make`; the next to ask tries again.
    pub fn get(&self, device: Device, key: K, make: impl FnOnce() -> Result<T>) -> Result<T> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, _, value)) = all.iter().find(|(d, k, _)| *d == device && *k == key) {
            return Ok(value.clone());
        }
        let value = make()?;
        all.push((device, key, value.clone()));
        Ok(value)
    }
}

impl<T, K> std::fmt::Debug for Copies<T, K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Copies")
    }
}

#[cfg(test)]
mod tests {
    use super::Copies;
    use crate::Error;
    use crate::device::Device;

    #[test]
    fn each_is_made_once_and_a_failure_is_not_kept() {
        let copies: Copies<i32, &str> = Copies::default();
        let refused = copies.get(Device::Cpu, "a", || Err(Error::model("a", "not yet")));
        assert!(refused.is_err());
        assert_eq!(copies.get(Device::Cpu, "a", || Ok(1)).unwrap(), 1);
        assert_eq!(copies.get(Device::Cpu, "a", || unreachable!()).unwrap(), 1);
        assert_eq!(copies.get(Device::Cpu, "b", || Ok(2)).unwrap(), 2);
        assert_eq!(copies.get(Device::Cuda(0), "a", || Ok(3)).unwrap(), 3);
    }
}
