//! GGUF's quantized blocks, decoded to f32.
//!
//! Layouts as ggml defines them (ggml-common.h); every scale is a little-endian f16 and every product is taken in f32
//! from left to right, so that the values are bit for bit those of ggml's reference decoder. Each function takes whole
//! blocks and fills as many elements.

use bytemuck::{AnyBitPattern, NoUninit};
use half::f16;

/// Elements of a small block.
const SMALL: usize = 32;
/// Elements of a super-block (the `_K` types).
const SUPER: usize = 256;

// The blocks as they lie in the file. Bytes only, so they need no alignment and no byte order.

#[derive(Clone, Copy, AnyBitPattern, NoUninit)]
#[repr(C)]
struct Q8_0 {
    d: [u8; 2],
    quants: [i8; 32],
}

#[derive(Clone, Copy, AnyBitPattern, NoUninit)]
#[repr(C)]
struct Q4_0 {
    d: [u8; 2],
    quants: [u8; 16],
}

#[derive(Clone, Copy, AnyBitPattern, NoUninit)]
#[repr(C)]
struct Q4_1 {
    d: [u8; 2],
    m: [u8; 2],
    quants: [u8; 16],
}

#[derive(Clone, Copy, AnyBitPattern, NoUninit)]
#[repr(C)]
struct Q5_0 {
    d: [u8; 2],
    high: [u8; 4],
    quants: [u8; 16],
}

#[derive(Clone, Copy, AnyBitPattern, NoUninit)]
#[repr(C)]
struct Q5_1 {
    d: [u8; 2],
    m: [u8; 2],
    high: [u8; 4],
    quants: [u8; 16],
}

#[derive(Clone, Copy, AnyBitPattern, NoUninit)]
#[repr(C)]
struct Q4K {
    d: [u8; 2],
    dmin: [u8; 2],
    scales: [u8; 12],
    quants: [u8; 128],
}

#[derive(Clone, Copy, AnyBitPattern, NoUninit)]
#[repr(C)]
struct Q5K {
    d: [u8; 2],
    dmin: [u8; 2],
    scales: [u8; 12],
    high: [u8; 32],
    quants: [u8; 128],
}

#[derive(Clone, Copy, AnyBitPattern, NoUninit)]
#[repr(C)]
struct Q6K {
    low: [u8; 128],
    high: [u8; 64],
    scales: [i8; 16],
    d: [u8; 2],
}

/// x = q d.
pub(in crate::formats) fn q8_0(bytes: &[u8], out: &mut [f32]) {
    each(bytes, out, |b: &Q8_0, out: &mut [f32; SMALL]| {
        let d = half(b.d);
        for (o, &q) in out.iter_mut().zip(&b.quants) {
            *o = f32::from(q) * d;
        }
    });
}

/// x = d (q - 8).
pub(in crate::formats) fn q4_0(bytes: &[u8], out: &mut [f32]) {
    each(bytes, out, |b: &Q4_0, out| {
        let d = half(b.d);
        nibbles(&b.quants, 0, out, |q| d * (q - 8.0));
    });
}

/// x = d q + m.
pub(in crate::formats) fn q4_1(bytes: &[u8], out: &mut [f32]) {
    each(bytes, out, |b: &Q4_1, out| {
        let (d, m) = (half(b.d), half(b.m));
        nibbles(&b.quants, 0, out, |q| d * q + m);
    });
}

/// x = d (q - 16).
pub(in crate::formats) fn q5_0(bytes: &[u8], out: &mut [f32]) {
    each(bytes, out, |b: &Q5_0, out| {
        let d = half(b.d);
        nibbles(&b.quants, u32::from_le_bytes(b.high), out, |q| d * (q - 16.0));
    });
}

/// x = d q + m.
pub(in crate::formats) fn q5_1(bytes: &[u8], out: &mut [f32]) {
    each(bytes, out, |b: &Q5_1, out| {
        let (d, m) = (half(b.d), half(b.m));
        nibbles(&b.quants, u32::from_le_bytes(b.high), out, |q| d * q + m);
    });
}

/// Sub-blocks of 32: x = (d s) q - (dmin m). 32 bytes of quants hold two sub-blocks, the even one in the low nibbles.
pub(in crate::formats) fn q4_k(bytes: &[u8], out: &mut [f32]) {
    each(bytes, out, |b: &Q4K, out: &mut [f32; SUPER]| {
        let (d, dmin) = (half(b.d), half(b.dmin));
        for (sub, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let (scale, min) = scale_and_min(&b.scales, sub);
            let (scale, min) = (d * scale, dmin * min);
            let quants = &b.quants[sub / 2 * 32..][..32];
            for (o, &q) in out.iter_mut().zip(quants) {
                *o = scale * f32::from(q >> (sub % 2 * 4) & 15) - min;
            }
        }
    });
}

/// As [`q4_k`], with the fifth bit of element l of sub-block s in bit s of `high[l]`.
pub(in crate::formats) fn q5_k(bytes: &[u8], out: &mut [f32]) {
    each(bytes, out, |b: &Q5K, out: &mut [f32; SUPER]| {
        let (d, dmin) = (half(b.d), half(b.dmin));
        for (sub, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let (scale, min) = scale_and_min(&b.scales, sub);
            let (scale, min) = (d * scale, dmin * min);
            let quants = &b.quants[sub / 2 * 32..][..32];
            for ((o, &q), &h) in out.iter_mut().zip(quants).zip(&b.high) {
                let q = q >> (sub % 2 * 4) & 15 | (h >> sub & 1) << 4;
                *o = scale * f32::from(q) - min;
            }
        }
    });
}

/// Sub-blocks of 16: x = (d s) (q - 32). Per half of 128 elements: element 32 k + l (k in 0..4) has its low nibble in
/// byte 32 (k mod 2) + l of 64 (low half of the byte for k < 2), and its two high bits in bits 2k of byte l of 32.
pub(in crate::formats) fn q6_k(bytes: &[u8], out: &mut [f32]) {
    each(bytes, out, |b: &Q6K, out: &mut [f32; SUPER]| {
        let d = half(b.d);
        for (i, o) in out.iter_mut().enumerate() {
            let (half, k, l) = (i / 128, i / 32 % 4, i % 32);
            let low = b.low[half * 64 + k % 2 * 32 + l] >> (k / 2 * 4) & 15;
            let high = b.high[half * 32 + l] >> (2 * k) & 3;
            *o = d * f32::from(b.scales[i / 16]) * (f32::from(low | high << 4) - 32.0);
        }
    });
}

/// Decodes block by block.
fn each<B: AnyBitPattern + NoUninit, const N: usize>(
    bytes: &[u8],
    out: &mut [f32],
    decode: impl Fn(&B, &mut [f32; N]),
) {
    let blocks: &[B] = bytemuck::cast_slice(bytes);
    for (block, out) in blocks.iter().zip(out.as_chunks_mut::<N>().0) {
        decode(block, out);
    }
}

fn half(bytes: [u8; 2]) -> f32 {
    f16::from_le_bytes(bytes).to_f32()
}

/// Element j lies in the low nibble of byte j, element j + 16 in the high one; bit i of `high` is the fifth bit of
/// element i.
fn nibbles(quants: &[u8; 16], high: u32, out: &mut [f32; SMALL], value: impl Fn(f32) -> f32) {
    let fifth = |i: usize| ((high >> i & 1) as u8) << 4;
    for (j, &q) in quants.iter().enumerate() {
        out[j] = value(f32::from(q & 15 | fifth(j)));
        out[j + 16] = value(f32::from(q >> 4 | fifth(j + 16)));
    }
}

/// The 6-bit scale and minimum of a sub-block, out of 8 + 8 of them in 12 bytes: those of sub-blocks 0..4 are the low
/// six bits of bytes 0..4 and 4..8; those of 4..8 have their low nibbles in bytes 8..12 (scale low, minimum high) and
/// their two high bits on top of bytes 0..4 and 4..8.
fn scale_and_min(packed: &[u8; 12], sub: usize) -> (f32, f32) {
    let (scale, min) = if sub < 4 {
        (packed[sub] & 63, packed[sub + 4] & 63)
    } else {
        let low = packed[sub + 4];
        (low & 15 | packed[sub - 4] >> 6 << 4, low >> 4 | packed[sub] >> 6 << 4)
    };
    (f32::from(scale), f32::from(min))
}
