//! Directives of the module.

use super::{
    Parsed,
    ast::{FunctionId, Linkage, Module, Operand, Space, Symbol},
    cursor::{Parser, fail, shorten},
    lexer::{Kind, Token},
    names::Entity,
    variable::space_named,
};

/// `.version` major numbers that are read: older texts have other rules for scopes and calls, newer ones are not known.
const VERSIONS: std::ops::RangeInclusive<u32> = 3..=9;
/// Pragmas that mean something to ptxas, all of them hints to its optimiser.
const PRAGMAS: [&str; 4] = ["nounroll", "used_bytes_mask", "enable_smem_spilling", "frequency"];

impl<'a> Parser<'a> {
    /// The whole text.
    pub fn module(mut self) -> Parsed<Module> {
        self.header()?;
        while self.peek().kind != Kind::End {
            self.directive()?;
        }
        self.resolve_aliases()?;
        Ok(self.module)
    }

    /// `.version`, `.target`, `.address_size`
    fn header(&mut self) -> Parsed<()> {
        if !self.eat_dot("version") {
            return Err(self.unexpected(".version"));
        }
        let token = self.take(Kind::Number, "a version")?;
        let number = |text: &str| text.parse::<u32>().ok().filter(|_| text.len() < 4);
        let version = token.text.split_once('.').and_then(|(a, b)| Some((number(a)?, number(b)?)));
        self.module.version = match version {
            Some(version) if VERSIONS.contains(&version.0) => version,
            Some(_) => return Err(fail(token, format!("PTX version {} is not supported", token.text))),
            None => return Err(fail(token, format!("{} is not a version", shorten(token.text)))),
        };
        if !self.eat_dot("target") {
            return Err(self.unexpected(".target"));
        }
        self.target()?;
        if self.eat_dot("address_size") {
            let token = self.peek();
            match self.number("an address size")? {
                64 => {}
                32 => return Err(fail(token, "addresses of 32 bits are not supported")),
                size => return Err(fail(token, format!("an address cannot have {size} bits"))),
            }
        }
        Ok(())
    }

    /// `sm_80, debug`
    fn target(&mut self) -> Parsed<()> {
        let token = self.take(Kind::Word, "an architecture")?;
        let architecture = token.text.strip_prefix("sm_").map(|name| name.trim_end_matches(['a', 'f']));
        if !architecture.is_some_and(|digits| digits.len() < 5 && digits.parse::<u32>().is_ok()) {
            return Err(fail(token, format!("{} is not an architecture", shorten(token.text))));
        }
        self.module.target = token.text.to_owned();
        while self.eat(",") {
            let token = self.take(Kind::Word, "a target option")?;
            // `debug` says that DWARF follows; the texture modes concern only textures, which are refused.
            if !matches!(token.text, "debug" | "texmode_unified" | "texmode_independent") {
                return Err(fail(token, format!("target option {} is not supported", shorten(token.text))));
            }
        }
        Ok(())
    }

    /// One directive at the level of the module.
    fn directive(&mut self) -> Parsed<()> {
        let token = self.take(Kind::Dot, "a directive")?;
        match token.text {
            "file" => self.file(),
            "section" => self.section(),
            "pragma" => {
                let names = self.pragma()?;
                match names
                    .into_iter()
                    .find(|n| !PRAGMAS.contains(&n.text.split(' ').next().unwrap_or_default()))
                {
                    Some(name) => Err(fail(name, format!("pragma {:?} is not known", shorten(name.text)))),
                    None => Ok(()),
                }
            }
            "alias" => self.alias(token),
            "extern" => self.linked(Linkage::Extern),
            "visible" => self.linked(Linkage::Visible),
            "weak" => self.linked(Linkage::Weak),
            "common" => self.linked(Linkage::Common),
            _ => self.declaration(token, Linkage::Internal),
        }
    }

    fn linked(&mut self, linkage: Linkage) -> Parsed<()> {
        let token = self.take(Kind::Dot, "a declaration")?;
        self.declaration(token, linkage)
    }

    /// A function, a kernel or variables.
    fn declaration(&mut self, token: Token<'a>, linkage: Linkage) -> Parsed<()> {
        match (token.text, space_named(token.text)) {
            ("func", _) => self.function(linkage, false),
            ("entry", _) => self.function(linkage, true),
            (name, Some(Space::Local | Space::Param)) => {
                Err(fail(token, format!("a .{name} variable cannot be declared outside of a function")))
            }
            (_, Some(space)) if linkage == Linkage::Common && space != Space::Global => {
                Err(fail(token, "only global variables can be .common"))
            }
            (_, Some(space)) => self.variables(space, linkage).map(drop),
            (name, None) => Err(fail(token, format!("unknown directive .{}", shorten(name)))),
        }
    }

    /// `.file 1 "kernel.cu", 1700000000, 4096`
    fn file(&mut self) -> Parsed<()> {
        let token = self.peek();
        let index = self.number("a file index")?;
        let path = self.take(Kind::Str, "the path of a file")?;
        // Time stamp and size.
        while self.eat(",") {
            self.take(Kind::Number, "a number")?;
        }
        if !self.files.insert(index) {
            return Err(fail(token, format!("file {index} is declared already")));
        }
        self.module.files.push((index, path.text.to_owned()));
        Ok(())
    }

    /// `.section .debug_str { ... }`, skipped.
    fn section(&mut self) -> Parsed<()> {
        let name = self.take(Kind::Dot, "the name of a section")?;
        if !name.text.starts_with("debug") {
            return Err(fail(name, format!("section .{} is not known", shorten(name.text))));
        }
        self.expect("{")?;
        loop {
            let token = self.next();
            match (token.kind, token.text) {
                (Kind::Symbol, "}") => return Ok(()),
                (Kind::Symbol, "{") => return Err(fail(token, "a section cannot hold another block")),
                (Kind::End, _) => return Err(fail(name, format!("section .{} has no end", name.text))),
                _ => {}
            }
        }
    }

    /// `.pragma "nounroll", "frequency 4";`
    pub fn pragma(&mut self) -> Parsed<Vec<Token<'a>>> {
        let mut names = vec![self.take(Kind::Str, "a string")?];
        while self.eat(",") {
            names.push(self.take(Kind::Str, "a string")?);
        }
        self.expect(";")?;
        Ok(names)
    }

    /// `.alias name, function;`
    fn alias(&mut self, directive: Token<'a>) -> Parsed<()> {
        let alias = self.function_name()?;
        self.expect(",")?;
        let target = self.function_name()?;
        self.expect(";")?;
        self.aliases.push((alias, target, directive.line));
        Ok(())
    }

    /// The name of a declared function that is no kernel.
    fn function_name(&mut self) -> Parsed<FunctionId> {
        let name = self.name("the name of a function")?;
        match self.scopes.find_in_module(name.text) {
            Some(Entity::Function(id)) if !self.module.functions[id.0 as usize].is_entry => Ok(id),
            _ => Err(fail(name, format!("{} is not a declared function", shorten(name.text)))),
        }
    }

    /// Puts what aliases stand for in their place everywhere.
    fn resolve_aliases(&mut self) -> Parsed<()> {
        if self.aliases.is_empty() {
            return Ok(());
        }
        let functions = &self.module.functions;
        let mut real: Vec<FunctionId> = (0..functions.len() as u32).map(FunctionId).collect();
        for &(alias, target, line) in &self.aliases {
            let at = |id: FunctionId| id.0 as usize;
            let target = real[at(target)];
            let (name, aliased) = (&functions[at(alias)], &functions[at(target)]);
            let message = if name.body.is_some() || real[at(alias)] != alias {
                format!("{} is defined already", name.name)
            } else if aliased.body.is_none() {
                format!("{} has no body", aliased.name)
            } else if self.signatures[at(alias)] != self.signatures[at(target)] {
                format!("{} has other parameters than {}", name.name, aliased.name)
            } else {
                real[at(alias)] = target;
                continue;
            };
            return Err(super::Fail { line, message });
        }
        let replace = |id: &mut FunctionId| *id = real[id.0 as usize];
        for variable in &mut self.module.variables {
            for relocation in &mut variable.relocations {
                if let Symbol::Function(id) = &mut relocation.symbol {
                    replace(id);
                }
            }
        }
        let bodies = self.module.functions.iter_mut().filter_map(|f| f.body.as_mut());
        for operand in bodies.flat_map(|b| &mut b.instructions).flat_map(|i| &mut i.operands) {
            // A function is named by a call or a mov; vectors cannot hold one, and what reads or writes it is refused.
            if let Operand::Function(id) | Operand::Symbol(Symbol::Function(id), _) = operand {
                replace(id);
            }
        }
        Ok(())
    }
}
