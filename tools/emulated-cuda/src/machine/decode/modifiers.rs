//! What follows an opcode, read from left to right.

use crate::{
    machine::op::Scope,
    ptx::ast::{Instruction, Space, Type},
};

/// The modifiers of an instruction that nothing has accounted for yet.
pub(super) struct Modifiers<'i> {
    left: &'i [String],
}

impl<'i> Modifiers<'i> {
    pub(super) fn new(instruction: &'i Instruction) -> Self {
        Self { left: &instruction.modifiers }
    }

    /// The next one, left where it is.
    pub(super) fn peek(&self) -> Option<&'i str> {
        self.left.first().map(String::as_str)
    }

    /// Takes the next one.
    pub(super) fn next(&mut self) -> Option<&'i str> {
        let (first, rest) = self.left.split_first()?;
        self.left = rest;
        Some(first)
    }

    /// Takes the next one if it is `name`.
    pub(super) fn take(&mut self, name: &str) -> bool {
        self.any(&[name]).is_some()
    }

    /// Takes the next one if it is one of `names`.
    pub(super) fn any(&mut self, names: &[&str]) -> Option<&'i str> {
        self.peek().filter(|next| names.contains(next)).inspect(|_| self.left = &self.left[1..])
    }

    /// Takes the next one, which must be a type.
    pub(super) fn ty(&mut self) -> Result<Type, String> {
        let name = self.next().ok_or("a type is missing")?;
        Type::named(name).ok_or_else(|| format!("modifier .{name} is not known here"))
    }

    /// Takes the next one, which must be `name`.
    pub(super) fn expect(&mut self, name: &str) -> Result<(), String> {
        match self.next() {
            Some(next) if next == name => Ok(()),
            Some(next) => Err(format!("modifier .{next} is not known here, .{name} is wanted")),
            None => Err(format!(".{name} is missing")),
        }
    }

    /// Nothing may be left.
    pub(super) fn done(&self) -> Result<(), String> {
        match self.peek() {
            Some(name) => Err(format!("modifier .{name} is not known here")),
            None => Ok(()),
        }
    }

    /// A state space; none for generic addresses.
    pub(super) fn space(&mut self) -> Result<Option<Space>, String> {
        let space = match self.peek() {
            Some("global") => Space::Global,
            Some("const") => Space::Const,
            Some("local") => Space::Local,
            Some("param" | "param::entry" | "param::func") => Space::Param,
            Some("shared" | "shared::cta") => Space::Shared,
            Some("shared::cluster") => {
                return Err("clusters (.shared::cluster, sm_90) are not supported".into());
            }
            _ => return Ok(None),
        };
        self.next();
        Ok(Some(space))
    }

    /// The scope of an order.
    pub(super) fn scope(&mut self) -> Result<Option<Scope>, String> {
        if self.peek() == Some("cluster") {
            return Err("clusters (scope .cluster, sm_90) are not supported".into());
        }
        Ok(self
            .any(&["cta", "gpu", "sys"])
            .map(|name| if name == "cta" { Scope::Block } else { Scope::Device }))
    }

    /// A scope that must be there.
    pub(super) fn needed_scope(&mut self) -> Result<Scope, String> {
        if let Some(scope) = self.scope()? {
            return Ok(scope);
        }
        match self.peek() {
            Some(name) => Err(format!("modifier .{name} is not known here, a scope is wanted")),
            None => Err("a scope is missing".into()),
        }
    }
}
