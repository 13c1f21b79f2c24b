//! f16 and bf16, alone and in pairs.

use super::{File, Lane, Slot, Width, lane_table};
use crate::arith::half::{self, Bf16 as B, F16 as H, Half, halves, relu};

/// f16 as `.ftz` sees it.
#[inline(always)]
fn z(a: u16) -> u16 {
    H::flush(a)
}

/// A result of `.sat`.
#[inline(always)]
fn sat(a: u16) -> u16 {
    half::sat::<H>(a)
}

lane_table! {
    /// Instructions on f16, bf16 and pairs of these.
    Packed {
        // f16
        AddF16 ["add.f16" "add.rn.f16"] (a: u16, b: u16) -> u16 { half::add::<H>(a, b) }
        AddFtzF16 ["add.ftz.f16" "add.rn.ftz.f16"] (a: u16, b: u16) -> u16 { z(half::add::<H>(z(a), z(b))) }
        AddSatF16 ["add.sat.f16" "add.rn.sat.f16"] (a: u16, b: u16) -> u16 { sat(half::add::<H>(a, b)) }
        AddFtzSatF16 ["add.ftz.sat.f16" "add.rn.ftz.sat.f16"]
            (a: u16, b: u16) -> u16 { sat(z(half::add::<H>(z(a), z(b)))) }
        SubF16 ["sub.f16" "sub.rn.f16"] (a: u16, b: u16) -> u16 { half::sub::<H>(a, b) }
        SubFtzF16 ["sub.ftz.f16" "sub.rn.ftz.f16"] (a: u16, b: u16) -> u16 { z(half::sub::<H>(z(a), z(b))) }
        SubSatF16 ["sub.sat.f16" "sub.rn.sat.f16"] (a: u16, b: u16) -> u16 { sat(half::sub::<H>(a, b)) }
        SubFtzSatF16 ["sub.ftz.sat.f16" "sub.rn.ftz.sat.f16"]
            (a: u16, b: u16) -> u16 { sat(z(half::sub::<H>(z(a), z(b)))) }
        MulF16 ["mul.f16" "mul.rn.f16"] (a: u16, b: u16) -> u16 { half::mul::<H>(a, b) }
        MulFtzF16 ["mul.ftz.f16" "mul.rn.ftz.f16"] (a: u16, b: u16) -> u16 { z(half::mul::<H>(z(a), z(b))) }
        MulSatF16 ["mul.sat.f16" "mul.rn.sat.f16"] (a: u16, b: u16) -> u16 { sat(half::mul::<H>(a, b)) }
        MulFtzSatF16 ["mul.ftz.sat.f16" "mul.rn.ftz.sat.f16"]
            (a: u16, b: u16) -> u16 { sat(z(half::mul::<H>(z(a), z(b)))) }
        FmaF16 ["fma.rn.f16"] (a: u16, b: u16, c: u16) -> u16 { half::fma::<H>(a, b, c) }
        FmaReluF16 ["fma.rn.relu.f16"] (a: u16, b: u16, c: u16) -> u16 { relu(half::fma::<H>(a, b, c)) }
        FmaFtzF16 ["fma.rn.ftz.f16"] (a: u16, b: u16, c: u16) -> u16 { z(half::fma::<H>(z(a), z(b), z(c))) }
        FmaSatF16 ["fma.rn.sat.f16"] (a: u16, b: u16, c: u16) -> u16 { sat(half::fma::<H>(a, b, c)) }
        FmaFtzSatF16 ["fma.rn.ftz.sat.f16"]
            (a: u16, b: u16, c: u16) -> u16 { sat(z(half::fma::<H>(z(a), z(b), z(c)))) }
        FmaFtzReluF16 ["fma.rn.ftz.relu.f16"]
            (a: u16, b: u16, c: u16) -> u16 { relu(z(half::fma::<H>(z(a), z(b), z(c)))) }
        NegF16 ["neg.f16"] (a: u16) -> u16 { half::neg::<H>(a) }
        NegFtzF16 ["neg.ftz.f16"] (a: u16) -> u16 { half::neg::<H>(z(a)) }
        AbsF16 ["abs.f16"] (a: u16) -> u16 { half::abs::<H>(a) }
        AbsFtzF16 ["abs.ftz.f16"] (a: u16) -> u16 { half::abs::<H>(z(a)) }
        MinF16 ["min.f16"] (a: u16, b: u16) -> u16 { half::min::<H>(a, b) }
        MinXorsignF16 ["min.xorsign.abs.f16"] (a: u16, b: u16) -> u16 { half::min_xorsign_abs::<H>(a, b) }
        MinNanF16 ["min.NaN.f16"] (a: u16, b: u16) -> u16 { half::min_nan::<H>(a, b) }
        MinNanXorsignF16 ["min.NaN.xorsign.abs.f16"]
            (a: u16, b: u16) -> u16 { half::min_nan_xorsign_abs::<H>(a, b) }
        MinFtzF16 ["min.ftz.f16"] (a: u16, b: u16) -> u16 { half::min::<H>(z(a), z(b)) }
        MinFtzXorsignF16 ["min.ftz.xorsign.abs.f16"]
            (a: u16, b: u16) -> u16 { half::min_xorsign_abs::<H>(z(a), z(b)) }
        MinFtzNanF16 ["min.ftz.NaN.f16"] (a: u16, b: u16) -> u16 { half::min_nan::<H>(z(a), z(b)) }
        MinFtzNanXorsignF16 ["min.ftz.NaN.xorsign.abs.f16"]
            (a: u16, b: u16) -> u16 { half::min_nan_xorsign_abs::<H>(z(a), z(b)) }
        MaxF16 ["max.f16"] (a: u16, b: u16) -> u16 { half::max::<H>(a, b) }
        MaxXorsignF16 ["max.xorsign.abs.f16"] (a: u16, b: u16) -> u16 { half::max_xorsign_abs::<H>(a, b) }
        MaxNanF16 ["max.NaN.f16"] (a: u16, b: u16) -> u16 { half::max_nan::<H>(a, b) }
        MaxNanXorsignF16 ["max.NaN.xorsign.abs.f16"]
            (a: u16, b: u16) -> u16 { half::max_nan_xorsign_abs::<H>(a, b) }
        MaxFtzF16 ["max.ftz.f16"] (a: u16, b: u16) -> u16 { half::max::<H>(z(a), z(b)) }
        MaxFtzXorsignF16 ["max.ftz.xorsign.abs.f16"]
            (a: u16, b: u16) -> u16 { half::max_xorsign_abs::<H>(z(a), z(b)) }
        MaxFtzNanF16 ["max.ftz.NaN.f16"] (a: u16, b: u16) -> u16 { half::max_nan::<H>(z(a), z(b)) }
        MaxFtzNanXorsignF16 ["max.ftz.NaN.xorsign.abs.f16"]
            (a: u16, b: u16) -> u16 { half::max_nan_xorsign_abs::<H>(z(a), z(b)) }
        Ex2F16 ["ex2.approx.f16"] (a: u16) -> u16 { half::ex2::<H>(a) }
        TanhF16 ["tanh.approx.f16"] (a: u16) -> u16 { half::tanh::<H>(a) }
        // bf16
        AddBf16 ["add.bf16" "add.rn.bf16"] (a: u16, b: u16) -> u16 { half::add::<B>(a, b) }
        SubBf16 ["sub.bf16" "sub.rn.bf16"] (a: u16, b: u16) -> u16 { half::sub::<B>(a, b) }
        MulBf16 ["mul.bf16" "mul.rn.bf16"] (a: u16, b: u16) -> u16 { half::mul::<B>(a, b) }
        FmaBf16 ["fma.rn.bf16"] (a: u16, b: u16, c: u16) -> u16 { half::fma::<B>(a, b, c) }
        FmaReluBf16 ["fma.rn.relu.bf16"] (a: u16, b: u16, c: u16) -> u16 { relu(half::fma::<B>(a, b, c)) }
        NegBf16 ["neg.bf16"] (a: u16) -> u16 { half::neg::<B>(a) }
        AbsBf16 ["abs.bf16"] (a: u16) -> u16 { half::abs::<B>(a) }
        MinBf16 ["min.bf16"] (a: u16, b: u16) -> u16 { half::min::<B>(a, b) }
        MinXorsignBf16 ["min.xorsign.abs.bf16"] (a: u16, b: u16) -> u16 { half::min_xorsign_abs::<B>(a, b) }
        MinNanBf16 ["min.NaN.bf16"] (a: u16, b: u16) -> u16 { half::min_nan::<B>(a, b) }
        MinNanXorsignBf16 ["min.NaN.xorsign.abs.bf16"]
            (a: u16, b: u16) -> u16 { half::min_nan_xorsign_abs::<B>(a, b) }
        MaxBf16 ["max.bf16"] (a: u16, b: u16) -> u16 { half::max::<B>(a, b) }
        MaxXorsignBf16 ["max.xorsign.abs.bf16"] (a: u16, b: u16) -> u16 { half::max_xorsign_abs::<B>(a, b) }
        MaxNanBf16 ["max.NaN.bf16"] (a: u16, b: u16) -> u16 { half::max_nan::<B>(a, b) }
        MaxNanXorsignBf16 ["max.NaN.xorsign.abs.bf16"]
            (a: u16, b: u16) -> u16 { half::max_nan_xorsign_abs::<B>(a, b) }
        Ex2Bf16 ["ex2.approx.ftz.bf16"] (a: u16) -> u16 { B::flush(half::ex2::<B>(B::flush(a))) }
        TanhBf16 ["tanh.approx.bf16"] (a: u16) -> u16 { half::tanh::<B>(a) }
        // f16x2
        AddF16x2 ["add.f16x2" "add.rn.f16x2"]
            (a: u32, b: u32) -> u32 { halves!(a, b => half::add::<H>(a, b)) }
        AddFtzF16x2 ["add.ftz.f16x2" "add.rn.ftz.f16x2"]
            (a: u32, b: u32) -> u32 { halves!(a, b => z(half::add::<H>(z(a), z(b)))) }
        AddSatF16x2 ["add.sat.f16x2" "add.rn.sat.f16x2"]
            (a: u32, b: u32) -> u32 { halves!(a, b => sat(half::add::<H>(a, b))) }
        AddFtzSatF16x2 ["add.ftz.sat.f16x2" "add.rn.ftz.sat.f16x2"]
            (a: u32, b: u32) -> u32 { halves!(a, b => sat(z(half::add::<H>(z(a), z(b))))) }
        SubF16x2 ["sub.f16x2" "sub.rn.f16x2"]
            (a: u32, b: u32) -> u32 { halves!(a, b => half::sub::<H>(a, b)) }
        SubFtzF16x2 ["sub.ftz.f16x2" "sub.rn.ftz.f16x2"]
            (a: u32, b: u32) -> u32 { halves!(a, b => z(half::sub::<H>(z(a), z(b)))) }
        SubSatF16x2 ["sub.sat.f16x2" "sub.rn.sat.f16x2"]
            (a: u32, b: u32) -> u32 { halves!(a, b => sat(half::sub::<H>(a, b))) }
        SubFtzSatF16x2 ["sub.ftz.sat.f16x2" "sub.rn.ftz.sat.f16x2"]
            (a: u32, b: u32) -> u32 { halves!(a, b => sat(z(half::sub::<H>(z(a), z(b))))) }
        MulF16x2 ["mul.f16x2" "mul.rn.f16x2"]
            (a: u32, b: u32) -> u32 { halves!(a, b => half::mul::<H>(a, b)) }
        MulFtzF16x2 ["mul.ftz.f16x2" "mul.rn.ftz.f16x2"]
            (a: u32, b: u32) -> u32 { halves!(a, b => z(half::mul::<H>(z(a), z(b)))) }
        MulSatF16x2 ["mul.sat.f16x2" "mul.rn.sat.f16x2"]
            (a: u32, b: u32) -> u32 { halves!(a, b => sat(half::mul::<H>(a, b))) }
        MulFtzSatF16x2 ["mul.ftz.sat.f16x2" "mul.rn.ftz.sat.f16x2"]
            (a: u32, b: u32) -> u32 { halves!(a, b => sat(z(half::mul::<H>(z(a), z(b))))) }
        FmaF16x2 ["fma.rn.f16x2"]
            (a: u32, b: u32, c: u32) -> u32 { halves!(a, b, c => half::fma::<H>(a, b, c)) }
        FmaReluF16x2 ["fma.rn.relu.f16x2"]
            (a: u32, b: u32, c: u32) -> u32 { halves!(a, b, c => relu(half::fma::<H>(a, b, c))) }
        FmaFtzF16x2 ["fma.rn.ftz.f16x2"]
            (a: u32, b: u32, c: u32) -> u32 { halves!(a, b, c => z(half::fma::<H>(z(a), z(b), z(c)))) }
        FmaSatF16x2 ["fma.rn.sat.f16x2"]
            (a: u32, b: u32, c: u32) -> u32 { halves!(a, b, c => sat(half::fma::<H>(a, b, c))) }
        FmaFtzSatF16x2 ["fma.rn.ftz.sat.f16x2"]
            (a: u32, b: u32, c: u32) -> u32 { halves!(a, b, c => sat(z(half::fma::<H>(z(a), z(b), z(c))))) }
        FmaFtzReluF16x2 ["fma.rn.ftz.relu.f16x2"]
            (a: u32, b: u32, c: u32) -> u32 { halves!(a, b, c => relu(z(half::fma::<H>(z(a), z(b), z(c))))) }
        NegF16x2 ["neg.f16x2"] (a: u32) -> u32 { halves!(a => half::neg::<H>(a)) }
        NegFtzF16x2 ["neg.ftz.f16x2"] (a: u32) -> u32 { halves!(a => half::neg::<H>(z(a))) }
        AbsF16x2 ["abs.f16x2"] (a: u32) -> u32 { halves!(a => half::abs::<H>(a)) }
        AbsFtzF16x2 ["abs.ftz.f16x2"] (a: u32) -> u32 { halves!(a => half::abs::<H>(z(a))) }
        MinF16x2 ["min.f16x2"] (a: u32, b: u32) -> u32 { halves!(a, b => half::min::<H>(a, b)) }
        MinXorsignF16x2 ["min.xorsign.abs.f16x2"]
            (a: u32, b: u32) -> u32 { halves!(a, b => half::min_xorsign_abs::<H>(a, b)) }
        MinNanF16x2 ["min.NaN.f16x2"] (a: u32, b: u32) -> u32 { halves!(a, b => half::min_nan::<H>(a, b)) }
        MinNanXorsignF16x2 ["min.NaN.xorsign.abs.f16x2"]
            (a: u32, b: u32) -> u32 { halves!(a, b => half::min_nan_xorsign_abs::<H>(a, b)) }
        MinFtzF16x2 ["min.ftz.f16x2"] (a: u32, b: u32) -> u32 { halves!(a, b => half::min::<H>(z(a), z(b))) }
        MinFtzXorsignF16x2 ["min.ftz.xorsign.abs.f16x2"]
            (a: u32, b: u32) -> u32 { halves!(a, b => half::min_xorsign_abs::<H>(z(a), z(b))) }
        MinFtzNanF16x2 ["min.ftz.NaN.f16x2"]
            (a: u32, b: u32) -> u32 { halves!(a, b => half::min_nan::<H>(z(a), z(b))) }
        MinFtzNanXorsignF16x2 ["min.ftz.NaN.xorsign.abs.f16x2"]
            (a: u32, b: u32) -> u32 { halves!(a, b => half::min_nan_xorsign_abs::<H>(z(a), z(b))) }
        MaxF16x2 ["max.f16x2"] (a: u32, b: u32) -> u32 { halves!(a, b => half::max::<H>(a, b)) }
        MaxXorsignF16x2 ["max.xorsign.abs.f16x2"]
            (a: u32, b: u32) -> u32 { halves!(a, b => half::max_xorsign_abs::<H>(a, b)) }
        MaxNanF16x2 ["max.NaN.f16x2"] (a: u32, b: u32) -> u32 { halves!(a, b => half::max_nan::<H>(a, b)) }
        MaxNanXorsignF16x2 ["max.NaN.xorsign.abs.f16x2"]
            (a: u32, b: u32) -> u32 { halves!(a, b => half::max_nan_xorsign_abs::<H>(a, b)) }
        MaxFtzF16x2 ["max.ftz.f16x2"] (a: u32, b: u32) -> u32 { halves!(a, b => half::max::<H>(z(a), z(b))) }
        MaxFtzXorsignF16x2 ["max.ftz.xorsign.abs.f16x2"]
            (a: u32, b: u32) -> u32 { halves!(a, b => half::max_xorsign_abs::<H>(z(a), z(b))) }
        MaxFtzNanF16x2 ["max.ftz.NaN.f16x2"]
            (a: u32, b: u32) -> u32 { halves!(a, b => half::max_nan::<H>(z(a), z(b))) }
        MaxFtzNanXorsignF16x2 ["max.ftz.NaN.xorsign.abs.f16x2"]
            (a: u32, b: u32) -> u32 { halves!(a, b => half::max_nan_xorsign_abs::<H>(z(a), z(b))) }
        Ex2F16x2 ["ex2.approx.f16x2"] (a: u32) -> u32 { halves!(a => half::ex2::<H>(a)) }
        TanhF16x2 ["tanh.approx.f16x2"] (a: u32) -> u32 { halves!(a => half::tanh::<H>(a)) }
        // bf16x2
        AddBf16x2 ["add.bf16x2" "add.rn.bf16x2"]
            (a: u32, b: u32) -> u32 { halves!(a, b => half::add::<B>(a, b)) }
        SubBf16x2 ["sub.bf16x2" "sub.rn.bf16x2"]
            (a: u32, b: u32) -> u32 { halves!(a, b => half::sub::<B>(a, b)) }
        MulBf16x2 ["mul.bf16x2" "mul.rn.bf16x2"]
            (a: u32, b: u32) -> u32 { halves!(a, b => half::mul::<B>(a, b)) }
        FmaBf16x2 ["fma.rn.bf16x2"]
            (a: u32, b: u32, c: u32) -> u32 { halves!(a, b, c => half::fma::<B>(a, b, c)) }
        FmaReluBf16x2 ["fma.rn.relu.bf16x2"]
            (a: u32, b: u32, c: u32) -> u32 { halves!(a, b, c => relu(half::fma::<B>(a, b, c))) }
        NegBf16x2 ["neg.bf16x2"] (a: u32) -> u32 { halves!(a => half::neg::<B>(a)) }
        AbsBf16x2 ["abs.bf16x2"] (a: u32) -> u32 { halves!(a => half::abs::<B>(a)) }
        MinBf16x2 ["min.bf16x2"] (a: u32, b: u32) -> u32 { halves!(a, b => half::min::<B>(a, b)) }
        MinXorsignBf16x2 ["min.xorsign.abs.bf16x2"]
            (a: u32, b: u32) -> u32 { halves!(a, b => half::min_xorsign_abs::<B>(a, b)) }
        MinNanBf16x2 ["min.NaN.bf16x2"] (a: u32, b: u32) -> u32 { halves!(a, b => half::min_nan::<B>(a, b)) }
        MinNanXorsignBf16x2 ["min.NaN.xorsign.abs.bf16x2"]
            (a: u32, b: u32) -> u32 { halves!(a, b => half::min_nan_xorsign_abs::<B>(a, b)) }
        MaxBf16x2 ["max.bf16x2"] (a: u32, b: u32) -> u32 { halves!(a, b => half::max::<B>(a, b)) }
        MaxXorsignBf16x2 ["max.xorsign.abs.bf16x2"]
            (a: u32, b: u32) -> u32 { halves!(a, b => half::max_xorsign_abs::<B>(a, b)) }
        MaxNanBf16x2 ["max.NaN.bf16x2"] (a: u32, b: u32) -> u32 { halves!(a, b => half::max_nan::<B>(a, b)) }
        MaxNanXorsignBf16x2 ["max.NaN.xorsign.abs.bf16x2"]
            (a: u32, b: u32) -> u32 { halves!(a, b => half::max_nan_xorsign_abs::<B>(a, b)) }
        Ex2Bf16x2 ["ex2.approx.ftz.bf16x2"]
            (a: u32) -> u32 { halves!(a => B::flush(half::ex2::<B>(B::flush(a)))) }
        TanhBf16x2 ["tanh.approx.bf16x2"] (a: u32) -> u32 { halves!(a => half::tanh::<B>(a)) }
    }
}
