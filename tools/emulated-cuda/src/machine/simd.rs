//! What runs on all 32 lanes at once, compiled for several instruction sets; the best one is chosen when the process starts.
//!
//! AVX-512 would gain little over AVX2 here, where calls and not lanes take the time. All versions give the same bits: they are the same Rust functions, and every operation in them is exactly defined.

use std::sync::LazyLock;

use super::{
    alu,
    lanes::{File, Float, Integer, Packed},
    op::{Compare, CompareType, MAX_OPERANDS, Slot},
};
use crate::arith::convert::Conversion;

type Operands = [Slot; MAX_OPERANDS];

/// The versions for one instruction set. Calling them is sound where [`SIMD`] put them: only there are they at hand.
pub struct Simd {
    integer: unsafe fn(Integer, &mut File, &Operands, u32),
    float: unsafe fn(Float, &mut File, &Operands, u32),
    packed: unsafe fn(Packed, &mut File, &Operands, u32),
    convert: unsafe fn(Conversion, bool, &mut File, &Operands, u32),
    compare: unsafe fn(Compare, CompareType, &File, Slot, Slot) -> u32,
}

/// The versions for this processor.
pub static SIMD: LazyLock<Simd> = LazyLock::new(Simd::detect);

impl Simd {
    /// Runs an instruction of the integer table.
    #[inline(always)]
    pub fn integer(&self, op: Integer, file: &mut File, o: &Operands, mask: u32) {
        // SAFETY: `detect` chose a version that this processor can run.
        unsafe { (self.integer)(op, file, o, mask) }
    }

    /// Runs an instruction of the table of f32 and f64.
    #[inline(always)]
    pub fn float(&self, op: Float, file: &mut File, o: &Operands, mask: u32) {
        // SAFETY: as above.
        unsafe { (self.float)(op, file, o, mask) }
    }

    /// Runs an instruction of the table of f16 and bf16.
    #[inline(always)]
    pub fn packed(&self, op: Packed, file: &mut File, o: &Operands, mask: u32) {
        // SAFETY: as above.
        unsafe { (self.packed)(op, file, o, mask) }
    }

    /// Runs a conversion; `wide` says that the destination has 64 bits.
    #[inline(always)]
    pub fn convert(&self, conversion: Conversion, wide: bool, file: &mut File, o: &Operands, mask: u32) {
        // SAFETY: as above.
        unsafe { (self.convert)(conversion, wide, file, o, mask) }
    }

    /// The lanes in which a comparison holds.
    #[inline(always)]
    pub fn compare(&self, compare: Compare, ty: CompareType, file: &File, a: Slot, b: Slot) -> u32 {
        // SAFETY: as above.
        unsafe { (self.compare)(compare, ty, file, a, b) }
    }

    fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            let v3 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c")
                && is_x86_feature_detected!("bmi2")
                && is_x86_feature_detected!("lzcnt")
                && is_x86_feature_detected!("popcnt");
            if v3 {
                return v3::SIMD;
            }
        }
        baseline::SIMD
    }
}

/// The functions of one version, all with the same attribute.
macro_rules! version {
    ($name:ident, $($feature:literal)?) => {
        mod $name {
            use super::*;

            pub const SIMD: Simd = Simd { integer, float, packed, convert, compare };

            $(#[target_feature(enable = $feature)])?
            fn integer(op: Integer, file: &mut File, o: &Operands, mask: u32) {
                op.apply(file, o, mask);
            }
            $(#[target_feature(enable = $feature)])?
            fn float(op: Float, file: &mut File, o: &Operands, mask: u32) {
                op.apply(file, o, mask);
            }
            $(#[target_feature(enable = $feature)])?
            fn packed(op: Packed, file: &mut File, o: &Operands, mask: u32) {
                op.apply(file, o, mask);
            }
            $(#[target_feature(enable = $feature)])?
            fn convert(conversion: Conversion, wide: bool, file: &mut File, o: &Operands, mask: u32) {
                alu::convert(conversion, wide, file, o, mask);
            }
            $(#[target_feature(enable = $feature)])?
            fn compare(compare: Compare, ty: CompareType, file: &File, a: Slot, b: Slot) -> u32 {
                alu::compare(compare, ty, file, a, b)
            }
        }
    };
}

version!(baseline,);
#[cfg(target_arch = "x86_64")]
version!(v3, "avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt");
