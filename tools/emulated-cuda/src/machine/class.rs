//! The class that an instruction is counted in.

use super::{
    counters::Class,
    lanes::Float,
    op::{CompareType, DirectedOp, Op, Window},
};

fn window(window: Window) -> Class {
    match window {
        // Where a generic address leads is known only when it runs; most lead to global memory.
        Window::Global | Window::Generic => Class::Global,
        Window::Shared => Class::Shared,
        Window::Local | Window::Param => Class::Local,
    }
}

fn float(op: Float) -> Class {
    use Float::{
        AbsF64, AddF64, Copysign64, Cos, CosFtz, DivF64, Ex2, Ex2Ftz, FmaF64, Lg2, Lg2Ftz, MaxF64, MinF64,
        MulF64, NegF64, RcpApprox, RcpApprox64, RcpApproxFtz, RcpF32, RcpF64, RcpFtz, RsqrtApprox,
        RsqrtApproxFtz, RsqrtF64, RsqrtFtz64, Sin, SinFtz, SqrtApprox, SqrtApproxFtz, SqrtF32, SqrtF64,
        SqrtFtz, SubF64, Tanh,
    };
    match op {
        Ex2 | Ex2Ftz | Lg2 | Lg2Ftz | Sin | SinFtz | Cos | CosFtz | Tanh | RcpF32 | RcpFtz | RcpApprox
        | RcpApproxFtz | SqrtF32 | SqrtFtz | SqrtApprox | SqrtApproxFtz | RsqrtApprox | RsqrtApproxFtz
        | RcpF64 | RcpApprox64 | SqrtF64 | RsqrtF64 | RsqrtFtz64 => Class::Special,
        AddF64 | SubF64 | MulF64 | FmaF64 | DivF64 | AbsF64 | NegF64 | MinF64 | MaxF64 | Copysign64 => {
            Class::Float64
        }
        _ => Class::Float32,
    }
}

fn compare(ty: CompareType) -> Class {
    match ty {
        CompareType::F32 | CompareType::F32Ftz => Class::Float32,
        CompareType::F64 => Class::Float64,
        CompareType::F16 | CompareType::Bf16 => Class::Half,
        _ => Class::Integer,
    }
}

impl Op {
    /// The class that it is counted in. Comparisons count as arithmetic of their type.
    pub fn class(&self) -> Class {
        match *self {
            Op::Integer(_) | Op::Pred(_) | Op::Selp { .. } | Op::Carry { .. } => Class::Integer,
            Op::Float(op) => float(op),
            Op::Packed(_) | Op::SetpHalves { .. } | Op::SetHalves { .. } => Class::Half,
            Op::Directed { op: DirectedOp::Sqrt | DirectedOp::Rcp, .. } => Class::Special,
            Op::Directed { double: true, .. } | Op::Testp { double: true, .. } => Class::Float64,
            Op::Directed { .. } | Op::Testp { .. } => Class::Float32,
            Op::Convert { .. } => Class::Convert,
            Op::Setp { ty, .. } | Op::Set { ty, .. } => compare(ty),
            Op::Mov { .. }
            | Op::Pack { .. }
            | Op::Unpack { .. }
            | Op::Special(_)
            | Op::IsSpace(_)
            | Op::Cvta { .. } => Class::Move,
            Op::Load(address, ..) | Op::Store(address, ..) => window(address.window),
            Op::Atomic(..) => Class::Atomic,
            Op::Shuffle(_)
            | Op::Vote { .. }
            | Op::Match { .. }
            | Op::ActiveMask
            | Op::Redux(_)
            | Op::MovMatrix => Class::Warp,
            Op::LdMatrix { .. } | Op::StMatrix { .. } => Class::Shared,
            Op::Mma(_) => Class::Mma,
            Op::CpAsync { .. } => Class::Global,
            Op::CpAsyncCommit
            | Op::CpAsyncWait(_)
            | Op::CpAsyncWaitAll
            | Op::CpAsyncArrive { .. }
            | Op::Mbarrier(..)
            | Op::Barrier { .. }
            | Op::WarpSync
            | Op::Fence(_) => Class::Sync,
            Op::Branch { .. }
            | Op::BranchIndexed { .. }
            | Op::Exit
            | Op::Trap
            | Op::Printf { .. }
            | Op::AssertFail { .. }
            | Op::Sleep
            | Op::Nop => Class::Control,
        }
    }
}
