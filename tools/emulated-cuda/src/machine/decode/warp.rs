//! What the lanes of a warp do together.

use super::{Arg, Decoder, Frame, arithmetic::count, modifiers::Modifiers};
use crate::{
    arith::mma::Mma,
    machine::op::{MAX_OPERANDS, Op, ReduxOp, ShuffleMode, VoteMode, Width},
    ptx::ast::{Instruction, Operand, Space, Type},
};

/// Without `.sync` these do not exist from sm_70 on.
fn sync(i: &Instruction) -> Result<(), String> {
    if i.modifiers.iter().any(|m| m == "sync") {
        return Ok(());
    }
    Err(format!("{} without .sync does not exist from sm_70 on", i.opcode))
}

/// `d|p` or `d`
fn pair(operand: &Operand) -> (&Operand, Option<&Operand>) {
    match operand {
        Operand::Pair(d, p) => (d, Some(p)),
        one => (one, None),
    }
}

impl<'a> Decoder<'a> {
    /// Shuffles, votes, matrix fragments; false if it is none.
    pub(super) fn warp_op(&mut self, frame: &Frame, i: &Instruction) -> Result<bool, String> {
        match i.opcode.as_str() {
            "shfl" => self.shuffle(frame, i)?,
            "vote" => self.vote(frame, i)?,
            "match" => self.match_op(frame, i)?,
            "activemask" => {
                let mut m = Modifiers::new(i);
                m.expect("b32")?;
                m.done()?;
                count(i, 1..=1)?;
                let to = self.target(frame, &i.operands[0], Width::Word)?;
                self.emit(Op::ActiveMask, &[to], &[]);
            }
            "redux" => self.redux(frame, i)?,
            "ldmatrix" | "stmatrix" => self.matrix(frame, i)?,
            "movmatrix" => self.movmatrix(frame, i)?,
            "mma" => self.mma(frame, i)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn words(&mut self, frame: &Frame, operands: &[Operand]) -> Result<Vec<Arg>, String> {
        operands.iter().map(|o| self.source(frame, o, Width::Word)).collect()
    }

    fn shuffle(&mut self, frame: &Frame, i: &Instruction) -> Result<(), String> {
        sync(i)?;
        let mut m = Modifiers::new(i);
        m.expect("sync")?;
        let mode = match m.next() {
            Some("up") => ShuffleMode::Up,
            Some("down") => ShuffleMode::Down,
            Some("bfly") => ShuffleMode::Bfly,
            Some("idx") => ShuffleMode::Idx,
            _ => return Err("the mode is .up, .down, .bfly or .idx".into()),
        };
        m.expect("b32")?;
        m.done()?;
        count(i, 5..=5)?;
        let (d, p) = pair(&i.operands[0]);
        let d = self.target(frame, d, Width::Word)?;
        let p = p.map_or(Ok(Arg::None), |p| self.target(frame, p, Width::Pred))?;
        let reads = self.words(frame, &i.operands[1..])?;
        self.emit(Op::Shuffle(mode), &[d, p], &reads);
        Ok(())
    }

    fn vote(&mut self, frame: &Frame, i: &Instruction) -> Result<(), String> {
        sync(i)?;
        let mut m = Modifiers::new(i);
        m.expect("sync")?;
        let (mode, ty, width) = match m.next() {
            Some("all") => (VoteMode::All, "pred", Width::Pred),
            Some("any") => (VoteMode::Any, "pred", Width::Pred),
            Some("uni") => (VoteMode::Uni, "pred", Width::Pred),
            Some("ballot") => (VoteMode::Ballot, "b32", Width::Word),
            _ => return Err("the mode is .all, .any, .uni or .ballot".into()),
        };
        m.expect(ty)?;
        m.done()?;
        count(i, 3..=3)?;
        let to = self.target(frame, &i.operands[0], width)?;
        let (source, not) = self.predicate(frame, &i.operands[1])?;
        let mask = self.source(frame, &i.operands[2], Width::Word)?;
        self.emit(Op::Vote { mode, not }, &[to], &[source, mask]);
        Ok(())
    }

    fn match_op(&mut self, frame: &Frame, i: &Instruction) -> Result<(), String> {
        sync(i)?;
        let mut m = Modifiers::new(i);
        let all = match m.next() {
            Some("any") => false,
            Some("all") => true,
            _ => return Err("the mode is .any or .all".into()),
        };
        m.expect("sync")?;
        let wide = match m.ty()? {
            Type::B32 => false,
            Type::B64 => true,
            ty => return Err(format!("{ty:?} is not matched, only b32 and b64")),
        };
        m.done()?;
        count(i, 3..=3)?;
        let (d, p) = pair(&i.operands[0]);
        if p.is_some() && !all {
            return Err("match.any has no predicate".into());
        }
        let d = self.target(frame, d, Width::Word)?;
        let p = p.map_or(Ok(Arg::None), |p| self.target(frame, p, Width::Pred))?;
        let value = self.source(frame, &i.operands[1], if wide { Width::Wide } else { Width::Word })?;
        let mask = self.source(frame, &i.operands[2], Width::Word)?;
        self.emit(Op::Match { all, wide }, &[d, p], &[value, mask]);
        Ok(())
    }

    fn redux(&mut self, frame: &Frame, i: &Instruction) -> Result<(), String> {
        let mut m = Modifiers::new(i);
        m.expect("sync")?;
        let op = match (m.next(), m.peek()) {
            (Some("add"), Some("u32" | "s32")) => ReduxOp::Add,
            (Some("min"), Some("u32")) => ReduxOp::MinU,
            (Some("min"), Some("s32")) => ReduxOp::MinS,
            (Some("max"), Some("u32")) => ReduxOp::MaxU,
            (Some("max"), Some("s32")) => ReduxOp::MaxS,
            (Some("and"), Some("b32")) => ReduxOp::And,
            (Some("or"), Some("b32")) => ReduxOp::Or,
            (Some("xor"), Some("b32")) => ReduxOp::Xor,
            (Some(op), Some(ty)) => return Err(format!("reduction .{op}.{ty} does not exist on sm_80")),
            _ => return Err("an operation and a type are missing".into()),
        };
        m.next();
        m.done()?;
        count(i, 3..=3)?;
        let to = self.target(frame, &i.operands[0], Width::Word)?;
        let reads = self.words(frame, &i.operands[1..])?;
        self.emit(Op::Redux(op), &[to], &reads);
        Ok(())
    }

    /// `ldmatrix.sync.aligned.m8n8.x4{.trans}{.shared}.b16`, and `stmatrix` alike.
    fn matrix(&mut self, frame: &Frame, i: &Instruction) -> Result<(), String> {
        let load = i.opcode == "ldmatrix";
        if load {
            self.needs(75, "ldmatrix")?
        } else {
            self.needs(90, "stmatrix")?
        }
        let mut m = Modifiers::new(i);
        m.expect("sync")?;
        m.expect("aligned")?;
        m.expect("m8n8")?;
        let number = match m.next() {
            Some("x1") => 1,
            Some("x2") => 2,
            Some("x4") => 4,
            _ => return Err("there are 1, 2 or 4 matrices".into()),
        };
        let mut trans = m.take("trans");
        let space = m.space()?;
        trans |= m.take("trans");
        m.expect("b16")?;
        m.done()?;
        count(i, 2..=2)?;
        if !matches!(space, None | Some(Space::Shared)) {
            return Err("matrices lie in shared memory".into());
        }
        let (at, registers) = if load { (1, 0) } else { (0, 1) };
        let (address, base) = self.address(frame, &i.operands[at], space)?;
        let list = match &i.operands[registers] {
            Operand::Vector(list) if list.len() == number as usize => list,
            _ => return Err(format!("a vector of {number} is wanted")),
        };
        if load {
            let targets = list
                .iter()
                .map(|o| self.target_or_sink(frame, o, Width::Word))
                .collect::<Result<Vec<_>, _>>()?;
            self.emit(Op::LdMatrix { count: number, trans, address }, &targets, &[base]);
        } else {
            let mut reads = vec![base];
            reads.extend(self.words(frame, list)?);
            self.emit(Op::StMatrix { count: number, trans, address }, &[], &reads);
        }
        Ok(())
    }

    fn movmatrix(&mut self, frame: &Frame, i: &Instruction) -> Result<(), String> {
        self.needs(75, "movmatrix")?;
        let mut m = Modifiers::new(i);
        for name in ["sync", "aligned", "m8n8", "trans", "b16"] {
            m.expect(name)?;
        }
        m.done()?;
        count(i, 2..=2)?;
        let to = self.target(frame, &i.operands[0], Width::Word)?;
        let from = self.source(frame, &i.operands[1], Width::Word)?;
        self.emit(Op::MovMatrix, &[to], &[from]);
        Ok(())
    }

    fn mma(&mut self, frame: &Frame, i: &Instruction) -> Result<(), String> {
        if i.modifiers.first().is_some_and(|m| m.starts_with("sp")) {
            return Err("sparse matrices (mma.sp) are not supported".into());
        }
        let modifiers: Vec<&str> = i.modifiers.iter().map(String::as_str).collect();
        let mma = Mma::parse(&modifiers)?;
        count(i, 4..=4)?;
        let counts = mma.registers();
        if counts.iter().map(|&n| usize::from(n)).sum::<usize>() > MAX_OPERANDS {
            return Err("fragments of this size are not supported".into());
        }
        let width = if mma.wide() { Width::Wide } else { Width::Word };
        let mut lists = [&[][..]; 4];
        for ((list, operand), (count, name)) in
            lists.iter_mut().zip(&i.operands).zip(counts.into_iter().zip(["d", "a", "b", "c"]))
        {
            *list = match operand {
                Operand::Vector(list) if list.len() == usize::from(count) => list,
                _ => return Err(format!("{name} is a vector of {count}")),
            };
        }
        let targets =
            lists[0].iter().map(|o| self.target_or_sink(frame, o, width)).collect::<Result<Vec<_>, _>>()?;
        let mut reads = Vec::new();
        for operand in lists[1..].iter().copied().flatten() {
            reads.push(self.source(frame, operand, width)?);
        }
        self.emit(Op::Mma(mma), &targets, &reads);
        Ok(())
    }
}
