//! Seeded random inputs (SplitMix64), independent of the engine's own generator.

use half::{bf16, f16};
use warptune::tensor::{DType, Tensor};

/// A small generator; the same seed gives the same inputs everywhere.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in [0, 1).
    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in 0 .. n.
    pub fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }

    /// Normal, mean 0, standard deviation 1 (Box-Muller).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// `n` normal numbers of standard deviation `std`.
    pub fn vec(&mut self, n: usize, std: f64) -> Vec<f32> {
        (0..n).map(|_| (self.normal() * std) as f32).collect()
    }

    /// A tensor of normal numbers of standard deviation `std`.
    pub fn tensor(&mut self, shape: &[usize], dtype: DType, std: f64) -> Tensor {
        let data = self.vec(shape.iter().product(), std);
        match dtype {
            DType::BF16 => Tensor::from_bf16(data.into_iter().map(bf16::from_f32).collect(), shape),
            DType::F16 => Tensor::from_f16(data.into_iter().map(f16::from_f32).collect(), shape),
            _ => Tensor::from_f32(data, shape),
        }
    }

    /// A vector of `n` numbers below `limit`: token ids, labels.
    pub fn ids(&mut self, n: usize, limit: usize) -> Tensor {
        Tensor::from_u32((0..n).map(|_| self.below(limit) as u32).collect(), &[n])
    }
}
