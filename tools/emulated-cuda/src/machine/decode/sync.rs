//! Barriers and fences.

use super::{Arg, Decoder, Frame, arithmetic::count, modifiers::Modifiers};
use crate::{
    machine::op::{Address, BarKind, BarRed, FloatProperty, MbarrierKind, Op, Scope, Width, Window},
    ptx::ast::{Instruction, Operand, Space, Type},
};

/// Barriers of a block.
const BARRIERS: i64 = 16;

/// What the type of an `mbarrier` instruction follows.
struct MbarrierModifiers {
    no_complete: bool,
    parity: bool,
    space: Option<Space>,
}

impl<'a> Decoder<'a> {
    /// Barriers, fences, mbarriers and `testp`; false if it is none.
    pub(super) fn sync_op(&mut self, frame: &Frame, i: &Instruction) -> Result<bool, String> {
        match i.opcode.as_str() {
            "bar" | "barrier" => self.barrier(frame, i)?,
            "membar" | "fence" => self.fence(i)?,
            "mbarrier" => self.mbarrier(frame, i)?,
            "testp" => self.testp(frame, i)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// `bar` and `barrier`: the first is the second with `.aligned`.
    fn barrier(&mut self, frame: &Frame, i: &Instruction) -> Result<(), String> {
        let mut m = Modifiers::new(i);
        let bar = i.opcode == "bar";
        match m.peek() {
            Some("warp") if bar => {
                m.next();
                m.expect("sync")?;
                m.done()?;
                count(i, 1..=1)?;
                let mask = self.source(frame, &i.operands[0], Width::Word)?;
                self.emit(Op::WarpSync, &[], &[mask]);
                return Ok(());
            }
            Some("cluster") => return Err("barriers of clusters (sm_90) are not supported".into()),
            _ => {}
        }
        m.take("cta");
        let name = m.next().ok_or("an operation is missing")?;
        let mut aligned = bar || m.take("aligned");
        let (kind, to) = match name {
            "sync" => (BarKind::Sync, None),
            "arrive" => (BarKind::Arrive, None),
            "red" => {
                let (op, ty, width) = match m.next() {
                    Some("popc") => (BarRed::Popc, "u32", Width::Word),
                    Some("and") => (BarRed::And, "pred", Width::Pred),
                    Some("or") => (BarRed::Or, "pred", Width::Pred),
                    _ => return Err("the reduction is .popc, .and or .or".into()),
                };
                aligned |= m.take("aligned");
                m.expect(ty)?;
                count(i, 3..=4)?;
                (BarKind::Red(op), Some(self.target(frame, &i.operands[0], width)?))
            }
            _ => return Err(format!("modifier .{name} is not known here")),
        };
        m.done()?;
        let (ids, predicate) = match kind {
            BarKind::Sync => {
                count(i, 1..=2)?;
                (&i.operands[..], None)
            }
            BarKind::Arrive => {
                count(i, 2..=2)?;
                (&i.operands[..], None)
            }
            BarKind::Red(_) => {
                let last = i.operands.len() - 1;
                (&i.operands[1..last], Some(&i.operands[last]))
            }
        };
        if matches!(ids[0], Operand::Integer(id) if !(0..BARRIERS).contains(&id)) {
            return Err(format!("a block has {BARRIERS} barriers, from 0"));
        }
        if matches!(ids.get(1), Some(Operand::Integer(threads)) if *threads <= 0 || threads % 32 != 0) {
            return Err("the number of threads is a multiple of 32".into());
        }
        let id = self.source(frame, &ids[0], Width::Word)?;
        let threads = match ids.get(1) {
            Some(threads) => self.source(frame, threads, Width::Word)?,
            None => Arg::None,
        };
        let (predicate, not) = match predicate {
            Some(operand) => self.predicate(frame, operand)?,
            None => (Arg::None, false),
        };
        let op = Op::Barrier { kind, aligned, not };
        match to {
            Some(to) => self.emit(op, &[to], &[id, threads, predicate]),
            None => self.emit(op, &[Arg::None], &[id, threads]),
        }
        Ok(())
    }

    /// Fences of every order: this machine has one, the strongest.
    fn fence(&mut self, i: &Instruction) -> Result<(), String> {
        let mut m = Modifiers::new(i);
        count(i, 0..=0)?;
        let scope = if m.take("proxy") {
            match m.next() {
                // Two addresses of one place are the same place here.
                Some("alias") => Scope::Device,
                Some(name) if name.starts_with("async") || name.starts_with("tensormap") => {
                    return Err("the asynchronous proxy (sm_90) is not supported".into());
                }
                _ => return Err("the proxy is not known".into()),
            }
        } else if i.opcode == "membar" {
            match m.any(&["cta", "gl", "sys"]) {
                Some("cta") => Scope::Block,
                Some(_) => Scope::Device,
                None => return Err("the level is .cta, .gl or .sys".into()),
            }
        } else {
            match m.peek() {
                Some("mbarrier_init") => return Err("clusters (sm_90) are not supported".into()),
                Some("sc" | "acq_rel" | "acquire" | "release") => _ = m.next(),
                _ => {}
            }
            m.needed_scope()?
        };
        m.done()?;
        self.emit(Op::Fence(scope), &[], &[]);
        Ok(())
    }

    /// `mbarrier`
    fn mbarrier(&mut self, frame: &Frame, i: &Instruction) -> Result<(), String> {
        let mut m = Modifiers::new(i);
        let name = m.next().ok_or("an operation is missing")?;
        let (operands, order) = match name {
            "init" => (2..=2, None),
            "inval" => (1..=1, None),
            "arrive" | "arrive_drop" => (2..=3, Some("release")),
            "test_wait" => (3..=3, Some("acquire")),
            "try_wait" => {
                self.needs(90, "mbarrier.try_wait")?;
                (3..=4, Some("acquire"))
            }
            "pending_count" => {
                m.expect("b64")?;
                m.done()?;
                count(i, 2..=2)?;
                let to = self.target(frame, &i.operands[0], Width::Word)?;
                let state = self.source(frame, &i.operands[1], Width::Wide)?;
                let nowhere = Address { window: Window::Shared, wide: false, offset: 0 };
                let op = Op::Mbarrier(MbarrierKind::PendingCount, nowhere);
                self.emit(op, &[to], &[Arg::None, state]);
                return Ok(());
            }
            "expect_tx" | "complete_tx" => return Err("bulk copies (sm_90) are not supported".into()),
            _ => return Err(format!("modifier .{name} is not known here")),
        };
        let given = Self::mbarrier_modifiers(m, name, order)?;
        count(i, operands)?;
        let at = usize::from(!matches!(name, "init" | "inval"));
        let (address, base) = self.address(frame, &i.operands[at], given.space)?;
        let rest = &i.operands[at + 1..];
        match name {
            "init" => {
                let number = self.source(frame, &rest[0], Width::Word)?;
                self.emit(Op::Mbarrier(MbarrierKind::Init, address), &[Arg::None], &[base, number]);
            }
            "inval" => self.emit(Op::Mbarrier(MbarrierKind::Inval, address), &[Arg::None], &[base]),
            "arrive" | "arrive_drop" => {
                let number = match (rest.first(), given.no_complete) {
                    (Some(number), no_complete) => {
                        if !no_complete {
                            self.needs(90, "a count without .noComplete")?;
                        }
                        self.source(frame, number, Width::Word)?
                    }
                    (None, true) => return Err(".noComplete needs a count".into()),
                    (None, false) => Arg::None,
                };
                let state = self.target_or_sink(frame, &i.operands[0], Width::Wide)?;
                let kind =
                    MbarrierKind::Arrive { drop: name == "arrive_drop", no_complete: given.no_complete };
                self.emit(Op::Mbarrier(kind, address), &[state], &[base, number]);
            }
            _ => {
                let done = self.target(frame, &i.operands[0], Width::Pred)?;
                let width = if given.parity { Width::Word } else { Width::Wide };
                let phase = self.source(frame, &rest[0], width)?;
                if let Some(hint) = rest.get(1) {
                    // How long the thread may sleep at most: waking early is always allowed.
                    self.source(frame, hint, Width::Word)?;
                }
                let kind = MbarrierKind::Test { parity: given.parity, try_wait: name == "try_wait" };
                self.emit(Op::Mbarrier(kind, address), &[done], &[base, phase]);
            }
        }
        Ok(())
    }

    /// `{.noComplete}{.parity}{.order}{.scope}{.shared}.b64`
    fn mbarrier_modifiers(
        mut m: Modifiers,
        name: &str,
        order: Option<&str>,
    ) -> Result<MbarrierModifiers, String> {
        let arrives = name.starts_with("arrive");
        if m.peek() == Some("expect_tx") {
            return Err("bulk copies (sm_90) are not supported".into());
        }
        let mut no_complete = arrives && m.take("noComplete");
        let parity = name.ends_with("_wait") && m.take("parity");
        if let Some(order) = order {
            if m.peek() == Some("relaxed") {
                return Err("relaxed mbarrier operations (sm_90) are not supported".into());
            }
            m.take(order);
            m.scope()?;
        }
        let space = m.space()?;
        no_complete |= arrives && m.take("noComplete");
        m.expect("b64")?;
        m.done()?;
        if !matches!(space, None | Some(Space::Shared)) {
            return Err("an mbarrier lies in shared memory".into());
        }
        Ok(MbarrierModifiers { no_complete, parity, space })
    }

    fn testp(&mut self, frame: &Frame, i: &Instruction) -> Result<(), String> {
        let mut m = Modifiers::new(i);
        let property = match m.next() {
            Some("finite") => FloatProperty::Finite,
            Some("infinite") => FloatProperty::Infinite,
            Some("number") => FloatProperty::Number,
            Some("notanumber") => FloatProperty::NotANumber,
            Some("normal") => FloatProperty::Normal,
            Some("subnormal") => FloatProperty::Subnormal,
            _ => return Err("the property is not known".into()),
        };
        let (double, width) = match m.ty()? {
            Type::F32 => (false, Width::Word),
            Type::F64 => (true, Width::Wide),
            ty => return Err(format!("{ty:?} is not tested, only f32 and f64")),
        };
        m.done()?;
        count(i, 2..=2)?;
        let to = self.target(frame, &i.operands[0], Width::Pred)?;
        let source = self.source(frame, &i.operands[1], width)?;
        self.emit(Op::Testp { property, double }, &[to], &[source]);
        Ok(())
    }
}
