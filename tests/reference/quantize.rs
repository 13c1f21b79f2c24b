//! Quantization in blocks, by the definition.

/// The NF4 levels of arXiv 2305.14314 (appendix E) by their codes.
pub const NF4: [f64; 16] = [
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
];

/// FP4: a sign bit, two exponent bits of bias 2, one mantissa bit, over 12 (the largest number), by its codes.
pub fn fp4() -> [f64; 16] {
    std::array::from_fn(|code| {
        let sign = if code & 8 == 0 { 1.0 } else { -1.0 };
        // bitsandbytes' numbering is not that of the bits: 0, 1/16, 8, 12, 4, 6, 2, 3.
        let size = match code & 7 {
            0 => 0.0,
            1 => 0.0625,
            c => [8.0, 12.0, 4.0, 6.0, 2.0, 3.0][c - 2],
        };
        sign * size / 12.0
    })
}

/// The largest magnitude of each block.
pub fn scales(x: &[f64], block: usize) -> Vec<f64> {
    x.chunks(block).map(|x| x.iter().fold(0.0, |m: f64, x| m.max(x.abs()))).collect()
}

/// The distance of each element to the nearest of all levels times its block's scale.
pub fn smallest_errors(x: &[f64], levels: &[f64; 16], block: usize) -> Vec<f64> {
    let scales = scales(x, block);
    let error = |(i, x): (usize, &f64)| {
        levels.iter().map(|level| (level * scales[i / block] - x).abs()).fold(f64::INFINITY, f64::min)
    };
    x.iter().enumerate().map(error).collect()
}

/// What codes stand for: two a byte, the first in the upper half.
pub fn decoded(codes: &[u8], scales: &[f64], levels: &[f64; 16], block: usize, n: usize) -> Vec<f64> {
    (0..n)
        .map(|i| {
            let code = if i % 2 == 0 { codes[i / 2] / 16 } else { codes[i / 2] % 16 };
            levels[usize::from(code)] * scales[i / block]
        })
        .collect()
}
