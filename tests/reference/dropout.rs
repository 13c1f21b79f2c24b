//! Philox4x32-10 from its paper, and the mask that dropout makes of it.

/// The block of four words of a counter, with the multiplications written out over 64 bits.
fn philox(seed: u64, stream: u64, counter: u64) -> [u32; 4] {
    let lower = |x: u64| (x & 0xffff_ffff) as u32;
    let mut c = [lower(counter), lower(counter >> 32), lower(stream), lower(stream >> 32)];
    for round in 0..10u32 {
        let k0 = lower(seed).wrapping_add(round.wrapping_mul(0x9E37_79B9));
        let k1 = lower(seed >> 32).wrapping_add(round.wrapping_mul(0xBB67_AE85));
        let (a, b) = (u64::from(c[0]) * 0xD251_1F53, u64::from(c[2]) * 0xCD9E_8D57);
        c = [lower(b >> 32) ^ c[1] ^ k0, lower(b), lower(a >> 32) ^ c[3] ^ k1, lower(a)];
    }
    c
}

/// 0 or 1 / (1 - p) for each of `n` elements.
pub fn mask(seed: u64, stream: u64, p: f32, n: usize) -> Vec<f64> {
    let uniform = |i: usize| f64::from(philox(seed, stream, i as u64 / 4)[i % 4] >> 8) / f64::from(1 << 24);
    (0..n).map(|i| if uniform(i) >= f64::from(p) { 1.0 / (1.0 - f64::from(p)) } else { 0.0 }).collect()
}
