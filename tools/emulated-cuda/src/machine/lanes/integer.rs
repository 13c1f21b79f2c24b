//! Integers and bits.

use super::{File, Lane, Slot, Width, lane_table};
use crate::arith::{half::halves, integer as int, round::flush32};

lane_table! {
    /// Instructions on integers and bits.
    Integer {
        // 32 bits
        AddI32 ["add.u32" "add.s32"] (a: u32, b: u32) -> u32 { a.wrapping_add(b) }
        SubI32 ["sub.u32" "sub.s32"] (a: u32, b: u32) -> u32 { a.wrapping_sub(b) }
        MulI32 ["mul.lo.u32" "mul.lo.s32"] (a: u32, b: u32) -> u32 { a.wrapping_mul(b) }
        MadI32 ["mad.lo.u32" "mad.lo.s32"] (a: u32, b: u32, c: u32) -> u32 { a.wrapping_mul(b).wrapping_add(c) }
        AddSat ["add.sat.s32"] (a: i32, b: i32) -> i32 { a.saturating_add(b) }
        SubSat ["sub.sat.s32"] (a: i32, b: i32) -> i32 { a.saturating_sub(b) }
        MadHiSat ["mad.hi.sat.s32"] (a: i32, b: i32, c: i32) -> i32 { int::mul_hi_s32(a, b).saturating_add(c) }
        MulHiU32 ["mul.hi.u32"] (a: u32, b: u32) -> u32 { int::mul_hi_u32(a, b) }
        MulHiS32 ["mul.hi.s32"] (a: i32, b: i32) -> i32 { int::mul_hi_s32(a, b) }
        MadHiU32 ["mad.hi.u32"] (a: u32, b: u32, c: u32) -> u32 { int::mul_hi_u32(a, b).wrapping_add(c) }
        MadHiS32 ["mad.hi.s32"] (a: i32, b: i32, c: i32) -> i32 { int::mul_hi_s32(a, b).wrapping_add(c) }
        MulWideU32 ["mul.wide.u32"] (a: u32, b: u32) -> u64 { a as u64 * b as u64 }
        MulWideS32 ["mul.wide.s32"] (a: i32, b: i32) -> i64 { a as i64 * b as i64 }
        MadWideU32 ["mad.wide.u32"] (a: u32, b: u32, c: u64) -> u64 { (a as u64 * b as u64).wrapping_add(c) }
        MadWideS32 ["mad.wide.s32"] (a: i32, b: i32, c: i64) -> i64 { (a as i64 * b as i64).wrapping_add(c) }
        Mul24LoU ["mul24.lo.u32"] (a: u32, b: u32) -> u32 { int::mul24_lo_u32(a, b) }
        Mul24LoS ["mul24.lo.s32"] (a: i32, b: i32) -> i32 { int::mul24_lo_s32(a, b) }
        Mul24HiU ["mul24.hi.u32"] (a: u32, b: u32) -> u32 { int::mul24_hi_u32(a, b) }
        Mul24HiS ["mul24.hi.s32"] (a: i32, b: i32) -> i32 { int::mul24_hi_s32(a, b) }
        Mad24LoU ["mad24.lo.u32"] (a: u32, b: u32, c: u32) -> u32 { int::mul24_lo_u32(a, b).wrapping_add(c) }
        Mad24LoS ["mad24.lo.s32"] (a: i32, b: i32, c: i32) -> i32 { int::mul24_lo_s32(a, b).wrapping_add(c) }
        Mad24HiU ["mad24.hi.u32"] (a: u32, b: u32, c: u32) -> u32 { int::mul24_hi_u32(a, b).wrapping_add(c) }
        Mad24HiS ["mad24.hi.s32"] (a: i32, b: i32, c: i32) -> i32 { int::mul24_hi_s32(a, b).wrapping_add(c) }
        Mad24HiSat ["mad24.hi.sat.s32"] (a: i32, b: i32, c: i32) -> i32 { int::mul24_hi_s32(a, b).saturating_add(c) }
        SadU32 ["sad.u32"] (a: u32, b: u32, c: u32) -> u32 { a.abs_diff(b).wrapping_add(c) }
        SadS32 ["sad.s32"] (a: i32, b: i32, c: i32) -> i32 { c.wrapping_add(a.abs_diff(b) as i32) }
        DivU32 ["div.u32"] (a: u32, b: u32) -> u32 { int::div_u32(a, b) }
        DivS32 ["div.s32"] (a: i32, b: i32) -> i32 { int::div_s32(a, b) }
        RemU32 ["rem.u32"] (a: u32, b: u32) -> u32 { int::rem_u32(a, b) }
        RemS32 ["rem.s32"] (a: i32, b: i32) -> i32 { int::rem_s32(a, b) }
        AbsS32 ["abs.s32"] (a: i32) -> i32 { a.wrapping_abs() }
        NegS32 ["neg.s32"] (a: i32) -> i32 { a.wrapping_neg() }
        MinU32 ["min.u32"] (a: u32, b: u32) -> u32 { a.min(b) }
        MinS32 ["min.s32"] (a: i32, b: i32) -> i32 { a.min(b) }
        MaxU32 ["max.u32"] (a: u32, b: u32) -> u32 { a.max(b) }
        MaxS32 ["max.s32"] (a: i32, b: i32) -> i32 { a.max(b) }
        MinReluS32 ["min.relu.s32"] (a: i32, b: i32) -> i32 { a.min(b).max(0) }
        MaxReluS32 ["max.relu.s32"] (a: i32, b: i32) -> i32 { a.max(b).max(0) }
        Popc32 ["popc.b32"] (a: u32) -> u32 { a.count_ones() }
        Clz32 ["clz.b32"] (a: u32) -> u32 { a.leading_zeros() }
        Brev32 ["brev.b32"] (a: u32) -> u32 { a.reverse_bits() }
        BfindU32 ["bfind.u32"] (a: u32) -> u32 { int::bfind_u32(a) }
        BfindS32 ["bfind.s32"] (a: i32) -> u32 { int::bfind_s32(a) }
        BfindShiftU32 ["bfind.shiftamt.u32"] (a: u32) -> u32 { int::bfind_shiftamt_u32(a) }
        BfindShiftS32 ["bfind.shiftamt.s32"] (a: i32) -> u32 { int::bfind_shiftamt_s32(a) }
        Fns ["fns.b32"] (a: u32, b: u32, c: i32) -> u32 { int::fns(a, b, c) }
        BfeU32 ["bfe.u32"] (a: u32, b: u32, c: u32) -> u32 { int::bfe_u32(a, b, c) }
        BfeS32 ["bfe.s32"] (a: i32, b: u32, c: u32) -> i32 { int::bfe_s32(a, b, c) }
        Bfi32 ["bfi.b32"] (a: u32, b: u32, c: u32, d: u32) -> u32 { int::bfi_b32(a, b, c, d) }
        SzextClampU ["szext.clamp.u32"] (a: u32, b: u32) -> u32 { int::szext_clamp_u32(a, b) }
        SzextClampS ["szext.clamp.s32"] (a: i32, b: u32) -> i32 { int::szext_clamp_s32(a, b) }
        SzextWrapU ["szext.wrap.u32"] (a: u32, b: u32) -> u32 { int::szext_wrap_u32(a, b) }
        SzextWrapS ["szext.wrap.s32"] (a: i32, b: u32) -> i32 { int::szext_wrap_s32(a, b) }
        BmskClamp ["bmsk.clamp.b32"] (a: u32, b: u32) -> u32 { int::bmsk_clamp(a, b) }
        BmskWrap ["bmsk.wrap.b32"] (a: u32, b: u32) -> u32 { int::bmsk_wrap(a, b) }
        Dp4aUU ["dp4a.u32.u32"] (a: u32, b: u32, c: u32) -> u32 { int::dp4a::<false, false>(a, b, c) }
        Dp4aUS ["dp4a.u32.s32"] (a: u32, b: u32, c: u32) -> u32 { int::dp4a::<false, true>(a, b, c) }
        Dp4aSU ["dp4a.s32.u32"] (a: u32, b: u32, c: u32) -> u32 { int::dp4a::<true, false>(a, b, c) }
        Dp4aSS ["dp4a.s32.s32"] (a: u32, b: u32, c: u32) -> u32 { int::dp4a::<true, true>(a, b, c) }
        Dp2aLoUU ["dp2a.lo.u32.u32"] (a: u32, b: u32, c: u32) -> u32 { int::dp2a::<false, false, false>(a, b, c) }
        Dp2aLoUS ["dp2a.lo.u32.s32"] (a: u32, b: u32, c: u32) -> u32 { int::dp2a::<false, false, true>(a, b, c) }
        Dp2aLoSU ["dp2a.lo.s32.u32"] (a: u32, b: u32, c: u32) -> u32 { int::dp2a::<false, true, false>(a, b, c) }
        Dp2aLoSS ["dp2a.lo.s32.s32"] (a: u32, b: u32, c: u32) -> u32 { int::dp2a::<false, true, true>(a, b, c) }
        Dp2aHiUU ["dp2a.hi.u32.u32"] (a: u32, b: u32, c: u32) -> u32 { int::dp2a::<true, false, false>(a, b, c) }
        Dp2aHiUS ["dp2a.hi.u32.s32"] (a: u32, b: u32, c: u32) -> u32 { int::dp2a::<true, false, true>(a, b, c) }
        Dp2aHiSU ["dp2a.hi.s32.u32"] (a: u32, b: u32, c: u32) -> u32 { int::dp2a::<true, true, false>(a, b, c) }
        Dp2aHiSS ["dp2a.hi.s32.s32"] (a: u32, b: u32, c: u32) -> u32 { int::dp2a::<true, true, true>(a, b, c) }
        And32 ["and.b32"] (a: u32, b: u32) -> u32 { a & b }
        Or32 ["or.b32"] (a: u32, b: u32) -> u32 { a | b }
        Xor32 ["xor.b32"] (a: u32, b: u32) -> u32 { a ^ b }
        Not32 ["not.b32"] (a: u32) -> u32 { !a }
        Cnot32 ["cnot.b32"] (a: u32) -> u32 { (a == 0) as u32 }
        Lop3 ["lop3.b32"] (a: u32, b: u32, c: u32, d: u32) -> u32 { int::lop3(a, b, c, d) }
        Shl32 ["shl.b32"] (a: u32, b: u32) -> u32 { int::shl_b32(a, b) }
        ShrU32 ["shr.u32" "shr.b32"] (a: u32, b: u32) -> u32 { int::shr_u32(a, b) }
        ShrS32 ["shr.s32"] (a: i32, b: u32) -> i32 { int::shr_s32(a, b) }
        ShfLClamp ["shf.l.clamp.b32"] (a: u32, b: u32, c: u32) -> u32 { int::shf_l_clamp(a, b, c) }
        ShfLWrap ["shf.l.wrap.b32"] (a: u32, b: u32, c: u32) -> u32 { int::shf_l_wrap(a, b, c) }
        ShfRClamp ["shf.r.clamp.b32"] (a: u32, b: u32, c: u32) -> u32 { int::shf_r_clamp(a, b, c) }
        ShfRWrap ["shf.r.wrap.b32"] (a: u32, b: u32, c: u32) -> u32 { int::shf_r_wrap(a, b, c) }
        Prmt ["prmt.b32"] (a: u32, b: u32, c: u32) -> u32 { int::prmt(a, b, c) }
        PrmtF4e ["prmt.b32.f4e"] (a: u32, b: u32, c: u32) -> u32 { int::prmt_f4e(a, b, c) }
        PrmtB4e ["prmt.b32.b4e"] (a: u32, b: u32, c: u32) -> u32 { int::prmt_b4e(a, b, c) }
        PrmtRc8 ["prmt.b32.rc8"] (a: u32, b: u32, c: u32) -> u32 { int::prmt_rc8(a, b, c) }
        PrmtEcl ["prmt.b32.ecl"] (a: u32, b: u32, c: u32) -> u32 { int::prmt_ecl(a, b, c) }
        PrmtEcr ["prmt.b32.ecr"] (a: u32, b: u32, c: u32) -> u32 { int::prmt_ecr(a, b, c) }
        PrmtRc16 ["prmt.b32.rc16"] (a: u32, b: u32, c: u32) -> u32 { int::prmt_rc16(a, b, c) }
        // 64 bits
        AddI64 ["add.u64" "add.s64"] (a: u64, b: u64) -> u64 { a.wrapping_add(b) }
        SubI64 ["sub.u64" "sub.s64"] (a: u64, b: u64) -> u64 { a.wrapping_sub(b) }
        MulI64 ["mul.lo.u64" "mul.lo.s64"] (a: u64, b: u64) -> u64 { a.wrapping_mul(b) }
        MadI64 ["mad.lo.u64" "mad.lo.s64"] (a: u64, b: u64, c: u64) -> u64 { a.wrapping_mul(b).wrapping_add(c) }
        MulHiU64 ["mul.hi.u64"] (a: u64, b: u64) -> u64 { int::mul_hi_u64(a, b) }
        MulHiS64 ["mul.hi.s64"] (a: i64, b: i64) -> i64 { int::mul_hi_s64(a, b) }
        MadHiU64 ["mad.hi.u64"] (a: u64, b: u64, c: u64) -> u64 { int::mul_hi_u64(a, b).wrapping_add(c) }
        MadHiS64 ["mad.hi.s64"] (a: i64, b: i64, c: i64) -> i64 { int::mul_hi_s64(a, b).wrapping_add(c) }
        SadU64 ["sad.u64"] (a: u64, b: u64, c: u64) -> u64 { a.abs_diff(b).wrapping_add(c) }
        SadS64 ["sad.s64"] (a: i64, b: i64, c: i64) -> i64 { c.wrapping_add(a.abs_diff(b) as i64) }
        DivU64 ["div.u64"] (a: u64, b: u64) -> u64 { int::div_u64(a, b) }
        DivS64 ["div.s64"] (a: i64, b: i64) -> i64 { int::div_s64(a, b) }
        RemU64 ["rem.u64"] (a: u64, b: u64) -> u64 { int::rem_u64(a, b) }
        RemS64 ["rem.s64"] (a: i64, b: i64) -> i64 { int::rem_s64(a, b) }
        AbsS64 ["abs.s64"] (a: i64) -> i64 { a.wrapping_abs() }
        NegS64 ["neg.s64"] (a: i64) -> i64 { a.wrapping_neg() }
        MinU64 ["min.u64"] (a: u64, b: u64) -> u64 { a.min(b) }
        MinS64 ["min.s64"] (a: i64, b: i64) -> i64 { a.min(b) }
        MaxU64 ["max.u64"] (a: u64, b: u64) -> u64 { a.max(b) }
        MaxS64 ["max.s64"] (a: i64, b: i64) -> i64 { a.max(b) }
        Popc64 ["popc.b64"] (a: u64) -> u32 { a.count_ones() }
        Clz64 ["clz.b64"] (a: u64) -> u32 { a.leading_zeros() }
        Brev64 ["brev.b64"] (a: u64) -> u64 { a.reverse_bits() }
        BfindU64 ["bfind.u64"] (a: u64) -> u32 { int::bfind_u64(a) }
        BfindS64 ["bfind.s64"] (a: i64) -> u32 { int::bfind_s64(a) }
        BfindShiftU64 ["bfind.shiftamt.u64"] (a: u64) -> u32 { int::bfind_shiftamt_u64(a) }
        BfindShiftS64 ["bfind.shiftamt.s64"] (a: i64) -> u32 { int::bfind_shiftamt_s64(a) }
        BfeU64 ["bfe.u64"] (a: u64, b: u32, c: u32) -> u64 { int::bfe_u64(a, b, c) }
        BfeS64 ["bfe.s64"] (a: i64, b: u32, c: u32) -> i64 { int::bfe_s64(a, b, c) }
        Bfi64 ["bfi.b64"] (a: u64, b: u64, c: u32, d: u32) -> u64 { int::bfi_b64(a, b, c, d) }
        And64 ["and.b64"] (a: u64, b: u64) -> u64 { a & b }
        Or64 ["or.b64"] (a: u64, b: u64) -> u64 { a | b }
        Xor64 ["xor.b64"] (a: u64, b: u64) -> u64 { a ^ b }
        Not64 ["not.b64"] (a: u64) -> u64 { !a }
        Cnot64 ["cnot.b64"] (a: u64) -> u64 { (a == 0) as u64 }
        Shl64 ["shl.b64"] (a: u64, b: u32) -> u64 { int::shl_b64(a, b) }
        ShrU64 ["shr.u64" "shr.b64"] (a: u64, b: u32) -> u64 { int::shr_u64(a, b) }
        ShrS64 ["shr.s64"] (a: i64, b: u32) -> i64 { int::shr_s64(a, b) }
        // 16 bits
        AddI16 ["add.u16" "add.s16"] (a: u16, b: u16) -> u16 { a.wrapping_add(b) }
        SubI16 ["sub.u16" "sub.s16"] (a: u16, b: u16) -> u16 { a.wrapping_sub(b) }
        MulI16 ["mul.lo.u16" "mul.lo.s16"] (a: u16, b: u16) -> u16 { a.wrapping_mul(b) }
        MadI16 ["mad.lo.u16" "mad.lo.s16"] (a: u16, b: u16, c: u16) -> u16 { a.wrapping_mul(b).wrapping_add(c) }
        MulHiU16 ["mul.hi.u16"] (a: u16, b: u16) -> u16 { int::mul_hi_u16(a, b) }
        MulHiS16 ["mul.hi.s16"] (a: i16, b: i16) -> i16 { int::mul_hi_s16(a, b) }
        MadHiU16 ["mad.hi.u16"] (a: u16, b: u16, c: u16) -> u16 { int::mul_hi_u16(a, b).wrapping_add(c) }
        MadHiS16 ["mad.hi.s16"] (a: i16, b: i16, c: i16) -> i16 { int::mul_hi_s16(a, b).wrapping_add(c) }
        MulWideU16 ["mul.wide.u16"] (a: u16, b: u16) -> u32 { a as u32 * b as u32 }
        MulWideS16 ["mul.wide.s16"] (a: i16, b: i16) -> i32 { a as i32 * b as i32 }
        MadWideU16 ["mad.wide.u16"] (a: u16, b: u16, c: u32) -> u32 { (a as u32 * b as u32).wrapping_add(c) }
        MadWideS16 ["mad.wide.s16"] (a: i16, b: i16, c: i32) -> i32 { (a as i32 * b as i32).wrapping_add(c) }
        SadU16 ["sad.u16"] (a: u16, b: u16, c: u16) -> u16 { a.abs_diff(b).wrapping_add(c) }
        SadS16 ["sad.s16"] (a: i16, b: i16, c: i16) -> i16 { c.wrapping_add(a.abs_diff(b) as i16) }
        DivU16 ["div.u16"] (a: u16, b: u16) -> u16 { int::div_u16(a, b) }
        DivS16 ["div.s16"] (a: i16, b: i16) -> i16 { int::div_s16(a, b) }
        RemU16 ["rem.u16"] (a: u16, b: u16) -> u16 { int::rem_u16(a, b) }
        RemS16 ["rem.s16"] (a: i16, b: i16) -> i16 { int::rem_s16(a, b) }
        AbsS16 ["abs.s16"] (a: i16) -> i16 { a.wrapping_abs() }
        NegS16 ["neg.s16"] (a: i16) -> i16 { a.wrapping_neg() }
        MinU16 ["min.u16"] (a: u16, b: u16) -> u16 { a.min(b) }
        MinS16 ["min.s16"] (a: i16, b: i16) -> i16 { a.min(b) }
        MaxU16 ["max.u16"] (a: u16, b: u16) -> u16 { a.max(b) }
        MaxS16 ["max.s16"] (a: i16, b: i16) -> i16 { a.max(b) }
        And16 ["and.b16"] (a: u16, b: u16) -> u16 { a & b }
        Or16 ["or.b16"] (a: u16, b: u16) -> u16 { a | b }
        Xor16 ["xor.b16"] (a: u16, b: u16) -> u16 { a ^ b }
        Not16 ["not.b16"] (a: u16) -> u16 { !a }
        Cnot16 ["cnot.b16"] (a: u16) -> u16 { (a == 0) as u16 }
        Shl16 ["shl.b16"] (a: u16, b: u32) -> u16 { int::shl_b16(a, b) }
        ShrU16 ["shr.u16" "shr.b16"] (a: u16, b: u32) -> u16 { int::shr_u16(a, b) }
        ShrS16 ["shr.s16"] (a: i16, b: u32) -> i16 { int::shr_s16(a, b) }
        // selections by sign
        Slct32 ["slct.b32.s32" "slct.u32.s32" "slct.s32.s32" "slct.f32.s32"]
            (a: u32, b: u32, c: i32) -> u32 { if c >= 0 { a } else { b } }
        Slct64 ["slct.b64.s32" "slct.u64.s32" "slct.s64.s32" "slct.f64.s32"]
            (a: u64, b: u64, c: i32) -> u64 { if c >= 0 { a } else { b } }
        Slct16 ["slct.b16.s32" "slct.u16.s32" "slct.s16.s32"]
            (a: u16, b: u16, c: i32) -> u16 { if c >= 0 { a } else { b } }
        SlctF32 ["slct.b32.f32" "slct.u32.f32" "slct.s32.f32" "slct.f32.f32"]
            (a: u32, b: u32, c: f32) -> u32 { if c >= 0.0 { a } else { b } }
        SlctF64 ["slct.b64.f32" "slct.u64.f32" "slct.s64.f32" "slct.f64.f32"]
            (a: u64, b: u64, c: f32) -> u64 { if c >= 0.0 { a } else { b } }
        SlctF16 ["slct.b16.f32" "slct.u16.f32" "slct.s16.f32"]
            (a: u16, b: u16, c: f32) -> u16 { if c >= 0.0 { a } else { b } }
        SlctFtzF32 ["slct.ftz.b32.f32" "slct.ftz.u32.f32" "slct.ftz.s32.f32" "slct.ftz.f32.f32"]
            (a: u32, b: u32, c: f32) -> u32 { if flush32(c) >= 0.0 { a } else { b } }
        SlctFtzF64 ["slct.ftz.b64.f32" "slct.ftz.u64.f32" "slct.ftz.s64.f32" "slct.ftz.f64.f32"]
            (a: u64, b: u64, c: f32) -> u64 { if flush32(c) >= 0.0 { a } else { b } }
        SlctFtzF16 ["slct.ftz.b16.f32" "slct.ftz.u16.f32" "slct.ftz.s16.f32"]
            (a: u16, b: u16, c: f32) -> u16 { if flush32(c) >= 0.0 { a } else { b } }
        // pairs of 16 bits; the ISA prints .relu after the type, too
        AddI16x2 ["add.u16x2" "add.s16x2"] (a: u32, b: u32) -> u32 { halves!(a, b => a.wrapping_add(b)) }
        MinU16x2 ["min.u16x2"] (a: u32, b: u32) -> u32 { halves!(a, b => a.min(b)) }
        MaxU16x2 ["max.u16x2"] (a: u32, b: u32) -> u32 { halves!(a, b => a.max(b)) }
        MinS16x2 ["min.s16x2"] (a: u32, b: u32) -> u32 { halves!(a, b => (a as i16).min(b as i16) as u16) }
        MaxS16x2 ["max.s16x2"] (a: u32, b: u32) -> u32 { halves!(a, b => (a as i16).max(b as i16) as u16) }
        MinReluS16x2 ["min.relu.s16x2" "min.s16x2.relu"]
            (a: u32, b: u32) -> u32 { halves!(a, b => (a as i16).min(b as i16).max(0) as u16) }
        MaxReluS16x2 ["max.relu.s16x2" "max.s16x2.relu"]
            (a: u32, b: u32) -> u32 { halves!(a, b => (a as i16).max(b as i16).max(0) as u16) }
        // clamped and packed
        PackU16 ["cvt.pack.sat.u16.s32"] (a: i32, b: i32) -> u32 { int::pack_clamped::<false, 16>(a, b, 0) }
        PackS16 ["cvt.pack.sat.s16.s32"] (a: i32, b: i32) -> u32 { int::pack_clamped::<true, 16>(a, b, 0) }
        PackU8 ["cvt.pack.sat.u8.s32.b32"] (a: i32, b: i32, c: u32) -> u32 { int::pack_clamped::<false, 8>(a, b, c) }
        PackS8 ["cvt.pack.sat.s8.s32.b32"] (a: i32, b: i32, c: u32) -> u32 { int::pack_clamped::<true, 8>(a, b, c) }
        PackU4 ["cvt.pack.sat.u4.s32.b32"] (a: i32, b: i32, c: u32) -> u32 { int::pack_clamped::<false, 4>(a, b, c) }
        PackS4 ["cvt.pack.sat.s4.s32.b32"] (a: i32, b: i32, c: u32) -> u32 { int::pack_clamped::<true, 4>(a, b, c) }
        PackU2 ["cvt.pack.sat.u2.s32.b32"] (a: i32, b: i32, c: u32) -> u32 { int::pack_clamped::<false, 2>(a, b, c) }
        PackS2 ["cvt.pack.sat.s2.s32.b32"] (a: i32, b: i32, c: u32) -> u32 { int::pack_clamped::<true, 2>(a, b, c) }
    }
}
