//! A few rows times a weight: `out [m, n] = alpha x W^T` for small m, where time is that of reading W once. Weight rows are
//! shared out in fixed blocks; each element is one dot product, summed in an order that depends on its length alone.

use half::bf16;
use rayon::prelude::*;

use crate::device::cpu::gemm::Product;
use crate::device::cpu::matrix::{Elements, Mat, MatMut};
use crate::device::cpu::simd::Isa;

/// Rows of x up to which this is faster than the GEMM, which packs W first.
const MAX_ROWS: usize = 4;

/// Weight elements a task reads.
const TASK_ELEMENTS: usize = 64 * 1024;

/// Weight rows whose dot products a kernel computes at once.
const GROUP: usize = 4;

/// Whether `p` is such a product: a few rows, and a weight whose rows (columns of b) are contiguous.
pub(super) fn suits(p: &Product<'_>) -> bool {
    p.a.rows <= MAX_ROWS && p.b.row_stride == 1 && p.b.col_stride == p.b.rows && p.b.rows > 0
}

/// `out = alpha a b`, plus what is there if `read`.
pub(super) fn gemv(out: &mut MatMut<'_>, read: bool, p: &Product<'_>) {
    let (m, k, n) = (p.a.rows, p.a.cols, p.b.cols);
    let x = contiguous(p.a);
    // Column j of the result: `m` dot products with row j of the weight.
    let mut columns = vec![0.0; n * m];
    let rows = (TASK_ELEMENTS / k).next_multiple_of(GROUP).max(GROUP);
    let kernel = Kernel { x: &x, k, m, isa: Isa::detect() };
    match p.b.elements {
        Elements::F32(w) => kernel.run(&w[..n * k], rows, &mut columns),
        Elements::BF16(w) => kernel.run(&w[..n * k], rows, &mut columns),
    }
    for i in 0..m {
        let row = &mut out.data[i * out.row_stride..][..n];
        for (y, column) in row.iter_mut().zip(columns.chunks_exact(m)) {
            *y = p.alpha * column[i] + if read { *y } else { 0.0 };
        }
    }
}

/// The elements row by row, in f32.
fn contiguous(x: Mat<'_>) -> Vec<f32> {
    let at = |i: usize| match x.elements {
        Elements::F32(v) => v[i],
        Elements::BF16(v) => v[i].to_f32(),
    };
    let index = |i| (0..x.cols).map(move |j| i * x.row_stride + j * x.col_stride);
    (0..x.rows).flat_map(index).map(at).collect()
}

/// The few rows, and how to multiply them.
struct Kernel<'a> {
    x: &'a [f32],
    k: usize,
    m: usize,
    isa: Isa,
}

impl Kernel<'_> {
    fn run<T: Weight>(&self, w: &[T], rows: usize, columns: &mut [f32]) {
        let tasks = columns.par_chunks_mut(rows * self.m).zip(w.par_chunks(rows * self.k));
        tasks.for_each(|(out, w)| {
            let groups = out.chunks_mut(GROUP * self.m).zip(w.chunks(GROUP * self.k));
            match self.isa {
                // SAFETY: the processor has these features, `Isa::detect` says.
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 => groups.for_each(|(out, w)| unsafe { avx512(self.x, w, self.k, out) }),
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => groups.for_each(|(out, w)| unsafe { avx2(self.x, w, self.k, out) }),
                _ => groups.for_each(|(out, w)| group::<Plain, T>(self.x, w, self.k, out)),
            }
        });
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")]
fn avx512<T: Weight>(x: &[f32], w: &[T], k: usize, out: &mut [f32]) {
    group::<x86::Avx512, T>(x, w, k, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2<T: Weight>(x: &[f32], w: &[T], k: usize, out: &mut [f32]) {
    group::<x86::Avx2, T>(x, w, k, out);
}

/// Dot products of all rows of `x` with up to [`GROUP`] rows of `w`: `out[r * m + i] = x_i . w_r`.
#[inline(always)]
fn group<V: Vector, T: Weight>(x: &[f32], w: &[T], k: usize, out: &mut [f32]) {
    match x.len() / k {
        1 => group_of::<V, T, 1>(x, w, k, out),
        2 => group_of::<V, T, 2>(x, w, k, out),
        3 => group_of::<V, T, 3>(x, w, k, out),
        _ => group_of::<V, T, MAX_ROWS>(x, w, k, out),
    }
}

#[inline(always)]
fn group_of<V: Vector, T: Weight, const M: usize>(x: &[f32], w: &[T], k: usize, out: &mut [f32]) {
    if w.len() == GROUP * k {
        dots::<V, T, M, GROUP>(x, w, k, out);
    } else {
        for (w, out) in w.chunks_exact(k).zip(out.chunks_exact_mut(M)) {
            dots::<V, T, M, 1>(x, w, k, out);
        }
    }
}

/// Each dot product is the same whatever M and R are.
#[inline(always)]
fn dots<V: Vector, T: Weight, const M: usize, const R: usize>(x: &[f32], w: &[T], k: usize, out: &mut [f32]) {
    assert!(x.len() == M * k && w.len() == R * k && out.len() == M * R);
    let mut sums = [[V::zero(); M]; R];
    let whole = k / V::LANES * V::LANES;
    let mut l = 0;
    while l < whole {
        // SAFETY: `l + LANES <= k`, and row i of x (r of w) starts at `i * k` of `M * k` (`r * k` of `R * k`) elements.
        let xs: [V; M] = std::array::from_fn(|i| unsafe { V::load(x.as_ptr().add(i * k + l)) });
        for (r, sums) in sums.iter_mut().enumerate() {
            // SAFETY: as above.
            let w = unsafe { T::load::<V>(w.as_ptr().add(r * k + l)) };
            for (sum, x) in sums.iter_mut().zip(xs) {
                *sum = x.mul_add(w, *sum);
            }
        }
        l += V::LANES;
    }
    for (r, sums) in sums.into_iter().enumerate() {
        for (i, sum) in sums.into_iter().enumerate() {
            let tail = (whole..k).map(|l| x[i * k + l] * w[r * k + l].to_f32());
            out[r * M + i] = tail.fold(sum.sum(), |a, b| a + b);
        }
    }
}

/// An element type of weights.
trait Weight: crate::tensor::Element {
    /// Loads `V::LANES` elements.
    ///
    /// # Safety
    /// `p` must be valid for as many, and the processor must have V's instructions.
    unsafe fn load<V: Vector>(p: *const Self) -> V;
}

impl Weight for f32 {
    #[inline(always)]
    unsafe fn load<V: Vector>(p: *const f32) -> V {
        // SAFETY: the caller's promise.
        unsafe { V::load(p) }
    }
}

impl Weight for bf16 {
    #[inline(always)]
    unsafe fn load<V: Vector>(p: *const bf16) -> V {
        // SAFETY: the caller's promise; bf16 is a u16 in memory.
        unsafe { V::load_bf16(p.cast()) }
    }
}

/// A vector of floats. Its functions may only be called where the processor has the instructions.
trait Vector: Copy {
    const LANES: usize;
    fn zero() -> Self;
    /// # Safety
    /// `p` must be valid for reading `LANES` elements.
    unsafe fn load(p: *const f32) -> Self;
    /// # Safety
    /// As for `load`.
    unsafe fn load_bf16(p: *const u16) -> Self;
    fn mul_add(self, b: Self, c: Self) -> Self;
    fn sum(self) -> f32;
}

/// For processors without vector instructions that we know: the compiler may still find some.
#[derive(Clone, Copy)]
struct Plain([f32; 8]);

impl Vector for Plain {
    const LANES: usize = 8;
    #[inline(always)]
    fn zero() -> Plain {
        Plain([0.0; 8])
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Plain {
        // SAFETY: the caller's promise.
        Plain(unsafe { p.cast::<[f32; 8]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> Plain {
        // SAFETY: the caller's promise.
        let bits = unsafe { p.cast::<[u16; 8]>().read_unaligned() };
        Plain(bits.map(|b| f32::from_bits(u32::from(b) << 16)))
    }
    #[inline(always)]
    fn mul_add(self, b: Plain, c: Plain) -> Plain {
        Plain(std::array::from_fn(|i| self.0[i] * b.0[i] + c.0[i]))
    }
    #[inline(always)]
    fn sum(self) -> f32 {
        self.0.iter().sum()
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::Vector;

    #[derive(Clone, Copy)]
    pub struct Avx512(__m512);

    // SAFETY (of every block below): only reached from functions that enable AVX-512F; pointers are the caller's promise.
    impl Vector for Avx512 {
        const LANES: usize = 16;
        #[inline(always)]
        fn zero() -> Avx512 {
            // SAFETY: see the impl.
            Avx512(unsafe { _mm512_setzero_ps() })
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> Avx512 {
            // SAFETY: see the impl.
            Avx512(unsafe { _mm512_loadu_ps(p) })
        }
        #[inline(always)]
        unsafe fn load_bf16(p: *const u16) -> Avx512 {
            // SAFETY: see the impl.
            unsafe {
                let bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()));
                Avx512(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits)))
            }
        }
        #[inline(always)]
        fn mul_add(self, b: Avx512, c: Avx512) -> Avx512 {
            // SAFETY: see the impl.
            Avx512(unsafe { _mm512_fmadd_ps(self.0, b.0, c.0) })
        }
        #[inline(always)]
        fn sum(self) -> f32 {
            // SAFETY: see the impl.
            unsafe { _mm512_reduce_add_ps(self.0) }
        }
    }

    #[derive(Clone, Copy)]
    pub struct Avx2(__m256);

    // SAFETY (of every block below): only reached from functions that enable AVX2 and FMA; pointers are the caller's promise.
    impl Vector for Avx2 {
        const LANES: usize = 8;
        #[inline(always)]
        fn zero() -> Avx2 {
            // SAFETY: see the impl.
            Avx2(unsafe { _mm256_setzero_ps() })
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> Avx2 {
            // SAFETY: see the impl.
            Avx2(unsafe { _mm256_loadu_ps(p) })
        }
        #[inline(always)]
        unsafe fn load_bf16(p: *const u16) -> Avx2 {
            // SAFETY: see the impl.
            unsafe {
                let bits = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()));
                Avx2(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(bits)))
            }
        }
        #[inline(always)]
        fn mul_add(self, b: Avx2, c: Avx2) -> Avx2 {
            // SAFETY: see the impl.
            Avx2(unsafe { _mm256_fmadd_ps(self.0, b.0, c.0) })
        }
        #[inline(always)]
        fn sum(self) -> f32 {
            let mut lanes = [0.0; 8];
            // SAFETY: see the impl; `lanes` holds 8 floats.
            unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), self.0) };
            lanes.iter().sum()
        }
    }
}
