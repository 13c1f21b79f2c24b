//! Comparisons and selections.

use super::{
    Arg, Decoder, Frame,
    arithmetic::count,
    operands::{literal, width_of},
};
use crate::{
    machine::op::{BoolOp, Compare, CompareType, Op, Width},
    ptx::ast::{Instruction, Operand, Type},
};

/// What follows `setp.` or `set.`: comparison, combination, flush, and the types that are left.
struct Comparison<'a> {
    name: &'a str,
    combine: Option<BoolOp>,
    ftz: bool,
    types: Vec<Type>,
}

fn comparison(i: &Instruction) -> Result<Comparison<'_>, String> {
    let mut modifiers = i.modifiers.iter().map(String::as_str).peekable();
    let name = modifiers.next().ok_or("a comparison is missing")?;
    let combine = match modifiers.peek() {
        Some(&"and") => Some(BoolOp::And),
        Some(&"or") => Some(BoolOp::Or),
        Some(&"xor") => Some(BoolOp::Xor),
        _ => None,
    };
    if combine.is_some() {
        modifiers.next();
    }
    let ftz = modifiers.next_if_eq(&"ftz").is_some();
    let types = modifiers
        .map(|m| Type::named(m).ok_or_else(|| format!(".{m} is not known here")))
        .collect::<Result<_, _>>()?;
    Ok(Comparison { name, combine, ftz, types })
}

/// The comparison that a name means for a type.
fn compare(name: &str, ty: Type) -> Result<Compare, String> {
    let float = matches!(ty, Type::F16 | Type::F16x2 | Type::Bf16 | Type::Bf16x2 | Type::F32 | Type::F64);
    let unsigned = matches!(ty, Type::U16 | Type::U32 | Type::U64);
    let bits = matches!(ty, Type::B16 | Type::B32 | Type::B64);
    Ok(match name {
        "eq" => Compare::Eq,
        "ne" => Compare::Ne,
        "lt" if !bits => Compare::Lt,
        "le" if !bits => Compare::Le,
        "gt" if !bits => Compare::Gt,
        "ge" if !bits => Compare::Ge,
        "lo" if unsigned => Compare::Lt,
        "ls" if unsigned => Compare::Le,
        "hi" if unsigned => Compare::Gt,
        "hs" if unsigned => Compare::Ge,
        "equ" if float => Compare::Equ,
        "neu" if float => Compare::Neu,
        "ltu" if float => Compare::Ltu,
        "leu" if float => Compare::Leu,
        "gtu" if float => Compare::Gtu,
        "geu" if float => Compare::Geu,
        "num" if float => Compare::Num,
        "nan" if float => Compare::Nan,
        _ => return Err(format!("comparison .{name} does not exist for {ty:?}")),
    })
}

/// What `set` writes where the comparison holds: all ones, or the number 1.
fn one(to: Type, from: Type) -> Result<u32, String> {
    Ok(match (to, from) {
        (Type::U32 | Type::S32, _) => u32::MAX,
        (Type::U16 | Type::S16, Type::F16 | Type::Bf16) => 0xffff,
        (Type::F16x2, Type::F16x2) | (Type::F16, Type::F16) => 0x3c00,
        (Type::Bf16x2, Type::Bf16x2) | (Type::Bf16, Type::Bf16) => 0x3f80,
        (_, Type::F16 | Type::F16x2 | Type::Bf16 | Type::Bf16x2) => {
            return Err(format!("a comparison of {from:?} does not give {to:?}"));
        }
        (Type::F16, _) => 0x3c00,
        (Type::F32, _) => 1f32.to_bits(),
        _ => return Err(format!("a comparison does not give {to:?}")),
    })
}

/// How a type is compared.
fn compare_type(ty: Type, ftz: bool) -> Result<CompareType, String> {
    if ftz && matches!(ty, Type::F16 | Type::F16x2) {
        return Err(format!(".ftz for {ty:?} is not supported"));
    }
    if ftz && ty != Type::F32 {
        return Err(format!(".ftz does not exist for {ty:?}"));
    }
    Ok(match ty {
        Type::U16 | Type::B16 => CompareType::U16,
        Type::S16 => CompareType::S16,
        Type::U32 | Type::B32 => CompareType::U32,
        Type::S32 => CompareType::S32,
        Type::U64 | Type::B64 => CompareType::U64,
        Type::S64 => CompareType::S64,
        Type::F16 => CompareType::F16,
        Type::Bf16 => CompareType::Bf16,
        Type::F32 if ftz => CompareType::F32Ftz,
        Type::F32 => CompareType::F32,
        Type::F64 => CompareType::F64,
        _ => return Err(format!("{ty:?} cannot be compared")),
    })
}

impl<'a> Decoder<'a> {
    /// The predicate that a comparison is combined with.
    fn combined(
        &mut self,
        frame: &Frame,
        i: &Instruction,
        combine: Option<BoolOp>,
    ) -> Result<(Arg, bool), String> {
        match combine {
            Some(_) => {
                count(i, 4..=4)?;
                self.predicate(frame, &i.operands[3])
            }
            None => {
                count(i, 3..=3)?;
                Ok((Arg::None, false))
            }
        }
    }

    /// `setp`
    pub(super) fn setp(&mut self, frame: &Frame, i: &Instruction) -> Result<(), String> {
        let Comparison { name, combine, ftz, types } = comparison(i)?;
        let [ty] = types[..] else { return Err("setp takes one type".into()) };
        let compare = compare(name, ty)?;
        let (third, not) = self.combined(frame, i, combine)?;
        let (p, q) = match &i.operands[0] {
            Operand::Pair(p, q) => {
                (self.target_or_sink(frame, p, Width::Pred)?, self.target_or_sink(frame, q, Width::Pred)?)
            }
            one => (self.target_or_sink(frame, one, Width::Pred)?, Arg::None),
        };
        literal(&i.operands[1], ty)?;
        literal(&i.operands[2], ty)?;
        let width = width_of(ty)?;
        let a = self.source(frame, &i.operands[1], width)?;
        let b = self.source(frame, &i.operands[2], width)?;
        let op = match ty {
            Type::F16x2 | Type::Bf16x2 if ftz => return Err(".ftz for pairs is not supported".into()),
            Type::F16x2 | Type::Bf16x2 => Op::SetpHalves { compare, brain: ty == Type::Bf16x2, combine, not },
            _ => Op::Setp { compare, ty: compare_type(ty, ftz)?, combine, not },
        };
        self.emit(op, &[p, q], &[a, b, third]);
        Ok(())
    }

    /// `set`
    pub(super) fn set(&mut self, frame: &Frame, i: &Instruction) -> Result<(), String> {
        let Comparison { name, combine, ftz, types } = comparison(i)?;
        let [to, from] = types[..] else { return Err("set takes two types".into()) };
        let compare = compare(name, from)?;
        let (third, not) = self.combined(frame, i, combine)?;
        literal(&i.operands[1], from)?;
        literal(&i.operands[2], from)?;
        let d = self.target(frame, &i.operands[0], Width::Word)?;
        let width = width_of(from)?;
        let a = self.source(frame, &i.operands[1], width)?;
        let b = self.source(frame, &i.operands[2], width)?;
        let op = match from {
            Type::F16x2 | Type::Bf16x2 if ftz => return Err(".ftz for pairs is not supported".into()),
            Type::F16x2 | Type::Bf16x2 => {
                let one = one(to, from)? as u16;
                Op::SetHalves { compare, brain: from == Type::Bf16x2, one, combine, not }
            }
            _ => Op::Set { compare, ty: compare_type(from, ftz)?, one: one(to, from)?, combine, not },
        };
        self.emit(op, &[d], &[a, b, third]);
        Ok(())
    }

    /// `selp`
    pub(super) fn selp(&mut self, frame: &Frame, i: &Instruction) -> Result<(), String> {
        count(i, 4..=4)?;
        let [name] = i.modifiers.as_slice() else { return Err("selp takes one type".into()) };
        let ty = Type::named(name)
            .filter(|t| t.size() > 1 && !matches!(t, Type::F16 | Type::F16x2 | Type::Bf16 | Type::Bf16x2))
            .ok_or_else(|| format!("selp.{name} does not exist"))?;
        literal(&i.operands[1], ty)?;
        literal(&i.operands[2], ty)?;
        let width = width_of(ty)?;
        let d = self.target(frame, &i.operands[0], width)?;
        let a = self.source(frame, &i.operands[1], width)?;
        let b = self.source(frame, &i.operands[2], width)?;
        let p = self.plain_predicate(frame, &i.operands[3])?;
        self.emit(Op::Selp { wide: width == Width::Wide }, &[d], &[a, b, p]);
        Ok(())
    }
}
