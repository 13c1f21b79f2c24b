//! `atom` and `red`.

use super::{
    Arg, Decoder, Frame,
    arithmetic::count,
    memory::once,
    modifiers::Modifiers,
    operands::{literal, width_of},
};
use crate::{
    machine::op::{AtomicKind, AtomicType, Op, Order, Scope},
    ptx::ast::{Instruction, Space, Type},
};

fn kind(name: &str) -> Option<AtomicKind> {
    Some(match name {
        "add" => AtomicKind::Add,
        "min" => AtomicKind::Min,
        "max" => AtomicKind::Max,
        "inc" => AtomicKind::Inc,
        "dec" => AtomicKind::Dec,
        "and" => AtomicKind::And,
        "or" => AtomicKind::Or,
        "xor" => AtomicKind::Xor,
        "exch" => AtomicKind::Exch,
        "cas" => AtomicKind::Cas,
        _ => return None,
    })
}

/// The types that each operation has.
fn atomic_type(kind: AtomicKind, ty: Type) -> Result<AtomicType, String> {
    use AtomicKind::{Add, And, Cas, Dec, Exch, Inc, Max, Min, Or, Xor};
    Ok(match (kind, ty) {
        (Exch | Cas, Type::B128) => return Err("atomics on 128 bits (sm_90) are not supported".into()),
        (Add | Min | Max | Inc | Dec, Type::U32) => AtomicType::U32,
        (Add | Min | Max, Type::S32) => AtomicType::S32,
        (Add | Min | Max, Type::U64) => AtomicType::U64,
        (Min | Max, Type::S64) => AtomicType::S64,
        (And | Or | Xor | Exch | Cas, Type::B32) => AtomicType::U32,
        (And | Or | Xor | Exch | Cas, Type::B64) => AtomicType::U64,
        (Cas, Type::B16) => AtomicType::U16,
        (Add, Type::F32) => AtomicType::F32,
        (Add, Type::F64) => AtomicType::F64,
        (Add, Type::F16) => AtomicType::F16,
        (Add, Type::F16x2) => AtomicType::F16x2,
        (Add, Type::Bf16) => AtomicType::Bf16,
        (Add, Type::Bf16x2) => AtomicType::Bf16x2,
        _ => return Err(format!("{kind:?} does not exist for {ty:?}")),
    })
}

impl<'a> Decoder<'a> {
    /// `atom` and `red`: modifiers in any order, each kind once, the type last.
    pub(super) fn atomic(&mut self, frame: &Frame, i: &Instruction) -> Result<(), String> {
        let red = i.opcode == "red";
        let orders: &[&str] =
            if red { &["relaxed", "release"] } else { &["relaxed", "acquire", "release", "acq_rel"] };
        let mut m = Modifiers::new(i);
        let (mut order, mut scope, mut space, mut op) = (None, None, None, None);
        let (mut noftz, mut policy) = (None, None);
        loop {
            let name = m.peek().unwrap_or_default();
            if m.any(orders).is_some() {
                once(&mut order, name, name)?;
            } else if let Some(found) = m.scope()? {
                once(&mut scope, found, name)?;
            } else if let Some(found) = m.space()? {
                once(&mut space, found, name)?;
            } else if let Some(found) = kind(name) {
                m.next();
                once(&mut op, found, name)?;
            } else if m.take("noftz") {
                once(&mut noftz, (), name)?;
            } else if m.take("L2::cache_hint") {
                once(&mut policy, (), name)?;
            } else {
                break;
            }
        }
        match m.peek() {
            Some("v2" | "v4" | "v8") => return Err("vector atomics (sm_90) are not supported".into()),
            Some("async") => return Err("remote reductions (sm_90) are not supported".into()),
            _ => {}
        }
        let ty = m.ty()?;
        m.done()?;
        let op = op.ok_or("an operation is missing")?;
        let kind = atomic_type(op, ty)?;
        if !matches!(space, None | Some(Space::Global | Space::Shared)) {
            return Err("atomics are for global and shared memory".into());
        }
        if red && matches!(op, AtomicKind::Exch | AtomicKind::Cas) {
            return Err(format!("{op:?} needs a destination"));
        }
        let half = matches!(ty, Type::F16 | Type::F16x2 | Type::Bf16 | Type::Bf16x2);
        if half != noftz.is_some() {
            return Err(".noftz belongs to the 16-bit floats, and to them only".into());
        }
        if matches!(ty, Type::Bf16 | Type::Bf16x2) {
            self.needs(90, "an atomic on bf16")?;
        }
        let sources = if op == AtomicKind::Cas { 2 } else { 1 };
        let operands = usize::from(!red) + 1 + sources + usize::from(policy.is_some());
        count(i, operands..=operands)?;
        let width = width_of(ty)?;
        let (target, rest) = match red {
            true => (Arg::None, &i.operands[..]),
            false => (self.target_or_sink(frame, &i.operands[0], width)?, &i.operands[1..]),
        };
        let (address, base) = self.address(frame, &rest[0], space)?;
        let mut reads = vec![base];
        for operand in &rest[1..=sources] {
            literal(operand, ty)?;
            reads.push(self.source(frame, operand, width)?);
        }
        self.policy(frame, i, policy.is_some())?;
        let order = match order {
            Some("acquire") => Order::Acquire,
            Some("release") => Order::Release,
            Some("acq_rel") => Order::AcqRel,
            _ => Order::None,
        };
        let scope = scope.unwrap_or(Scope::Device);
        self.emit(Op::Atomic(address, op, kind, order, scope), &[target], &reads);
        Ok(())
    }
}
