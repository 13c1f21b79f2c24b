//! Random inputs, and comparison with bounds.

use half::bf16;

use super::gpu::Failure;

/// 2^-24: half a unit in the last place of an f32 next to 1.
pub const EPS: f64 = 1.0 / 16_777_216.0;
/// 2^-8: the same of a bf16.
pub const EPS_BF16: f64 = 1.0 / 256.0;

/// SplitMix64 (Steele, Lea, Flood 2014).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn word(&mut self) -> u32 {
        (self.bits() >> 32) as u32
    }

    /// From 0 to `end` - 1.
    pub fn below(&mut self, end: u32) -> u32 {
        ((u64::from(self.word()) * u64::from(end)) >> 32) as u32
    }

    /// From -1 to 1.
    pub fn unit(&mut self) -> f32 {
        (self.word() as i32) as f32 / 2_147_483_648.0
    }

    pub fn words(&mut self, len: usize) -> Vec<u32> {
        (0..len).map(|_| self.word()).collect()
    }

    pub fn f32s(&mut self, len: usize, scale: f32) -> Vec<f32> {
        (0..len).map(|_| self.unit() * scale).collect()
    }

    pub fn bf16s(&mut self, len: usize, scale: f32) -> Vec<bf16> {
        (0..len).map(|_| bf16::from_f32(self.unit() * scale)).collect()
    }
}

/// Widens.
pub fn wide<T: Copy + Into<f64>>(values: &[T]) -> Vec<f64> {
    values.iter().map(|&x| x.into()).collect()
}

/// Checks that each value is within its bound, and reports the one that is farthest off.
pub fn close(what: &str, got: &[impl Copy + Into<f64>], want: &[f64], bound: &[f64]) -> Result<(), Failure> {
    assert!(got.len() == want.len() && want.len() == bound.len(), "{what}: lengths");
    let mut worst: Option<(f64, usize)> = None;
    for (i, ((&got, want), bound)) in got.iter().zip(want).zip(bound).enumerate() {
        let error = (got.into() - want).abs();
        let excess = if error.is_nan() { f64::INFINITY } else { error / bound };
        // NaN is over every bound.
        if error.partial_cmp(bound).is_none_or(|order| order.is_gt()) && worst.is_none_or(|(w, _)| excess > w)
        {
            worst = Some((excess, i));
        }
    }
    match worst {
        None => Ok(()),
        Some((_, i)) => {
            let got: f64 = got[i].into();
            Err(Failure::Wrong(format!("{what}[{i}] is {got}, not {} +- {:e}", want[i], bound[i])))
        }
    }
}

/// Checks that all values are equal, and reports the first that is not.
pub fn equal<T: PartialEq + std::fmt::Debug>(what: &str, got: &[T], want: &[T]) -> Result<(), Failure> {
    assert_eq!(got.len(), want.len(), "{what}: lengths");
    match (0..got.len()).find(|&i| got[i] != want[i]) {
        None => Ok(()),
        Some(i) => Err(Failure::Wrong(format!("{what}[{i}] is {:?}, not {:?}", got[i], want[i]))),
    }
}
