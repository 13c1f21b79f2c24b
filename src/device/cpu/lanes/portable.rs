//! Arrays of lanes in plain Rust, which the compiler vectorises as far as the target allows.

use half::{bf16, f16};

use super::Simd;
use crate::tensor::Element;

const LANES: usize = 8;

/// Needs nothing.
#[derive(Clone, Copy)]
pub(super) struct Portable;

#[inline(always)]
fn zip(a: [f32; LANES], b: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> [f32; LANES] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

impl Simd for Portable {
    type V = [f32; LANES];
    type Table = [f32; 16];
    const LANES: usize = LANES;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        [x; LANES]
    }
    #[inline(always)]
    unsafe fn load_at(self, p: *const f32) -> Self::V {
        // SAFETY: the caller promises LANES readable elements; an array of them has no other requirement unaligned.
        unsafe { p.cast::<[f32; LANES]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store_at(self, v: Self::V, p: *mut f32) {
        // SAFETY: as for load_at.
        unsafe { p.cast::<[f32; LANES]>().write_unaligned(v) }
    }
    #[inline(always)]
    fn load_bf16(self, x: &[bf16]) -> Self::V {
        let x = &x[..LANES];
        std::array::from_fn(|i| Element::to_f32(x[i]))
    }
    #[inline(always)]
    fn store_bf16(self, v: Self::V, out: &mut [bf16]) {
        for (out, v) in out[..LANES].iter_mut().zip(v) {
            *out = <bf16 as Element>::from_f32(v);
        }
    }
    #[inline(always)]
    fn load_f16(self, x: &[f16]) -> Self::V {
        let x = &x[..LANES];
        std::array::from_fn(|i| Element::to_f32(x[i]))
    }
    #[inline(always)]
    fn store_f16(self, v: Self::V, out: &mut [f16]) {
        for (out, v) in out[..LANES].iter_mut().zip(v) {
            *out = <f16 as Element>::from_f32(v);
        }
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn madd(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // Without hardware support `mul_add` is a slow library call.
        let fused = cfg!(any(target_arch = "aarch64", target_feature = "fma"));
        std::array::from_fn(|i| if fused { a[i].mul_add(b[i], c[i]) } else { a[i] * b[i] + c[i] })
    }
    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn select_le(self, a: Self::V, b: Self::V, yes: Self::V, no: Self::V) -> Self::V {
        std::array::from_fn(|i| if a[i] <= b[i] { yes[i] } else { no[i] })
    }
    #[inline(always)]
    fn flip(self, v: Self::V, kept: u32) -> Self::V {
        std::array::from_fn(|i| f32::from_bits(v[i].to_bits() ^ (!kept >> i & 1) << 31))
    }
    #[inline(always)]
    fn table(self, values: &[f32; 16]) -> [f32; 16] {
        *values
    }
    #[inline(always)]
    fn look_up(self, table: [f32; 16], codes: &[u8]) -> Self::V {
        let codes = &codes[..LANES / 2];
        std::array::from_fn(|i| table[usize::from(codes[i / 2] >> (4 - i % 2 * 4) & 15)])
    }
    #[inline(always)]
    fn look_up_words(self, table: [f32; 16], codes: &[u8]) -> [Self::V; 8] {
        let codes = &codes[..4 * LANES];
        std::array::from_fn(|e| {
            std::array::from_fn(|i| table[usize::from(codes[4 * i + e / 2] >> (4 - e % 2 * 4) & 15)])
        })
    }
    #[inline(always)]
    fn add_exponent(self, p: Self::V, n: Self::V) -> Self::V {
        zip(p, n, |p, n| f32::from_bits(p.to_bits().wrapping_add(n.to_bits() << 23)))
    }
}
