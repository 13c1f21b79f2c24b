//! Declarations of registers.

use super::{
    Parsed,
    ast::{Register, RegisterId, Type},
    cursor::{Parser, fail, shorten},
    lexer::Token,
    names::Entity,
    variable::Shape,
};

impl<'a> Parser<'a> {
    /// What follows `.reg`: `.b32 %r<12>, a, b;`
    pub fn registers(&mut self) -> Parsed<()> {
        let shape = self.shape()?;
        if shape.align.is_some() {
            return Err(self.unexpected("a register without alignment"));
        }
        loop {
            let name = self.name("the name of a register")?;
            if self.eat("<") {
                let count = self.number("a number of registers")?;
                self.expect(">")?;
                for index in 0..count {
                    self.register_named(name, format!("{}{index}", name.text), shape)?;
                }
            } else {
                self.register_named(name, name.text.to_owned(), shape)?;
            }
            if !self.eat(",") {
                break;
            }
        }
        self.expect(";")
    }

    /// Declares a scalar register.
    pub fn register(&mut self, token: Token<'a>, ty: Type) -> Parsed<RegisterId> {
        self.register_named(token, token.text.to_owned(), Shape { ty, width: 1, align: None })
    }

    /// Declares a register, for a vector all its components. Returns the first.
    fn register_named(&mut self, token: Token<'a>, name: String, shape: Shape) -> Parsed<RegisterId> {
        let first = RegisterId(self.draft.body.registers.len() as u32);
        let Some(left) = self.registers_left.checked_sub(shape.width.into()) else {
            return Err(fail(token, "this module declares more registers than its text can use"));
        };
        self.registers_left = left;
        if shape.width == 1 {
            self.draft.body.registers.push(Register { name: name.clone(), ty: shape.ty });
        } else {
            let components = "xyzw".chars().take(shape.width as usize);
            let registers = components.map(|c| Register { name: format!("{name}.{c}"), ty: shape.ty });
            self.draft.body.registers.extend(registers);
        }
        let entity = if shape.width == 1 {
            Entity::Register(first)
        } else {
            Entity::VectorRegister(first, shape.width)
        };
        let duplicate = format!("{} is declared already", shorten(&name));
        if self.scopes.declare(name, entity) { Ok(first) } else { Err(fail(token, duplicate)) }
    }
}
