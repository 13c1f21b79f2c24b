//! The product of two fragments of f32, in the layout that the fragments have.
//!
//! Lane 4g + t of an accumulator register is an element of row g and of a column that t says. So the lanes of one row
//! are a group of four, and a step along k multiplies a number of A that is the same in the group by four numbers of B
//! that are the same for all groups: a shuffle inside 128 bits, and a permutation. Neither C nor D is moved.

use super::level::Set;

/// 32 lanes on cache lines of their own.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(super) struct Lanes(pub [f32; 32]);

/// One number of each word of A: rows g, and rows g + 8.
pub(super) type Pair = [Lanes; 2];

/// Accumulators in the order of the registers: columns 2t and 2t + 1 of row g, then of row g + 8.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(super) struct Sums(pub [[f32; 32]; 4]);

impl Lanes {
    /// All zeros.
    pub const ZERO: Self = Self([0.0; 32]);
}

impl Sums {
    /// All zeros.
    pub const ZERO: Self = Self([[0.0; 32]; 4]);
}

/// Adds A times B to `sums`, one fused multiply-add for each k, in order of k.
///
/// Four words along k, each of which holds `P` numbers: lane 4g + t of `a[p]` is number p of word t of row g (and g + 8),
/// lane 4n + t of `b[p]` is number p of word t of column n.
#[inline(always)]
pub(super) fn multiply<const P: usize>(set: Set, a: &[Pair; P], b: &[Lanes; P], sums: &mut Sums) {
    match set {
        Set::Baseline => plain(a, b, sums),
        // SAFETY: a level other than the baseline exists only where its features were detected.
        #[cfg(target_arch = "x86_64")]
        Set::Avx2 => unsafe { x86::avx2(a, b, sums) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Set::Avx512 => unsafe { x86::avx512(a, b, sums) },
    }
}

fn plain<const P: usize>(a: &[Pair; P], b: &[Lanes; P], sums: &mut Sums) {
    // Where there is no instruction for it, a fused multiply-add is a call that takes longer than all the rest.
    let native = cfg!(any(target_feature = "fma", target_arch = "aarch64"));
    if native || !products_are_exact(a, b) {
        plain_with(a, b, sums, f32::mul_add);
    } else {
        plain_with(a, b, sums, |x, y, z| x * y + z);
    }
}

#[inline(always)]
fn plain_with<const P: usize>(
    a: &[Pair; P],
    b: &[Lanes; P],
    sums: &mut Sums,
    fma: impl Fn(f32, f32, f32) -> f32 + Copy,
) {
    for t in 0..4 {
        for (pair, b) in a.iter().zip(b) {
            for (i, sum) in sums.0.iter_mut().enumerate() {
                let right: [f32; 4] = std::array::from_fn(|j| b.0[4 * (2 * j + i % 2) + t]);
                for (sum, left) in sum.chunks_exact_mut(4).zip(pair[i / 2].0.chunks_exact(4)) {
                    for j in 0..4 {
                        sum[j] = fma(left[t], right[j], sum[j]);
                    }
                }
            }
        }
    }
}

/// Whether each product is an f32, so that rounding it first changes nothing. The numbers have at most 11 significant
/// bits, products therefore 22: they are exact unless they leave the range, or so nearly leave it that bits are lost.
fn products_are_exact<const P: usize>(a: &[Pair; P], b: &[Lanes; P]) -> bool {
    let (a_least, a_most) = range(a.as_flattened());
    let (b_least, b_most) = range(b);
    let product = |x: u32, y: u32| f64::from(f32::from_bits(x)) * f64::from(f32::from_bits(y));
    let all_zero = a_most == 0 || b_most == 0;
    // NaN and infinities fail the second comparison.
    let large_enough = all_zero || product(a_least, b_least) >= f64::from(f32::MIN_POSITIVE);
    large_enough && product(a_most, b_most) < f64::from(f32::MAX)
}

/// The least magnitude that is not zero, and the greatest, as bits.
fn range(lanes: &[Lanes]) -> (u32, u32) {
    let (least, most) = lanes.iter().flat_map(|lanes| &lanes.0).fold((u32::MAX, 0), |(least, most), x| {
        let size = x.to_bits() & 0x7fff_ffff;
        // Less one, zero is the greatest of all.
        (u32::min(least, size.wrapping_sub(1)), u32::max(most, size))
    });
    (least.wrapping_add(1), most)
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Lanes, Pair, Sums};

    /// The step along k for number `$t` of each group.
    macro_rules! step_avx512 {
        ($t:literal, $a:ident, $b:ident, $sums:ident) => {
            let columns = _mm512_set4_epi32(24 + $t, 16 + $t, 8 + $t, $t);
            let odd = _mm512_add_epi32(columns, _mm512_set1_epi32(4));
            for (pair, b) in $a.iter().zip($b) {
                let b = [load512(&b.0, 0), load512(&b.0, 1)];
                let right =
                    [_mm512_permutex2var_ps(b[0], columns, b[1]), _mm512_permutex2var_ps(b[0], odd, b[1])];
                for half in 0..2 {
                    for row in 0..2 {
                        let left = _mm512_permute_ps::<{ $t * 0b01_01_01_01 }>(load512(&pair[row].0, half));
                        for column in 0..2 {
                            let sum = &mut $sums[2 * row + column][half];
                            *sum = _mm512_fmadd_ps(left, right[column], *sum);
                        }
                    }
                }
            }
        };
    }

    #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq")]
    #[inline]
    fn load512(lanes: &[f32; 32], half: usize) -> __m512 {
        // SAFETY: there are two halves of 16 lanes.
        unsafe { _mm512_loadu_ps(lanes[16 * half..][..16].as_ptr()) }
    }

    #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq")]
    #[inline]
    pub fn avx512<const P: usize>(a: &[Pair; P], b: &[Lanes; P], sums: &mut Sums) {
        let mut registers = [[_mm512_setzero_ps(); 2]; 4];
        for (register, lanes) in registers.iter_mut().zip(&sums.0) {
            *register = [load512(lanes, 0), load512(lanes, 1)];
        }
        step_avx512!(0, a, b, registers);
        step_avx512!(1, a, b, registers);
        step_avx512!(2, a, b, registers);
        step_avx512!(3, a, b, registers);
        for (register, lanes) in registers.iter().zip(&mut sums.0) {
            for half in 0..2 {
                // SAFETY: there are two halves of 16 lanes.
                unsafe { _mm512_storeu_ps(lanes[16 * half..][..16].as_mut_ptr(), register[half]) };
            }
        }
    }

    /// The step along k for number `$t` of each group; `$b` holds the even and the odd columns.
    macro_rules! step_avx2 {
        ($t:literal, $a:ident, $b:ident, $sums:ident, $from:ident) => {
            for (pair, b) in $a.iter().zip(&$b) {
                let right = b.map(|columns: [__m128; 4]| _mm256_set_m128(columns[$t], columns[$t]));
                for half in 0..2 {
                    for row in 0..2 {
                        let left = load256(&pair[row].0, $from + half);
                        let left = _mm256_permute_ps::<{ $t * 0b01_01_01_01 }>(left);
                        for column in 0..2 {
                            let sum = &mut $sums[2 * row + column][half];
                            *sum = _mm256_fmadd_ps(left, right[column], *sum);
                        }
                    }
                }
            }
        };
    }

    #[target_feature(enable = "avx2,fma")]
    #[inline]
    fn load256(lanes: &[f32; 32], quarter: usize) -> __m256 {
        // SAFETY: there are four quarters of 8 lanes.
        unsafe { _mm256_loadu_ps(lanes[8 * quarter..][..8].as_ptr()) }
    }

    /// Number t of every other column, for each t.
    #[target_feature(enable = "avx2,fma")]
    #[inline]
    fn transpose(lanes: &Lanes, first: usize) -> [__m128; 4] {
        // SAFETY: there are eight columns of 4 lanes.
        let load = |column: usize| unsafe { _mm_loadu_ps(lanes.0[4 * column..][..4].as_ptr()) };
        let x = [load(first), load(first + 2), load(first + 4), load(first + 6)];
        let low = [_mm_unpacklo_ps(x[0], x[1]), _mm_unpacklo_ps(x[2], x[3])];
        let high = [_mm_unpackhi_ps(x[0], x[1]), _mm_unpackhi_ps(x[2], x[3])];
        [
            _mm_movelh_ps(low[0], low[1]),
            _mm_movehl_ps(low[1], low[0]),
            _mm_movelh_ps(high[0], high[1]),
            _mm_movehl_ps(high[1], high[0]),
        ]
    }

    #[target_feature(enable = "avx2,fma")]
    #[inline]
    pub fn avx2<const P: usize>(a: &[Pair; P], b: &[Lanes; P], sums: &mut Sums) {
        let mut columns = [[[_mm_setzero_ps(); 4]; 2]; P];
        for (columns, lanes) in columns.iter_mut().zip(b) {
            *columns = [transpose(lanes, 0), transpose(lanes, 1)];
        }
        // Half of the rows at a time: their sums fill half of the registers.
        for from in [0, 2] {
            let mut registers = [[_mm256_setzero_ps(); 2]; 4];
            for (register, lanes) in registers.iter_mut().zip(&sums.0) {
                *register = [load256(lanes, from), load256(lanes, from + 1)];
            }
            step_avx2!(0, a, columns, registers, from);
            step_avx2!(1, a, columns, registers, from);
            step_avx2!(2, a, columns, registers, from);
            step_avx2!(3, a, columns, registers, from);
            for (register, lanes) in registers.iter().zip(&mut sums.0) {
                for half in 0..2 {
                    // SAFETY: there are four quarters of 8 lanes.
                    unsafe { _mm256_storeu_ps(lanes[8 * (from + half)..][..8].as_mut_ptr(), register[half]) };
                }
            }
        }
    }
}
