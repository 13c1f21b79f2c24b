//! Branches, calls and the table of opcodes.

use super::{
    Arg, Decoder, Frame, Home, Label, MAX_DEPTH, arithmetic::count, modifiers::Modifiers, operands::noun,
};
use crate::{
    machine::op::{Address, Op, Order, Shape, Width, Window},
    ptx::ast::{Formal, Function, Instruction, Operand, Space, Symbol, VariableId},
};

impl<'a> Decoder<'a> {
    /// Decodes an instruction.
    pub(super) fn instruction(&mut self, frame: &mut Frame<'a>, i: &'a Instruction) -> Result<(), String> {
        let known = self.available(i).and_then(|()| self.decode(frame, i));
        let full = || {
            let mut name = i.opcode.clone();
            i.modifiers.iter().for_each(|m| {
                name.push('.');
                name.push_str(m);
            });
            name
        };
        match known {
            Ok(true) => Ok(()),
            Ok(false) => match super::refused::reason(i) {
                Some(reason) => Err(format!("{}: {reason}", full())),
                None => Err(format!("instruction {} is not supported", full())),
            },
            Err(message) => Err(format!("{}: {message}", full())),
        }
    }

    /// Decodes an instruction; false if it is not known.
    fn decode(&mut self, frame: &mut Frame<'a>, i: &'a Instruction) -> Result<bool, String> {
        frame.halves(i)?;
        match i.opcode.as_str() {
            _ if self.lane_op(frame, i)? || self.pred_op(frame, i)? => {}
            "mov" => self.mov(frame, i)?,
            "cvt" => self.cvt(frame, i)?,
            "setp" => self.setp(frame, i)?,
            "set" => self.set(frame, i)?,
            "selp" => self.selp(frame, i)?,
            "bra" => self.bra(frame, i)?,
            "brx" => self.brx(frame, i)?,
            "call" => self.call(frame, i)?,
            "ret" | "exit" => self.leave(frame, i)?,
            _ => {
                return Ok(self.directed(frame, i)?
                    || self.carry(frame, i)?
                    || self.memory_op(frame, i)?
                    || self.warp_op(frame, i)?
                    || self.sync_op(frame, i)?
                    || self.simple(frame, i)?);
            }
        }
        Ok(true)
    }

    /// What fits nowhere else; false if it is none.
    fn simple(&mut self, frame: &Frame, i: &Instruction) -> Result<bool, String> {
        let modifiers: Vec<&str> = i.modifiers.iter().map(String::as_str).collect();
        match (i.opcode.as_str(), &modifiers[..]) {
            // Without a debugger, a breakpoint ends the kernel as a trap does.
            ("trap" | "brkpt", []) => {
                count(i, 0..=0)?;
                self.emit(Op::Trap, &[], &[]);
            }
            ("nanosleep", ["u32"]) => {
                count(i, 1..=1)?;
                let time = self.source(frame, &i.operands[0], Width::Word)?;
                self.emit(Op::Sleep, &[], &[time]);
            }
            ("pmevent", [] | ["mask"]) => {
                count(i, 1..=1)?;
                let limit = if modifiers.is_empty() { 16 } else { 1 << 16 };
                if !matches!(i.operands[0], Operand::Integer(event) if (0..limit).contains(&event)) {
                    return Err(format!("its operand is a constant below {limit}"));
                }
                self.emit(Op::Nop, &[], &[]);
            }
            ("createpolicy", _) => self.create_policy(frame, i)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// A cache policy: nothing looks at it, so it is 0.
    fn create_policy(&mut self, frame: &Frame, i: &Instruction) -> Result<(), String> {
        let mut m = Modifiers::new(i);
        let second = &["L2::evict_first", "L2::evict_unchanged"];
        let first = &["L2::evict_last", "L2::evict_normal", "L2::evict_first", "L2::evict_unchanged"];
        let widths: &[Width] = match m.next() {
            Some("fractional") if m.any(first).is_some() => {
                m.any(second);
                count(i, 1..=2)?;
                &[Width::Word]
            }
            Some("range") => {
                let space = m.space()?;
                if !matches!(space, None | Some(Space::Global)) || m.any(first).is_none() {
                    return Err("it takes .global and an eviction priority".into());
                }
                m.any(second);
                count(i, 4..=4)?;
                self.address(frame, &i.operands[1], space)?;
                &[Width::Word; 2]
            }
            Some("cvt") => {
                m.expect("L2")?;
                count(i, 2..=2)?;
                &[Width::Wide]
            }
            _ => return Err("modifiers that are not known here".into()),
        };
        m.expect("b64")?;
        m.done()?;
        for (operand, &width) in i.operands[1..].iter().rev().zip(widths) {
            self.source(frame, operand, width)?;
        }
        let policy = self.target(frame, &i.operands[0], Width::Wide)?;
        let zero = self.constant(Width::Wide, 0)?;
        self.emit(Op::Mov { wide: true }, &[policy], &[zero]);
        Ok(())
    }

    fn label(&self, frame: &Frame, operand: &Operand) -> Result<Label, String> {
        match operand {
            Operand::Label(id) => Ok(frame.labels + id.0),
            other => Err(format!("{} where a label is wanted", noun(other))),
        }
    }

    fn bra(&mut self, frame: &Frame, i: &Instruction) -> Result<(), String> {
        count(i, 1..=1)?;
        let uniform = match i.modifiers.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            [] => false,
            ["uni"] => true,
            _ => return Err("unknown modifier".into()),
        };
        let target = self.label(frame, &i.operands[0])?;
        self.emit(Op::Branch { target, uniform }, &[], &[]);
        Ok(())
    }

    fn brx(&mut self, frame: &Frame, i: &Instruction) -> Result<(), String> {
        count(i, 2..=2)?;
        if !matches!(i.modifiers.iter().map(String::as_str).collect::<Vec<_>>()[..], ["idx"] | ["idx", "uni"])
        {
            return Err("only brx.idx exists".into());
        }
        let index = self.source(frame, &i.operands[0], Width::Word)?;
        let Operand::BranchTargets(at) = i.operands[1] else {
            return Err("a list of targets is missing".into());
        };
        let targets = frame.body.branch_targets[at as usize].iter().map(|l| frame.labels + l.0).collect();
        self.branch_lists.push(targets);
        let list = self.branch_lists.len() as u32 - 1;
        self.emit(Op::BranchIndexed { list }, &[], &[index]);
        Ok(())
    }

    fn leave(&mut self, frame: &Frame, i: &Instruction) -> Result<(), String> {
        count(i, 0..=0)?;
        match (i.opcode.as_str(), i.modifiers.iter().map(String::as_str).collect::<Vec<_>>().as_slice()) {
            ("ret", [] | ["uni"]) => match frame.end {
                Some(target) => self.emit(Op::Branch { target, uniform: false }, &[], &[]),
                None => self.emit(Op::Exit, &[], &[]),
            },
            ("exit", []) => self.emit(Op::Exit, &[], &[]),
            _ => return Err("unknown modifier".into()),
        }
        Ok(())
    }

    /// A direct call, inlined.
    fn call(&mut self, frame: &mut Frame<'a>, i: &'a Instruction) -> Result<(), String> {
        if !i.modifiers.iter().all(|m| m == "uni") {
            return Err("unknown modifier".into());
        }
        let at = i.operands.iter().position(|o| matches!(o, Operand::Function(_)));
        let Some((at, Operand::Function(id))) = at.map(|at| (at, &i.operands[at])) else {
            return Err("indirect calls are not supported".into());
        };
        let list = |operand: Option<&'a Operand>| match operand {
            Some(Operand::List(list)) => list.as_slice(),
            _ => &[],
        };
        let returns = list(i.operands[..at].first());
        let arguments = list(i.operands.get(at + 1));
        let function = &self.module.functions[id.0 as usize];
        if returns.len() != function.returns.len() || arguments.len() != function.params.len() {
            return Err(format!("{} has other parameters", function.name));
        }
        // A guard holds for the whole of it.
        let after = self.new_label();
        if let Some((register, negated)) = self.guard.take() {
            self.guard = Some((register, !negated));
            self.emit(Op::Branch { target: after, uniform: false }, &[], &[]);
            self.guard = None;
        }
        match &function.body {
            Some(body) => {
                if self.stack.contains(id) || self.stack.len() >= MAX_DEPTH {
                    return Err(format!("{} calls itself: recursion is not supported", function.name));
                }
                self.stack.push(*id);
                let location = self.location;
                let end = self.new_label();
                let homes = self.bind_parameters(frame, function, returns, arguments)?;
                let mut inner = self.frame(body, homes, Some(end))?;
                self.pass_registers(frame, &inner, &function.params, arguments, true)?;
                self.body(&mut inner)?;
                self.bind(end);
                self.location = location;
                self.pass_registers(frame, &inner, &function.returns, returns, false)?;
                self.stack.pop();
            }
            None => self.built_in(frame, function, returns, arguments)?,
        }
        self.bind(after);
        Ok(())
    }

    /// Where the parameters in memory lie: those of the callee are the caller's own.
    fn bind_parameters(
        &mut self,
        frame: &Frame,
        function: &Function,
        returns: &[Operand],
        arguments: &[Operand],
    ) -> Result<std::collections::HashMap<VariableId, Home>, String> {
        let mut homes = std::collections::HashMap::new();
        let pairs = function.returns.iter().zip(returns).chain(function.params.iter().zip(arguments));
        for (formal, actual) in pairs {
            let Formal::Variable(id) = *formal else { continue };
            let variable = &self.module.variables[id.0 as usize];
            let home = match actual {
                Operand::Symbol(Symbol::Variable(given), 0) => {
                    let given_variable = &self.module.variables[given.0 as usize];
                    if given_variable.size < variable.size {
                        return Err(format!("{} is smaller than {}", given_variable.name, variable.name));
                    }
                    *frame.homes.get(given).ok_or("an argument is out of reach")?
                }
                other => {
                    let home = self.local_bytes(variable.size, variable.align)?;
                    self.store_argument(frame, other, home, variable.size)?;
                    Home::Local(home)
                }
            };
            homes.insert(id, home);
        }
        Ok(homes)
    }

    /// An argument that is a value, for a parameter in memory.
    fn store_argument(&mut self, frame: &Frame, value: &Operand, home: u32, size: u64) -> Result<(), String> {
        let wide = match size {
            8 => true,
            1 | 2 | 4 => false,
            _ => return Err("a value cannot be passed for an array".into()),
        };
        let value = self.source(frame, value, if wide { Width::Wide } else { Width::Word })?;
        let address = Address { window: Window::Local, wide: false, offset: home as i32 };
        let shape = Shape { count: 1, bytes: size as u8, signed: false, wide, strong: None };
        self.emit(Op::Store(address, shape, Order::None), &[], &[Arg::None, value]);
        Ok(())
    }

    /// Parameters in registers: moved in before the call, or out after it.
    fn pass_registers(
        &mut self,
        outer: &Frame,
        inner: &Frame,
        formals: &[Formal],
        actuals: &[Operand],
        into: bool,
    ) -> Result<(), String> {
        for (formal, actual) in formals.iter().zip(actuals) {
            let Formal::Register(id) = *formal else { continue };
            let register = inner.registers + id.0;
            let width = self.widths[register as usize];
            if width == Width::Pred {
                return Err("predicates cannot be passed".into());
            }
            let wide = width == Width::Wide;
            if into {
                let value = self.source(outer, actual, width)?;
                self.emit(Op::Mov { wide }, &[Arg::Reg(register)], &[value]);
            } else {
                let target = self.target(outer, actual, width)?;
                self.emit(Op::Mov { wide }, &[target], &[Arg::Reg(register)]);
            }
        }
        Ok(())
    }

    /// A function that the driver brings.
    fn built_in(
        &mut self,
        frame: &Frame,
        function: &Function,
        returns: &[Operand],
        arguments: &[Operand],
    ) -> Result<(), String> {
        let home = |operand: &Operand| match operand {
            Operand::Symbol(Symbol::Variable(id), 0) => match frame.homes.get(id) {
                Some(Home::Local(offset)) => Ok(*offset),
                _ => Err("an argument is out of reach".to_owned()),
            },
            _ => Err("arguments of built-in functions lie in memory".to_owned()),
        };
        match (function.name.as_str(), arguments) {
            ("vprintf", [format, values]) => {
                let op = Op::Printf { format: home(format)?, arguments: home(values)? };
                self.emit(op, &[], &[]);
                if let [result] = returns {
                    // The number of arguments on hardware; programs do not look at it.
                    let offset = home(result)? as i32;
                    let zero = self.constant(Width::Word, 0)?;
                    let address = Address { window: Window::Local, wide: false, offset };
                    let shape = Shape { count: 1, bytes: 4, signed: false, wide: false, strong: None };
                    self.emit(Op::Store(address, shape, Order::None), &[], &[Arg::None, zero]);
                }
            }
            ("__assertfail", [message, file, line, in_function, ..]) => {
                self.assertions.push([home(message)?, home(file)?, home(line)?, home(in_function)?]);
                self.emit(Op::AssertFail { at: self.assertions.len() as u32 - 1 }, &[], &[]);
            }
            (name, _) => return Err(format!("function {name} has no body in this module")),
        }
        Ok(())
    }
}
