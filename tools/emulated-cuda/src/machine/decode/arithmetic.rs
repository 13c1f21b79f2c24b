//! Arithmetic, moves and conversions.

use super::{
    Arg, Decoder, Frame,
    operands::{literal, noun, width_of},
};
use crate::{
    arith::{convert::Conversion, round::Rounding},
    machine::{
        lanes::{Float, Integer, Packed},
        op::{CarryOp, DirectedOp, Op, PredOp, Width},
    },
    ptx::ast::{Instruction, Operand, Type},
};

/// An operand count that is not what the instruction takes.
pub(super) fn count(
    instruction: &Instruction,
    wanted: std::ops::RangeInclusive<usize>,
) -> Result<(), String> {
    if wanted.contains(&instruction.operands.len()) {
        return Ok(());
    }
    let (least, most) = wanted.into_inner();
    let given = instruction.operands.len();
    Err(match least == most {
        true => format!("it takes {least} operands, here are {given}"),
        false => format!("it takes {least} to {most} operands, here are {given}"),
    })
}

/// Floats take no integer literals, and integers no floats.
fn lane_literal(i: &Instruction, op: Op, operand: &Operand) -> Result<(), String> {
    let integers = || i.modifiers.iter().filter_map(|m| Type::named(m)).next_back();
    match (op, integers()) {
        // A selection's last type is that of its last operand alone.
        _ if i.opcode == "slct" => Ok(()),
        _ if i.opcode == "lop3" && i.operands.last() == Some(operand) => match operand {
            Operand::Integer(0..=255) => Ok(()),
            _ => Err("the table of lop3 is a constant below 256".into()),
        },
        (Op::Float(_) | Op::Integer(_), Some(ty)) => literal(operand, ty),
        _ => Ok(()),
    }
}

impl<'a> Decoder<'a> {
    /// An instruction of one of the lane tables; false if it is in none.
    pub(super) fn lane_op(&mut self, frame: &Frame, i: &Instruction) -> Result<bool, String> {
        let mut mnemonic = i.opcode.clone();
        for modifier in &i.modifiers {
            mnemonic.push('.');
            mnemonic.push_str(modifier);
        }
        let (op, (to, from)) = if let Some(found) = Integer::find(&mnemonic) {
            (Op::Integer(found), found.widths())
        } else if let Some(found) = Float::find(&mnemonic) {
            (Op::Float(found), found.widths())
        } else if let Some(found) = Packed::find(&mnemonic) {
            (Op::Packed(found), found.widths())
        } else {
            return Ok(false);
        };
        count(i, from.len() + 1..=from.len() + 1)?;
        let mut reads = [Arg::None; 4];
        for (read, (operand, width)) in reads.iter_mut().zip(i.operands[1..].iter().zip(from)) {
            lane_literal(i, op, operand)?;
            *read = self.source(frame, operand, *width)?;
        }
        let to = self.target(frame, &i.operands[0], to)?;
        self.emit(op, &[to], &reads[..from.len()]);
        Ok(true)
    }

    /// `add.rz.ftz.sat.f32` and the like; false if it is none.
    pub(super) fn directed(&mut self, frame: &Frame, i: &Instruction) -> Result<bool, String> {
        let (op, sources) = match i.opcode.as_str() {
            "add" => (DirectedOp::Add, 2),
            "sub" => (DirectedOp::Sub, 2),
            "mul" => (DirectedOp::Mul, 2),
            "fma" | "mad" => (DirectedOp::Fma, 3),
            "div" => (DirectedOp::Div, 2),
            "sqrt" => (DirectedOp::Sqrt, 1),
            "rcp" => (DirectedOp::Rcp, 1),
            _ => return Ok(false),
        };
        let mut modifiers = i.modifiers.iter().map(String::as_str).peekable();
        let named = modifiers.peek().and_then(|m| rounding(m));
        if named.is_some() {
            modifiers.next();
        }
        let ftz = modifiers.next_if_eq(&"ftz").is_some();
        let sat = modifiers.next_if_eq(&"sat").is_some();
        let double = match (modifiers.next(), modifiers.next()) {
            (Some("f32"), None) => false,
            (Some("f64"), None) if !ftz && !sat => true,
            _ => return Ok(false),
        };
        let optional = matches!(op, DirectedOp::Add | DirectedOp::Sub | DirectedOp::Mul);
        let no_sat = matches!(op, DirectedOp::Div | DirectedOp::Sqrt | DirectedOp::Rcp);
        if named.is_none() && !optional || sat && no_sat {
            return Ok(false);
        }
        let round = named.unwrap_or(Rounding::Rn);
        let width = if double { Width::Wide } else { Width::Word };
        count(i, sources + 1..=sources + 1)?;
        let mut reads = [Arg::None; 3];
        let ty = if double { Type::F64 } else { Type::F32 };
        for (read, operand) in reads.iter_mut().zip(&i.operands[1..]) {
            literal(operand, ty)?;
            *read = self.source(frame, operand, width)?;
        }
        let to = self.target(frame, &i.operands[0], width)?;
        self.emit(Op::Directed { op, double, round, ftz, sat }, &[to], &reads[..sources]);
        Ok(true)
    }

    /// Logic and moves of predicates; false if it is none.
    pub(super) fn pred_op(&mut self, frame: &Frame, i: &Instruction) -> Result<bool, String> {
        if i.modifiers != ["pred"] {
            return Ok(false);
        }
        let (op, sources) = match i.opcode.as_str() {
            "mov" => (PredOp::Mov, 1),
            "not" => (PredOp::Not, 1),
            "and" => (PredOp::And, 2),
            "or" => (PredOp::Or, 2),
            "xor" => (PredOp::Xor, 2),
            _ => return Ok(false),
        };
        count(i, sources + 1..=sources + 1)?;
        let mut reads = [Arg::None; 2];
        for (read, operand) in reads.iter_mut().zip(&i.operands[1..]) {
            *read = self.plain_predicate(frame, operand)?;
        }
        let to = self.target(frame, &i.operands[0], Width::Pred)?;
        self.emit(Op::Pred(op), &[to], &reads[..sources]);
        Ok(true)
    }

    /// A predicate that an instruction reads as it is; what is inverted goes through a temporary.
    pub(super) fn plain_predicate(&mut self, frame: &Frame, operand: &Operand) -> Result<Arg, String> {
        let (arg, not) = self.predicate(frame, operand)?;
        if !not {
            return Ok(arg);
        }
        let inverted = self.temporary(Width::Pred);
        self.emit(Op::Pred(PredOp::Not), &[inverted], &[arg]);
        Ok(inverted)
    }

    /// `mov`, from and to vectors too.
    pub(super) fn mov(&mut self, frame: &Frame, i: &Instruction) -> Result<(), String> {
        count(i, 2..=2)?;
        let [name] = i.modifiers.as_slice() else { return Err("mov takes one type".into()) };
        let ty = Type::named(name).ok_or_else(|| format!("{name} is not a type"))?;
        if ty.size() == 1 {
            return Err(format!("mov.{name} does not exist"));
        }
        let width = width_of(ty)?;
        let wide = width == Width::Wide;
        match (&i.operands[0], &i.operands[1]) {
            (Operand::Vector(parts), source) => {
                let part = self.part(ty, parts.len())?;
                let source = self.source(frame, source, width)?;
                let targets = parts
                    .iter()
                    .map(|p| self.target_or_sink(frame, p, part))
                    .collect::<Result<Vec<_>, _>>()?;
                self.emit(Op::Unpack { count: parts.len() as u8, wide }, &targets, &[source]);
            }
            (target, Operand::Vector(parts)) => {
                let part = self.part(ty, parts.len())?;
                let sources =
                    parts.iter().map(|p| self.source(frame, p, part)).collect::<Result<Vec<_>, _>>()?;
                let target = self.target(frame, target, width)?;
                self.emit(Op::Pack { count: parts.len() as u8, wide }, &[target], &sources);
            }
            (target, Operand::Special(name, component)) => {
                let target = self.target(frame, target, width)?;
                self.special(name, *component, target, width)?;
            }
            (target, source) => {
                literal(source, ty)?;
                let source = match source {
                    Operand::Integer(value) if ty.size() == 2 => {
                        self.constant(width, *value as u64 & 0xffff)?
                    }
                    other => self.source(frame, other, width)?,
                };
                let target = self.target(frame, target, width)?;
                self.emit(Op::Mov { wide }, &[target], &[source]);
            }
        }
        Ok(())
    }

    /// The width of a part of a vector that `mov` packs.
    fn part(&self, ty: Type, parts: usize) -> Result<Width, String> {
        if !matches!(ty, Type::B32 | Type::B64) {
            return Err(format!("vectors are moved as b32 or b64, not as {ty:?}"));
        }
        match (ty.size(), parts) {
            (8, 2 | 4) | (4, 2) => Ok(Width::Word),
            (size, parts) => Err(format!("mov of {size} bytes and {parts} parts is not supported")),
        }
    }

    /// `cvt`
    pub(super) fn cvt(&mut self, frame: &Frame, i: &Instruction) -> Result<(), String> {
        let modifiers: Vec<&str> = i.modifiers.iter().map(String::as_str).collect();
        if modifiers.first() == Some(&"pack") {
            return Err("cvt.pack is not supported".into());
        }
        let conversion = Conversion::parse(&modifiers)?;
        let sources = conversion.sources();
        count(i, sources + 1..=sources + 1)?;
        // A source register may be wider than its type, and a target too.
        let mut reads = [Arg::None; 2];
        for (read, operand) in reads.iter_mut().zip(&i.operands[1..]) {
            let needed = if conversion.source_bits() == 64 { Width::Wide } else { Width::Word };
            let width = self.width(frame, operand).unwrap_or(needed);
            if width == Width::Pred || needed == Width::Wide && width != needed {
                return Err(format!("{} is too narrow for its type", noun(operand)));
            }
            let source = match operand {
                Operand::Special(name, component) => {
                    let to = self.temporary(width);
                    self.special(name, *component, to, width)?;
                    to
                }
                other => self.source(frame, other, width)?,
            };
            *read = if width != needed { self.narrowed(source) } else { source };
        }
        let needed = if conversion.target_bits() == 64 { Width::Wide } else { Width::Word };
        let width = self.width(frame, &i.operands[0]).unwrap_or(needed);
        if width == Width::Pred || needed == Width::Wide && width != needed {
            return Err(format!("{} is too narrow for its type", noun(&i.operands[0])));
        }
        let target = self.target(frame, &i.operands[0], width)?;
        self.emit(Op::Convert { conversion, wide: width == Width::Wide }, &[target], &reads[..sources]);
        Ok(())
    }

    /// The low half of a 64-bit register.
    fn narrowed(&mut self, source: Arg) -> Arg {
        let low = self.temporary(Width::Word);
        self.emit(Op::Unpack { count: 2, wide: true }, &[low, Arg::None], &[source]);
        low
    }

    /// `add.cc`, `addc`, `sub.cc`, `subc`, `mad.lo.cc`, `madc.hi.cc`; false if it is none.
    pub(super) fn carry(&mut self, frame: &Frame, i: &Instruction) -> Result<bool, String> {
        let mut modifiers = i.modifiers.iter().map(String::as_str).peekable();
        let (op, reads_carry) = match i.opcode.as_str() {
            "add" => (CarryOp::Add, false),
            "addc" => (CarryOp::Add, true),
            "sub" => (CarryOp::Sub, false),
            "subc" => (CarryOp::Sub, true),
            "mad" | "madc" => match modifiers.next() {
                Some("lo") => (CarryOp::MadLo, i.opcode == "madc"),
                Some("hi") => (CarryOp::MadHi, i.opcode == "madc"),
                _ => return Ok(false),
            },
            _ => return Ok(false),
        };
        let writes = modifiers.next_if_eq(&"cc").is_some();
        if !writes && !reads_carry {
            return Ok(false);
        }
        let ty = match (modifiers.next().and_then(Type::named), modifiers.next()) {
            (Some(ty @ (Type::U32 | Type::S32 | Type::U64 | Type::S64)), None) => ty,
            _ => return Ok(false),
        };
        let width = width_of(ty)?;
        let sources = if matches!(op, CarryOp::MadLo | CarryOp::MadHi) { 3 } else { 2 };
        count(i, sources + 1..=sources + 1)?;
        let mut reads = [Arg::None; 3];
        for (read, operand) in reads.iter_mut().zip(&i.operands[1..]) {
            *read = self.source(frame, operand, width)?;
        }
        let to = self.target(frame, &i.operands[0], width)?;
        let signed = matches!(ty, Type::S32 | Type::S64);
        let wide = width == Width::Wide;
        self.emit(Op::Carry { op, wide, reads: reads_carry, writes, signed }, &[to], &reads[..sources]);
        Ok(true)
    }
}

/// A rounding mode by its name.
fn rounding(name: &str) -> Option<Rounding> {
    Some(match name {
        "rn" => Rounding::Rn,
        "rz" => Rounding::Rz,
        "rm" => Rounding::Rm,
        "rp" => Rounding::Rp,
        _ => return None,
    })
}
