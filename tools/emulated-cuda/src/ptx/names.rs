//! Scopes and what the names in them stand for; the special registers.

use std::{borrow::Cow, collections::HashMap, collections::hash_map::Entry};

use super::ast::{FunctionId, LabelId, RegisterId, VariableId};

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entity {
    Register(RegisterId),
    /// `.reg .v4 .f32 v`: the first of its registers and their number.
    VectorRegister(RegisterId, u32),
    Variable(VariableId),
    Function(FunctionId),
    Label(LabelId),
    /// A `.branchtargets` list.
    Targets(u32),
    /// A `.callprototype` or `.calltargets`.
    Prototype,
}

/// The names declared between two braces.
#[derive(Default)]
pub(super) struct Scope<'a> {
    names: HashMap<Cow<'a, str>, Entity>,
    /// Uses of labels, resolved when the scope ends: a label may stand after its use.
    pub uses: Vec<u32>,
}

impl Scope<'_> {
    /// What a name stands for in this scope, whatever the scopes around it have.
    pub fn find(&self, name: &str) -> Option<Entity> {
        self.names.get(name).copied()
    }
}

/// The scopes that are open, that of the module first.
pub(super) struct Scopes<'a> {
    stack: Vec<Scope<'a>>,
}

impl<'a> Scopes<'a> {
    /// The scope of the module alone.
    pub fn new() -> Self {
        Self { stack: vec![Scope::default()] }
    }

    /// How many scopes are open, that of the module included.
    pub fn depth(&self) -> usize {
        self.stack.len()
    }

    pub fn open(&mut self) {
        self.stack.push(Scope::default());
    }

    /// Ends the innermost scope.
    pub fn close(&mut self) -> Scope<'a> {
        self.stack.pop().unwrap_or_default()
    }

    /// Declares a name in the innermost scope; false where that has it already.
    pub fn declare(&mut self, name: impl Into<Cow<'a, str>>, entity: Entity) -> bool {
        self.declare_at(self.stack.len() - 1, name, entity)
    }

    /// Declares a name in the module's scope.
    pub fn declare_in_module(&mut self, name: impl Into<Cow<'a, str>>, entity: Entity) -> bool {
        self.declare_at(0, name, entity)
    }

    fn declare_at(&mut self, depth: usize, name: impl Into<Cow<'a, str>>, entity: Entity) -> bool {
        match self.stack[depth].names.entry(name.into()) {
            Entry::Occupied(_) => false,
            Entry::Vacant(vacant) => {
                vacant.insert(entity);
                true
            }
        }
    }

    /// What a name stands for here.
    pub fn find(&self, name: &str) -> Option<Entity> {
        self.stack.iter().rev().find_map(|scope| scope.find(name))
    }

    /// What a name stands for in the module's scope.
    pub fn find_in_module(&self, name: &str) -> Option<Entity> {
        self.stack[0].find(name)
    }

    /// Leaves a use of a label to the innermost scope.
    pub fn uses_label(&mut self, label_use: u32) {
        let innermost = self.stack.len() - 1;
        self.stack[innermost].uses.push(label_use);
    }
}

/// Whether a name is a special register, and if so whether it has components.
pub(super) fn special_register(name: &str) -> Option<bool> {
    match name {
        "%tid" | "%ntid" | "%ctaid" | "%nctaid" | "%clusterid" | "%nclusterid" | "%cluster_ctaid"
        | "%cluster_nctaid" => Some(true),
        "%laneid"
        | "%warpid"
        | "%nwarpid"
        | "%smid"
        | "%nsmid"
        | "%gridid"
        | "%is_explicit_cluster"
        | "%cluster_ctarank"
        | "%cluster_nctarank"
        | "%lanemask_eq"
        | "%lanemask_le"
        | "%lanemask_lt"
        | "%lanemask_ge"
        | "%lanemask_gt"
        | "%clock"
        | "%clock_hi"
        | "%clock64"
        | "%globaltimer"
        | "%globaltimer_lo"
        | "%globaltimer_hi"
        | "%reserved_smem_offset_begin"
        | "%reserved_smem_offset_end"
        | "%reserved_smem_offset_cap"
        | "%reserved_smem_offset_0"
        | "%reserved_smem_offset_1"
        | "%total_smem_size"
        | "%aggr_smem_size"
        | "%dynamic_smem_size"
        | "%current_graph_exec" => Some(false),
        _ => {
            let numbered = |prefix: &str, suffix: &str, count: u32| {
                let digits =
                    name.strip_prefix(prefix).and_then(|n| n.strip_suffix(suffix)).unwrap_or_default();
                digits.parse::<u32>().is_ok_and(|n| n < count && n.to_string() == digits)
            };
            (numbered("%envreg", "", 32) || numbered("%pm", "", 8) || numbered("%pm", "_64", 8))
                .then_some(false)
        }
    }
}
