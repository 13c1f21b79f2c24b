//! AVX2 and AVX-512. The two differ in names only; see [`Simd`] for what each method does.

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::portable::Portable;
use super::{Kernel, Simd};
use crate::device::cpu::simd::Isa;

/// Proof that the machine has AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(super) struct Avx2(());

/// Proof that the machine has AVX-512 F, BW, DQ and VL (and AVX2, FMA and F16C).
#[derive(Clone, Copy)]
pub(super) struct Avx512(());

pub(super) fn dispatch<K: Kernel>(kernel: K) -> K::Output {
    match Isa::detect() {
        // SAFETY: `detect` checked each feature that is enabled below.
        Isa::Avx512 => unsafe { run_avx512(kernel) },
        // SAFETY: as above.
        Isa::Avx2 => unsafe { run_avx2(kernel) },
        Isa::Baseline => kernel.run(Portable),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
fn run_avx512<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx512(()))
}

#[target_feature(enable = "avx2,fma,f16c")]
fn run_avx2<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx2(()))
}

/// Calls intrinsics that touch no memory.
macro_rules! register {
    ($intrinsics:expr) => {
        // SAFETY: only registers are used, and `self` is proof of the instruction set.
        unsafe { $intrinsics }
    };
}

/// The halves of 8 bytes as 16, the upper half of each first.
///
/// # Safety
/// The machine must have SSE2.
#[inline(always)]
unsafe fn halves(bytes: __m128i) -> __m128i {
    register!({
        let low = _mm_set1_epi8(15);
        let upper = _mm_and_si128(_mm_srli_epi16::<4>(bytes), low);
        _mm_unpacklo_epi8(upper, _mm_and_si128(bytes, low))
    })
}

/// The entry that the lowest 4 bits of each lane name.
///
/// # Safety
/// The machine must have AVX2.
#[inline(always)]
unsafe fn choose((first, last): (__m256, __m256), lanes: __m256i) -> __m256 {
    register!({
        // A permutation reads the lowest 3 bits of a lane, a blend its sign.
        let high = _mm256_castsi256_ps(_mm256_slli_epi32::<28>(lanes));
        _mm256_blendv_ps(_mm256_permutevar8x32_ps(first, lanes), _mm256_permutevar8x32_ps(last, lanes), high)
    })
}

impl Simd for Avx512 {
    type V = __m512;
    type Table = __m512;
    const LANES: usize = 16;

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        register!(_mm512_set1_ps(x))
    }
    #[inline(always)]
    unsafe fn load_at(self, p: *const f32) -> __m512 {
        // SAFETY: the caller promises 16 readable elements.
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store_at(self, v: __m512, p: *mut f32) {
        // SAFETY: the caller promises 16 writable elements.
        unsafe { _mm512_storeu_ps(p, v) }
    }
    #[inline(always)]
    fn load_bf16(self, x: &[bf16]) -> __m512 {
        let x = &x[..Self::LANES];
        // SAFETY: the slice holds 16 elements of 16 bits.
        let halves = unsafe { _mm256_loadu_si256(x.as_ptr().cast()) };
        register!(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves))))
    }
    #[inline(always)]
    fn store_bf16(self, v: __m512, out: &mut [bf16]) {
        let out = &mut out[..Self::LANES];
        let halves = register!({
            let bits = _mm512_castps_si512(v);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let up = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
            let rounded = _mm512_add_epi32(bits, up);
            let quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x40_0000));
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v);
            let chosen = _mm512_mask_blend_epi32(nan, rounded, quiet);
            _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(chosen))
        });
        // SAFETY: the slice holds 16 elements of 16 bits, and is ours alone.
        unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), halves) }
    }
    #[inline(always)]
    fn load_f16(self, x: &[f16]) -> __m512 {
        let x = &x[..Self::LANES];
        // SAFETY: the slice holds 16 elements of 16 bits.
        let halves = unsafe { _mm256_loadu_si256(x.as_ptr().cast()) };
        register!(_mm512_cvtph_ps(halves))
    }
    #[inline(always)]
    fn store_f16(self, v: __m512, out: &mut [f16]) {
        let out = &mut out[..Self::LANES];
        let halves = register!(_mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v));
        // SAFETY: the slice holds 16 elements of 16 bits, and is ours alone.
        unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), halves) }
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        register!(_mm512_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        register!(_mm512_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        register!(_mm512_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        register!(_mm512_div_ps(a, b))
    }
    #[inline(always)]
    fn madd(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        register!(_mm512_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        register!(_mm512_min_ps(a, b))
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        register!(_mm512_max_ps(a, b))
    }
    #[inline(always)]
    fn select_le(self, a: __m512, b: __m512, yes: __m512, no: __m512) -> __m512 {
        register!(_mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LE_OQ>(a, b), no, yes))
    }
    #[inline(always)]
    fn flip(self, v: __m512, kept: u32) -> __m512 {
        register!(_mm512_mask_xor_ps(v, !(kept as u16), v, _mm512_set1_ps(-0.0)))
    }
    #[inline(always)]
    fn table(self, values: &[f32; 16]) -> __m512 {
        self.load(values)
    }
    #[inline(always)]
    fn look_up(self, table: __m512, codes: &[u8]) -> __m512 {
        let codes = &codes[..Self::LANES / 2];
        // SAFETY: the slice holds 8 bytes.
        let bytes = unsafe { _mm_loadl_epi64(codes.as_ptr().cast()) };
        register!(_mm512_permutexvar_ps(_mm512_cvtepu8_epi32(halves(bytes)), table))
    }
    #[inline(always)]
    fn look_up_words(self, table: __m512, codes: &[u8]) -> [__m512; 8] {
        let codes = &codes[..4 * Self::LANES];
        // SAFETY: the slice holds 64 bytes.
        let words = unsafe { _mm512_loadu_si512(codes.as_ptr().cast()) };
        // A permutation reads the lowest 4 bits of a lane. Byte e / 2 holds code e in its upper half if e is even.
        register!([
            _mm512_permutexvar_ps(_mm512_srli_epi32::<4>(words), table),
            _mm512_permutexvar_ps(words, table),
            _mm512_permutexvar_ps(_mm512_srli_epi32::<12>(words), table),
            _mm512_permutexvar_ps(_mm512_srli_epi32::<8>(words), table),
            _mm512_permutexvar_ps(_mm512_srli_epi32::<20>(words), table),
            _mm512_permutexvar_ps(_mm512_srli_epi32::<16>(words), table),
            _mm512_permutexvar_ps(_mm512_srli_epi32::<28>(words), table),
            _mm512_permutexvar_ps(_mm512_srli_epi32::<24>(words), table),
        ])
    }
    #[inline(always)]
    fn add_exponent(self, p: __m512, n: __m512) -> __m512 {
        register!({
            let n = _mm512_slli_epi32::<23>(_mm512_castps_si512(n));
            _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(p), n))
        })
    }
}

impl Simd for Avx2 {
    type V = __m256;
    /// The first and the last 8 numbers.
    type Table = (__m256, __m256);
    const LANES: usize = 8;

    #[inline(always)]
    fn splat(self, x: f32) -> __m256 {
        register!(_mm256_set1_ps(x))
    }
    #[inline(always)]
    unsafe fn load_at(self, p: *const f32) -> __m256 {
        // SAFETY: the caller promises 8 readable elements.
        unsafe { _mm256_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store_at(self, v: __m256, p: *mut f32) {
        // SAFETY: the caller promises 8 writable elements.
        unsafe { _mm256_storeu_ps(p, v) }
    }
    #[inline(always)]
    fn load_bf16(self, x: &[bf16]) -> __m256 {
        let x = &x[..Self::LANES];
        // SAFETY: the slice holds 8 elements of 16 bits.
        let halves = unsafe { _mm_loadu_si128(x.as_ptr().cast()) };
        register!(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(halves))))
    }
    #[inline(always)]
    fn store_bf16(self, v: __m256, out: &mut [bf16]) {
        let out = &mut out[..Self::LANES];
        let halves = register!({
            let bits = _mm256_castps_si256(v);
            let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let up = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
            let rounded = _mm256_add_epi32(bits, up);
            let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x40_0000));
            let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(v, v));
            let chosen = _mm256_srli_epi32::<16>(_mm256_blendv_epi8(rounded, quiet, nan));
            // Packing works within each half of the register, so the wanted quarters are the first and the third.
            _mm256_permute4x64_epi64::<0b1000>(_mm256_packus_epi32(chosen, chosen))
        });
        // SAFETY: the slice holds 8 elements of 16 bits, and is ours alone.
        unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), _mm256_castsi256_si128(halves)) }
    }
    #[inline(always)]
    fn load_f16(self, x: &[f16]) -> __m256 {
        let x = &x[..Self::LANES];
        // SAFETY: the slice holds 8 elements of 16 bits.
        let halves = unsafe { _mm_loadu_si128(x.as_ptr().cast()) };
        register!(_mm256_cvtph_ps(halves))
    }
    #[inline(always)]
    fn store_f16(self, v: __m256, out: &mut [f16]) {
        let out = &mut out[..Self::LANES];
        let halves = register!(_mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v));
        // SAFETY: the slice holds 8 elements of 16 bits, and is ours alone.
        unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), halves) }
    }
    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        register!(_mm256_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        register!(_mm256_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        register!(_mm256_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: __m256, b: __m256) -> __m256 {
        register!(_mm256_div_ps(a, b))
    }
    #[inline(always)]
    fn madd(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        register!(_mm256_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn min(self, a: __m256, b: __m256) -> __m256 {
        register!(_mm256_min_ps(a, b))
    }
    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        register!(_mm256_max_ps(a, b))
    }
    #[inline(always)]
    fn select_le(self, a: __m256, b: __m256, yes: __m256, no: __m256) -> __m256 {
        register!(_mm256_blendv_ps(no, yes, _mm256_cmp_ps::<_CMP_LE_OQ>(a, b)))
    }
    #[inline(always)]
    fn flip(self, v: __m256, kept: u32) -> __m256 {
        register!({
            // Bit i of lane i becomes its highest.
            let places = _mm256_setr_epi32(31, 30, 29, 28, 27, 26, 25, 24);
            let highest = _mm256_sllv_epi32(_mm256_set1_epi32(kept as i32), places);
            _mm256_xor_ps(v, _mm256_andnot_ps(_mm256_castsi256_ps(highest), _mm256_set1_ps(-0.0)))
        })
    }
    #[inline(always)]
    fn table(self, values: &[f32; 16]) -> (__m256, __m256) {
        (self.load(values), self.load(&values[8..]))
    }
    #[inline(always)]
    fn look_up(self, table: (__m256, __m256), codes: &[u8]) -> __m256 {
        let codes = codes.first_chunk::<4>().expect("4 bytes of codes");
        register!({
            let bytes = _mm_cvtsi32_si128(i32::from_le_bytes(*codes));
            choose(table, _mm256_cvtepu8_epi32(halves(bytes)))
        })
    }
    #[inline(always)]
    fn look_up_words(self, table: (__m256, __m256), codes: &[u8]) -> [__m256; 8] {
        let codes = &codes[..4 * Self::LANES];
        // SAFETY: the slice holds 32 bytes.
        let words = unsafe { _mm256_loadu_si256(codes.as_ptr().cast()) };
        register!([
            choose(table, _mm256_srli_epi32::<4>(words)),
            choose(table, words),
            choose(table, _mm256_srli_epi32::<12>(words)),
            choose(table, _mm256_srli_epi32::<8>(words)),
            choose(table, _mm256_srli_epi32::<20>(words)),
            choose(table, _mm256_srli_epi32::<16>(words)),
            choose(table, _mm256_srli_epi32::<28>(words)),
            choose(table, _mm256_srli_epi32::<24>(words)),
        ])
    }
    #[inline(always)]
    fn add_exponent(self, p: __m256, n: __m256) -> __m256 {
        register!({
            let n = _mm256_slli_epi32::<23>(_mm256_castps_si256(n));
            _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), n))
        })
    }
}
