//! GGUF's quantized blocks by their definition, one element at a time, in f64.

use half::f16;
use warptune::formats::RawDType;

/// Element `i` of a block.
pub fn element(dtype: RawDType, block: &[u8], i: usize) -> f64 {
    let half = |at: usize| f64::from(f16::from_bits(u16::from(block[at]) + 256 * u16::from(block[at + 1])));
    // Nibble n of the bytes that begin at `at`, counted so that the first `stride` are the low ones.
    let nibble = |at: usize, stride: usize, n: usize| {
        let byte = block[at + n / (2 * stride) * stride + n % stride];
        f64::from(if (n / stride).is_multiple_of(2) { byte % 16 } else { byte / 16 })
    };
    let bit = |at: usize, n: usize| f64::from(block[at + n / 8] >> (n % 8) & 1);
    match dtype {
        RawDType::Q8_0 => half(0) * f64::from(block[2 + i] as i8),
        RawDType::Q4_0 => half(0) * (nibble(2, 16, i) - 8.0),
        RawDType::Q4_1 => half(0) * nibble(4, 16, i) + half(2),
        RawDType::Q5_0 => half(0) * (nibble(6, 16, i) + 16.0 * bit(2, i) - 16.0),
        RawDType::Q5_1 => half(0) * (nibble(8, 16, i) + 16.0 * bit(4, i)) + half(2),
        RawDType::Q4K | RawDType::Q5K => {
            // Twelve bytes hold eight pairs of six bits: sub-blocks 0-3 in bytes 0-3 (scale) and 4-7 (minimum), 4-7 in
            // the nibbles of bytes 8-11, with their top two bits in what 0-3 leave free.
            let (s, packed) = (i / 32, &block[4..16]);
            let (scale, min) = match s {
                0..4 => (packed[s] % 64, packed[s + 4] % 64),
                _ => (
                    packed[s + 4] % 16 + 16 * (packed[s - 4] / 64),
                    packed[s + 4] / 16 + 16 * (packed[s] / 64),
                ),
            };
            let quant = match dtype {
                RawDType::Q4K => nibble(16, 32, i),
                // The fifth bit: byte i % 32 of 32, bit number s.
                _ => nibble(48, 32, i) + 16.0 * f64::from(block[16 + i % 32] >> s & 1),
            };
            half(0) * f64::from(scale) * quant - half(2) * f64::from(min)
        }
        RawDType::Q6K => {
            let (half_block, within) = (i / 128, i % 128);
            let low = nibble(64 * half_block, 64, within);
            let high = block[128 + 32 * half_block + within % 32] >> (2 * (within / 32)) & 3;
            half(208) * f64::from(block[192 + i / 16] as i8) * (low + 16.0 * f64::from(high) - 32.0)
        }
        other => panic!("{other} is not quantized"),
    }
}
