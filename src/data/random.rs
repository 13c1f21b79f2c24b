//! Random order.

/// splitmix64 (Steele, Lea, Flood 2014): the n-th output is a hash of seed + n, so nothing needs to be stored to go on.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform below `n` (n > 0), by rejection.
    fn below(&mut self, n: u64) -> u64 {
        let limit = u64::MAX - u64::MAX % n;
        loop {
            let x = self.next();
            if x < limit {
                return x % n;
            }
        }
    }
}

/// 0..n in an order that depends on `seed` and `stream` (e.g. the epoch) only: Fisher-Yates.
pub fn shuffled(n: usize, seed: u64, stream: u64) -> Vec<usize> {
    let mut random = SplitMix(seed);
    let mut random = SplitMix(random.next() ^ stream.wrapping_mul(0xD1B5_4A32_D192_ED03));
    let mut order: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        order.swap(i, random.below(i as u64 + 1) as usize);
    }
    order
}
