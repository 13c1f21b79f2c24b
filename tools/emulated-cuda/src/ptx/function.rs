//! Functions and kernels: headers, formal parameters, and the merging of declarations with definitions.

use super::{
    Parsed,
    ast::{Formal, Function, FunctionId, Linkage, Space, Type},
    cursor::{Parser, fail, shorten},
    lexer::{Kind, Token},
    names::Entity,
    variable::space_named,
};

/// What two declarations of a function must agree on: its return values and its parameters.
pub(super) type Signature = [Vec<FormalType>; 2];

/// The type of a formal parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FormalType {
    in_register: bool,
    ty: Type,
    size: u64,
    align: u32,
}

/// What a list of formal parameters is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Kernel,
    Function,
    Prototype,
}

/// What the directives after a header say.
#[derive(Default)]
struct Directives {
    max_threads: Option<[u32; 3]>,
    required_threads: Option<[u32; 3]>,
    min_blocks: Option<u32>,
    max_registers: Option<u32>,
    no_return: bool,
}

impl<'a> Parser<'a> {
    /// What follows `.func` or `.entry`: a declaration or a definition.
    pub fn function(&mut self, linkage: Linkage, is_entry: bool) -> Parsed<()> {
        let line = self.peek().line;
        if !is_entry {
            self.function_attribute()?;
        }
        self.begin_body();
        let place = if is_entry { Place::Kernel } else { Place::Function };
        let returns = if is_entry { Default::default() } else { self.formals(place)? };
        let name = self.name("the name of a function")?;
        let params = self.formals(place)?;
        let signature = [returns.1, params.1];
        if signature[0].len() > 1 && signature[0].iter().any(|f| !f.in_register) {
            return Err(fail(name, "several return values must lie in registers"));
        }
        let directives = self.directives(is_entry)?;
        if directives.no_return && !signature[0].is_empty() {
            return Err(fail(name, "a function with a return value cannot be .noreturn"));
        }
        let function = Function {
            name: name.text.to_owned(),
            is_entry,
            linkage,
            returns: returns.0,
            params: params.0,
            max_threads: directives.max_threads,
            required_threads: directives.required_threads,
            min_blocks: directives.min_blocks,
            max_registers: directives.max_registers,
            no_return: directives.no_return,
            body: None,
            line,
        };
        if self.eat(";") {
            self.scopes.close();
            return self.declare_function(name, function, signature, false).map(drop);
        }
        if linkage == Linkage::Extern {
            return Err(fail(name, format!("{} is extern and cannot have a body", name.text)));
        }
        if !self.sees("{") {
            return Err(self.unexpected("a body or \";\""));
        }
        // Its name stands before its body, which may call it.
        let id = self.declare_function(name, function, signature, true)?;
        let body = self.body()?;
        self.module.functions[id.0 as usize].body = Some(body);
        Ok(())
    }

    /// Enters a function into the module, or merges it with its earlier declaration.
    fn declare_function(
        &mut self,
        name: Token<'a>,
        function: Function,
        signature: Signature,
        defines: bool,
    ) -> Parsed<FunctionId> {
        let id = FunctionId(self.module.functions.len() as u32);
        if self.scopes.declare_in_module(name.text, Entity::Function(id)) {
            self.module.functions.push(function);
            self.signatures.push(signature);
            self.defined.push(defines);
            return Ok(id);
        }
        let Some(Entity::Function(id)) = self.scopes.find_in_module(name.text) else {
            return Err(fail(name, format!("{} is declared already", name.text)));
        };
        let at = id.0 as usize;
        let known = &mut self.module.functions[at];
        if self.defined[at] {
            return Err(fail(name, format!("{} is defined already, in line {}", name.text, known.line)));
        }
        if known.is_entry != function.is_entry || self.signatures[at] != signature {
            return Err(fail(name, format!("{} was declared otherwise in line {}", name.text, known.line)));
        }
        if defines {
            *known = Function { no_return: known.no_return || function.no_return, ..function };
            self.defined[at] = true;
        }
        Ok(id)
    }

    /// `.attribute(.unified(1, 2))`: it fixes the address of a function, which only indirect calls, refused later, use.
    fn function_attribute(&mut self) -> Parsed<()> {
        if !self.eat_dot("attribute") {
            return Ok(());
        }
        self.expect("(")?;
        let token = self.take(Kind::Dot, "an attribute")?;
        if token.text != "unified" {
            return Err(fail(
                token,
                format!("attribute .{} of a function is not known", shorten(token.text)),
            ));
        }
        self.expect("(")?;
        self.integer_constant("an identifier")?;
        self.expect(",")?;
        self.integer_constant("an identifier")?;
        self.expect(")")?;
        self.expect(")")
    }

    /// `(.param .b32 a, .reg .b64 b)`, or nothing at all.
    fn formals(&mut self, place: Place) -> Parsed<(Vec<Formal>, Vec<FormalType>)> {
        let (mut formals, mut types) = (Vec::new(), Vec::new());
        if !self.eat("(") || self.eat(")") {
            return Ok((formals, types));
        }
        loop {
            let (formal, ty) = self.formal(place)?;
            formals.extend(formal);
            types.push(ty);
            if !self.eat(",") {
                break;
            }
        }
        self.expect(")")?;
        Ok((formals, types))
    }

    /// One formal parameter; in a prototype it has the name `_` and is not declared.
    fn formal(&mut self, place: Place) -> Parsed<(Option<Formal>, FormalType)> {
        let directive = self.take(Kind::Dot, "a parameter")?;
        let in_register = match directive.text {
            "reg" if place != Place::Kernel => true,
            "param" => false,
            "reg" => return Err(fail(directive, "a kernel cannot have parameters in registers")),
            other => {
                return Err(fail(directive, format!("unknown directive .{} of a parameter", shorten(other))));
            }
        };
        let shape = self.shape()?;
        if in_register && (shape.align.is_some() || shape.width > 1) {
            return Err(fail(directive, "a parameter in a register is a scalar without alignment"));
        }
        if !in_register && self.eat_dot("ptr") {
            self.pointer_attributes()?;
        }
        let name = match place {
            Place::Prototype if self.peek().text == "_" => self.next(),
            _ => self.name("the name of a parameter")?,
        };
        if in_register {
            let ty = FormalType { in_register, ty: shape.ty, size: shape.size().into(), align: shape.size() };
            let formal = match place {
                Place::Prototype => None,
                _ => Some(Formal::Register(self.register(name, shape.ty)?)),
            };
            return Ok((formal, ty));
        }
        let sizes = self.array_sizes()?;
        if sizes.first() == Some(&None) && place != Place::Prototype {
            return Err(fail(name, "parameters without size are not supported"));
        }
        let variable = self.variable(name, Space::Param, Linkage::Internal, shape, &sizes)?;
        let ty = FormalType { in_register, ty: shape.ty, size: variable.size, align: variable.align };
        let formal = match place {
            Place::Prototype => None,
            _ => Some(Formal::Variable(self.declare_variable(name, variable)?)),
        };
        Ok((formal, ty))
    }

    /// What follows `.ptr`: the space and alignment of what a parameter points at, a promise to the optimiser.
    fn pointer_attributes(&mut self) -> Parsed<()> {
        let token = self.peek();
        if token.kind == Kind::Dot && space_named(token.text).is_some_and(|s| s != Space::Param) {
            self.next();
        }
        self.alignment().map(drop)
    }

    /// `.maxntid 128, 1, 1` and its like, between header and body.
    fn directives(&mut self, is_entry: bool) -> Parsed<Directives> {
        let mut all = Directives::default();
        while self.peek().kind == Kind::Dot {
            let token = self.next();
            match (token.text, is_entry) {
                ("maxntid", true) => all.max_threads = Some(self.dimensions()?),
                ("reqntid", true) => all.required_threads = Some(self.dimensions()?),
                // The older name of the same.
                ("minnctapersm" | "maxnctapersm", true) => all.min_blocks = Some(self.positive()?),
                ("maxnreg", true) => all.max_registers = Some(self.positive()?),
                ("explicitcluster" | "reqnctapercluster" | "maxclusterrank" | "blocksareclusters", true) => {
                    return Err(fail(token, format!("clusters (.{}) are not supported", token.text)));
                }
                ("noreturn", false) => all.no_return = true,
                ("abi_preserve" | "abi_preserve_control", false) => {
                    self.number("a number of registers")?;
                }
                ("pragma", _) => {
                    self.pragma()?;
                }
                (name, _) => return Err(fail(token, format!("unknown directive .{} here", shorten(name)))),
            }
        }
        if all.max_threads.is_some() && all.required_threads.is_some() {
            return Err(fail(self.peek(), ".maxntid and .reqntid exclude each other"));
        }
        Ok(all)
    }

    /// Up to three sizes of a block.
    fn dimensions(&mut self) -> Parsed<[u32; 3]> {
        let mut sizes = [self.positive()?, 1, 1];
        for size in &mut sizes[1..] {
            if !self.eat(",") {
                break;
            }
            *size = self.positive()?;
        }
        Ok(sizes)
    }

    fn positive(&mut self) -> Parsed<u32> {
        let token = self.peek();
        match self.number("a number")? {
            0 => Err(fail(token, "this number must be positive")),
            number => Ok(number),
        }
    }

    /// What follows `.callprototype`: read, because it must be well formed, and not kept.
    pub fn prototype(&mut self) -> Parsed<()> {
        self.formals(Place::Prototype)?;
        if self.peek().text != "_" {
            return Err(self.unexpected("\"_\""));
        }
        self.next();
        self.formals(Place::Prototype)?;
        self.directives(false)?;
        self.expect(";")
    }
}
