//! Bodies: statements, scopes and labels.

use super::{
    Fail, Parsed,
    ast::{Body, Guard, Instruction, LabelId, Linkage, Location, Operand, RegisterId},
    cursor::{MAX_DEPTH, Parser, fail, shorten},
    lexer::{Kind, Token},
    names::Entity,
    variable::space_named,
};

/// A body being read. Until it ends, the labels in its operands are indices into `uses`.
#[derive(Default)]
pub(super) struct Draft<'a> {
    pub body: Body,
    uses: Vec<Use<'a>>,
    /// The last `.loc`: file and line.
    source: (u32, u32),
}

/// A use of a label.
struct Use<'a> {
    token: Token<'a>,
    label: Option<LabelId>,
}

impl<'a> Parser<'a> {
    /// Opens the scope of a function, that of its parameters and of its body.
    pub fn begin_body(&mut self) {
        self.draft = Draft::default();
        self.scopes.open();
    }

    /// `{ ... }`
    pub fn body(&mut self) -> Parsed<Body> {
        self.expect("{")?;
        let outermost = self.scopes.depth();
        while self.scopes.depth() >= outermost {
            let token = self.peek();
            match token.kind {
                Kind::Symbol if token.text == "{" => {
                    if self.scopes.depth() >= MAX_DEPTH {
                        return Err(fail(token, format!("scopes nested more than {MAX_DEPTH} deep")));
                    }
                    self.next();
                    self.scopes.open();
                }
                Kind::Symbol if token.text == "}" => {
                    self.next();
                    self.close_scope()?;
                }
                Kind::Dot => self.body_directive()?,
                Kind::Word if self.peek_second().kind == Kind::Symbol && self.peek_second().text == ":" => {
                    self.label()?;
                }
                _ => self.instruction()?,
            }
        }
        self.finish_labels()
    }

    /// Resolves the labels used in the innermost scope that it declares, and leaves the others to the scope around.
    fn close_scope(&mut self) -> Parsed<()> {
        let scope = self.scopes.close();
        for &index in &scope.uses {
            let label_use = &mut self.draft.uses[index as usize];
            match scope.find(label_use.token.text) {
                Some(Entity::Label(id)) => label_use.label = Some(id),
                Some(_) => {
                    let name = shorten(label_use.token.text);
                    return Err(fail(label_use.token, format!("{name} is not a label")));
                }
                None if self.scopes.depth() > 1 => self.scopes.uses_label(index),
                None => {
                    let name = shorten(label_use.token.text);
                    return Err(fail(label_use.token, format!("label {name} is not declared")));
                }
            }
        }
        Ok(())
    }

    /// Puts the labels in the place of their uses.
    fn finish_labels(&mut self) -> Parsed<Body> {
        let draft = std::mem::take(&mut self.draft);
        let mut body = draft.body;
        let resolve = |id: &mut LabelId| match &draft.uses[id.0 as usize] {
            Use { label: Some(label), .. } => {
                *id = *label;
                Ok(())
            }
            Use { token, label: None } => Err(fail(*token, "this label is not declared")),
        };
        for operand in body.instructions.iter_mut().flat_map(|i| &mut i.operands) {
            if let Operand::Label(id) = operand {
                resolve(id)?;
            }
        }
        body.branch_targets.iter_mut().flatten().try_for_each(resolve)?;
        Ok(body)
    }

    /// A name where a label must stand.
    pub fn label_use(&mut self) -> Parsed<LabelId> {
        let token = self.name("a label")?;
        let index = self.draft.uses.len() as u32;
        self.draft.uses.push(Use { token, label: None });
        self.scopes.uses_label(index);
        Ok(LabelId(index))
    }

    /// A directive between instructions.
    fn body_directive(&mut self) -> Parsed<()> {
        let token = self.next();
        match (token.text, space_named(token.text)) {
            ("reg", _) => self.registers(),
            ("loc", _) => self.location(),
            // Hints; ptxas, too, lets pass those that it does not know.
            ("pragma", _) => self.pragma().map(drop),
            (_, Some(space)) => {
                let ids = self.variables(space, Linkage::Internal)?;
                self.draft.body.variables.extend(ids);
                Ok(())
            }
            (name @ ("branchtargets" | "calltargets" | "callprototype"), None) => {
                Err(fail(token, format!(".{name} needs a label")))
            }
            (name, None) => Err(fail(token, format!("unknown directive .{} in a function", shorten(name)))),
        }
    }

    /// `.loc 1 25 3, function_name $L__info_string0, inlined_at 1 40 7`
    fn location(&mut self) -> Parsed<()> {
        let file = self.number("a file index")?;
        let line = self.number("a line")?;
        self.number("a column")?;
        self.draft.source = (file, line);
        while self.eat(",") {
            let attribute = self.take(Kind::Word, "an attribute of .loc")?;
            match attribute.text {
                // The name is a label in a section of strings, which is skipped.
                "function_name" => {
                    self.name("a label")?;
                    self.addend()?;
                }
                "inlined_at" => {
                    for wanted in ["a file index", "a line", "a column"] {
                        self.number(wanted)?;
                    }
                }
                other => {
                    return Err(fail(attribute, format!("unknown attribute {} of .loc", shorten(other))));
                }
            }
        }
        Ok(())
    }

    /// `name:` and, for lists and prototypes, what it names.
    fn label(&mut self) -> Parsed<()> {
        let name = self.name("a label")?;
        self.expect(":")?;
        let entity = if self.eat_dot("branchtargets") {
            let list = self.draft.body.branch_targets.len() as u32;
            let mut targets = vec![self.label_use()?];
            while self.eat(",") {
                targets.push(self.label_use()?);
            }
            self.expect(";")?;
            self.draft.body.branch_targets.push(targets);
            Entity::Targets(list)
        } else if self.eat_dot("callprototype") {
            self.prototype()?;
            Entity::Prototype
        } else if self.eat_dot("calltargets") {
            loop {
                let target = self.name("the name of a function")?;
                if !matches!(self.scopes.find(target.text), Some(Entity::Function(_))) {
                    return Err(fail(target, format!("{} is not a declared function", shorten(target.text))));
                }
                if !self.eat(",") {
                    break;
                }
            }
            self.expect(";")?;
            Entity::Prototype
        } else {
            let id = LabelId(self.draft.body.labels.len() as u32);
            self.draft.body.labels.push((name.text.to_owned(), self.draft.body.instructions.len() as u32));
            Entity::Label(id)
        };
        if self.scopes.declare(name.text, entity) {
            Ok(())
        } else {
            Err(fail(name, format!("{} is declared already", shorten(name.text))))
        }
    }

    /// `@!%p1 add.s32 %r1, %r2, 1;`
    fn instruction(&mut self) -> Parsed<()> {
        let guard = if self.eat("@") { Some(self.guard()?) } else { None };
        let opcode = self.take(Kind::Word, "an instruction")?;
        let mut modifiers = Vec::new();
        while self.peek().kind == Kind::Dot {
            modifiers.push(self.next().text.to_owned());
        }
        let operands = self.operands(opcode)?;
        self.expect(";")?;
        let (file, source_line) = self.draft.source;
        self.draft.body.instructions.push(Instruction {
            location: Location { line: opcode.line, file, source_line },
            guard,
            opcode: opcode.text.to_owned(),
            modifiers,
            operands,
        });
        Ok(())
    }

    /// What follows `@`.
    fn guard(&mut self) -> Parsed<Guard> {
        let negated = self.eat("!");
        Ok(Guard { register: self.predicate()?, negated })
    }

    /// A register by name, as a guard or after `!`.
    pub fn predicate(&mut self) -> Parsed<RegisterId> {
        let name = self.name("a predicate")?;
        match self.scopes.find(name.text) {
            Some(Entity::Register(id)) => Ok(id),
            Some(_) => Err(fail(name, format!("{} is not a scalar register", shorten(name.text)))),
            None => Err(undeclared(name)),
        }
    }
}

/// The error of a name that nothing has declared.
pub(super) fn undeclared(name: Token<'_>) -> Fail {
    fail(name, format!("{} is not declared", shorten(name.text)))
}
