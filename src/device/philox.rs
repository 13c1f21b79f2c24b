//! Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): random numbers as a pure
//! function of a key and a counter, hence the same on every device and in whatever order they are asked for.

/// A key of the generator: 64 bits of seed, and the upper 64 bits of the counter, which tell streams apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Philox {
    /// The seed of the run.
    pub seed: u64,
    /// Which stream of that seed: each use of random numbers (a dropout of a step, a sampled token) has its own.
    pub stream: u64,
}

impl Philox {
    /// The four random words of counter `index`.
    #[inline]
    pub fn block(self, index: u64) -> [u32; 4] {
        let [[low, high]] = self.blocks(index);
        [low as u32, (low >> 32) as u32, high as u32, (high >> 32) as u32]
    }

    /// The blocks of `N` counters from `index` on, each as two pairs of words, the first word of a pair in the lower half. In a kernel
    /// that is compiled for vector instructions, 8 at a time cost a quarter of 8 single ones.
    #[inline(always)]
    pub fn blocks<const N: usize>(self, index: u64) -> [[u64; 2]; N] {
        const M0: u64 = 0xD251_1F53;
        const M1: u64 = 0xCD9E_8D57;
        const LOW: u64 = 0xffff_ffff;
        // Words are kept in lanes of 64 bits, which is what the products need.
        let counters: [u64; N] = std::array::from_fn(|i| index.wrapping_add(i as u64));
        let low = counters.map(|counter| counter & LOW);
        let high = counters.map(|counter| counter >> 32);
        let mut c: [[u64; N]; 4] = [low, high, [self.stream & LOW; N], [self.stream >> 32; N]];
        let (mut k0, mut k1) = (self.seed as u32, (self.seed >> 32) as u32);
        for _ in 0..10 {
            let mut next = [[0; N]; 4];
            for i in 0..N {
                let (p0, p1) = (M0 * (c[0][i] & LOW), M1 * (c[2][i] & LOW));
                next[0][i] = (p1 >> 32) ^ c[1][i] ^ u64::from(k0);
                next[1][i] = p1 & LOW;
                next[2][i] = (p0 >> 32) ^ c[3][i] ^ u64::from(k1);
                next[3][i] = p0 & LOW;
            }
            c = next;
            k0 = k0.wrapping_add(0x9E37_79B9);
            k1 = k1.wrapping_add(0xBB67_AE85);
        }
        std::array::from_fn(|i| [c[0][i] | c[1][i] << 32, c[2][i] | c[3][i] << 32])
    }

    /// Random word `i` of the stream: word `i % 4` of block `i / 4`.
    #[inline]
    pub fn word(self, i: u64) -> u32 {
        self.block(i / 4)[(i % 4) as usize]
    }

    /// Uniform number `i` of the stream in [0, 1), with 24 random bits.
    #[inline]
    pub fn uniform(self, i: u64) -> f32 {
        (self.word(i) >> 8) as f32 * (1.0 / (1 << 24) as f32)
    }

    /// `n` independent normal numbers with mean 0 and the given standard deviation (Box-Muller).
    pub fn normal(self, n: usize, std: f32) -> Vec<f32> {
        let mut out = Vec::with_capacity(n + 1);
        for pair in 0..n.div_ceil(2) as u64 {
            let [a, b, ..] = self.block(pair);
            // (0, 1], so that the logarithm is finite.
            let u = (f64::from(a) + 1.0) / 4_294_967_296.0;
            let angle = std::f64::consts::TAU * f64::from(b) / 4_294_967_296.0;
            let radius = (-2.0 * u.ln()).sqrt() * f64::from(std);
            out.push((radius * angle.cos()) as f32);
            out.push((radius * angle.sin()) as f32);
        }
        out.truncate(n);
        out
    }
}
