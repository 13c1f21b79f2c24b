//! Operations of a whole warp: `mma`, `ldmatrix` and its kin, `shfl`, `vote`, `match`, `redux`.

mod layout;
mod matrix;
mod mma_float;
mod mma_integer;
mod mma_parse;
mod warp;

use cuda::arith::Row;

/// Numbers that look random: xorshift64*.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn word(&mut self) -> u32 {
        (self.next() >> 32) as u32
    }

    pub fn below(&mut self, end: u32) -> u32 {
        ((u64::from(self.word()) * u64::from(end)) >> 32) as u32
    }

    pub fn row(&mut self) -> Row {
        std::array::from_fn(|_| self.word())
    }
}
