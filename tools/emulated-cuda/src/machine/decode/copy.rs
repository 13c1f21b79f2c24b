//! `cp.async` and what waits for it.

use super::{Arg, Decoder, Frame, arithmetic::count, modifiers::Modifiers};
use crate::{
    machine::op::{Op, Width},
    ptx::ast::{Instruction, Operand, Space},
};

impl<'a> Decoder<'a> {
    /// `cp.async` in all its forms.
    pub(super) fn copy(&mut self, frame: &Frame, i: &Instruction) -> Result<(), String> {
        let mut m = Modifiers::new(i);
        if i.modifiers.iter().any(|m| m == "bulk") {
            return Err("bulk copies (sm_90) are not supported".into());
        }
        m.expect("async")?;
        match m.next() {
            Some("commit_group") => {
                m.done()?;
                count(i, 0..=0)?;
                self.emit(Op::CpAsyncCommit, &[], &[]);
            }
            Some("wait_all") => {
                m.done()?;
                count(i, 0..=0)?;
                self.emit(Op::CpAsyncWaitAll, &[], &[]);
            }
            Some("wait_group") => {
                m.done()?;
                count(i, 1..=1)?;
                let pending = match i.operands[0] {
                    Operand::Integer(pending) => u32::try_from(pending).ok(),
                    _ => None,
                };
                let pending = pending.ok_or("the number of groups is a constant, not negative")?;
                self.emit(Op::CpAsyncWait(pending), &[], &[]);
            }
            Some("mbarrier") => self.copy_arrive(frame, i, m)?,
            Some(cache @ ("ca" | "cg")) => self.copy_bytes(frame, i, m, cache == "cg")?,
            Some(name) => return Err(format!("modifier .{name} is not known here")),
            None => return Err("a cache operator is missing".into()),
        }
        Ok(())
    }

    /// `cp.async.mbarrier.arrive{.noinc}{.shared}.b64 [a]`
    fn copy_arrive(&mut self, frame: &Frame, i: &Instruction, mut m: Modifiers) -> Result<(), String> {
        m.expect("arrive")?;
        let mut noinc = m.take("noinc");
        let space = m.space()?;
        noinc |= m.take("noinc");
        m.expect("b64")?;
        m.done()?;
        count(i, 1..=1)?;
        if !matches!(space, None | Some(Space::Shared)) {
            return Err("an mbarrier lies in shared memory".into());
        }
        let (address, base) = self.address(frame, &i.operands[0], space)?;
        self.emit(Op::CpAsyncArrive { address, noinc }, &[], &[base]);
        Ok(())
    }

    /// `cp.async.ca.shared.global [to], [from], size{, source size or predicate}{, policy}`
    fn copy_bytes(
        &mut self,
        frame: &Frame,
        i: &Instruction,
        mut m: Modifiers,
        cg: bool,
    ) -> Result<(), String> {
        if m.space()? != Some(Space::Shared) || m.space()? != Some(Space::Global) {
            return Err("it copies from .global to .shared".into());
        }
        let (mut policy, mut prefetch) = (false, false);
        loop {
            if !policy && m.take("L2::cache_hint") {
                policy = true;
            } else if !prefetch && m.any(&["L2::64B", "L2::128B", "L2::256B"]).is_some() {
                prefetch = true;
            } else {
                break;
            }
        }
        m.done()?;
        let fixed = 3 + usize::from(policy);
        count(i, fixed..=fixed + 1)?;
        let bytes = match (&i.operands[2], cg) {
            (Operand::Integer(16), _) => 16,
            (Operand::Integer(size @ (4 | 8)), false) => *size as u8,
            (_, true) => return Err("cp.async.cg copies 16 bytes".into()),
            _ => return Err("it copies 4, 8 or 16 bytes".into()),
        };
        let (to, to_base) = self.address(frame, &i.operands[0], Some(Space::Shared))?;
        let (from, from_base) = self.address(frame, &i.operands[1], Some(Space::Global))?;
        self.policy(frame, i, policy)?;
        let (mut sized, mut ignore, mut third) = (false, false, Arg::None);
        if i.operands.len() > fixed {
            let operand = &i.operands[3];
            let predicate =
                matches!(operand, Operand::NotRegister(_)) || self.width(frame, operand) == Some(Width::Pred);
            if predicate {
                ignore = true;
                third = self.plain_predicate(frame, operand)?;
            } else {
                if matches!(operand, Operand::Integer(size) if !(0..=i64::from(bytes)).contains(size)) {
                    return Err("more bytes are read than copied".into());
                }
                sized = true;
                third = self.source(frame, operand, Width::Word)?;
            }
        }
        self.emit(Op::CpAsync { bytes, to, from, sized, ignore }, &[], &[to_base, from_base, third]);
        Ok(())
    }
}
