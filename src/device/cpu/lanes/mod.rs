//! Kernels written in vectors of f32 lanes, for code that the compiler does not vectorise by itself.
//!
//! A kernel is written once, generic over [`Simd`], and [`dispatch`] runs the form that was compiled for the best instruction
//! set of the machine. Everything inside a kernel must be `#[inline(always)]`: a function that is not
//! inlined is compiled without the instruction set. Results may differ between instruction sets in the last bits
//! (fused or separate multiply-add, width of sums); on one machine they are always the same.

mod lanewise;
pub(crate) mod math;
mod portable;
mod tile;
#[cfg(target_arch = "x86_64")]
mod x86;

use half::{bf16, f16};

pub(crate) use lanewise::{Lanewise, map};
pub(crate) use tile::{Matrix, add_product, store_product};

use crate::tensor::Element;

/// The most lanes of any [`Simd`].
pub(crate) const MAX_LANES: usize = 16;

/// A vector of f32 lanes of one instruction set. A value is proof that the machine has it.
pub(crate) trait Simd: Copy + Send + Sync + 'static {
    /// The vector register.
    type V: Copy;
    /// Sixteen numbers to choose from.
    type Table: Copy;
    /// Lanes of a register.
    const LANES: usize;

    fn splat(self, x: f32) -> Self::V;
    /// # Safety
    /// `p` must be valid for reading LANES elements (of any alignment).
    unsafe fn load_at(self, p: *const f32) -> Self::V;
    /// # Safety
    /// `p` must be valid for writing LANES elements (of any alignment).
    unsafe fn store_at(self, v: Self::V, p: *mut f32);
    /// Widens the first LANES elements; panics if there are fewer.
    fn load_bf16(self, x: &[bf16]) -> Self::V;
    /// Rounds (to nearest, ties to even) to the first LANES elements; panics if there are fewer.
    fn store_bf16(self, v: Self::V, out: &mut [bf16]);
    /// As [`Simd::load_bf16`].
    fn load_f16(self, x: &[f16]) -> Self::V;
    /// As [`Simd::store_bf16`].
    fn store_f16(self, v: Self::V, out: &mut [f16]);

    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// a b + c, fused where the instruction set can.
    fn madd(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The smaller; `b` where either is not a number.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// The larger; `b` where either is not a number.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// `yes` where a <= b, `no` elsewhere (also where either is not a number).
    fn select_le(self, a: Self::V, b: Self::V, yes: Self::V, no: Self::V) -> Self::V;
    /// Adds the low bits of `n` to the exponent of `p`: `p 2^i` if `n` is i + 1.5 * 2^23.
    fn add_exponent(self, p: Self::V, n: Self::V) -> Self::V;

    /// The lanes of `v`, with the other sign where the lane's bit of `kept` is 0.
    fn flip(self, v: Self::V, kept: u32) -> Self::V;

    /// A table for [`Simd::look_up`].
    fn table(self, values: &[f32; 16]) -> Self::Table;
    /// The entries that the first LANES / 2 bytes name, two each, that of the upper half first; panics if there are fewer.
    fn look_up(self, table: Self::Table, codes: &[u8]) -> Self::V;
    /// The entries that the first 4 LANES bytes name: vector e holds in lane i that of code 8 i + e. Panics if there are fewer.
    fn look_up_words(self, table: Self::Table, codes: &[u8]) -> [Self::V; 8];

    /// The first LANES elements; panics if there are fewer.
    #[inline(always)]
    fn load(self, x: &[f32]) -> Self::V {
        assert!(x.len() >= Self::LANES);
        // SAFETY: the slice holds LANES elements.
        unsafe { self.load_at(x.as_ptr()) }
    }

    /// Writes the first LANES elements; panics if there are fewer.
    #[inline(always)]
    fn store(self, v: Self::V, out: &mut [f32]) {
        assert!(out.len() >= Self::LANES);
        // SAFETY: the slice holds LANES elements, and is ours alone.
        unsafe { self.store_at(v, out.as_mut_ptr()) }
    }

    /// The lanes, followed by zeros.
    #[inline(always)]
    fn lanes(self, v: Self::V) -> [f32; MAX_LANES] {
        let mut lanes = [0.0; MAX_LANES];
        self.store(v, &mut lanes);
        lanes
    }

    /// The sum of the lanes, always in the same order.
    #[inline(always)]
    fn sum(self, v: Self::V) -> f32 {
        let mut lanes = self.lanes(v);
        let mut half = Self::LANES / 2;
        while half > 0 {
            for i in 0..half {
                lanes[i] += lanes[i + half];
            }
            half /= 2;
        }
        lanes[0]
    }

    /// The largest lane.
    #[inline(always)]
    fn largest(self, v: Self::V) -> f32 {
        self.lanes(v)[..Self::LANES].iter().copied().fold(f32::NEG_INFINITY, f32::max)
    }
}

/// Elements that go to and from lanes.
pub(crate) trait Lane: Element {
    /// The first LANES elements; panics if there are fewer.
    fn load<S: Simd>(s: S, x: &[Self]) -> S::V;
    /// Rounds to the first LANES elements; panics if there are fewer.
    fn store<S: Simd>(s: S, v: S::V, out: &mut [Self]);

    /// As [`Lane::load`] of LANES elements or fewer; the other lanes are 0.
    #[inline(always)]
    fn load_some<S: Simd>(s: S, x: &[Self]) -> S::V {
        if x.len() >= S::LANES {
            return Self::load(s, x);
        }
        let mut lanes = [0.0; MAX_LANES];
        for (lane, x) in lanes.iter_mut().zip(x) {
            *lane = x.to_f32();
        }
        s.load(&lanes)
    }

    /// As [`Lane::store`] to LANES elements or fewer.
    #[inline(always)]
    fn store_some<S: Simd>(s: S, v: S::V, out: &mut [Self]) {
        if out.len() >= S::LANES {
            return Self::store(s, v, out);
        }
        let lanes = s.lanes(v);
        for (out, lane) in out.iter_mut().zip(lanes) {
            *out = Self::from_f32(lane);
        }
    }
}

impl Lane for f32 {
    #[inline(always)]
    fn load<S: Simd>(s: S, x: &[f32]) -> S::V {
        s.load(x)
    }
    #[inline(always)]
    fn store<S: Simd>(s: S, v: S::V, out: &mut [f32]) {
        s.store(v, out);
    }
}

impl Lane for bf16 {
    #[inline(always)]
    fn load<S: Simd>(s: S, x: &[bf16]) -> S::V {
        s.load_bf16(x)
    }
    #[inline(always)]
    fn store<S: Simd>(s: S, v: S::V, out: &mut [bf16]) {
        s.store_bf16(v, out);
    }
}

impl Lane for f16 {
    #[inline(always)]
    fn load<S: Simd>(s: S, x: &[f16]) -> S::V {
        s.load_f16(x)
    }
    #[inline(always)]
    fn store<S: Simd>(s: S, v: S::V, out: &mut [f16]) {
        s.store_f16(v, out);
    }
}

/// Code to run with the machine's best instruction set. `run` must be `#[inline(always)]`.
pub(crate) trait Kernel {
    type Output;
    fn run<S: Simd>(self, s: S) -> Self::Output;
}

/// Runs a kernel, compiled for [`Isa::detect`](crate::device::cpu::simd::Isa::detect).
pub(crate) fn dispatch<K: Kernel>(kernel: K) -> K::Output {
    #[cfg(target_arch = "x86_64")]
    {
        x86::dispatch(kernel)
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        kernel.run(portable::Portable)
    }
}
