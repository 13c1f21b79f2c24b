//! f32 and f64, rounded to nearest even, and the approximate functions.

use super::{File, Lane, Slot, Width, lane_table};
use crate::arith::{
    round::{
        canon32, canon64, copysign32, copysign64, flush32 as z, max_nan_xorsign_abs32, max_nan32,
        max_xorsign_abs32, max32, max64, min_nan_xorsign_abs32, min_nan32, min_xorsign_abs32, min32, min64,
    },
    special,
};

lane_table! {
    /// Instructions on f32 and f64.
    Float {
        AddF32 ["add.f32" "add.rn.f32"] (a: f32, b: f32) -> f32 { canon32(a + b) }
        AddFtz ["add.ftz.f32" "add.rn.ftz.f32"] (a: f32, b: f32) -> f32 { z(canon32(z(a) + z(b))) }
        SubF32 ["sub.f32" "sub.rn.f32"] (a: f32, b: f32) -> f32 { canon32(a - b) }
        SubFtz ["sub.ftz.f32" "sub.rn.ftz.f32"] (a: f32, b: f32) -> f32 { z(canon32(z(a) - z(b))) }
        MulF32 ["mul.f32" "mul.rn.f32"] (a: f32, b: f32) -> f32 { canon32(a * b) }
        MulFtz ["mul.ftz.f32" "mul.rn.ftz.f32"] (a: f32, b: f32) -> f32 { z(canon32(z(a) * z(b))) }
        FmaF32 ["fma.rn.f32" "mad.rn.f32"] (a: f32, b: f32, c: f32) -> f32 { canon32(a.mul_add(b, c)) }
        FmaFtz ["fma.rn.ftz.f32" "mad.rn.ftz.f32"] (a: f32, b: f32, c: f32) -> f32 { z(canon32(z(a).mul_add(z(b), z(c)))) }
        DivF32 ["div.rn.f32"] (a: f32, b: f32) -> f32 { canon32(a / b) }
        DivFtz ["div.rn.ftz.f32"] (a: f32, b: f32) -> f32 { z(canon32(z(a) / z(b))) }
        DivApprox ["div.approx.f32"] (a: f32, b: f32) -> f32 { special::div_approx(a, b, false) }
        DivApproxFtz ["div.approx.ftz.f32"] (a: f32, b: f32) -> f32 { special::div_approx(a, b, true) }
        DivFull ["div.full.f32"] (a: f32, b: f32) -> f32 { special::div_full(a, b, false) }
        DivFullFtz ["div.full.ftz.f32"] (a: f32, b: f32) -> f32 { special::div_full(a, b, true) }
        RcpF32 ["rcp.rn.f32"] (a: f32) -> f32 { canon32(1.0 / a) }
        RcpFtz ["rcp.rn.ftz.f32"] (a: f32) -> f32 { z(canon32(1.0 / z(a))) }
        RcpApprox ["rcp.approx.f32"] (a: f32) -> f32 { special::rcp_approx(a, false) }
        RcpApproxFtz ["rcp.approx.ftz.f32"] (a: f32) -> f32 { special::rcp_approx(a, true) }
        SqrtF32 ["sqrt.rn.f32"] (a: f32) -> f32 { canon32(a.sqrt()) }
        SqrtFtz ["sqrt.rn.ftz.f32"] (a: f32) -> f32 { z(canon32(z(a).sqrt())) }
        SqrtApprox ["sqrt.approx.f32"] (a: f32) -> f32 { special::sqrt_approx(a, false) }
        SqrtApproxFtz ["sqrt.approx.ftz.f32"] (a: f32) -> f32 { special::sqrt_approx(a, true) }
        RsqrtApprox ["rsqrt.approx.f32"] (a: f32) -> f32 { special::rsqrt_approx(a, false) }
        RsqrtApproxFtz ["rsqrt.approx.ftz.f32"] (a: f32) -> f32 { special::rsqrt_approx(a, true) }
        Sin ["sin.approx.f32"] (a: f32) -> f32 { special::sin_approx(a, false) }
        SinFtz ["sin.approx.ftz.f32"] (a: f32) -> f32 { special::sin_approx(a, true) }
        Cos ["cos.approx.f32"] (a: f32) -> f32 { special::cos_approx(a, false) }
        CosFtz ["cos.approx.ftz.f32"] (a: f32) -> f32 { special::cos_approx(a, true) }
        Ex2 ["ex2.approx.f32"] (a: f32) -> f32 { special::ex2_approx(a, false) }
        Ex2Ftz ["ex2.approx.ftz.f32"] (a: f32) -> f32 { special::ex2_approx(a, true) }
        Lg2 ["lg2.approx.f32"] (a: f32) -> f32 { special::lg2_approx(a, false) }
        Lg2Ftz ["lg2.approx.ftz.f32"] (a: f32) -> f32 { special::lg2_approx(a, true) }
        Tanh ["tanh.approx.f32"] (a: f32) -> f32 { special::tanh_approx(a) }
        AbsF32 ["abs.f32"] (a: f32) -> f32 { canon32(a.abs()) }
        AbsFtz ["abs.ftz.f32"] (a: f32) -> f32 { canon32(z(a).abs()) }
        NegF32 ["neg.f32"] (a: f32) -> f32 { canon32(-a) }
        NegFtz ["neg.ftz.f32"] (a: f32) -> f32 { canon32(-z(a)) }
        MinF32 ["min.f32"] (a: f32, b: f32) -> f32 { min32(a, b) }
        MinFtz ["min.ftz.f32"] (a: f32, b: f32) -> f32 { min32(z(a), z(b)) }
        MaxF32 ["max.f32"] (a: f32, b: f32) -> f32 { max32(a, b) }
        MaxFtz ["max.ftz.f32"] (a: f32, b: f32) -> f32 { max32(z(a), z(b)) }
        MinNan ["min.NaN.f32"] (a: f32, b: f32) -> f32 { min_nan32(a, b) }
        MinNanFtz ["min.ftz.NaN.f32"] (a: f32, b: f32) -> f32 { min_nan32(z(a), z(b)) }
        MaxNan ["max.NaN.f32"] (a: f32, b: f32) -> f32 { max_nan32(a, b) }
        MaxNanFtz ["max.ftz.NaN.f32"] (a: f32, b: f32) -> f32 { max_nan32(z(a), z(b)) }
        MinXorsign ["min.xorsign.abs.f32"] (a: f32, b: f32) -> f32 { min_xorsign_abs32(a, b) }
        MinXorsignFtz ["min.ftz.xorsign.abs.f32"] (a: f32, b: f32) -> f32 { min_xorsign_abs32(z(a), z(b)) }
        MinNanXorsign ["min.NaN.xorsign.abs.f32"] (a: f32, b: f32) -> f32 { min_nan_xorsign_abs32(a, b) }
        MinNanXorsignFtz ["min.ftz.NaN.xorsign.abs.f32"]
            (a: f32, b: f32) -> f32 { min_nan_xorsign_abs32(z(a), z(b)) }
        MaxXorsign ["max.xorsign.abs.f32"] (a: f32, b: f32) -> f32 { max_xorsign_abs32(a, b) }
        MaxXorsignFtz ["max.ftz.xorsign.abs.f32"] (a: f32, b: f32) -> f32 { max_xorsign_abs32(z(a), z(b)) }
        MaxNanXorsign ["max.NaN.xorsign.abs.f32"] (a: f32, b: f32) -> f32 { max_nan_xorsign_abs32(a, b) }
        MaxNanXorsignFtz ["max.ftz.NaN.xorsign.abs.f32"]
            (a: f32, b: f32) -> f32 { max_nan_xorsign_abs32(z(a), z(b)) }
        // The sign of the first operand goes to the second.
        Copysign ["copysign.f32"] (a: f32, b: f32) -> f32 { copysign32(a, b) }
        AddF64 ["add.f64" "add.rn.f64"] (a: f64, b: f64) -> f64 { canon64(a + b, [a, b]) }
        SubF64 ["sub.f64" "sub.rn.f64"] (a: f64, b: f64) -> f64 { canon64(a - b, [a, b]) }
        MulF64 ["mul.f64" "mul.rn.f64"] (a: f64, b: f64) -> f64 { canon64(a * b, [a, b]) }
        FmaF64 ["fma.rn.f64" "mad.rn.f64"] (a: f64, b: f64, c: f64) -> f64 { canon64(a.mul_add(b, c), [a, b, c]) }
        DivF64 ["div.rn.f64"] (a: f64, b: f64) -> f64 { canon64(a / b, [a, b]) }
        RcpF64 ["rcp.rn.f64"] (a: f64) -> f64 { canon64(1.0 / a, [a]) }
        RcpApprox64 ["rcp.approx.ftz.f64"] (a: f64) -> f64 { special::rcp_approx64(a) }
        SqrtF64 ["sqrt.rn.f64"] (a: f64) -> f64 { canon64(a.sqrt(), [a]) }
        RsqrtF64 ["rsqrt.approx.f64"] (a: f64) -> f64 { special::rsqrt_approx64(a) }
        RsqrtFtz64 ["rsqrt.approx.ftz.f64"] (a: f64) -> f64 { special::rsqrt_approx_ftz64(a) }
        // A NaN passes through unchanged.
        AbsF64 ["abs.f64"] (a: f64) -> f64 { if a.is_nan() { a } else { a.abs() } }
        NegF64 ["neg.f64"] (a: f64) -> f64 { -a }
        MinF64 ["min.f64"] (a: f64, b: f64) -> f64 { min64(a, b) }
        MaxF64 ["max.f64"] (a: f64, b: f64) -> f64 { max64(a, b) }
        Copysign64 ["copysign.f64"] (a: f64, b: f64) -> f64 { copysign64(a, b) }
    }
}
