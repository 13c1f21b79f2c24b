//! Operands of instructions.

use super::{
    Parsed,
    ast::{Base, Operand, RegisterId, Symbol},
    body::undeclared,
    cursor::{Parser, fail, shorten},
    lexer::{Kind, Token},
    names::{Entity, special_register},
};

impl<'a> Parser<'a> {
    /// The operands of an instruction. Branches and calls have their own kinds, which their opcode tells.
    pub fn operands(&mut self, opcode: Token<'a>) -> Parsed<Vec<Operand>> {
        match opcode.text {
            "bra" => Ok(vec![Operand::Label(self.label_use()?)]),
            "brx" => self.indexed_branch(),
            "call" => self.call(),
            _ => {
                let mut operands = Vec::new();
                if self.sees(";") {
                    return Ok(operands);
                }
                loop {
                    operands.push(self.operand()?);
                    if !self.eat(",") {
                        return Ok(operands);
                    }
                }
            }
        }
    }

    /// What follows `brx.idx`: `%r1, list`
    fn indexed_branch(&mut self) -> Parsed<Vec<Operand>> {
        let index = self.operand()?;
        self.expect(",")?;
        let name = self.name("a list of targets")?;
        match self.scopes.find(name.text) {
            Some(Entity::Targets(list)) => Ok(vec![index, Operand::BranchTargets(list)]),
            _ => Err(fail(name, format!("{} is no .branchtargets declared above", shorten(name.text)))),
        }
    }

    /// What follows `call`: `(result), function, (a, b)`, and for an indirect call the label of its prototype.
    fn call(&mut self) -> Parsed<Vec<Operand>> {
        let mut operands = Vec::new();
        if self.sees("(") {
            operands.push(self.call_list()?);
            self.expect(",")?;
        }
        let callee = self.name("the name of a function")?;
        let direct = match self.scopes.find(callee.text) {
            Some(Entity::Function(id)) => {
                operands.push(Operand::Function(id));
                true
            }
            Some(Entity::Register(id)) => {
                operands.push(Operand::Register(id));
                false
            }
            Some(_) => return Err(fail(callee, format!("{} is not a function", shorten(callee.text)))),
            None => return Err(undeclared(callee)),
        };
        let mut more = self.eat(",");
        if more && self.sees("(") {
            operands.push(self.call_list()?);
            more = self.eat(",");
        }
        if more {
            let name = self.name("a prototype")?;
            if direct {
                return Err(fail(name, "a direct call has no prototype"));
            }
            match self.scopes.find(name.text) {
                Some(Entity::Prototype) => operands.push(Operand::Prototype(name.text.to_owned())),
                _ => {
                    let message =
                        format!("{} is no prototype or list of call targets declared above", name.text);
                    return Err(fail(name, message));
                }
            }
        } else if !direct {
            return Err(fail(callee, "an indirect call needs a prototype or a list of call targets"));
        }
        Ok(operands)
    }

    /// `(a, b)` of a call.
    fn call_list(&mut self) -> Parsed<Operand> {
        self.expect("(")?;
        let mut list = Vec::new();
        if self.eat(")") {
            return Ok(Operand::List(list));
        }
        loop {
            let token = self.peek();
            let operand = self.operand()?;
            match operand {
                Operand::Register(_)
                | Operand::Symbol(Symbol::Variable(_), 0)
                | Operand::Integer(_)
                | Operand::F32(_)
                | Operand::F64(_)
                | Operand::Sink => list.push(operand),
                _ => return Err(fail(token, "a register, a constant or a .param variable is needed here")),
            }
            if !self.eat(",") {
                break;
            }
        }
        self.expect(")")?;
        Ok(Operand::List(list))
    }

    /// One operand.
    fn operand(&mut self) -> Parsed<Operand> {
        let token = self.peek();
        let operand = match (token.kind, token.text) {
            (Kind::Symbol, "{") => self.vector()?,
            (Kind::Symbol, "[") => self.address()?,
            (Kind::Symbol, "!")
                if self.peek_second().kind == Kind::Word && self.peek_second().text != "WARP_SZ" =>
            {
                self.next();
                Operand::NotRegister(self.predicate()?)
            }
            (Kind::Word, "_") => {
                self.next();
                Operand::Sink
            }
            _ if self.sees_constant() => self.constant()?.operand(),
            (Kind::Word, _) => self.named()?,
            _ => return Err(self.unexpected("an operand")),
        };
        let bar = self.peek();
        if !matches!(operand, Operand::Register(_) | Operand::Sink) || !self.eat("|") {
            return Ok(operand);
        }
        let second = if self.peek().text == "_" {
            self.next();
            Operand::Sink
        } else {
            self.named()?
        };
        match second {
            Operand::Register(_) | Operand::Sink => Ok(Operand::Pair(Box::new(operand), Box::new(second))),
            _ => Err(fail(bar, "\"|\" joins two registers")),
        }
    }

    /// A register, a special register or the address of a symbol.
    fn named(&mut self) -> Parsed<Operand> {
        let name = self.name("an operand")?;
        match self.scopes.find(name.text) {
            Some(Entity::Register(id)) => self.no_component().map(|()| Operand::Register(id)),
            Some(Entity::VectorRegister(first, width)) => {
                let part = |index: u32| Operand::Register(RegisterId(first.0 + index));
                match self.component()? {
                    Some(index) if index < width => Ok(part(index)),
                    Some(_) => Err(fail(name, format!("{} has only {width} components", shorten(name.text)))),
                    None => Ok(Operand::Vector((0..width).map(part).collect())),
                }
            }
            Some(Entity::Variable(id)) => Ok(Operand::Symbol(Symbol::Variable(id), self.addend()?)),
            Some(Entity::Function(id)) => Ok(Operand::Symbol(Symbol::Function(id), self.addend()?)),
            Some(Entity::Label(_) | Entity::Targets(_) | Entity::Prototype) => {
                Err(fail(name, format!("label {} cannot be an operand here", shorten(name.text))))
            }
            None => match special_register(name.text) {
                Some(true) => {
                    let component = self.component()?.and_then(|index| "xyzw".chars().nth(index as usize));
                    Ok(Operand::Special(name.text.to_owned(), component))
                }
                Some(false) => self.no_component().map(|()| Operand::Special(name.text.to_owned(), None)),
                None => Err(undeclared(name)),
            },
        }
    }

    /// `.x` to `.w` or `.r` to `.a` after a vector, as an index.
    fn component(&mut self) -> Parsed<Option<u32>> {
        if self.peek().kind != Kind::Dot {
            return Ok(None);
        }
        let token = self.next();
        match token.text {
            "x" | "r" => Ok(Some(0)),
            "y" | "g" => Ok(Some(1)),
            "z" | "b" => Ok(Some(2)),
            "w" | "a" => Ok(Some(3)),
            other => Err(fail(token, format!(".{} is not a component of a vector", shorten(other)))),
        }
    }

    /// Refuses components of scalars; those of the video instructions (`%r1.b0`, `%r1.h1`) are such.
    fn no_component(&self) -> Parsed<()> {
        let token = self.peek();
        if token.kind != Kind::Dot {
            return Ok(());
        }
        Err(fail(token, format!("component .{} of a scalar register is not supported", shorten(token.text))))
    }

    /// `{a, b, _, 1}`
    fn vector(&mut self) -> Parsed<Operand> {
        self.expect("{")?;
        let mut list = Vec::new();
        loop {
            let token = self.peek();
            if self.sees("{") {
                return Err(fail(token, "a vector cannot hold a vector"));
            }
            let operand = self.operand()?;
            match operand {
                Operand::Register(_)
                | Operand::Special(..)
                | Operand::Integer(_)
                | Operand::F32(_)
                | Operand::F64(_)
                | Operand::Symbol(Symbol::Variable(_), _)
                | Operand::Sink => list.push(operand),
                _ => return Err(fail(token, "this cannot be an element of a vector")),
            }
            if !self.eat(",") {
                break;
            }
        }
        self.expect("}")?;
        Ok(Operand::Vector(list))
    }

    /// `[%rd1+16]`, `[x]`, `[16]`
    fn address(&mut self) -> Parsed<Operand> {
        self.expect("[")?;
        let token = self.peek();
        let (base, offset) = if self.sees_constant() {
            let value = self.integer_constant("an address")?;
            // An address above the signed range keeps its bits.
            (Base::Absolute, value as i64)
        } else {
            let base = match self.named_base()? {
                Operand::Register(id) => Base::Register(id),
                Operand::Symbol(symbol, offset) => {
                    return self.end_address(Operand::Address(Base::Symbol(symbol), offset));
                }
                _ => return Err(fail(token, "an address begins with a register, a symbol or a constant")),
            };
            (base, self.addend()?)
        };
        self.end_address(Operand::Address(base, offset))
    }

    /// What an address may begin with.
    fn named_base(&mut self) -> Parsed<Operand> {
        if self.peek().kind == Kind::Word { self.named() } else { Err(self.unexpected("an address")) }
    }

    /// The end of an address.
    fn end_address(&mut self, address: Operand) -> Parsed<Operand> {
        if self.sees(",") {
            let message = "coordinates in an address (tensors, textures) are not supported";
            return Err(fail(self.peek(), message));
        }
        self.expect("]")?;
        Ok(address)
    }
}
